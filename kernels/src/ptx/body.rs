//! A kernel while it is being written: parameters, instructions, structured control flow.

use std::cell::RefCell;
use std::fmt::{self, Display, Write};

use super::kernel::{Kind, Parameter};
use super::memory::{Global, Pointer, Shared};
use super::types::{Element, F32, F64, Pred, TYPES, Type, U32, U64};
use super::value::{Reg, Source};
use super::var::Var;

/// Lanes of a warp.
pub const WARP: u32 = 32;

/// The code of a kernel, growing at its end; every [`Reg`] refers to it.
///
/// Control flow is structured: bodies of branches and loops are closures. A barrier must be reached
/// by all threads of the block, so that it may only stand in branches and loops that all of them
/// take alike.
#[derive(Default)]
pub struct Body {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    parameters: Vec<Parameter>,
    lines: Vec<Line>,
    registers: [u32; TYPES],
    labels: u32,
    shared: u32,
    /// Registers of a formula's parameters.
    formula: Vec<u32>,
    /// What the formula being written asked for so far.
    asked: Vec<f32>,
}

/// A line of code.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Instruction(String),
    Sync(Sync),
    Label(String),
    Comment(String),
}

/// An instruction that threads wait by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Barrier,
    /// The end of a group of copies.
    Commit,
    /// For all but so many groups.
    Wait(u32),
}

impl Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Barrier => f.write_str("bar.sync 0"),
            Self::Commit => f.write_str("cp.async.commit_group"),
            Self::Wait(groups) => write!(f, "cp.async.wait_group {groups}"),
        }
    }
}

/// What a [`Body`] has become: parameters, lines, registers of each type, bytes of shared memory.
pub(super) type Parts = (Vec<Parameter>, Vec<Line>, [u32; TYPES], u32);

/// The name of a block's shared memory.
pub(super) const SHARED: &str = "shared_memory";

/// What arrays in shared memory are aligned to: the banks' whole width.
const SHARED_ALIGN: u32 = 128;

impl Body {
    pub(super) fn into_parts(self) -> Parts {
        let State { parameters, lines, registers, shared, .. } = self.state.into_inner();
        (parameters, lines, registers, shared)
    }

    fn push(&self, line: Line) {
        self.state.borrow_mut().lines.push(line);
    }

    /// Appends an instruction as it is.
    pub(super) fn emit(&self, instruction: &str) {
        self.push(Line::Instruction(instruction.to_owned()));
    }

