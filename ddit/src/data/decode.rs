//! PNG and JPEG files as pictures.

use std::path::Path;

use image::DynamicImage;
use tensor::{Error, Result};

use crate::shapes::Picture;
use crate::train::config::Alpha;

/// The picture in a file; grey ones become RGB.
///
/// Errors: no such file; neither PNG nor JPEG; damaged.
pub fn read_picture(path: impl AsRef<Path>, alpha: Alpha) -> Result<Picture> {
    Ok(flatten(&read_image(path.as_ref())?, alpha))
}

/// The file as it is, transparency included.
pub(super) fn read_image(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("open", path, error))?;
    // By its contents: file names lie.
    image::load_from_memory(&bytes).map_err(|error| Error::file("picture", path, error.to_string()))
}

/// The picture without transparency, 8 bits a channel.
pub(super) fn flatten(image: &DynamicImage, alpha: Alpha) -> Picture {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgba = image.to_rgba8();
    let pixel = |[r, g, b, a]: [u8; 4]| match alpha {
        Alpha::Drop => [r, g, b],
        Alpha::White => [r, g, b].map(|c| over_white(c, a)),
    };
    let rgb = rgba.pixels().flat_map(|p| pixel(p.0)).collect();
    Picture::new(width, height, rgb).expect("three bytes for every pixel")
}

/// A channel of opacity `a` laid on white, rounded.
fn over_white(channel: u8, a: u8) -> u8 {
    let (channel, a) = (u32::from(channel), u32::from(a));
    ((channel * a + 255 * (255 - a) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_lets_white_through() {
        assert_eq!([0, 128, 255].map(|a| over_white(100, a)), [255, 177, 100]);
        let pixels = vec![200, 10, 0, 0, 9, 8, 7, 255];
        let image = image::RgbaImage::from_raw(2, 1, pixels).unwrap().into();
        assert_eq!(flatten(&image, Alpha::White).rgb(), [255, 255, 255, 9, 8, 7]);
        assert_eq!(flatten(&image, Alpha::Drop).rgb(), [200, 10, 0, 9, 8, 7]);
    }

    #[test]
    fn what_is_no_picture_is_an_error_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no picture").unwrap();
        let error = read_picture(file.path(), Alpha::Drop).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    }
}
