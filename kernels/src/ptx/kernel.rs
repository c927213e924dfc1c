//! A finished kernel: what a launch has to know, and the PTX text.

use std::fmt::Write;

use super::body::{Body, Line, Parts, SHARED, Sync};
use super::types::{DECLARATIONS, TYPES};

/// The lowest version of PTX that knows sm_80, and everything we emit; drivers since CUDA 11.0.
pub const VERSION: &str = "7.0";

/// The least architecture the kernels run on; a driver translates them for every later one.
pub const TARGET: &str = "sm_80";

/// Shared memory that needs no consent of the driver's; more is asked for at launch.
const STATIC_SHARED: u32 = 48 << 10;

/// The greatest extent of a problem, and the most elements that an operand reaches: kernels count
/// them in 32 bits, and a last block to its end.
pub const MOST: usize = u32::MAX as usize - 0xffff;

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pointer to elements of this name, as [`Element::NAME`](super::Element::NAME) has it.
    Pointer(&'static str),
    /// A number of 32 bits.
    U32,
    /// A float32.
    F32,
    /// A float64.
    F64,
}

impl Kind {
    /// The type of the parameter in PTX.
    fn suffix(self) -> &'static str {
        match self {
            Kind::Pointer(_) => "u64",
            Kind::U32 => "u32",
            Kind::F32 => "f32",
            Kind::F64 => "f64",
        }
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Of a pointer, what it has to be a multiple of: the bytes of the widest access through it.
    pub align: u32,
}

/// What a launch has to know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// The name of its entry.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Threads of a block, along x.
    pub threads: u32,
    /// How much of the problem a block does, along each axis of the grid.
    pub per_block: [u32; 3],
    /// Bytes of shared memory of a block.
    pub shared: u32,
}

impl KernelSpec {
    /// Whether [`shared`](Self::shared) is asked for at launch, being more than the 48 KiB that any
    /// kernel may have.
    pub fn shared_is_dynamic(&self) -> bool {
        self.shared > STATIC_SHARED
    }

    /// Blocks along each axis for a problem of this extent.
    ///
    /// Errors: more than [`MOST`]; more blocks than a grid has (2³¹ − 1 along x, 65535 along y and
    /// z).
    pub fn grid(&self, extent: [usize; 3]) -> Result<[u32; 3], String> {
        let mut grid = [0; 3];
        for axis in 0..3 {
            if extent[axis] > MOST {
                return Err(format!("{}: extent {extent:?} does not fit 32 bits", self.name));
            }
            let blocks = extent[axis].div_ceil(self.per_block[axis] as usize);
            let most = if axis == 0 { i32::MAX as usize } else { u16::MAX.into() };
            if blocks > most {
                return Err(format!(
                    "{}: extent {extent:?} is {blocks} blocks along axis {axis}, more than {most}",
                    self.name
                ));
            }
            grid[axis] = blocks as u32;
        }
        Ok(grid)
    }
}

/// A kernel: its [`KernelSpec`] and its code.
#[derive(Clone, Debug)]
pub struct Kernel {
    spec: KernelSpec,
    registers: [u32; TYPES],
    lines: Vec<Line>,
}

impl Kernel {
    /// The kernel that `write` writes, for blocks of so many `threads`, each of which does `per_block`
    /// of the problem along each axis: [`KernelSpec::grid`] makes the number of blocks of it. All
    /// threads run the same code; [`Body::block`] and [`Body::thread`] tell each where it is.
    pub fn new(name: &str, threads: u32, per_block: [u32; 3], write: impl FnOnce(&Body)) -> Kernel {
        let body = Body::default();
        write(&body);
        let (parameters, lines, registers, shared): Parts = body.into_parts();
        let spec = KernelSpec { name: name.to_owned(), parameters, threads, per_block, shared };
        Kernel { spec, registers, lines }
    }

    /// What a launch has to know.
    pub fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    /// The text that `ptxas`, a driver or the virtual machine takes.
    pub fn ptx(&self) -> String {
        module(std::slice::from_ref(self))
    }

    /// The text of the entry alone.
    fn entry(&self) -> String {
        let KernelSpec { name, parameters, threads, shared, .. } = &self.spec;
        let parameters: Vec<String> = parameters
            .iter()
            .map(|p| format!("    .param .{} {}", p.kind.suffix(), p.name))
            .collect();
        let parameters = parameters.join(",\n");
        let mut text =
            format!("\n.visible .entry {name}(\n{parameters}\n)\n.maxntid {threads}, 1, 1\n{{\n");
        let mut line = |line: std::fmt::Arguments| {
            text.write_fmt(line).expect("strings take everything");
            text.push('\n');
        };
        if self.spec.shared_is_dynamic() {
            line(format_args!("    // {shared} bytes of {SHARED}"));
        } else if *shared > 0 {
            line(format_args!("    .shared .align 128 .b8 {SHARED}[{shared}];"));
        }
        for ((suffix, prefix), count) in DECLARATIONS.iter().zip(self.registers) {
            if count > 0 {
                line(format_args!("    .reg .{suffix} {prefix}<{count}>;"));
            }
        }
        for code in &self.lines {
            match code {
                Line::Instruction(code) => line(format_args!("    {code};")),
                Line::Sync(sync) => line(format_args!("    {sync};")),
                Line::Label(label) => line(format_args!("{label}:")),
                Line::Comment(comment) => line(format_args!("    // {comment}")),
            }
        }
        text + "    ret;\n}\n"
    }

    /// The kernels whose threads wait for less: each without one of its barriers, ends of groups of
    /// copies, or waits for them, and each with a wait for one group less. Tests expect the virtual
    /// machine to find fault with them all.
    pub fn weakened(&self) -> Vec<Kernel> {
        let with = |at: usize, line: Option<Line>| {
            let mut kernel = self.clone();
            kernel.lines.splice(at..=at, line);
            kernel
        };
        let mut all = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let Line::Sync(sync) = line else { continue };
            all.push(with(at, None));
            if let Sync::Wait(groups) = sync {
                all.push(with(at, Some(Line::Sync(Sync::Wait(groups + 1)))));
            }
        }
        all
    }
}

/// The text of several kernels as one module.
pub fn module(kernels: &[Kernel]) -> String {
    let mut text = format!(".version {VERSION}\n.target {TARGET}\n.address_size 64\n");
    if kernels.iter().any(|kernel| kernel.spec.shared_is_dynamic()) {
        write!(text, "\n.extern .shared .align 128 .b8 {SHARED}[];\n").expect("a string");
    }
    kernels.iter().for_each(|kernel| text.push_str(&kernel.entry()));
    text
}
