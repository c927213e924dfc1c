//! PNG, JPEG and WebP files as pictures.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use tensor::{Error, ErrorKind, Result};

use crate::shapes::Picture;
use crate::train::config::Alpha;

/// The most pixels of a picture: beyond, a file is a mistake or an attack.
const MOST_PIXELS: u64 = 1 << 27;

/// The most bytes that a decoder may ask for at a time: eight for every pixel.
const MOST_BYTES: u64 = 8 * MOST_PIXELS;

/// The picture in a file, the way up that its camera says; grey ones become RGB.
///
/// Errors: no such file; none of PNG, JPEG and WebP; damaged; more than 2²⁷ pixels.
pub fn read_picture(path: impl AsRef<Path>, alpha: Alpha) -> Result<Picture> {
    Ok(flatten(&read_image(path.as_ref())?, alpha))
}

/// The picture in the bytes of a file.
///
/// Errors: as [`read_picture`].
pub fn decode_picture(bytes: &[u8], alpha: Alpha) -> Result<Picture> {
    Ok(flatten(&decode(bytes)?, alpha))
}

/// The file as it is, transparency included.
pub(super) fn read_image(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("open", path, error))?;
    decode(&bytes).map_err(|error| error.path(path))
}

fn decode(bytes: &[u8]) -> Result<DynamicImage> {
    // By its contents: file names lie.
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|error| fail(error.to_string()))?;
    let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
    if !reader.format().is_some_and(|format| known.contains(&format)) {
        return Err(fail("this is neither PNG nor JPEG nor WebP"));
    }
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end(bytes) {
        return Err(fail("the file is cut off: the mark that ends a JPEG is missing"));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(library)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(fail(format!("{width} x {height} pixels are none or too many")));
    }
    // A picture whose notes cannot be read is a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(library)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether a JPEG goes on to its end. The decoder makes up what is missing of one that does not, as
/// browsers do; for training that is refused, as Pillow refuses it, even where nothing but the mark
/// is missing: what was lost before it cannot be seen.
fn has_end(jpeg: &[u8]) -> bool {
    let mut rest = jpeg;
    loop {
        rest = match rest {
            [] => return false,
            [0xFF, 0xD9, ..] => return true,
            // Filling before a mark.
            [0xFF, 0xFF, ..] => &rest[1..],
            // Marks of the start and to start again from; in coded data, the byte 0xFF.
            [0xFF, 0x00 | 0x01 | 0xD0..=0xD8, tail @ ..] => tail,
            // A segment; its length counts itself.
            [0xFF, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest.get(2 + length..).unwrap_or_default()
            }
            [_, tail @ ..] => tail,
        };
    }
}

/// The picture without transparency, 8 bits a channel.
pub(super) fn flatten(image: &DynamicImage, alpha: Alpha) -> Picture {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgb = match alpha {
        Alpha::White if image.color().has_alpha() => {
            let pixel = |[r, g, b, a]: [u8; 4]| [r, g, b].map(|c| over_white(c, a));
            image.to_rgba8().pixels().flat_map(|p| pixel(p.0)).collect()
        }
        _ => image.to_rgb8().into_raw(),
    };
    Picture::new(width, height, rgb).expect("three bytes for every pixel")
}

fn library(error: ImageError) -> Error {
    fail(error.to_string())
}

fn fail(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::File, "picture", message)
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

    /// A picture of four quarters, each of one colour, as a file of the format.
    fn quarters(format: ImageFormat) -> Vec<u8> {
        let image = image::RgbImage::from_fn(32, 16, |x, y| {
            image::Rgb(QUARTERS[(x / 16 + y / 8 * 2) as usize])
        });
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    const QUARTERS: [[u8; 3]; 4] = [[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]];
    const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

    /// Which quarters stand top left, top right, bottom left and bottom right.
    fn order(picture: &Picture) -> [usize; 4] {
        let (width, height) = (picture.width(), picture.height());
        [[1, 1], [3, 1], [1, 3], [3, 3]].map(|[x, y]| {
            let pixel = picture.pixel(width * x / 4, height * y / 4);
            let near = |colour: &[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(*b) < 9);
            QUARTERS.iter().position(near).unwrap()
        })
    }

    #[test]
    fn three_formats_are_read() {
        for format in FORMATS {
            let picture = decode_picture(&quarters(format), Alpha::Drop).unwrap();
            assert_eq!((picture.width(), picture.height()), (32, 16));
            assert_eq!(order(&picture), [0, 1, 2, 3], "{format:?}");
        }
        let grey = DynamicImage::from(image::GrayImage::from_pixel(3, 2, image::Luma([77])));
        assert_eq!(flatten(&grey, Alpha::White), Picture::filled(3, 2, [77; 3]));
    }

    /// A camera notes which way up it was held. Source: Exif 2.32, tag 0112.
    #[test]
    fn cameras_are_believed() {
        for (orientation, expected) in [
            (1, [0, 1, 2, 3]),
            (2, [1, 0, 3, 2]),
            (3, [3, 2, 1, 0]),
            (4, [2, 3, 0, 1]),
            (5, [0, 2, 1, 3]),
            (6, [2, 0, 3, 1]),
            (7, [3, 1, 2, 0]),
            (8, [1, 3, 0, 2]),
            (9, [0, 1, 2, 3]),
        ] {
            // A TIFF header and one entry, a short.
            let mut note =
                b"\xFF\xE1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
            note.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
            let file = quarters(ImageFormat::Jpeg);
            let file = [&file[..2], &note, &file[2..]].concat();
            let picture = decode_picture(&file, Alpha::Drop).unwrap();
            assert_eq!(order(&picture), expected, "{orientation}");
            assert_eq!(picture.width() < picture.height(), (5..9).contains(&orientation));
        }
    }

    /// A file that lost what no pixel depends on, the last chunk of a PNG, is still the picture.
    #[test]
    fn cut_files_are_errors_or_the_whole_picture() {
        for format in FORMATS {
            let file = quarters(format);
            let whole = decode_picture(&file, Alpha::Drop).unwrap();
            for length in 0..file.len() {
                match decode_picture(&file[..length], Alpha::Drop) {
                    Err(error) if format == ImageFormat::Jpeg && length + 2 == file.len() => {
                        assert!(error.to_string().contains("the mark that ends a JPEG"), "{error}");
                    }
                    Err(_) => {}
                    Ok(picture) => {
                        assert!(format != ImageFormat::Jpeg, "{length} bytes of a JPEG");
                        assert!(file.len() - length <= 12, "{length} bytes of a {format:?}");
                        assert_eq!(picture, whole, "{length} bytes of a {format:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        let mut file = quarters(ImageFormat::Jpeg);
        // The frame header: marker, length, precision, then height and width.
        let frame = file.windows(2).position(|bytes| bytes == [0xFF, 0xC0]).unwrap();
        file[frame + 5..frame + 9].fill(0xFF);
        let error = decode_picture(&file, Alpha::Drop).unwrap_err().to_string();
        assert!(error.contains("65535 x 65535"), "{error}");
    }

    #[test]
    fn what_is_no_picture_is_an_error_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no picture").unwrap();
        let error = read_picture(file.path(), Alpha::Drop).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    }
}