    /// A register that nothing was written to.
    pub(super) fn fresh<T: Type>(&self) -> Reg<'_, T> {
        let mut state = self.state.borrow_mut();
        let count = &mut state.registers[T::INDEX];
        *count += 1;
        Reg::register(self, *count - 1)
    }

    /// Appends an instruction that writes one register, and answers that.
    pub(super) fn op<T: Type>(&self, name: &str, operands: &[&dyn Display]) -> Reg<'_, T> {
        let result = self.fresh::<T>();
        let mut text = format!("{name} {result}");
        for operand in operands {
            write!(text, ", {operand}").expect("strings take everything");
        }
        self.emit(&text);
        result
    }

    /// A comment line, for those who read the PTX.
    pub fn note(&self, text: &str) {
        self.push(Line::Comment(text.to_owned()));
    }

    // Parameters.

    fn parameter<T: Type>(&self, name: &str, kind: Kind) -> Reg<'_, T> {
        let parameter = Parameter { name: name.to_owned(), kind, align: 1 };
        self.state.borrow_mut().parameters.push(parameter);
        self.op(&format!("ld.param.{}", T::SUFFIX), &[&format!("[{name}]")])
    }

    /// The next parameter: a pointer to elements in global memory.
    pub fn global<T: Element>(&self, name: &str) -> Global<'_, T> {
        let number = self.state.borrow().parameters.len();
        let generic: Reg<U64> = self.parameter(name, Kind::Pointer(T::NAME));
        Pointer::of_parameter(self.op("cvta.to.global.u64", &[&generic]), number)
    }

    /// Notes an access of so many bytes through a parameter.
    pub(super) fn accessed(&self, parameter: usize, bytes: u32) {
        let align = &mut self.state.borrow_mut().parameters[parameter].align;
        *align = bytes.max(*align);
    }

    /// The next parameter: a number.
    pub fn u32(&self, name: &str) -> Reg<'_, U32> {
        self.parameter(name, Kind::U32)
    }

    /// The next parameter: a number.
    pub fn f32(&self, name: &str) -> Reg<'_, F32> {
        self.parameter(name, Kind::F32)
    }

    /// The next parameter: a number.
    pub fn f64(&self, name: &str) -> Reg<'_, F64> {
        self.parameter(name, Kind::F64)
    }

    // Formulas.

    /// The next parameters: `n` numbers that a formula holds, in the order in which it asks for them.
    pub(crate) fn formula_parameters(&self, n: usize) {
        let numbers = (0..n).map(|i| self.f32(&format!("c{i}")).number());
        let numbers: Vec<u32> = numbers.map(|number| number.expect("a register")).collect();
        self.state.borrow_mut().formula = numbers;
    }

    /// What a formula writes, and the numbers that it asks for by
    /// [`parameter`](crate::num::Num::parameter).
    pub(crate) fn formula<T>(&self, write: impl FnOnce() -> T) -> (T, Vec<f32>) {
        let written = write();
        (written, std::mem::take(&mut self.state.borrow_mut().asked))
    }

    /// The next parameter of the formula being written: its register, or `c` itself where nobody
    /// made it one.
    pub(super) fn formula_parameter(&self, c: f32) -> Reg<'_, F32> {
        let mut state = self.state.borrow_mut();
        let number = state.formula.get(state.asked.len()).copied();
        state.asked.push(c);
        drop(state);
        number.map_or_else(|| c.reg(self), |number| Reg::register(self, number))
    }

    /// An array of `len` elements in the block's shared memory.
    pub fn shared<T: Element>(&self, len: u32) -> Shared<'_, T> {
        let first = self.state.borrow().shared;
        self.state.borrow_mut().shared += (len * T::BYTES).next_multiple_of(SHARED_ALIGN);
        Pointer::new(self.op("mov.u32", &[&SHARED])).displaced(first)
    }

    // Where a thread is.

    /// This thread's number in its block.
    pub fn thread(&self) -> Reg<'_, U32> {
        self.op("mov.u32", &[&"%tid.x"])
    }

    /// This block's number along an axis of the grid.
    pub fn block(&self, axis: usize) -> Reg<'_, U32> {
        self.op("mov.u32", &[&["%ctaid.x", "%ctaid.y", "%ctaid.z"][axis]])
    }

    // Values.

    /// A constant, or a register as it is.
    pub fn value<'k, T>(&'k self, value: impl Source<'k, T>) -> Reg<'k, T> {
        value.reg(self)
    }

    /// A register that may be written again, with its first value.
    pub fn var<'k, T: Type>(&'k self, first: impl Source<'k, T>) -> Var<'k, T> {
        let first = first.reg(self);
        Var::new(self.op(&format!("mov.{}", T::SUFFIX), &[&first]))
    }

    /// So many of them.
    pub fn vars(&self, n: usize, first: f32) -> Vec<Var<'_, F32>> {
        (0..n).map(|_| self.var::<F32>(first)).collect()
    }

    // Control flow.

    fn label(&self) -> String {
        let mut state = self.state.borrow_mut();
        state.labels += 1;
        format!("$L{}", state.labels)
    }

    /// Runs `body` where `p` holds.
    pub fn if_(&self, p: Reg<'_, Pred>, body: impl FnOnce()) {
        let end = self.label();
        self.emit(&format!("@!{p} bra {end}"));
        body();
        self.push(Line::Label(end));
    }

    /// Runs `body` where `p` holds, else `otherwise`.
    pub fn if_else(&self, p: Reg<'_, Pred>, body: impl FnOnce(), otherwise: impl FnOnce()) {
        let (start, end) = (self.label(), self.label());
        self.emit(&format!("@!{p} bra {start}"));
        body();
        self.emit(&format!("bra {end}"));
        self.push(Line::Label(start));
        otherwise();
        self.push(Line::Label(end));
    }

    /// Runs `body` with `first`, `first + step`, … below `end`.
    pub fn for_<'k>(
        &'k self,
        first: impl Source<'k, U32>,
        end: impl Source<'k, U32>,
        step: impl Source<'k, U32>,
        body: impl FnOnce(Reg<'k, U32>),
    ) {
        let (end, step) = (end.reg(self), step.reg(self));
        let counter: Reg<U32> = self.op("mov.u32", &[&first.reg(self)]);
        let (top, out) = (self.label(), self.label());
        self.emit(&format!("@{} bra {out}", counter.ge(end)));
        self.push(Line::Label(top.clone()));
        body(counter);
        self.emit(&format!("add.u32 {counter}, {counter}, {step}"));
        self.emit(&format!("@{} bra {top}", counter.lt(end)));
        self.push(Line::Label(out));
    }

    // Between threads.

    /// Waits for all threads of the block; what they wrote to shared memory is visible after it.
    pub fn barrier(&self) {
        self.push(Line::Sync(Sync::Barrier));
    }

    /// Ends a group of asynchronous copies; see [`Pointer::copy_async`].
    pub fn commit_copies(&self) {
        self.push(Line::Sync(Sync::Commit));
    }

    /// Waits until all but the latest `groups` groups of this thread's copies have arrived. Other
    /// threads see them after a barrier.
    pub fn wait_copies(&self, groups: u32) {
        self.push(Line::Sync(Sync::Wait(groups)));
    }

    /// The value, of 32 bits, of the lane whose number differs from this one's in the bits of
    /// `mask`. All lanes of the warp must come here together.
    pub fn shuffle_xor<'k, T: Type>(&'k self, x: Reg<'k, T>, mask: u32) -> Reg<'k, T> {
        self.op("shfl.sync.bfly.b32", &[&x, &mask, &31, &"0xffffffff"])
    }
}
