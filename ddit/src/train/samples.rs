//! Sheets of small pictures to look at during training.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage};
use tensor::{Error, Result};

use crate::shapes::Picture;

/// Pixels between the pictures of a sheet.
const GAP: usize = 2;

/// Pictures of equal size in rows of `columns`, on white.
pub fn sheet(pictures: &[Picture], columns: usize) -> Picture {
    let Some(first) = pictures.first() else { return Picture::filled(0, 0, [255; 3]) };
    let (width, height) = (first.width() + GAP, first.height() + GAP);
    let (columns, rows) = (columns.min(pictures.len()), pictures.len().div_ceil(columns));
    let mut sheet = Picture::filled(columns * width + GAP, rows * height + GAP, [255; 3]);
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (i % columns * width + GAP, i / columns * height + GAP);
        for y in 0..picture.height() {
            for x in 0..picture.width() {
                sheet.set_pixel(left + x, top + y, picture.pixel(x, y));
            }
        }
    }
    sheet
}

/// The bytes of a PNG file.
pub fn png(picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let image = RgbImage::from_raw(width, height, picture.rgb().to_vec());
    let image = image.expect("a picture has three bytes for every pixel");
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("memory takes any number of bytes");
    bytes.into_inner()
}

/// Writes a picture as a PNG file, whole or not at all.
///
/// Errors: the operating system's.
pub fn write_png(picture: &Picture, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    }
    tensor::io::atomic_write(path, png(picture))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode::read_picture;
    use crate::train::config::Alpha;

    #[test]
    fn a_sheet_has_every_picture_in_its_place_and_survives_png() {
        let pictures: Vec<Picture> = (0..5).map(|i| Picture::filled(3, 2, [i, 0, 0])).collect();
        let sheet = sheet(&pictures, 3);
        assert_eq!((sheet.width(), sheet.height()), (3 * 5 + 2, 2 * 4 + 2));
        assert_eq!((sheet.pixel(2, 2), sheet.pixel(12, 3)), ([0; 3], [2, 0, 0]));
        assert_eq!((sheet.pixel(7, 6), sheet.pixel(12, 6)), ([4, 0, 0], [255; 3]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.png");
        write_png(&sheet, &path).unwrap();
        assert_eq!(read_picture(&path, Alpha::Drop).unwrap(), sheet);
    }
}
