//! One error type for the whole workspace: what went wrong, with which operands, where.
//!
//! ```text
//! matmul: inner dimensions differ
//!   left   [2, 1178, 1536]  f32  cpu  k = 1536
//!   right  [24, 64, 1178]   f32  cpu  k = 64
//!   in     joint_blocks.7.x_block.attn.proj
//!   at     ddit/src/mmdit/attention.rs:88
//! ```
//!
//! The error is one pointer wide, so the happy path of a `Result<Tensor>` pays nothing for the
//! detail. The `at` line is the caller's, by `#[track_caller]`: a function that builds an error for
//! its user carries the attribute, and builds the error in its own body, because closures (and so
//! `map_err(|e| ..)`) cannot pass the caller's location on.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::Location;
use std::path::{Path, PathBuf};

use crate::{DType, Shape};

/// The result of everything in this workspace that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A mistake of the user's or of the world's, as a value with context.
///
/// Made by the constructors named after its kind and completed by the builder methods:
///
/// ```
/// use tensor::{DType, Error, ErrorKind, Tensor};
/// let (a, b) = (Tensor::zeros([2, 3], DType::F32), Tensor::zeros([4, 5], DType::F32));
/// let error = Error::shape("matmul", "inner dimensions differ")
///     .operand("left", (&a, "k = 3"))
///     .operand("right", (&b, "k = 4"))
///     .scope("attn.proj");
/// assert_eq!(error.kind(), ErrorKind::Shape);
/// assert!(error.to_string().contains("left   [2, 3]  f32  cpu  k = 3"));
/// ```
pub struct Error(Box<Inner>);

/// The most lines of [`Error::wrong`].
const MOST_WRONG: usize = 200;

/// What sort of mistake an [`Error`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Shapes, ranks or axes that do not fit each other or the operation.
    Shape,
    /// An element type the operation does not take, or two that differ.
    DType,
    /// A device that is missing, or operands on different ones.
    Device,
    /// An argument outside its range.
    Value,
    /// A file whose contents are not what its format demands.
    File,
    /// The operating system refused; [`source`](std::error::Error::source) says why.
    Io,
    /// A second derivative of an operation that has only a first.
    OnceDifferentiable,
}

/// A tensor's description in an error's table; made by `Into` from tensors and shapes.
pub struct Operand {
    shape: String,
    dtype: Option<DType>,
    device: String,
    note: String,
}

struct Inner {
    kind: ErrorKind,
    op: Cow<'static, str>,
    message: String,
    operands: Vec<(Cow<'static, str>, Operand)>,
    path: Option<PathBuf>,
    key: Option<String>,
    offset: Option<u64>,
    scope: String,
    wrong: Vec<String>,
    notes: Vec<String>,
    location: &'static Location<'static>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Shapes, ranks or axes that do not fit.
    #[track_caller]
    pub fn shape(op: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Shape, op, message)
    }

