//! NumPy's `.npy` format: one array a file.
//!
//! ```text
//! 93 'NUMPY' │ major minor │ u16 (u32 from version 2) n │ n bytes: {'descr': '<f4', …} │ data
//! ```
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::path::Path;
use std::sync::Arc;

use super::{atomic_write_with, map::map};
use crate::buffer::Storage;
use crate::{DType, Error, Result, Shape, Tensor};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// NumPy aligns the data to this.
const ALIGNMENT: usize = 64;

/// Reads a file of version 1, 2 or 3. An array in Fortran's order becomes a transposed view.
///
/// Errors: the file cannot be read; it breaks the format, or is longer or shorter than its shape
/// says; its element type is not one of ours, or big-endian.
#[track_caller]
pub fn read(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    parse(&map(path)?, path)
}

/// Reads a file that is in memory already.
///
/// Errors: as [`read`].
#[track_caller]
pub fn from_bytes(file: &[u8]) -> Result<Tensor> {
    parse(file, Path::new("(memory)"))
}

/// Writes a file of version 1, whole or not at all (see [`atomic_write_with`]).
///
/// Errors: `BF16`, which NumPy does not have; the operating system's.
#[track_caller]
pub fn write(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let Some(descr) = descr_of(tensor.dtype()) else {
        return Err(Error::dtype("npy", "NumPy has no such element type")
            .operand("input", tensor)
            .note("convert with to_dtype(DType::F32)"));
    };
    let lengths: String = tensor.shape().iter().map(|length| format!("{length}, ")).collect();
    // NumPy writes (3,) and (3, 4): a comma after a single length only.
    let lengths = if tensor.rank() > 1 { lengths.trim_end_matches(", ") } else { lengths.trim() };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lengths}), }}");
    let prefix = MAGIC.len() + 4;
    let padded = (prefix + header.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("six lengths fit in 64 KiB");
    let packed = tensor.contiguous();
    atomic_write_with(path, |file| {
        file.write_all(MAGIC)?;
        file.write_all(&[1, 0])?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        file.write_all(packed.bytes().expect("contiguous() makes it so"))
    })
}

#[track_caller]
fn parse(file: &[u8], path: &Path) -> Result<Tensor> {
    let (header, data_start) = match split(file) {
        Ok(parts) => parts,
        Err((message, offset)) => {
            return Err(Error::file("npy", path, message).offset(offset as u64));
        }
    };
    let start = data_start - header.len();
    let header = match (Reader { text: header, at: 0 }).header() {
        Ok(header) => header,
        Err((message, at)) => {
            return Err(Error::file("npy", path, message).offset((start + at) as u64));
        }
    };
    let found = DType::ALL.into_iter().find(|&dtype| {
        let native = |descr: &str| descr.replace(['=', '|'], "<");
        descr_of(dtype).is_some_and(|descr| native(descr) == native(&header.descr))
    });
    let Some(dtype) = found else {
        let message = format!("elements of type {:?} are not supported", header.descr);
        return Err(Error::file("npy", path, message).offset(start as u64));
    };
    let mut lengths = header.shape;
    if header.fortran_order {
        lengths.reverse();
    }
    let shape = Shape::new(&lengths)?;
    let data = &file[data_start..];
    if shape.checked_bytes(dtype.size()) != Some(data.len()) {
        let message = format!("shape {shape} of {dtype} does not take the {} bytes", data.len());
        return Err(Error::file("npy", path, message).offset(data_start as u64));
    }
    let storage = Arc::new(Storage::copy_of(data));
    let tensor = Tensor::from_storage(storage, 0, shape, dtype);
    let reversed: Vec<usize> = (0..shape.rank()).rev().collect();
    if header.fortran_order { tensor.permute(&reversed) } else { Ok(tensor) }
}

/// NumPy's name of an element type, or `None` where it has none.
const fn descr_of(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::BF16 => return None,
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    })
}

/// What is wrong, and at which byte.
type Flaw = (String, usize);

