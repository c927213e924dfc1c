//! Making a picture of any size fit the model.
//!
//! The official preprocessing: resize so that the shorter side is `R`, then cut out the middle.
//! The resize is Pillow's for 8-bit pictures, to the last bit: convolution with a kernel as wide
//! as the shrinkage, weights as integers of 22 fractional bits, rounded to bytes after each axis.
//!
//! Source: Pillow, `src/libImaging/Resample.c`; the kernel is Keys, "Cubic convolution
//! interpolation for digital image processing", IEEE TASSP 1981, with a = -1/2.

use crate::shapes::Picture;

/// Fractional bits of the weights.
const PRECISION: u32 = 22;

/// The shorter side resized to `side`, and the middle `side` x `side` of the result.
pub fn fit(picture: &Picture, side: usize) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let shorter = width.min(height);
    let scaled = |length: usize| side * length / shorter;
    let picture = resize(picture, scaled(width), scaled(height));
    // Half a pixel goes to the even side.
    let offset = |length: usize| ((length - side) as f64 / 2.0).round_ties_even() as usize;
    crop(&picture, offset(picture.width()), offset(picture.height()), side)
}

/// The `side` x `side` part whose top left corner is at (x, y).
pub fn crop(picture: &Picture, x: usize, y: usize, side: usize) -> Picture {
    let rows = (y..y + side).flat_map(|row| {
        let start = (row * picture.width() + x) * 3;
        &picture.rgb()[start..start + 3 * side]
    });
    Picture::new(side, side, rows.copied().collect()).expect("side rows of side pixels")
}

/// The picture at another size, by bicubic convolution; an axis that keeps its length is left
/// alone.
pub fn resize(picture: &Picture, width: usize, height: usize) -> Picture {
    let (from_width, from_height) = (picture.width(), picture.height());
    let mut rgb = picture.rgb().to_vec();
    if width != from_width {
        let taps = taps(from_width, width);
        let at = |y: usize, x: usize, c: usize| (y * from_width + x) * 3 + c;
        rgb = convolve(from_height, width, |y, x, c| taps[x].apply(|i| rgb[at(y, i, c)]));
    }
    if height != from_height {
        let taps = taps(from_height, height);
        let at = |y: usize, x: usize, c: usize| (y * width + x) * 3 + c;
        rgb = convolve(height, width, |y, x, c| taps[y].apply(|i| rgb[at(i, x, c)]));
    }
    Picture::new(width, height, rgb).expect("every pixel of width x height was made")
}

/// Bytes in the order row, column, channel.
fn convolve(rows: usize, columns: usize, byte: impl Fn(usize, usize, usize) -> u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows * columns * 3);
    for y in 0..rows {
        for x in 0..columns {
            bytes.extend((0..3).map(|c| byte(y, x, c)));
        }
    }
    bytes
}

/// The inputs that one output is made of: those from `first` on, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn apply(&self, input: impl Fn(usize) -> u8) -> u8 {
        let half = 1 << (PRECISION - 1);
        let weigh = |(i, &w): (usize, &i32)| w * i32::from(input(self.first + i));
        let sum = half + self.weights.iter().enumerate().map(weigh).sum::<i32>();
        (sum >> PRECISION).clamp(0, 255) as u8
    }
}

/// For every output of an axis of length `to`, what it is made of on an axis of length `from`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let one = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        // A cast of a negative number saturates at 0.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw = (first..end).map(|i| cubic((i as f64 - centre + 0.5) / stretch));
        let raw: Vec<f64> = raw.collect();
        let total: f64 = raw.iter().sum();
        let fixed = |w: f64| (w / total * f64::from(1 << PRECISION) + 0.5_f64.copysign(w)) as i32;
        Taps { first, weights: raw.into_iter().map(fixed).collect() }
    };
    (0..to).map(one).collect()
}

/// Keys' kernel, 1 at 0, and 0 at every other integer and from 2 on.
fn cubic(x: f64) -> f64 {
    let a = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use tensor::io::safetensors::SafeTensors;

    use super::*;
    use crate::train::config::Alpha;

    fn gradient(width: usize, height: usize) -> Picture {
        let byte = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            ((x * 7 + y * 3 + i % 3 * 50) % 256) as u8
        };
        Picture::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
    }

    #[test]
    fn flat_pictures_stay_flat_and_equal_sizes_stay_equal() {
        let flat = Picture::filled(9, 5, [3, 200, 255]);
        assert_eq!(resize(&flat, 31, 2), Picture::filled(31, 2, [3, 200, 255]));
        let picture = gradient(12, 8);
        assert_eq!(resize(&picture, 12, 8), picture);
        assert_eq!(fit(&gradient(64, 64), 64), gradient(64, 64));
    }

    #[test]
    fn the_middle_of_the_longer_side_is_kept() {
        let picture = gradient(21, 10);
        let fitted = fit(&picture, 10);
        // (21 - 10) / 2 = 5.5 rounds to the even 6.
        assert!((0..10).all(|x| fitted.pixel(x, 4) == picture.pixel(x + 6, 4)));
        assert_eq!((fit(&picture, 7).width(), fit(&picture, 7).height()), (7, 7));
    }

    /// Four pixels made two. The left one has its centre at 1 and its kernel stretched twofold, so
    /// it takes the pixels at 1/4, 1/4, 3/4 and 5/4 from its centre with the weights 111, 111, 29
    /// and -9 (in 128ths): (111 * 10 + 111 * 250 + 29 * 40 - 9 * 90) / 242 = 120.7.
    #[test]
    fn a_small_case_by_hand() {
        let bytes = [10, 250, 40, 90].map(|value| [value; 3]).concat();
        let small = resize(&Picture::new(4, 1, bytes).unwrap(), 2, 1);
        assert_eq!(small.pixel(0, 0), [121; 3]);
    }

    /// The pictures and results beside the specification, which are not in the repository.
    #[test]
    fn pillows_own_results() {
        let Ok(shared) = std::env::var("DDIT_SHARED") else {
            eprintln!("skipped: DDIT_SHARED is not set");
            return;
        };
        let fixtures = std::path::Path::new(&shared).join("reference/fixtures");
        for name in ["landscape", "portrait", "square", "grey", "alpha"] {
            let file = fixtures.join("images").join(format!("{name}.png"));
            let picture = super::super::decode::read_picture(&file, Alpha::Drop).unwrap();
            let expected = fixtures.join(format!("image_{name}.safetensors"));
            let expected = SafeTensors::open(expected).unwrap();
            let plain = expected.get("out.resize_u8").unwrap();
            let [height, width, _] = plain.dims().unwrap();
            let resized = resize(&picture, width, height);
            assert_eq!(resized.rgb(), plain.to_vec::<u8>().unwrap(), "{name}");
            for key in expected.names().filter(|key| key.starts_with("out.model_")) {
                let side = key["out.model_".len()..].parse().unwrap();
                let values = fit(&picture, side).to_chw();
                for (value, exact) in values.iter().zip(expected.get(key).unwrap().to_f64_vec()) {
                    assert!((f64::from(*value) - exact).abs() < 1e-6, "{name} {key}");
                }
            }
        }
    }
}
