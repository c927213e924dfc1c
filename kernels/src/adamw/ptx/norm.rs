//! The norm of all gradients together and the factor that limits it, without a word from the host:
//! the CPU's sums and bits.
//!
//! Arrays are many and mostly small, so that one launch adds up all of them: a table says where
//! they are. The table of segments is \[arrays + 1\]: the number of each array's first segment of
//! [`SEGMENT`] elements, ascending, and the number of all.

use crate::lane::LANES;
use crate::ptx::teams::RowBlock;
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, Team, U32, U64};
use crate::reduce::ptx::{PART, in_order};

/// Elements that a block of threads adds up.
pub const SEGMENT: u32 = PART;

/// Arrays of a table, at most.
pub const MOST_ARRAYS: u32 = 1 << 16;

/// Σ g² of every segment of every gradient, as [`sum_squares`](crate::reduce::sum_squares) adds
/// them: sixteen float64 lanes, then one after the other. Parameters: arrays (u64, the addresses),
/// lens (u32, their elements), first_segments (u32), sums (float64), n (arrays). The extent of the
/// grid is the segments.
///
/// A square is exact in float64: fused or not, the sum has the same bits.
pub fn squares() -> Kernel {
    Kernel::new("gradient_squares", Team::Block.threads(), Team::Block.per_block(), |k| {
        let (arrays, lens) = (k.global::<U64>("arrays"), k.global::<U32>("lens"));
        let (firsts, sums) = (k.global::<U32>("first_segments"), k.global::<F64>("sums"));
        let (n, segment) = (k.u32("n"), k.block(0));
        let array = array_of(k, segment, firsts, n);
        let skipped = (segment - firsts.at(array).load()) * SEGMENT;
        let len = (lens.at(array).load() - skipped).min(SEGMENT);
        let x = Global::<F32>::from_address(arrays.at(array).load()).at(skipped);
        let (sum, lanes) = (k.var::<F64>(0.0), k.shared::<F64>(LANES as u32));
        let add = |x: Reg<'_, F32>| {
            let x = x.to_f64();
            sum.fma(x, x);
        };
        let block = RowBlock::new(k, 1);
        let lane = block.in_lanes(len, |at| at.of(x), |x| [x], |[x]| add(x));
        k.if_(lane.lt(LANES as u32), || lanes.at(lane).store(sum.get()));
        k.note("all lanes are there");
        k.barrier();
        k.if_(lane.eq(0), || {
            let all = (0..LANES).map(|i| lanes.plus(i).load()).reduce(|a, b| a + b);
            sums.at(segment).store(all.expect("sixteen lanes"));
        });
    })
}

/// The last array whose first segment is not beyond `segment`: the one that has it.
fn array_of<'k>(
    k: &'k Body,
    segment: Reg<'k, U32>,
    firsts: Global<'k, U32>,
    n: Reg<'k, U32>,
) -> Reg<'k, U32> {
    let place = k.var::<U32>(0);
    for bit in (0..MOST_ARRAYS.ilog2()).rev() {
        let next = place.get() + (1 << bit);
        let first = firsts.at(next).load_where(next.lt(n), u32::MAX);
        place.set_where(segment.ge(first), next);
    }
    place.get()
}

/// Threads of the block that adds the segments.
const THREADS: u32 = 256;

/// The norm of the first `limited` gradients together, that of the others, and what each group is
/// multiplied with: clip \[2\] (float32) is min(1, limit/norm) for the first and 1 for the others,
/// or NaN for both where a norm is not finite: [`kernel`](super::kernel) then changes nothing.
/// Parameters: sums (of [`squares`]), first_segments, norms \[2\] (float64), clip, n, limited,
/// limit (float64, infinite where there is none). The extent of the grid is 1.
///
/// A thread adds the segments of an array, and one thread the arrays, each in order, as the CPU.
pub fn clip() -> Kernel {
    Kernel::new("gradient_clip", THREADS, [1, 1, 1], |k| {
        let (sums, firsts) = (k.global::<F64>("sums"), k.global::<U32>("first_segments"));
        let (norms, clip) = (k.global::<F64>("norms"), k.global::<F32>("clip"));
        let [n, limited] = ["n", "limited"].map(|name| k.u32(name));
        let limit = k.f64("limit");
        let totals = [k.var::<F64>(0.0), k.var::<F64>(0.0)];
        let of_array = |array: Reg<'_, U32>| {
            let total = k.var::<F64>(0.0);
            let [from, to] = [0, 1].map(|i| firsts.at(array).plus(i).load());
            k.for_(from, to, 1, |i| total.add(sums.at(i).load()));
            total.get()
        };
        in_order(k, THREADS, n, of_array, |array, total| {
            k.if_else(array.lt(limited), || totals[0].add(total), || totals[1].add(total));
        });
        k.if_(k.thread().eq(0), || {
            let squares = totals.map(|total| total.get());
            let [norm, other] = squares.map(|squares| squares.sqrt());
            norms.store_n(&[norm, other]);
            let one = k.value::<F64>(1.0);
            let factor = Reg::select(limit.lt(norm), limit / norm, one).to_f32();
            // A sum of squares that is not finite is ∞ or NaN.
            let finite = squares[0].lt(f64::INFINITY) & squares[1].lt(f64::INFINITY);
            let of = |x| Reg::select(finite, x, k.value(f32::NAN));
            clip.store_n(&[of(factor), of(k.value(1.0))]);
        });
    })
}
