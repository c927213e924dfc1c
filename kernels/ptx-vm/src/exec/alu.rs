//! Arithmetic: operands in, one function over all lanes, result out.

use super::Block;
use super::warp::Warp;
use crate::fault::Trap;
use crate::float;
use crate::isa::{AluFn, Arithmetic, ErrorBound, Modifiers, W32};

impl Block<'_> {
    pub(super) fn alu(
        &self,
        warp: &mut Warp,
        pc: usize,
        arithmetic: &Arithmetic,
        lanes: u32,
    ) -> Result<(), Trap> {
        let Arithmetic { f, dst, src, modifiers } = *arithmetic;
        let narrow = |i: usize| {
            let value = warp.narrow(src[i], lanes)?;
            Ok(if modifiers.flush_operands { value.map(float::flush) } else { value })
        };
        let wide = |i: usize| warp.wide(src[i], lanes);
        let out = match f {
            AluFn::Un32(f) => f(&narrow(0)?),
            AluFn::Bin32(f) => f(&narrow(0)?, &narrow(1)?),
            AluFn::Tern32(f) => f(&narrow(0)?, &narrow(1)?, &narrow(2)?),
            AluFn::Quad32(f) => f(&narrow(0)?, &narrow(1)?, &narrow(2)?, &narrow(3)?),
            AluFn::Narrow(f) => f(&wide(0)?),
            _ => {
                let out = match f {
                    AluFn::Un64(f) => f(&wide(0)?),
                    AluFn::Bin64(f) => f(&wide(0)?, &wide(1)?),
                    AluFn::Tern64(f) => f(&wide(0)?, &wide(1)?, &wide(2)?),
                    AluFn::Shift64(f) => f(&wide(0)?, &narrow(1)?),
                    AluFn::MulWide(f) => f(&narrow(0)?, &narrow(1)?),
                    AluFn::MadWide(f) => f(&narrow(0)?, &narrow(1)?, &wide(2)?),
                    AluFn::Widen(f) => f(&narrow(0)?),
                    _ => unreachable!("the narrow results are above"),
                };
                warp.set_wide(dst, &out, lanes);
                return Ok(());
            }
        };
        let out =
            if modifiers == Modifiers::default() { out } else { self.finish(out, pc, modifiers) };
        warp.set_narrow(dst, &out, lanes);
        Ok(())
    }

    /// `.approx` errors if asked for, then `.ftz`, then `.sat`.
    fn finish(&self, mut out: W32, pc: usize, modifiers: Modifiers) -> W32 {
        if let (Some(seed), Some(bound)) = (self.env.perturb, modifiers.approx) {
            out = out.map(|bits| perturb(bits, bound, seed ^ pc as u64));
        }
        if modifiers.flush_result {
            out = out.map(float::flush);
        }
        if modifiers.saturate {
            out = out.map(float::saturate);
        }
        out
    }
}

/// A result off by the whole of its bound, up or down as a hash of it and the seed decides: equal
/// arguments give equal results, as on hardware.
fn perturb(bits: u32, bound: ErrorBound, seed: u64) -> u32 {
    let x = f32::from_bits(bits);
    if !x.is_normal() {
        return bits;
    }
    let hash = (u64::from(bits) ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let up = hash >> 63 == 1;
    let moved = match bound {
        ErrorBound::Ulp(n) if up => f32::from_bits(bits + n),
        ErrorBound::Ulp(n) => f32::from_bits(bits - n),
        ErrorBound::Relative(e) => x + if up { x * e } else { -x * e },
        ErrorBound::Absolute(e) => x + if up { e } else { -e },
    };
    if moved.is_normal() { moved.to_bits() } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perturbation_is_the_documented_bound_both_ways_and_a_function() {
        let (mut ups, mut downs) = (0, 0);
        for i in 0..200u32 {
            let x = 1.0 + i as f32;
            let y = f32::from_bits(perturb(x.to_bits(), ErrorBound::Relative(1e-3), 7));
            assert_eq!(y.to_bits(), perturb(x.to_bits(), ErrorBound::Relative(1e-3), 7));
            assert!(((y - x).abs() / x - 1e-3).abs() < 1e-5, "{x} {y}");
            if y > x {
                ups += 1
            } else {
                downs += 1
            }
            let moved = |seed| perturb(x.to_bits(), ErrorBound::Ulp(2), seed);
            assert_eq!(moved(7).abs_diff(x.to_bits()), 2);
            assert_eq!(moved(7).abs_diff(moved(7 | 1 << 63)), 4, "the other way");
        }
        assert!(ups > 50 && downs > 50);
        assert_eq!(perturb(0, ErrorBound::Absolute(1.0), 0), 0);
    }
}
