//! Kernels that have been handed to the driver, and launches of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernels::ptx::{Kernel, KernelSpec, Kind, MOST, Parameter};

use super::driver::{Function, Word};
use super::{Cuda, locked};
use crate::buffer::Storage;
use crate::layout::Layout;
use crate::{DType, Error, Result, Tensor};

/// A kernel as the driver has it.
pub(super) struct Loaded {
    spec: KernelSpec,
    function: Function,
    /// What it was made from, where that is worth comparing.
    text: Option<String>,
    launches: AtomicU64,
}

impl Cuda {
    /// A launch of the kernel of that name, which `make` makes the first time: then its text goes to
    /// the driver, which translates it for the card (some ten milliseconds).
    ///
    /// The name tells the kernel from all others, with everything that `make` puts into it. (Builds
    /// with debug assertions compare the texts.) Kernels stay until the GPU is closed: what differs
    /// from call to call is an argument and no part of a name, so that there are no more of them than
    /// operations, element types and layouts that a program has.
    ///
    /// Errors: the driver refuses the text.
    #[track_caller]
    pub fn kernel<'a>(&'a self, name: &str, make: impl FnOnce() -> Kernel) -> Result<Launch<'a>> {
        let found = locked(&self.0.kernels).get(name).cloned();
        let loaded = match found {
            Some(loaded) => {
                debug_assert!(loaded.text == Some(make().ptx()), "two kernels of name {name}");
                loaded
            }
            None => {
                let kernel = make();
                let function = match self.0.queue.load(&kernel) {
                    Ok(function) => function,
                    Err(text) => return Err(Error::device(kernel.spec().name.clone(), text)),
                };
                let text = cfg!(debug_assertions).then(|| kernel.ptx());
                let (spec, launches) = (kernel.spec().clone(), AtomicU64::new(0));
                let loaded = Arc::new(Loaded { spec, function, text, launches });
                // Another thread may have been quicker: then this translation is dropped.
                locked(&self.0.kernels).entry(name.to_owned()).or_insert(loaded).clone()
            }
        };
        Ok(Launch { gpu: self, loaded, arguments: Vec::new() })
    }

    /// How often kernels of this name in PTX were launched: which kernels an operation goes to.
    pub fn launches(&self, kernel: &str) -> u64 {
        let loaded = locked(&self.0.kernels);
        let named = loaded.values().filter(|loaded| loaded.spec.name == kernel);
        named.map(|loaded| loaded.launches.load(Ordering::Relaxed)).sum()
    }
}

