//! Tensors as text, in NumPy's manner: nested brackets, aligned columns, long axes cut short.

use std::fmt::{self, Write};

use crate::dtype::with_element;
use crate::{Result, Tensor};

/// Tensors of more elements are cut short …
const CUT_FROM: usize = 1000;

/// … to this many at either end of each axis.
const EDGE: usize = 3;

/// The elements, four digits after the point or as many as the precision asks for (`{:.8}`),
/// then shape and type.
///
/// ```
/// use tensor::Tensor;
/// # fn main() -> tensor::Result<()> {
/// let x = Tensor::from_vec(vec![0.5_f32, -1.0, 22.0, 3.25], [2, 2])?;
/// assert_eq!(x.to_string(), "[[ 0.5000, -1.0000],\n [22.0000,  3.2500]]  [2, 2] f32");
/// # Ok(())
/// # }
/// ```
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.numel() > CUT_FROM { corners(self, 0) } else { Ok(self.clone()) };
        let shown = shown.map_err(|_| fmt::Error)?;
        let cells = cells(&shown, f.precision().unwrap_or(4));
        let width = cells.iter().map(String::len).max().unwrap_or(0);
        write_axis(f, self.shape(), &mut cells.iter(), 0, width, shown.shape())?;
        write!(f, "  {} {}", self.shape(), self.dtype())
    }
}

/// Shape and type alone, as fits a field of a larger struct.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {})", self.shape(), self.dtype())
    }
}

/// The tensor without the middle of its long axes, from `axis` on. The inner axes are cut before
/// the halves of an outer one are joined, so that no more is copied than is shown.
fn corners(tensor: &Tensor, axis: usize) -> Result<Tensor> {
    match tensor.shape().get(axis) {
        None => Ok(tensor.clone()),
        Some(&length) if length > 2 * EDGE => {
            let first = corners(&tensor.narrow(axis, 0, EDGE)?, axis + 1)?;
            let last = corners(&tensor.narrow(axis, length - EDGE, EDGE)?, axis + 1)?;
            Tensor::cat(&[&first, &last], axis)
        }
        Some(_) => corners(tensor, axis + 1),
    }
}

/// Each element as text. Floats share one form: scientific if a fixed number of digits would hide
/// the small ones or stretch the large ones.
fn cells(tensor: &Tensor, precision: usize) -> Vec<String> {
    let packed = tensor.contiguous();
    if !tensor.dtype().is_float() {
        return with_element!(tensor.dtype(), T => {
            packed.reach::<T>().iter().map(|x| format!("{x:?}")).collect()
        });
    }
    let values = packed.to_f64_vec();
    let sizes = || values.iter().map(|x| x.abs()).filter(|x| *x > 0.0 && x.is_finite());
    let (smallest, largest) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
    let scientific = largest >= 1e8 || smallest < 1e-4;
    let cell = |x: &f64| match scientific && x.is_finite() {
        true => format!("{x:.precision$e}"),
        false => format!("{x:.precision$}"),
    };
    values.iter().map(cell).collect()
}

/// Writes the axes that remain, within `depth` open brackets.
fn write_axis<'a>(
    f: &mut fmt::Formatter<'_>,
    full: &[usize],
    cells: &mut impl Iterator<Item = &'a String>,
    depth: usize,
    width: usize,
    shown: &[usize],
) -> fmt::Result {
    let ([length, inner_full @ ..], [shown_length, inner @ ..]) = (full, shown) else {
        return write!(f, "{:>width$}", cells.next().map_or("", String::as_str));
    };
    let between = |f: &mut fmt::Formatter<'_>| match inner.len() {
        0 => f.write_str(", "),
        // A blank line between matrices; then the brackets still open, as blanks.
        axes => write!(f, ",{}{:indent$}", "\n".repeat(axes), "", indent = depth + 1),
    };
    f.write_char('[')?;
    for i in 0..*shown_length {
        if i > 0 {
            between(f)?;
        }
        if i == EDGE && length > shown_length {
            f.write_str("...")?;
            between(f)?;
        }
        write_axis(f, inner_full, cells, depth + 1, width, inner)?;
    }
    f.write_char(']')
}

#[cfg(test)]
mod tests {
    use crate::{DType, Tensor};

    #[test]
    fn looks_like_numpy() {
        let x = Tensor::arange(12, DType::I64).reshape([2, 2, 3]).unwrap();
        let text = "[[[ 0,  1,  2],\n  [ 3,  4,  5]],\n\n [[ 6,  7,  8],\n  [ 9, 10, 11]]]";
        assert_eq!(x.to_string(), format!("{text}  [2, 2, 3] i64"));
        assert_eq!(Tensor::scalar(1.0, DType::Bool).to_string(), "true  [] bool");
        assert_eq!(format!("{:.1}", Tensor::scalar(0.25, DType::F32)), "0.2  [] f32");
        let small = Tensor::full([1], 1e-7, DType::F64);
        assert_eq!(small.to_string(), "[1.0000e-7]  [1] f64");
        assert_eq!(Tensor::zeros([0], DType::F32).to_string(), "[]  [0] f32");
        assert_eq!(format!("{x:?}"), "Tensor([2, 2, 3] i64)");
    }

    #[test]
    fn long_axes_are_cut_short() {
        let x = Tensor::arange(2000, DType::I32).reshape([2, 1000]).unwrap();
        let row = |a: usize| format!("[{}, {}, {}, ..., {}", a, a + 1, a + 2, a + 997);
        let text = x.to_string().replace("   ", "").replace("  ", " ").replace("[ ", "[");
        assert!(text.contains(&row(1000)), "{text}");
        let vast = Tensor::zeros([1], DType::F32).broadcast_to([1 << 40, 1 << 40]).unwrap();
        assert_eq!(vast.to_string().lines().count(), 7);
    }
}
