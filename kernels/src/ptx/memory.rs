//! Typed pointers into global and shared memory.

use std::fmt::Display;
use std::marker::PhantomData;

use super::types::{B32, Element, Pred, Type, U32, U64};
use super::value::{Reg, Source};

/// A memory that addresses belong to.
pub trait Space: Copy + 'static {
    /// What holds an address.
    type Address: Type;
    /// As instructions name it.
    const NAME: &'static str;
    /// `base + index·bytes`.
    fn address<'k>(
        base: Reg<'k, Self::Address>,
        index: Reg<'k, U32>,
        bytes: u32,
    ) -> Reg<'k, Self::Address>;
}

/// The device's memory: addresses of 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct GlobalSpace;

/// A block's own memory: addresses of 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct SharedSpace;

impl Space for GlobalSpace {
    type Address = U64;
    const NAME: &'static str = "global";
    fn address<'k>(base: Reg<'k, U64>, index: Reg<'k, U32>, bytes: u32) -> Reg<'k, U64> {
        base.body.op("mad.wide.u32", &[&index, &bytes, &base])
    }
}

impl Space for SharedSpace {
    type Address = U32;
    const NAME: &'static str = "shared";
    fn address<'k>(base: Reg<'k, U32>, index: Reg<'k, U32>, bytes: u32) -> Reg<'k, U32> {
        index.mad(bytes, base)
    }
}

/// A pointer to elements of type `T`; moving it costs an instruction, a constant displacement none.
pub struct Pointer<'k, S: Space, T> {
    base: Reg<'k, S::Address>,
    /// Bytes added to `base` by the instruction that uses it.
    displacement: u32,
    /// The kernel's parameter that it was made of, if it was one.
    parameter: Option<usize>,
    ty: PhantomData<T>,
}

/// A pointer into global memory.
pub type Global<'k, T> = Pointer<'k, GlobalSpace, T>;
/// A pointer into shared memory.
pub type Shared<'k, T> = Pointer<'k, SharedSpace, T>;

impl<S: Space, T> Clone for Pointer<'_, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Space, T> Copy for Pointer<'_, S, T> {}

/// Bytes of the widest load and store.
const WIDEST: u32 = 16;

impl<'k, S: Space, T: Element> Pointer<'k, S, T> {
    pub(super) fn new(base: Reg<'k, S::Address>) -> Self {
        Pointer { base, displacement: 0, parameter: None, ty: PhantomData }
    }

    /// What the parameter of this number points to.
    pub(super) fn of_parameter(base: Reg<'k, S::Address>, number: usize) -> Self {
        Pointer { parameter: Some(number), ..Pointer::new(base) }
    }

    /// Notes an access of so many bytes.
    fn accessed(self, bytes: u32) {
        if let Some(parameter) = self.parameter {
            self.base.body.accessed(parameter, bytes);
        }
    }

    /// The same, so many bytes further on.
    pub(super) fn displaced(self, bytes: u32) -> Self {
        Pointer { displacement: self.displacement + bytes, ..self }
    }

    /// The element `index` places further on.
    pub fn at(self, index: impl Source<'k, U32>) -> Self {
        let index = index.reg(self.base.body);
        Pointer { base: S::address(self.base, index, T::BYTES), ..self }
    }

    /// The element a constant number of places further on.
    pub fn plus(self, elements: usize) -> Self {
        self.displaced(elements as u32 * T::BYTES)
    }

