//! 8-bit RGB pictures, and the `[-1, 1]` values a model works on.

use std::fmt;

/// A picture: rows from the top, pixels from the left, red, green and blue bytes for each.
///
/// The world's own are [`SIDE`](super::SIDE) x `SIDE`; the judge takes any size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// A picture's data do not have the length its width and height ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureError {
    width: usize,
    height: usize,
    values: usize,
}

impl fmt::Display for PictureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PictureError { width, height, values } = self;
        write!(f, "{values} values do not make an RGB picture of {width} x {height} pixels")
    }
}

impl std::error::Error for PictureError {}

impl Picture {
    /// A picture of bytes in the order `rgb[(y * width + x) * 3 + channel]`.
    ///
    /// Errors: `rgb` does not hold `width * height * 3` bytes.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Picture, PictureError> {
        check_length(width, height, rgb.len())?;
        Ok(Picture { width, height, rgb })
    }

    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Picture {
        Picture { width, height, rgb: colour.repeat(width * height) }
    }

    /// A picture from planes of red, green and blue in `[-1, 1]`, the inverse of
    /// [`to_chw`](Picture::to_chw), each value by [`to_byte`].
    ///
    /// Errors: `values` does not hold `3 * width * height` numbers.
    pub fn from_chw(width: usize, height: usize, values: &[f32]) -> Result<Picture, PictureError> {
        check_length(width, height, values.len())?;
        let plane = width * height;
        let byte = |i: usize| to_byte(values[i % 3 * plane + i / 3]);
        Ok(Picture { width, height, rgb: (0..3 * plane).map(byte).collect() })
    }

    /// Planes of red, green and blue, `value / 127.5 - 1`: shape \[3, height, width\].
    pub fn to_chw(&self) -> Vec<f32> {
        let plane = self.width * self.height;
        let value = |i: usize| f32::from(self.rgb[i % plane * 3 + i / plane]) / 127.5 - 1.0;
        (0..3 * plane).map(value).collect()
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All bytes, `[(y * width + x) * 3 + channel]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixel in column `x` of row `y`.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// Gives the pixel in column `x` of row `y` a colour.
    pub fn set_pixel(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let at = (y * self.width + x) * 3;
        self.rgb[at..at + 3].copy_from_slice(&colour);
    }
}

/// A value in `[-1, 1]` as a byte: `(v + 1) * 127.5`, rounded with ties to even and clamped. What is
/// no number becomes 0.
pub fn to_byte(value: f32) -> u8 {
    // The cast saturates, which is the clamp.
    ((value + 1.0) * 127.5).round_ties_even() as u8
}

fn check_length(width: usize, height: usize, values: usize) -> Result<(), PictureError> {
    match width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) {
        Some(expected) if expected == values => Ok(()),
        _ => Err(PictureError { width, height, values }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_model_scale() {
        let bytes: Vec<u8> = (0..=255).flat_map(|v| [v, 255 - v, v ^ 0x55]).collect();
        let picture = Picture::new(32, 8, bytes).unwrap();
        let values = picture.to_chw();
        assert_eq!((values[0], values[255]), (-1.0, 1.0));
        assert_eq!(values[32], f32::from(picture.pixel(0, 1)[0]) / 127.5 - 1.0);
        assert_eq!(values[2 * 256 + 3], f32::from(picture.pixel(3, 0)[2]) / 127.5 - 1.0);
        assert_eq!(Picture::from_chw(32, 8, &values).unwrap(), picture);
    }

    #[test]
    fn values_outside_the_range_are_clamped_and_ties_go_to_even() {
        // 0 lies between 127 and 128, the even one; the next is -1 + 1/255, between 0 and 1.
        let picture = Picture::from_chw(1, 1, &[-1.3, 7.0, 0.0]).unwrap();
        assert_eq!(picture.rgb(), [0, 255, 128]);
        let picture = Picture::from_chw(1, 1, &[f32::NAN, f32::INFINITY, -1.0]).unwrap();
        assert_eq!(picture.rgb(), [0, 255, 0]);
    }

    #[test]
    fn a_wrong_length_is_an_error_that_says_so() {
        let error = Picture::new(2, 2, vec![0; 11]).unwrap_err();
        assert_eq!(error.to_string(), "11 values do not make an RGB picture of 2 x 2 pixels");
        assert!(Picture::new(usize::MAX, 2, vec![]).is_err());
        assert!(Picture::from_chw(1, 1, &[0.0; 4]).is_err());
        assert!(Picture::new(0, 5, vec![]).unwrap().to_chw().is_empty());
    }
}
