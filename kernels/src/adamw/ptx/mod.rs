//! AdamW with an average of the parameters, for the GPU: the CPU's arithmetic and bits.
//!
//! What the gradient is multiplied with lies in device memory, so that a step whose norm is known
//! only there ([`squares`], [`clip`]) needs no word from the host. NaN in that place says that the
//! norm is not finite, and nothing is changed. The numbers of an update lie there too, so that every
//! step is the same launches.

mod norm;

pub use norm::{MOST_ARRAYS, SEGMENT, clip, squares};

use super::{Constants, Update};
use crate::ptx::{F32, Global, Kernel, Reg};

/// Threads of a block.
const THREADS: u32 = 256;

/// How many [`numbers`] an update has.
pub const NUMBERS: usize = 9;

/// What the kernels take of an update.
pub fn numbers(update: &Update) -> [f32; NUMBERS] {
    update.scalars().map(|c| c as f32)
}

/// One update. Parameters: g, p, m, v, e where there is an `average`, clip (one float32),
/// [`numbers`], n. The extent of the grid is n.
pub fn kernel(average: bool) -> Kernel {
    let name = if average { "adamw_average" } else { "adamw" };
    Kernel::new(name, THREADS, [THREADS, 1, 1], |k| {
        let arrays = ["g", "p", "m", "v"].map(|name| k.global::<F32>(name));
        let e = average.then(|| k.global::<F32>("e"));
        let [clip, numbers] = ["clip", "numbers"].map(|name| k.global::<F32>(name));
        let n = k.u32("n");
        let constants = Constants::new(std::array::from_fn(|i| numbers.plus(i).load()));
        let i = k.block(0).mad(THREADS, k.thread());
        let clip = clip.load();
        k.if_(i.lt(n) & clip.eq(clip), || {
            let places: [Global<F32>; 4] = arrays.map(|array| array.at(i));
            let mut x: [Reg<F32>; 4] = places.map(|place| place.load());
            x[0] = x[0] * clip;
            let updated = constants.step(x);
            for (place, value) in places[1..].iter().zip(updated) {
                place.store(value);
            }
            if let Some(e) = e {
                let e = e.at(i);
                e.store(constants.average(e.load(), updated[0]));
            }
        });
    })
}

/// `e ← d·e + (1 − d)·p` alone, for parameters that got no gradient. Parameters: p, e, clip,
/// [`numbers`], of which it takes the last two, n. The extent of the grid is n.
pub fn average() -> Kernel {
    Kernel::new("average", THREADS, [THREADS, 1, 1], |k| {
        let [p, e, clip, numbers] = ["p", "e", "clip", "numbers"].map(|name| k.global::<F32>(name));
        let n = k.u32("n");
        let [decay, rest] = [NUMBERS - 2, NUMBERS - 1].map(|i| numbers.plus(i).load());
        let i = k.block(0).mad(THREADS, k.thread());
        let clip = clip.load();
        k.if_(i.lt(n) & clip.eq(clip), || {
            let (p, e) = (p.at(i), e.at(i));
            e.store(e.load() * decay + p.load() * rest);
        });
    })
}