/// An argument of a launch.
enum Argument<'a> {
    Input(&'a Tensor),
    View(&'a Tensor),
    Output(&'a mut Tensor),
    Place(&'a Tensor, usize),
    Table(&'a [Tensor]),
    Moved(&'a Tensor),
    Number(usize),
    Float(f32),
    Double(f64),
}

/// A launch in the making: a kernel and its arguments, in the order of its parameters.
#[must_use = "nothing happens before `run`"]
pub struct Launch<'a> {
    gpu: &'a Cuda,
    loaded: Arc<Loaded>,
    arguments: Vec<Argument<'a>>,
}

impl<'a> Launch<'a> {
    /// A tensor to read, contiguous.
    pub fn input(self, x: &'a Tensor) -> Self {
        self.with(Argument::Input(x))
    }

    /// A tensor to read, of any layout: the kernel takes strides, which are passed as numbers.
    pub fn view(self, x: &'a Tensor) -> Self {
        self.with(Argument::View(x))
    }

    /// A tensor to write, contiguous; as everywhere, one that shares its elements is copied first.
    pub fn output(self, y: &'a mut Tensor) -> Self {
        self.with(Argument::Output(y))
    }

    /// A part of a tensor to read and to write: the last operand and the output of a kernel that
    /// takes both, and strides as numbers. It begins at element `start` of `y`, which is contiguous;
    /// one that shares its elements is copied first.
    pub fn update(self, y: &'a mut Tensor, start: usize) -> Self {
        own(self.gpu, y);
        self.with(Argument::Place(y, start)).with(Argument::Place(y, start))
    }

    /// Any number of float32 tensors to read, contiguous: the kernel takes a table of where they
    /// begin, which is made and sent there.
    pub fn table(self, tensors: &'a [Tensor]) -> Self {
        self.with(Argument::Table(tensors))
    }

    /// An index or a size.
    pub fn number(self, n: usize) -> Self {
        self.with(Argument::Number(n))
    }

    /// Indices or sizes.
    pub fn numbers<N: IntoIterator<Item = usize>>(self, numbers: N) -> Self {
        numbers.into_iter().fold(self, Self::number)
    }

    /// A float32.
    pub fn float(self, x: f32) -> Self {
        self.with(Argument::Float(x))
    }

    /// A float64.
    pub fn double(self, x: f64) -> Self {
        self.with(Argument::Double(x))
    }

    /// A tensor of any layout and type, to read or, though it shares its elements, to write.
    pub(super) fn moved(self, x: &'a Tensor) -> Self {
        self.with(Argument::Moved(x))
    }

    fn with(mut self, argument: Argument<'a>) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Queues the launch for a problem of this extent; of none, if that is empty.
    ///
    /// Errors: arguments that are not the kernel's, in number or type; a tensor that lies elsewhere,
    /// is lost, is not contiguous where it has to be, begins where the kernel's widest access cannot,
    /// or reaches over more elements than kernels count; an extent of too many blocks; the driver's,
    /// of this launch or an earlier one. (Whether a kernel stays within its operands is what the
    /// virtual machine checks in tests.)
    #[track_caller]
    pub fn run(self, extent: [usize; 3]) -> Result<()> {
        let Self { gpu, loaded, arguments } = self;
        let spec = &loaded.spec;
        let error = |message: String| Error::device(spec.name.clone(), message);
        if arguments.len() != spec.parameters.len() {
            let names: Vec<&str> = spec.parameters.iter().map(|p| &*p.name).collect();
            let (needed, given) = (names.len(), arguments.len());
            return Err(error(format!("the kernel has {needed} parameters, not {given}"))
                .note(format!("they are {}", names.join(", "))));
        }
        let mut words = Vec::with_capacity(arguments.len());
        // They have to live until the launch is queued.
        let mut tables = Vec::new();
        for (argument, parameter) in arguments.into_iter().zip(&spec.parameters) {
            let word =
                word(gpu, argument, parameter, &mut tables).map_err(|(message, tensor)| {
                    let error = error(format!("parameter {}: {message}", parameter.name));
                    match tensor {
                        Some(operand) => error.operand("argument", operand),
                        None => error,
                    }
                })?;
            words.push(word);
        }
        let grid = match spec.grid(extent) {
            Ok(grid) => grid,
            Err(text) => return Err(error(text)),
        };
        if grid.contains(&0) {
            return Ok(());
        }
        let shared = if spec.shared_is_dynamic() { spec.shared } else { 0 };
        let block = [spec.threads, 1, 1];
        let launch = || gpu.0.queue.launch(&loaded.function, [grid, block], shared, &words);
        gpu.turn().and_then(|()| launch()).map_err(error)?;
        loaded.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Makes a tensor one that may be written: contiguous, with elements of its own. While a graph is
/// recorded what was there before is not replaced: see [`in_place`].
fn own(gpu: &Cuda, y: &mut Tensor) {
    if !(gpu.was_there(&y.storage) || (y.is_unshared() && y.is_contiguous())) {
        *y = y.to_owned_copy();
    }
}

/// Errors unless a graph that is recorded may write here, in place.
fn in_place(gpu: &Cuda, y: &Tensor) -> Result<(), String> {
    match gpu.was_there(&y.storage) && !gpu.is_unshared(&y.storage) {
        true => Err("others share it, and a graph would write in place".to_owned()),
        false => Ok(()),
    }
}

/// Whether a kernel's pointer, by the name of what it points to, takes these elements.
fn takes(pointer: &str, dtype: DType) -> bool {
    match dtype {
        // Numbers of rows; a negative one is beyond every table.
        DType::I32 => pointer == "u32",
        _ => pointer == dtype.name(),
    }
}

/// Errors unless a kernel's indices, of 32 bits, count all elements that are reached.
fn counted(layout: &Layout) -> Result<(), String> {
    match layout.span() {
        reached if reached > MOST => {
            Err(format!("it reaches over {reached} elements, more than the {MOST} of a kernel"))
        }
        _ => Ok(()),
    }
}

/// Errors unless a kernel's widest access may begin here.
fn aligned(address: u64, align: u32) -> Result<(), String> {
    match address % u64::from(align) {
        0 => Ok(()),
        off => Err(format!("it begins {off} bytes behind a multiple of the kernel's {align}")),
    }
}

/// An argument as the kernel takes it, or what is wrong with it.
fn word(
    gpu: &Cuda,
    argument: Argument<'_>,
    &Parameter { kind, align, .. }: &Parameter,
    tables: &mut Vec<Tensor>,
) -> Result<Word, (String, Option<crate::Operand>)> {
    let wrong = |message: String, x: &Tensor| (message, Some(x.into()));
    let writes = matches!(argument, Argument::Output(_) | Argument::Place(..));
    let pointer_to = |x: &Tensor, start: usize, align: u32| match &*x.storage {
        Storage::Device(memory) if memory.gpu() == gpu => match memory.address() {
            Ok(address) => {
                gpu.reached(&x.storage, writes);
                let first = (x.layout.offset() + start) * x.dtype().size();
                let address = address + first as u64;
                match counted(&x.layout).and_then(|()| aligned(address, align)) {
                    Ok(()) => Ok(Word::Pointer(address)),
                    Err(message) => Err(wrong(message, x)),
                }
            }
            Err(text) => Err(wrong(format!("it is lost: {text}"), x)),
        },
        _ => Err(wrong(format!("it is not in the memory of {gpu}"), x)),
    };
    let pointer = |x: &Tensor| pointer_to(x, 0, align);
    let typed = |x: &Tensor| match kind {
        Kind::Pointer(name) if takes(name, x.dtype()) => pointer(x),
        _ => Err(wrong(format!("expected {}", told(kind)), x)),
    };
    let packed = |x: &Tensor| match x.is_contiguous() {
        true => typed(x),
        false => Err(wrong("it is not contiguous".to_owned(), x)),
    };
    let number = |given: &str| (format!("expected {}, not {given}", told(kind)), None);
    match argument {
        Argument::Moved(x) => pointer(x),
        Argument::View(x) => typed(x),
        Argument::Input(x) => packed(x),
        Argument::Output(y) => {
            own(gpu, y);
            in_place(gpu, y).map_err(|message| wrong(message, y))?;
            packed(y)
        }
        Argument::Place(y, start) => {
            in_place(gpu, y).map_err(|message| wrong(message, y))?;
            packed(y).and_then(|_| pointer_to(y, start, align))
        }
        Argument::Table(tensors) => {
            if !matches!(kind, Kind::Pointer("u64")) {
                return Err(number("a table of tensors"));
            }
            let address = |x: &Tensor| match x.is_contiguous() && x.dtype() == DType::F32 {
                true => match pointer_to(x, 0, 1)? {
                    Word::Pointer(address) => Ok(address.cast_signed()),
                    _ => unreachable!("a pointer is one"),
                },
                false => Err(wrong("it is not contiguous float32".to_owned(), x)),
            };
            let addresses = tensors.iter().map(address).collect::<Result<Vec<i64>, _>>()?;
            let table = gpu.table(addresses);
            let table = table.map_err(|error| (error.message().to_owned(), None))?;
            let word = pointer(&table)?;
            tables.push(table);
            Ok(word)
        }
        Argument::Number(n) => match (kind, u32::try_from(n)) {
            (Kind::U32, Ok(n)) => Ok(Word::U32(n)),
            (Kind::U32, Err(_)) => Err((format!("{n} does not fit 32 bits"), None)),
            _ => Err(number("a whole number")),
        },
        Argument::Float(x) if kind == Kind::F32 => Ok(Word::F32(x)),
        Argument::Double(x) if kind == Kind::F64 => Ok(Word::F64(x)),
        Argument::Float(_) => Err(number("a float32")),
        Argument::Double(_) => Err(number("a float64")),
    }
}

/// What a parameter takes, for errors.
fn told(kind: Kind) -> String {
    match kind {
        Kind::Pointer(name) => format!("a tensor of {name}"),
        Kind::U32 => "a whole number".to_owned(),
        Kind::F32 => "a float32".to_owned(),
        Kind::F64 => "a float64".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn operands_beyond_32_bits_and_odd_places_are_refused() {
        let of = |shape: &[usize]| counted(&Layout::contiguous(Shape::from(shape), 7));
        assert_eq!(of(&[1 << 15, (1 << 17) - 2]), Ok(()));
        let message = of(&[1 << 15, 1 << 17]).unwrap_err();
        assert!(message.contains("4294967296 elements"), "{message}");
        // A view of one column reaches as far as the matrix.
        let column = Layout::contiguous(Shape::from([1 << 20, 1 << 13]), 0).narrow(1, 3, 1);
        assert!(counted(&column).is_err());
        assert_eq!(of(&[1 << 40, 0]), Ok(()));
        assert_eq!((aligned(64, 16), aligned(0, 16), aligned(6, 2)), (Ok(()), Ok(()), Ok(())));
        assert!(aligned(72, 16).unwrap_err().contains("8 bytes behind a multiple"));
    }
}