    /// Element types that do not fit.
    #[track_caller]
    pub fn dtype(op: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DType, op, message)
    }

    /// A device that is missing or differs.
    #[track_caller]
    pub fn device(op: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Device, op, message)
    }

    /// An argument outside its range.
    #[track_caller]
    pub fn value(op: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, op, message)
    }

    /// A file that breaks its format; `op` names the reader, as in `"safetensors"`.
    #[track_caller]
    pub fn file(
        op: impl Into<Cow<'static, str>>,
        path: impl AsRef<Path>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::File, op, message).path(path)
    }

    /// The operating system's refusal to do `action` (a verb: `"open"`, `"rename"`) on `path`.
    #[track_caller]
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let message = source.to_string();
        Self::new(ErrorKind::Io, action, message).path(path).caused_by(source)
    }

    /// The second derivative of `op`, which has only a first.
    #[track_caller]
    pub fn once_differentiable(op: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorKind::OnceDifferentiable,
            op,
            "has a gradient, but that gradient is a fused kernel with none of its own",
        )
    }

    /// An error of any kind; the constructors above read better where the kind is fixed.
    #[track_caller]
    pub fn new(
        kind: ErrorKind,
        op: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            op: op.into(),
            message: message.into(),
            operands: Vec::new(),
            path: None,
            key: None,
            offset: None,
            scope: String::new(),
            wrong: Vec::new(),
            notes: Vec::new(),
            location: Location::caller(),
            source: None,
        }))
    }

    /// Adds a row to the table of operands: a `&Tensor`, a `&Shape`, or a pair of one and a remark.
    pub fn operand(
        mut self,
        name: impl Into<Cow<'static, str>>,
        operand: impl Into<Operand>,
    ) -> Self {
        self.0.operands.push((name.into(), operand.into()));
        self
    }

    /// Puts a module's name in front of the path the error has collected on its way up.
    pub fn scope(mut self, name: impl AsRef<str>) -> Self {
        let scope = &mut self.0.scope;
        if !scope.is_empty() {
            scope.insert(0, '.');
        }
        scope.insert_str(0, name.as_ref());
        self
    }

    /// Lists what is wrong, one thing a line. After the first 200 it only says how many more.
    pub fn wrong(mut self, things: impl IntoIterator<Item = String>) -> Self {
        let mut things = things.into_iter();
        self.0.wrong.extend(things.by_ref().take(MOST_WRONG));
        let more = things.count();
        if more > 0 {
            self.0.wrong.push(format!("and {more} more"));
        }
        self
    }

    /// Adds a line of help: what to do about it.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Names the file concerned.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    /// Names the entry of a file (a tensor's name, a configuration key).
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Gives the byte of the file, counted from its start.
    pub fn offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Keeps the error below this one, for [`source`](std::error::Error::source).
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Gives the mistake to another source line: that of the user whose call led here.
    pub fn at(mut self, location: &'static Location<'static>) -> Self {
        self.0.location = location;
        self
    }

    /// What sort of mistake this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation, reader or system call that failed.
    pub fn op(&self) -> &str {
        &self.0.op
    }

    /// The sentence alone, without the table.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The source line that asked for the impossible.
    pub fn location(&self) -> &'static Location<'static> {
        self.0.location
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{}: {}", e.op, e.message)?;
        let label = e.operands.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(5);
        let shape = e.operands.iter().map(|(_, o)| o.shape.len()).max().unwrap_or(0);
        let dtype = e.operands.iter().map(|(_, o)| o.dtype_name().len()).max().unwrap_or(0);
        let device = e.operands.iter().map(|(_, o)| o.device.len()).max().unwrap_or(0);
        for (name, o) in &e.operands {
            let row = format!(
                "{:<shape$}  {:<dtype$}  {:<device$}  {}",
                o.shape,
                o.dtype_name(),
                o.device,
                o.note
            );
            write!(f, "\n  {name:<label$}  {}", row.trim_end())?;
        }
        let mut line =
            |name: &str, text: &dyn fmt::Display| write!(f, "\n  {name:<label$}  {text}");
        if let Some(path) = &e.path {
            line("file", &path.display())?;
        }
        if let Some(key) = &e.key {
            line("key", key)?;
        }
        if let Some(offset) = &e.offset {
            line("byte", offset)?;
        }
        if !e.scope.is_empty() {
            line("in", &e.scope)?;
        }
        for thing in &e.wrong {
            line("wrong", thing)?;
        }
        for note in &e.notes {
            line("help", note)?;
        }
        line("at", &format_args!("{}:{}", e.location.file(), e.location.line()))
    }
}

/// The same text as `Display`: `unwrap` in a test, or `?` out of `main`, stays readable.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl Operand {
    pub(crate) fn new(shape: &Shape, dtype: Option<DType>, device: String) -> Self {
        Self { shape: shape.to_string(), dtype, device, note: String::new() }
    }

    fn dtype_name(&self) -> &'static str {
        self.dtype.map_or("", DType::name)
    }
}

impl From<&Shape> for Operand {
    fn from(shape: &Shape) -> Self {
        Self::new(shape, None, String::new())
    }
}

impl<O: Into<Operand>, N: Into<String>> From<(O, N)> for Operand {
    fn from((operand, note): (O, N)) -> Self {
        Self { note: note.into(), ..operand.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn prints_a_table_with_aligned_columns() {
        let left = Tensor::zeros([2, 1178, 1536], DType::F32);
        let right = Tensor::zeros([24, 64, 1178], DType::BF16);
        let error = Error::shape("matmul", "inner dimensions differ")
            .operand("left", (&left, "k = 1536"))
            .operand("right", (&right, "k = 64"))
            .scope("attn.proj")
            .scope("joint_blocks.7")
            .note("transpose the right operand");
        let at = error.location();
        assert_eq!(
            error.to_string(),
            format!(
                "matmul: inner dimensions differ\n\
                 \x20 left   [2, 1178, 1536]  f32   cpu  k = 1536\n\
                 \x20 right  [24, 64, 1178]   bf16  cpu  k = 64\n\
                 \x20 in     joint_blocks.7.attn.proj\n\
                 \x20 help   transpose the right operand\n\
                 \x20 at     {}:{}",
                at.file(),
                at.line()
            )
        );
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn long_lists_are_cut() {
        let things = |n: usize| (0..n).map(|i| format!("thing {i}"));
        let told = |n| Error::value("load", "tensors do not fit").wrong(things(n)).to_string();
        assert!(told(200).contains("\n  wrong  thing 199\n  at"), "{}", told(200));
        let long = told(330);
        assert!(long.contains("wrong  thing 199\n  wrong  and 130 more\n  at"), "{long}");
    }

    #[test]
    fn location_is_the_callers() {
        let here = line!() + 1;
        let error = Tensor::zeros([2], DType::F32).select(0, 2).unwrap_err();
        assert_eq!((error.location().file(), error.location().line()), (file!(), here));
    }

    #[test]
    fn io_errors_keep_their_source() {
        let error = Error::io("open", "/no/such", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.source().is_some() && error.to_string().contains("file   /no/such"));
    }
}
