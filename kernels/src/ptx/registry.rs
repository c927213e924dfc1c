//! The kernels that there are: what the assembler's check walks over.
//!
//! Operations launch them all but two kinds, which are there for those who make kernels their own:
//! products of float32 rounded to tf32 (operations round to bf16 or not at all), and random numbers
//! (a model's are made by the CPU: the same bits on every device).

use std::collections::HashSet;

use super::{Kernel, Storage, Team};
use crate::attention::ptx::{Attention, Backward, Exact};
use crate::conv::ptx::{Convolution, Transposed, WeightGradient, fold_filters, sum_filters};
use crate::elementwise::exprs::{
    Abs, Add, AddScalar, Clamp, Div, Exp, GeluTanh, Ln, Maximum, Minimum, Mul, MulScalar, Neg,
    Recip, Relu, Sigmoid, Silu, Softplus, Sqrt, Square, Sub, Tanh,
};
use crate::elementwise::ptx::{Identity, Layout, kernel};
use crate::elementwise::{Binary, Chain, ChainSlope, Partial, PartialSlope, Pointwise, Unary};
use crate::gemm::Gated;
use crate::gemm::ptx::{Gemm, Squares, Tiles, Writing};
use crate::norm::ptx::{Gain, RowNorm};
use crate::{adamw, gather, norm, random, reduce, softmax, xent};

/// The kernels, each of one name. Of kernels for one width of heads or one size of filters, for
/// more than four axes and for more than two segments there are examples.
pub fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    formulas(&mut all);
    for from in Storage::ALL {
        all.extend(Storage::ALL.map(|to| gather::ptx::gather([from, to])));
        all.push(random::ptx::uniform(from));
    }
    for team in Team::ALL {
        for logarithm in [false, true] {
            let (forward, backward) = (softmax::ptx::forward, softmax::ptx::backward);
            all.extend([forward(logarithm, team), backward(logarithm, team)]);
        }
        all.push(xent::ptx::forward(team));
    }
    all.push(xent::ptx::backward());
    norms(&mut all);
    group_norms(&mut all);
    products(&mut all);
    attentions(&mut all);
    convolutions(&mut all);
    reductions(&mut all);
    all.push(random::ptx::normal());
    all.extend([false, true].map(adamw::ptx::kernel));
    all.extend([adamw::ptx::average(), adamw::ptx::squares(), adamw::ptx::clip()]);
    all.push(gather::ptx::scatter_add());
    all
}

/// What tells a kernel from those that an example stands for: its name without the width of heads,
/// the size of filters, the number of axes and of segments beyond two.
pub fn example(name: &str) -> String {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let without_size = |part: &str| {
        for kind in ["wide", "strided", "scattered"] {
            if part.strip_prefix(kind).is_some_and(is_number) {
                return kind.to_owned();
            }
        }
        match (part.split_once('x'), part.strip_prefix('s')) {
            (Some((rows, columns)), _) if is_number(rows) && is_number(columns) => "filter".into(),
            (_, Some(segments)) if is_number(segments) && segments > "2" => "s2".into(),
            _ => part.to_owned(),
        }
    };
    name.split('_').map(without_size).collect::<Vec<_>>().join("_")
}

/// Those of these names that are none of the [kernels], and that none of them stands for.
pub fn unlisted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let listed: HashSet<String> =
        kernels().iter().map(|kernel| example(&kernel.spec().name)).collect();
    names.into_iter().filter(|name| !listed.contains(&example(name))).collect()
}

/// Axes of a strided kernel, at most, of those listed.
const RANKS: std::ops::RangeInclusive<usize> = 1..=4;

fn formulas(all: &mut Vec<Kernel>) {
    for from in Storage::ALL {
        for to in Storage::ALL {
            all.extend(layouts().map(|layout| kernel("copy", &Identity, [from, to], layout)));
        }
        all.extend(scattered().map(|layout| kernel("copy", &Identity, [from; 2], layout)));
    }
    all.extend(scattered().map(|layout| kernel("add", &Add, [Storage::F32; 2], layout)));
    macro_rules! each {
        ($visit:ident: $($formula:expr),* $(,)?) => { $($visit($formula, all);)* };
    }
    each!(unary: Neg, MulScalar(0.5), AddScalar(0.5), Clamp { low: -1.0, high: 1.0 }, Exp, Ln, Sqrt,
        Square, Recip, Abs, Relu, Tanh, Sigmoid, Silu, GeluTanh, Softplus);
    each!(binary: Add, Sub, Mul, Div, Maximum, Minimum);
    // What linear layers do again, under the operation's name.
    pointwise("linear_gate_residual", &Gated, all);
}

fn layouts() -> impl Iterator<Item = Layout> {
    std::iter::once(Layout::Dense).chain(RANKS.map(Layout::Strided))
}

fn scattered() -> impl Iterator<Item = Layout> {
    RANKS.map(Layout::Scattered)
}

/// A formula as it is run: dense and strided, in float32.
fn pointwise<const K: usize>(name: &str, f: &impl Pointwise<K>, all: &mut Vec<Kernel>) {
    all.extend(layouts().map(|layout| kernel(name, f, [Storage::F32; 2], layout)));
}

fn unary<U: Unary>(f: U, all: &mut Vec<Kernel>) {
    pointwise(U::NAME, &f, all);
    pointwise(&format!("{}_chain", U::NAME), &Chain(f), all);
    let name = format!("{}_chain_slope", U::NAME);
    all.push(kernel(&name, &ChainSlope(f), [Storage::F32; 2], Layout::Dense));
}

