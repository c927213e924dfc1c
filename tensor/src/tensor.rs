//! The tensor: a buffer, a layout, an element type. A plain value, with no graph inside.

use std::ops::Range;
use std::sync::Arc;

use crate::buffer::Storage;
use crate::dtype::with_element;
use crate::error::Operand;
use crate::layout::Layout;
use crate::{DType, Device, Element, Error, Result, Shape, strided};

/// An array of numbers with a shape and an element type known at run time.
///
/// Cloning and taking views copy no data: buffers are shared, and copied only when a shared one is
/// written to. So a tensor behaves as a value.
///
/// ```
/// use tensor::Tensor;
/// # fn main() -> tensor::Result<()> {
/// let x = Tensor::from_vec(vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])?;
/// let column = x.select(1, 2)?;
/// assert_eq!(column.to_vec::<f32>()?, [3.0, 6.0]);
/// let [rows, columns] = x.dims()?;
/// assert_eq!((rows, columns), (2, 3));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(crate) storage: Arc<Storage>,
    pub(crate) layout: Layout,
    dtype: DType,
}

/// Creation, in this machine's memory. Like `Vec`, these panic only where memory runs out.
impl Tensor {
    /// A tensor whose elements are whatever its memory held before; for code about to write each
    /// of them. The memory is initialised: reading it early is a mistake, not undefined behaviour.
    pub fn uninit(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        Self::packed(Storage::uninit(byte_count(&shape, dtype)), shape, dtype)
    }

    /// All elements 0 (or false).
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        Self::packed(Storage::zeros(byte_count(&shape, dtype)), shape, dtype)
    }

    /// All elements 1 (or true).
    pub fn ones(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self::full(shape, 1.0, dtype)
    }

    /// All elements `value`, rounded to `dtype` as [`Element::from_f64`] does.
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType) -> Self {
        with_element!(dtype, T => Self::build(shape, |y: &mut [T]| y.fill(T::from_f64(value))))
    }

    /// One element and no axes.
    pub fn scalar(value: f64, dtype: DType) -> Self {
        Self::full([], value, dtype)
    }

    /// The numbers 0, 1, …, n − 1.
    pub fn arange(n: usize, dtype: DType) -> Self {
        with_element!(dtype, T => Self::build([n], |y: &mut [T]| {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = T::from_f64(i as f64));
        }))
    }

    /// A tensor whose elements `write` fills in, all of them, in row-major order.
    pub fn build<T: Element>(shape: impl Into<Shape>, write: impl FnOnce(&mut [T])) -> Self {
        let shape = shape.into();
        let mut storage = Storage::uninit(byte_count(&shape, T::DTYPE));
        write(storage.elements_mut().expect("memory of our own is writable"));
        Self::packed(storage, shape, T::DTYPE)
    }

    /// The elements of a vector in row-major order.
    ///
    /// Errors: `values` has not as many elements as `shape`.
    #[track_caller]
    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Self> {
        Self::from_slice(&values, shape)
    }

    /// A copy of a slice, in row-major order.
    ///
    /// Errors: `values` has not as many elements as `shape`.
    #[track_caller]
    pub fn from_slice<T: Element>(values: &[T], shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if values.len() != shape.numel() {
            let message = format!("{} values do not fill the shape", values.len());
            let needed = format!("{} elements", shape.numel());
            return Err(Error::shape("from_slice", message).operand("shape", (&shape, needed)));
        }
        Ok(Self::packed(Storage::copy_of(bytemuck::cast_slice(values)), shape, T::DTYPE))
    }

    /// The elements of `storage` in row-major order; it holds enough of them.
    fn packed(storage: Storage, shape: Shape, dtype: DType) -> Self {
        Self::from_storage(Arc::new(storage), 0, shape, dtype)
    }

    /// `shape.numel()` adjacent elements of `storage` from element `offset`; it holds that many.
    pub(crate) fn from_storage(
        storage: Arc<Storage>,
        offset: usize,
        shape: Shape,
        dtype: DType,
    ) -> Self {
        debug_assert!((offset + shape.numel()) * dtype.size() <= storage.len());
        Self { storage, layout: Layout::contiguous(shape, offset), dtype }
    }

    /// The same buffer through another layout, which reaches nothing this one does not.
    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self { storage: self.storage.clone(), layout, dtype: self.dtype }
    }
}

/// Description.
impl Tensor {
    /// The lengths of the axes.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The lengths of the axes, for destructuring: `let [batch, tokens, width] = x.dims()?`.
    ///
    /// Errors: the tensor has not `N` axes.
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        match <[usize; N]>::try_from(&**self.shape()) {
            Ok(lengths) => Ok(lengths),
            Err(_) => Err(Error::shape("dims", format!("expected {N} axes"))
                .operand("input", (self, format!("{} axes", self.rank())))),
        }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape().numel()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Per axis, the distance in elements between neighbours; 0 on a broadcast axis.
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// The addresses of the buffer behind it, of which its elements may be a part: views of one
    /// buffer agree.
    pub fn buffer(&self) -> Range<usize> {
        self.storage.addresses()
    }

