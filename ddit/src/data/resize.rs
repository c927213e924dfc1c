//! Making a picture of any size fit the model.
//!
//! The official preprocessing: resize so that the shorter side is `R`, then cut out the middle.
//! The resize is Pillow's for 8-bit pictures, to the last bit: convolution with a kernel as wide
//! as the shrinkage, weights as integers of 22 fractional bits, rounded to bytes after each axis.
//! Instruction tuning has its own: the middle square first, then a resize without rounding.
//!
//! Only what is kept is computed, so that a picture of one row and a million columns costs no more
//! than its square.
//!
//! Source: Pillow, `src/libImaging/Resample.c`; the cubic kernel is Keys, "Cubic convolution
//! interpolation for digital image processing", IEEE TASSP 1981, with a = -1/2.

use std::ops::Range;

use crate::shapes::Picture;

/// Fractional bits of the weights.
const PRECISION: u32 = 22;

/// How much of a pixel there is at a distance from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A line from 1 down to 0 at the next pixel.
    Bilinear,
    /// Keys' cubic, which is 1 at the pixel, and 0 at every other and beyond the second.
    Bicubic,
}

/// The shorter side resized to `side`, and the middle `side` x `side` of the result.
///
/// # Panics
/// If the picture has no pixel.
pub fn fit(picture: &Picture, side: usize) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let [width, height] = [width, height].map(|length| side * length / width.min(height));
    let (x, y) = (middle(width, side), middle(height, side));
    resize_part(picture, [width, height], [x, y], Filter::Bicubic)
}

/// The picture at another size.
///
/// # Panics
/// If the picture has no pixel.
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    resize_part(picture, [width, height], [0..width, 0..height], filter)
}

/// The middle square of the picture as [`Picture::to_chw`] gives it, resized bilinearly in floats:
/// how instruction tuning prepares pictures.
///
/// Shapes: → \[3, side, side\] in `[-1, 1]`.
///
/// # Panics
/// If the picture has no pixel.
pub fn fit_square(picture: &Picture, side: usize) -> Vec<f32> {
    let (width, height) = (picture.width(), picture.height());
    let square = width.min(height);
    let part = |length| {
        let start = middle(length, square).start;
        let mut taps = taps(square, side, 0..side, Filter::Bilinear);
        taps.iter_mut().for_each(|taps| taps.first += start);
        taps
    };
    let values =
        picture.rgb().iter().map(|&byte| f64::from(byte) / 127.5 - 1.0).collect::<Vec<_>>();
    let pixels = convolve(&values, width, &part(width), &part(height));
    let plane = |c: usize| pixels.iter().skip(c).step_by(3).map(|&value| value as f32);
    (0..3).flat_map(plane).collect()
}

/// The middle `side` of an axis; half a pixel goes to the even side.
fn middle(length: usize, side: usize) -> Range<usize> {
    let start = ((length - side) as f64 / 2.0).round_ties_even() as usize;
    start..start + side
}

/// The columns and rows `part` of the picture at another size.
fn resize_part(
    picture: &Picture,
    [width, height]: [usize; 2],
    [columns, rows]: [Range<usize>; 2],
    filter: Filter,
) -> Picture {
    let across = taps(picture.width(), width, columns, filter).iter().map(Taps::fixed).collect();
    let down = taps(picture.height(), height, rows, filter).iter().map(Taps::fixed).collect();
    let (across, down): (Vec<Taps<i32>>, Vec<Taps<i32>>) = (across, down);
    let rgb = convolve(picture.rgb(), picture.width(), &across, &down);
    Picture::new(across.len(), down.len(), rgb).expect("every pixel was made")
}

/// The inputs that one output is made of: those from `first` on, and their weights.
struct Taps<W> {
    first: usize,
    weights: Vec<W>,
}

/// A weight, and what is weighed with it.
trait Weight: Copy {
    type Value: Copy;

    /// Σ weight · value.
    fn sum(terms: impl Iterator<Item = (Self, Self::Value)>) -> Self::Value;
}

impl Weight for i32 {
    type Value = u8;