fn binary<B: Binary>(f: B, all: &mut Vec<Kernel>) {
    pointwise(B::NAME, &f, all);
    pointwise(&format!("{}_partial0", B::NAME), &Partial::<B, 0>(f), all);
    pointwise(&format!("{}_partial1", B::NAME), &Partial::<B, 1>(f), all);
    let mut slope = |place: &str, f: &dyn Fn(&str) -> Kernel| {
        all.push(f(&format!("{}_partial_slope{place}", B::NAME)));
    };
    let single = [Storage::F32; 2];
    slope("00", &|name| kernel(name, &PartialSlope::<B, 0, 0>(f), single, Layout::Dense));
    slope("01", &|name| kernel(name, &PartialSlope::<B, 0, 1>(f), single, Layout::Dense));
    slope("10", &|name| kernel(name, &PartialSlope::<B, 1, 0>(f), single, Layout::Dense));
    slope("11", &|name| kernel(name, &PartialSlope::<B, 1, 1>(f), single, Layout::Dense));
}

fn reductions(all: &mut Vec<Kernel>) {
    use reduce::ptx;
    all.extend([ptx::rows(), ptx::columns(), ptx::row_parts(), ptx::add_parts()]);
    all.extend([false, true].map(ptx::max_rows));
    all.extend([ptx::max_columns(), ptx::spread()]);
}

fn norms(all: &mut Vec<Kernel>) {
    for (centered, gain) in
        [(true, Gain::Identity), (true, Gain::Modulation), (false, Gain::Weight)]
    {
        let norm = RowNorm { centered, gain };
        all.extend(Team::ALL.map(|team| norm.forward(team)));
        all.extend(Team::ALL.map(|team| norm.backward(team)));
    }
    all.extend([RowNorm::slope_parts(), RowNorm::add_slope_parts()]);
}

fn group_norms(all: &mut Vec<Kernel>) {
    use norm::ptx;
    for squares in [false, true] {
        all.extend([ptx::group_parts(squares), ptx::group_statistics(squares)]);
    }
    for silu in [false, true] {
        all.extend([ptx::group_apply(silu), ptx::group_channel_sums(silu)]);
        all.push(ptx::group_backward(silu));
    }
    all.extend([ptx::group_backward_sums(), ptx::group_slopes()]);
}

/// Which operands of a product are stored transposed.
const SIDES: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

const SQUARES: [Squares; 2] = [Squares::LARGE, Squares::SMALL];

fn products(all: &mut Vec<Kernel>) {
    // Operands as they lie, with whatever a layer adds.
    for transposed in SIDES {
        for writing in [Writing::Store, Writing::Bias, Writing::BiasGelu, Writing::GateResidual] {
            let gemm = |operands| Gemm { operands, transposed, writing };
            for tiles in [Tiles::LARGE, Tiles::SMALL] {
                all.extend(Storage::ALL.map(|operands| gemm(operands).exact(tiles)));
            }
            all.extend(SQUARES.map(|squares| gemm(Storage::Bf16).tensor_cores(squares)));
        }
    }
    let finished = [Writing::Store, Writing::Bias, Writing::BiasGelu, Writing::GateResidual];
    all.extend(finished.map(Writing::finish));
    for transposed in [[false, false], [false, true], [true, false]] {
        let (operands, writing) = (Storage::F32, Writing::Store);
        let gemm = Gemm { operands, transposed, writing };
        all.extend(SQUARES.map(|squares| gemm.tensor_cores(squares)));
    }
}

fn attentions(all: &mut Vec<Kernel>) {
    // Biases are T5's, whose heads are 64 wide.
    for (width, bias) in [(32, false), (64, false), (64, true), (128, false)] {
        all.extend([1, 2].map(|segments| Attention { width, segments, bias }.forward()));
    }
    all.push(Backward::delta());
    for (width, bias) in [(32, false), (64, false), (64, true)] {
        for segments in [1, 2] {
            let backward = Backward { width, segments, bias };
            all.extend([backward.queries(), backward.keys()]);
        }
    }
    all.push(Backward::bias_gradient(64));
    // Of half a tile, of a whole one, of more than one; in chunks, and of an odd width. The widest
    // are an autoencoder's, which has one head.
    for (operands, width, biases) in [
        (Storage::F32, 32, &[false][..]),
        (Storage::F32, 64, &[false, true]),
        (Storage::F32, 67, &[false, true]),
        (Storage::F32, 512, &[false]),
        (Storage::Bf16, 128, &[false, true]),
        (Storage::F16, 64, &[false, true]),
    ] {
        for &bias in biases {
            for segments in [1, 2] {
                let exact = Exact { operands, width, segments, bias };
                all.extend([exact.forward(), exact.queries(), exact.keys()]);
            }
        }
        if biases.contains(&true) {
            all.push(Exact::bias_gradient(operands, width));
        }
    }
}

fn convolutions(all: &mut Vec<Kernel>) {
    // Of the networks: 1×1 and 3×3, 2×2 of patches, 4×4 of enlargements.
    for taps in [[1, 1], [2, 2], [3, 3], [4, 4]] {
        for bias in [false, true] {
            all.push(Convolution { taps, bias }.exact());
        }
        all.push(WeightGradient { taps }.kernel());
    }
    for taps in [[1, 1], [3, 3]] {
        all.push(Transposed { taps, strided: false, bias: false }.kernel());
    }
    // What phases a stride of 2 apart meet of those filters; enlargements add a bias.
    for taps in [[1, 1], [1, 2], [2, 1], [2, 2]] {
        all.push(Transposed { taps, strided: true, bias: false }.kernel());
    }
    all.push(Transposed { taps: [2, 2], strided: true, bias: true }.kernel());
    all.extend([sum_filters(), fold_filters()]);
}