/// The header's text, and where the data starts.
fn split(file: &[u8]) -> Result<(&[u8], usize), Flaw> {
    let flaw = |message: &str, at| (message.to_owned(), at);
    let Some(rest) = file.strip_prefix(MAGIC) else {
        return Err(flaw("the file does not begin with NumPy's mark", 0));
    };
    let (prefix, length) = match rest {
        [1, _, a, b, ..] => (4, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (6, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => return Err(flaw("an unknown version, or no header", MAGIC.len())),
    };
    match rest[prefix..].get(..length) {
        Some(header) => Ok((header, MAGIC.len() + prefix + length)),
        None => Err((format!("a header of {length} bytes ends after the file"), MAGIC.len() + 2)),
    }
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads the Python literal that a header is: a dictionary of a string, a truth value and a tuple.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn header(mut self) -> Result<Header, Flaw> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            match key {
                "descr" => descr = Some(self.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(self.truth()?),
                "shape" => shape = Some(self.tuple()?),
                _ => return self.flaw("an unknown key"),
            }
            if !self.take(b',') && self.peek() != Some(b'}') {
                return self.flaw("expected , or }");
            }
        }
        match (descr, fortran_order, shape, self.peek()) {
            (Some(descr), Some(fortran_order), Some(shape), None) => {
                Ok(Header { descr, fortran_order, shape })
            }
            (.., Some(_)) => self.flaw("more text after the header"),
            _ => self.flaw("expected the keys descr, fortran_order and shape"),
        }
    }

    fn string(&mut self) -> Result<&'a str, Flaw> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else {
            return self.flaw("expected a string");
        };
        let text = &self.text[self.at + 1..];
        let end = text.iter().position(|&byte| byte == quote);
        let string = end.and_then(|end| std::str::from_utf8(&text[..end]).ok());
        let Some(string) = string else { return self.flaw("expected a string") };
        self.at += string.len() + 2;
        Ok(string)
    }

    fn truth(&mut self) -> Result<bool, Flaw> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.flaw("expected True or False")
    }

    fn tuple(&mut self) -> Result<Vec<usize>, Flaw> {
        let mut lengths = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            self.peek();
            let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit());
            let digits = &self.text[self.at..self.at + digits.count()];
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            let Some(length) = length else { return self.flaw("expected a length") };
            lengths.push(length);
            self.at += digits.len();
            if !self.take(b',') && self.peek() != Some(b')') {
                return self.flaw("expected , or )");
            }
        }
        Ok(lengths)
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Flaw> {
        if self.take(byte) { Ok(()) } else { self.flaw(&format!("expected {}", byte as char)) }
    }

    fn flaw<T>(&self, message: &str) -> Result<T, Flaw> {
        Err((message.to_owned(), self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = [MAGIC.as_slice(), &[version, 0]].concat();
        match version {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        [&file, header.as_bytes(), data].concat()
    }

    #[test]
    fn round_trips_every_type_numpy_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::BF16) {
            for shape in [Shape::from([]), [3].into(), [0, 2].into(), [2, 3, 4].into()] {
                let n = shape.numel();
                let x = Tensor::arange(n, dtype).reshape(shape).unwrap();
                write(&path, &x).unwrap();
                let y = read(&path).unwrap();
                assert_eq!((y.dtype(), y.shape()), (dtype, &shape));
                assert_eq!(y.to_f64_vec(), x.to_f64_vec());
            }
        }
        assert!(write(&path, &Tensor::zeros([1], DType::BF16)).is_err());
    }

    #[test]
    fn reads_fortran_order_and_version_two() {
        let header = "{\"descr\": '|u1', 'shape': (2, 3), 'fortran_order': True}\n";
        let x = from_bytes(&file(2, header, &[0, 3, 1, 4, 2, 5])).unwrap();
        assert_eq!((*x.shape(), x.to_f64_vec()), ([2, 3].into(), vec![0., 1., 2., 3., 4., 5.]));
    }

    #[test]
    fn flaws_say_where() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        let good = file(1, header, &[0; 4]);
        assert!(from_bytes(&good).is_ok());
        for end in 0..good.len() {
            let text = from_bytes(&good[..end]).unwrap_err().to_string();
            assert!(text.contains("byte "), "{text}");
        }
        for (from, to) in [
            ("<f4", ">f4"),
            ("(1,)", "(2,)"),
            ("(1,)", "1"),
            ("(1,)", "(-1,)"),
            ("False", "false"),
            ("'descr'", "'other'"),
            ("}", "} 1"),
            ("(1,)", "(1 1)"),
            ("(1,)", "(99999999999999999999,)"),
            ("(1,)", "(4611686018427387904, 8)"),
        ] {
            assert!(from_bytes(&file(1, &header.replace(from, to), &[0; 4])).is_err(), "{to}");
        }
    }
}