    /// Whether no other tensor shares the elements, so that [`slice_mut`](Self::slice_mut) copies
    /// nothing if the tensor is also contiguous.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.storage) == 1 && !matches!(*self.storage, Storage::Mapped(_))
    }

    /// Whether the elements are adjacent and in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }
}

/// Reading and writing. Slices are of this machine's memory; elements in a GPU's have to be copied
/// from there first ([`to_device`](Self::to_device)), which functions that answer vectors or numbers
/// do.
impl Tensor {
    /// The elements in row-major order, without a copy.
    ///
    /// Errors: another element type than `T`; not contiguous; in a GPU's memory.
    #[track_caller]
    pub fn slice<T: Element>(&self) -> Result<&[T]> {
        if !self.is_contiguous() {
            return Err(Error::shape("slice", "the view's elements are not adjacent")
                .operand("input", (self, format!("strides {:?}", self.strides())))
                .note("call contiguous() first"));
        }
        self.expect_here("slice", T::DTYPE)?;
        Ok(self.reach())
    }

    /// The elements as they lie, from the view's first to its last reachable one, and the strides:
    /// element `(i₀, i₁, …)` is at `Σ iₐ·strideₐ`.
    ///
    /// Errors: another element type than `T`; in a GPU's memory.
    #[track_caller]
    pub fn raw_slice<T: Element>(&self) -> Result<(&[T], &[usize])> {
        self.expect_here("raw_slice", T::DTYPE)?;
        Ok((self.reach(), self.strides()))
    }

    /// The elements in row-major order, for writing. A shared buffer, one that is a file's, or a
    /// view that is not contiguous is copied first, so that no other tensor sees the writes.
    ///
    /// Errors: another element type than `T`; in a GPU's memory.
    #[track_caller]
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_here("slice_mut", T::DTYPE)?;
        let writable = matches!(Arc::get_mut(&mut self.storage), Some(Storage::Pooled(..)));
        if !(writable && self.is_contiguous()) {
            *self = self.to_owned_copy();
        }
        let (start, length) = (self.layout.offset(), self.layout.span());
        let elements = Arc::get_mut(&mut self.storage).and_then(Storage::elements_mut);
        Ok(&mut elements.expect("unshared and of our own, by the copy above")[start..][..length])
    }

    /// The elements' bytes in row-major order, little end first, without a copy.
    ///
    /// Errors: not contiguous; in a GPU's memory.
    #[track_caller]
    pub fn bytes(&self) -> Result<&[u8]> {
        self.expect_here("bytes", self.dtype)?;
        if !self.is_contiguous() {
            return Err(Error::shape("bytes", "the view's elements are not adjacent")
                .operand("input", (self, format!("strides {:?}", self.strides())))
                .note("call contiguous() first"));
        }
        let size = self.dtype.size();
        let start = self.layout.offset() * size;
        Ok(&self.storage.bytes()[start..start + self.numel() * size])
    }

    /// Gives back the memory of elements that are a file's; whoever next reads them makes the
    /// operating system fetch them again, from its cache or from the disk. Does nothing to elements
    /// in memory of our own.
    pub fn unload(&self) {
        let (start, size) = (self.layout.offset(), self.dtype.size());
        self.storage.unload(start * size..(start + self.layout.span()) * size);
    }

    /// The elements of any layout, in row-major order.
    ///
    /// Errors: another element type than `T`; a GPU's driver's.
    #[track_caller]
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype("to_vec", T::DTYPE)?;
        Ok(self.to_device(&Device::Cpu)?.contiguous().reach().to_vec())
    }

    /// The elements of any type and layout as `f64`, in row-major order.
    ///
    /// # Panics
    /// If a GPU in whose memory they are has failed, or the tensor is lost (see
    /// [`cuda`](crate::cuda)). Whoever is to survive that calls [`to_device`](Self::to_device) first.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        let here = self.to_device(&Device::Cpu).unwrap_or_else(|error| panic!("{error}"));
        let packed = here.contiguous();
        with_element!(self.dtype, T => packed.reach::<T>().iter().map(|x| x.to_f64()).collect())
    }

    /// The only element, as `f64`.
    ///
    /// Errors: there is not exactly one; a GPU's driver's.
    #[track_caller]
    pub fn item(&self) -> Result<f64> {
        if self.numel() != 1 {
            return Err(Error::shape("item", "expected exactly one element")
                .operand("input", (self, format!("{} elements", self.numel()))));
        }
        let here = self.to_device(&Device::Cpu)?;
        Ok(with_element!(self.dtype, T => here.reach::<T>()[0].to_f64()))
    }

    /// The error of `op` if elements are not of type `dtype`, or not in this machine's memory.
    #[track_caller]
    pub(crate) fn expect_here(&self, op: &'static str, dtype: DType) -> Result<()> {
        if let Some(gpu) = self.cuda() {
            return Err(Error::device(op, format!("the elements are in the memory of {gpu}"))
                .operand("input", self)
                .note("copy them with to_device(&Device::Cpu)"));
        }
        self.expect_dtype(op, dtype)
    }

    /// The error of `op` if elements are not of type `dtype`.
    #[track_caller]
    pub(crate) fn expect_dtype(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtype != dtype {
            return Err(Error::dtype(op, format!("expected elements of type {dtype}"))
                .operand("input", self)
                .note(format!("convert with to_dtype(DType::{dtype:?})")));
        }
        Ok(())
    }

    /// From the first to the last reachable element. `T` has the size of the tensor's elements:
    /// it is their type, or a word for moving them.
    pub(crate) fn reach<T: bytemuck::Pod>(&self) -> &[T] {
        debug_assert_eq!(size_of::<T>(), self.dtype.size());
        match self.layout.span() {
            0 => &[],
            span => &self.storage.elements()[self.layout.offset()..][..span],
        }
    }

    /// The elements in a buffer of their own, in row-major order.
    pub(crate) fn to_owned_copy(&self) -> Self {
        let mut copy = Self::uninit_on(self.cuda(), self.shape(), self.dtype);
        match self.cuda() {
            Some(gpu) => copy.write_on(gpu, 0, self),
            None => copy.write_part(&copy.layout.clone(), self),
        }
        copy
    }

    /// Copies `source` into the part of this tensor's buffer that `part` describes.
    ///
    /// This tensor is new: nobody shares its buffer. Shapes and element types are equal, and both
    /// are in this machine's memory.
    pub(crate) fn write_part(&mut self, part: &Layout, source: &Self) {
        debug_assert!(self.dtype == source.dtype && part.shape() == source.shape());
        fn write<T: bytemuck::Pod + Send + Sync>(
            target: &mut Storage,
            part: &Layout,
            source: &Tensor,
        ) {
            let target = target.elements_mut::<T>().expect("a new tensor's memory is its own");
            let target = &mut target[part.offset()..];
            let from = source.strides();
            strided::copy(part.shape(), source.reach(), from, target, part.strides());
        }
        let target = Arc::get_mut(&mut self.storage).expect("a new tensor shares nothing");
        match self.dtype.size() {
            1 => write::<u8>(target, part, source),
            2 => write::<u16>(target, part, source),
            4 => write::<u32>(target, part, source),
            _ => write::<u64>(target, part, source),
        }
    }
}