    fn sum(terms: impl Iterator<Item = (i32, u8)>) -> u8 {
        let half = 1 << (PRECISION - 1);
        let sum = half + terms.map(|(weight, value)| weight * i32::from(value)).sum::<i32>();
        (sum >> PRECISION).clamp(0, 255) as u8
    }
}

impl Weight for f64 {
    type Value = f64;

    fn sum(terms: impl Iterator<Item = (f64, f64)>) -> f64 {
        terms.map(|(weight, value)| weight * value).sum()
    }
}

impl<W: Weight> Taps<W> {
    fn apply(&self, input: impl Fn(usize) -> W::Value) -> W::Value {
        W::sum(self.weights.iter().enumerate().map(|(i, &w)| (w, input(self.first + i))))
    }
}

impl Taps<f64> {
    /// The weights as Pillow has them, rounded away from 0.
    fn fixed(&self) -> Taps<i32> {
        let fixed = |&w: &f64| (w * f64::from(1 << PRECISION) + 0.5_f64.copysign(w)) as i32;
        Taps { first: self.first, weights: self.weights.iter().map(fixed).collect() }
    }
}

/// Pixels of three values, convolved along the rows that are needed, then down the columns.
fn convolve<W: Weight>(
    source: &[W::Value],
    width: usize,
    across: &[Taps<W>],
    down: &[Taps<W>],
) -> Vec<W::Value> {
    // Taps move on along the axis with their outputs.
    let end = |taps: &Taps<W>| taps.first + taps.weights.len();
    let (top, bottom) = (down.first().map_or(0, |taps| taps.first), down.last().map_or(0, end));
    let stride = 3 * across.len();
    let mut rows = Vec::with_capacity((bottom - top) * stride);
    for row in source[3 * width * top..3 * width * bottom].chunks_exact(3 * width) {
        for taps in across {
            rows.extend((0..3).map(|c| taps.apply(|x| row[3 * x + c])));
        }
    }
    let mut pixels = Vec::with_capacity(down.len() * stride);
    for taps in down {
        pixels.extend((0..stride).map(|i| taps.apply(|y| rows[(y - top) * stride + i])));
    }
    pixels
}

/// For each of `outputs` of an axis of length `to`, what it is made of on an axis of length
/// `from`; the weights of each add up to 1. An axis that keeps its length is left as it is.
fn taps(from: usize, to: usize, outputs: Range<usize>, filter: Filter) -> Vec<Taps<f64>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        // A cast of a negative number saturates at 0.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw = (first..end).map(|i| filter.weight((i as f64 - centre + 0.5) / stretch));
        let raw: Vec<f64> = raw.collect();
        let total: f64 = raw.iter().sum();
        Taps { first, weights: raw.into_iter().map(|w| w / total).collect() }
    };
    outputs.map(one).collect()
}

impl Filter {
    /// The distance from which on there is nothing.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The share at a distance.
    fn weight(self, x: f64) -> f64 {
        let (a, x) = (-0.5, x.abs());
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
            Self::Bicubic => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Filter::{Bicubic, Bilinear};
    use super::*;

    fn gradient(width: usize, height: usize) -> Picture {
        let byte = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            ((x * 7 + y * 3 + i % 3 * 50) % 256) as u8
        };
        Picture::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
    }

    #[test]
    fn flat_pictures_stay_flat_and_equal_sizes_stay_equal() {
        let (flat, picture) = (Picture::filled(9, 5, [3, 200, 255]), gradient(12, 8));
        for filter in [Bicubic, Bilinear] {
            assert_eq!(resize(&flat, 31, 2, filter), Picture::filled(31, 2, [3, 200, 255]));
            assert_eq!(resize(&picture, 12, 8, filter), picture);
        }
        assert_eq!(fit(&gradient(64, 64), 64), gradient(64, 64));
    }

