//! The wire format of protocol buffers, as far as reading it goes.
//!
//! A message is a row of fields, each a key (number and wire type), then a value: a variable-length
//! integer, four or eight bytes, or a length and so many bytes, which may be a message again.
//! Source: "Protocol Buffers: Encoding", protobuf.dev.

use tensor::{Error, ErrorKind, Result};

/// A field's value; what it means depends on the number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Integer(u64),
    Fixed32(u32),
    Fixed64,
    Message(Message<'a>),
}

/// A message, and where in the file it begins. Iterates over its fields: numbers and values.
///
/// Whatever it holds, the iterator ends: it moves on by at least a byte, or stops at an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The bytes, for a field that is no message.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes as text.
    ///
    /// Errors: they are not UTF-8.
    pub(super) fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes).map_err(|_| self.error("a text is not UTF-8"))
    }

    /// An error at the place where the message begins, or where its reading stands.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::File, "protobuf", message).offset(self.offset as u64)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(length) {
            Some((taken, rest)) => {
                (self.bytes, self.offset) = (rest, self.offset + length);
                Ok(taken)
            }
            None => {
                let message = format!("{length} bytes should follow, {} do", self.bytes.len());
                Err(self.error(message))
            }
        }
    }

    /// Seven bits a byte, least significant first; the top bit says that more follow.
    fn integer(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.take(1)?[0]);
            if shift == 63 && byte > 1 {
                break;
            }
            value |= (byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("an integer has more than 64 bits"))
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let key = self.integer()?;
        let value = match key & 7 {
            0 => Value::Integer(self.integer()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.integer()?).unwrap_or(usize::MAX);
                let offset = self.offset;
                Value::Message(Message { bytes: self.take(length)?, offset })
            }
            5 => {
                let bytes = self.take(4)?.try_into().expect("four bytes were taken");
                Value::Fixed32(u32::from_le_bytes(bytes))
            }
            kind => return Err(self.error(format!("a field of unknown wire type {kind}"))),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.bytes = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the format's own description: field 1 is 150; and one of each other kind.
    #[test]
    fn fields_of_every_kind() {
        let bytes = [
            &[0x08, 0x96, 0x01][..],
            &[0x15, 0, 0, 0x80, 0x3F],
            &[0x19, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x22, 2, b'h', b'i'],
        ]
        .concat();
        let fields: Vec<_> = Message::new(&bytes).collect::<Result<_>>().unwrap();
        let text = Message { bytes: b"hi", offset: 19 };
        let want = [
            (1, Value::Integer(150)),
            (2, Value::Fixed32(1_f32.to_bits())),
            (3, Value::Fixed64),
            (4, Value::Message(text)),
        ];
        assert_eq!(fields, want);
        assert_eq!(text.text().unwrap(), "hi");
    }

    #[test]
    fn damage_is_an_error_at_its_place() {
        for (bytes, told) in [
            (&[0x08][..], "1 bytes should follow, 0 do"),
            (&[0x22, 3, b'h'], "3 bytes should follow, 1 do"),
            (&[0x22, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], "bytes should"),
            (&[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], "64 bits"),
            (&[0x0B], "wire type 3"),
        ] {
            let mut message = Message::new(bytes);
            let error = message.next().unwrap().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert!(message.next().is_none());
        }
        let late = Message::new(&[0x08, 1, 0x0D, 1]).nth(1).unwrap().unwrap_err().to_string();
        assert!(late.contains('3'), "the byte where reading stood: {late}");
    }
}