impl From<&Tensor> for Operand {
    fn from(tensor: &Tensor) -> Self {
        Self::new(tensor.shape(), Some(tensor.dtype), tensor.storage.device_name())
    }
}

pub(crate) fn byte_count(shape: &Shape, dtype: DType) -> usize {
    let bytes = shape.checked_bytes(dtype.size());
    bytes.unwrap_or_else(|| panic!("no memory for a {dtype} tensor of shape {shape}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_and_reads() {
        let x = Tensor::arange(6, DType::I32).reshape([2, 3]).unwrap();
        assert_eq!(x.slice::<i32>().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(x.to_f64_vec(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Tensor::scalar(2.5, DType::BF16).item().unwrap(), 2.5);
        assert_eq!(Tensor::ones([2], DType::Bool).to_f64_vec(), [1.0, 1.0]);
        assert!(Tensor::zeros([0, 3], DType::F32).slice::<f32>().unwrap().is_empty());
        let (all, strides) = x.raw_slice::<i32>().unwrap();
        assert_eq!((all.len(), strides), (6, &[3, 1][..]));
    }

    #[test]
    fn mistakes_are_errors() {
        let x = Tensor::zeros([2, 3], DType::F32);
        assert!(x.slice::<f64>().unwrap_err().to_string().contains("to_dtype(DType::F64)"));
        assert!(x.transpose(0, 1).unwrap().slice::<f32>().is_err());
        assert!(x.dims::<3>().is_err() && x.item().is_err());
        assert!(Tensor::from_vec(vec![1_u8; 5], [2, 3]).is_err());
    }

    #[test]
    fn writing_never_shows_elsewhere() {
        let mut x = Tensor::zeros([2, 2], DType::F32);
        let address = x.slice::<f32>().unwrap().as_ptr();
        x.slice_mut::<f32>().unwrap()[3] = 1.0;
        assert_eq!(x.slice::<f32>().unwrap().as_ptr(), address, "unshared: written in place");
        let y = x.clone();
        x.slice_mut::<f32>().unwrap()[0] = 5.0;
        assert_eq!((x.to_f64_vec()[0], y.to_f64_vec()[0]), (5.0, 0.0));
        let mut row = y.select(0, 1).unwrap();
        row.slice_mut::<f32>().unwrap().fill(9.0);
        assert_eq!((row.to_f64_vec(), y.to_f64_vec()), (vec![9.0; 2], vec![0.0, 0.0, 0.0, 1.0]));
    }
}