    #[test]
    fn the_middle_of_the_longer_side_is_kept() {
        let picture = gradient(21, 10);
        let fitted = fit(&picture, 10);
        // (21 - 10) / 2 = 5.5 rounds to the even 6.
        assert!((0..10).all(|x| fitted.pixel(x, 4) == picture.pixel(x + 6, 4)));
        let values = fit_square(&picture, 10);
        let error = |(got, want): (&f32, f32)| (got - want).abs();
        assert!(values.iter().zip(fitted.to_chw()).map(error).all(|error| error < 1e-6));
    }

    /// Pillow 11.3's `Image.resize` of a picture of noise, as the 64-bit FNV-1a hash of its bytes.
    #[test]
    fn bytes_are_pillows() {
        let noise = |width: usize, height: usize| {
            let byte = |i: usize| (((i * 2_654_435_761) >> 24) & 0xFF) as u8;
            Picture::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
        };
        for ([width, height], [to_width, to_height], filter, hash) in [
            ([97, 61], [40, 130], Bicubic, 0xC315_F2E3_2D22_1FFA),
            ([97, 61], [40, 130], Bilinear, 0x6651_12AF_374D_4EA7),
            ([40, 130], [97, 61], Bicubic, 0xCB80_5FA3_9011_BB4D),
            ([40, 130], [97, 61], Bilinear, 0x50C4_A517_86A5_6D15),
            ([64, 64], [64, 17], Bicubic, 0x2AD7_D26C_CAC3_0EBD),
            ([64, 64], [64, 17], Bilinear, 0xAB32_BE6B_D384_D9F0),
            ([301, 7], [13, 29], Bicubic, 0x5F12_846E_DB6C_7CF4),
            ([301, 7], [13, 29], Bilinear, 0x7972_2D3D_DD67_1AD5),
            ([5, 5], [50, 50], Bicubic, 0xAF53_5A5E_E0E0_42C0),
            ([5, 5], [50, 50], Bilinear, 0x623F_F516_E4C1_34DD),
        ] {
            let resized = resize(&noise(width, height), to_width, to_height, filter);
            let found = resized.rgb().iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
            });
            assert_eq!(found, hash, "{width} x {height} to {to_width} x {to_height}, {filter:?}");
        }
    }

    /// What is cut out of a resized picture is what `fit` computes alone.
    #[test]
    fn a_part_is_a_part_of_the_whole() {
        for (width, height, side) in [(21, 10, 7), (13, 30, 19), (8, 8, 3), (5, 40, 16)] {
            let picture = gradient(width, height);
            let shorter = width.min(height);
            let whole = resize(&picture, side * width / shorter, side * height / shorter, Bicubic);
            let [x, y] = [whole.width(), whole.height()].map(|length| middle(length, side).start);
            let fitted = fit(&picture, side);
            for (i, j) in (0..side).flat_map(|j| (0..side).map(move |i| (i, j))) {
                assert_eq!(fitted.pixel(i, j), whole.pixel(x + i, y + j));
            }
        }
    }

    /// The whole of this picture would be 512 x 1.5 · 10⁹ pixels.
    #[test]
    fn a_very_long_picture_costs_no_more_than_its_square() {
        let picture = Picture::filled(3_000_000, 1, [9, 8, 7]);
        assert_eq!(fit(&picture, 512), Picture::filled(512, 512, [9, 8, 7]));
    }

    /// Four pixels made two. The left one has its centre at 1 and its kernel stretched twofold, so
    /// it takes the pixels at 1/4, 1/4, 3/4 and 5/4 from its centre: by cubics with the weights 111,
    /// 111, 29 and -9 (in 128ths), (111 · 10 + 111 · 250 + 29 · 40 - 9 · 90) / 242 = 120.7, and by
    /// lines with 3, 3 and 1, (3 · 10 + 3 · 250 + 40) / 7 = 117.1.
    #[test]
    fn a_small_case_by_hand() {
        let bytes = [10, 250, 40, 90].map(|value| [value; 3]).concat();
        let picture = Picture::new(4, 1, bytes).unwrap();
        assert_eq!(resize(&picture, 2, 1, Bicubic).pixel(0, 0), [121; 3]);
        assert_eq!(resize(&picture, 2, 1, Bilinear).pixel(0, 0), [117; 3]);
    }
}