    /// The element.
    pub fn load(self) -> Reg<'k, T::Value> {
        T::load(self, 1, None)[0]
    }

    /// `n` adjacent elements, by the widest loads; the address is a multiple of their size.
    pub fn load_n(self, n: usize) -> Vec<Reg<'k, T::Value>> {
        T::load(self, n, None)
    }

    /// Writes the element.
    pub fn store(self, value: Reg<'k, T::Value>) {
        T::store(self, &[value]);
    }

    /// Writes adjacent elements; alignment as [`load_n`](Self::load_n).
    pub fn store_n(self, values: &[Reg<'k, T::Value>]) {
        T::store(self, values);
    }

    /// The element where `p` holds, else `otherwise`; nothing is read there, and no branch taken.
    pub fn load_where(
        self,
        p: Reg<'k, Pred>,
        otherwise: impl Source<'k, T::Value>,
    ) -> Reg<'k, T::Value> {
        let (value, otherwise) = (T::load(self, 1, Some(p))[0], otherwise.reg(self.base.body));
        if otherwise.known() == Some(0) { value } else { Reg::select(p, value, otherwise) }
    }

    /// As instructions name the place.
    pub(super) fn address(self) -> impl Display {
        format!("[{}+{}]", self.base, self.displacement)
    }

    /// Loads `n` words of `bytes` each, as vectors where there are several; zeros where a guard
    /// does not hold.
    pub(super) fn load_words<W: Type>(
        self,
        suffix: &str,
        bytes: u32,
        n: usize,
        guard: Option<Reg<'k, Pred>>,
    ) -> Vec<Reg<'k, W>> {
        let body = self.base.body;
        let words: Vec<Reg<W>> = (0..n).map(|_| body.fresh()).collect();
        let guard = guard.map_or_else(String::new, |p| {
            for word in &words {
                body.emit(&format!("mov.{} {word}, {}", W::SUFFIX, W::constant(0)));
            }
            format!("@{p} ")
        });
        let wide = (WIDEST / bytes) as usize;
        for (i, vector) in words.chunks(wide).enumerate() {
            let (v, list) = vector_of(vector);
            let place = self.displaced(i as u32 * WIDEST).address();
            self.accessed(bytes * vector.len() as u32);
            body.emit(&format!("{guard}ld.{}{v}.{suffix} {list}, {place}", S::NAME));
        }
        words
    }

    /// Stores words of `bytes` each, as vectors where there are several.
    pub(super) fn store_words<W: Type>(self, suffix: &str, bytes: u32, words: &[Reg<'_, W>]) {
        let wide = (WIDEST / bytes) as usize;
        for (i, vector) in words.chunks(wide).enumerate() {
            let (v, list) = vector_of(vector);
            let place = self.displaced(i as u32 * WIDEST).address();
            self.accessed(bytes * vector.len() as u32);
            self.base.body.emit(&format!("st.{}{v}.{suffix} {place}, {list}", S::NAME));
        }
    }
}

/// The suffix and the operand for one word, or for two or four.
fn vector_of<W: Type>(words: &[Reg<'_, W>]) -> (String, String) {
    match words {
        [word] => (String::new(), word.to_string()),
        _ => (format!(".v{}", words.len()), braced(words)),
    }
}

/// Operands in braces.
pub(super) fn braced(operands: &[impl Display]) -> String {
    let operands: Vec<String> = operands.iter().map(ToString::to_string).collect();
    format!("{{{}}}", operands.join(", "))
}

impl<'k, T: Element> Global<'k, T> {
    /// Whether the address is a multiple of so many bytes, a power of two.
    pub fn is_multiple_of(self, bytes: u32) -> Reg<'k, Pred> {
        assert!(bytes.is_power_of_two() && self.displacement.is_multiple_of(bytes));
        (self.base & u64::from(bytes - 1)).eq(0)
    }

    /// The same place for a kernel that looks itself at [how vectors are
    /// aligned](Self::is_multiple_of): a launch sees to single elements alone.
    pub fn of_any_alignment(self) -> Self {
        self.accessed(T::BYTES);
        Pointer { parameter: None, ..self }
    }

    /// The array at an address that was read from memory: an entry of a table of arrays.
    pub fn from_address(address: Reg<'k, U64>) -> Self {
        Pointer::new(address.body.op("cvta.to.global.u64", &[&address]))
    }
}

impl<'k, T: Element> Shared<'k, T> {
    /// Begins to copy 16 bytes from global memory to here, both aligned, past the registers; where
    /// `p` does not hold, zeros are written and nothing is read. They have arrived after
    /// [`wait_copies`](super::Body::wait_copies).
    pub fn copy_async(self, from: Global<'k, T>, p: Reg<'k, Pred>) {
        let body = self.base.body;
        from.accessed(WIDEST);
        let size = Reg::select(p, body.value::<U32>(WIDEST), body.value::<U32>(0));
        let (to, from) = (self.address(), from.address());
        body.emit(&format!("cp.async.cg.shared.global {to}, {from}, {WIDEST}, {size}"));
    }

    /// Four 8×8 matrices of 16-bit elements, spread over the warp: lane l says where row l mod 8 of
    /// matrix l / 8 begins (16 bytes, aligned), and is given elements 2·(l mod 4) and the next one
    /// of row l / 4 of each; `transposed`, of column l / 4.
    pub fn load_matrices(self, transposed: bool) -> [Reg<'k, B32>; 4] {
        let body = self.base.body;
        let parts: [Reg<B32>; 4] = std::array::from_fn(|_| body.fresh());
        let trans = if transposed { ".trans" } else { "" };
        body.emit(&format!(
            "ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {}, {}",
            braced(&parts),
            self.address()
        ));
        parts
    }
}
