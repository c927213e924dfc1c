//! Products of tensor cores.

use super::warp::Warp;
use crate::fault::Trap;
use crate::float::{from_bf16, from_f16, from_tf32};
use crate::isa::{Dst, FULL, LANES, MmaTy, Src};
use crate::machine::MmaSums;

/// D = A·B + C on a 16×8 tile of f32, A 16×k row-major, B k×8 column-major, by the fragment maps of
/// the PTX manual: group g = ⌊lane/4⌋ and t = lane mod 4 own rows g and g+8, columns 2t and 2t+1.
///
/// Products are exact in f32; sums are rounded to f32 in ascending k, or as tensor cores do it.
pub(super) fn mma(
    warp: &mut Warp,
    sums: MmaSums,
    (ty, k): (MmaTy, usize),
    d: &[Dst],
    [a, b, c]: [&[Src]; 3],
) -> Result<(), Trap> {
    let half = |bits: u32, i: usize| bits >> (16 * i) & 0xFFFF;
    let (left, right) = match ty {
        MmaTy::Bf16 => fragments::<2>(warp, a, b, |bits, i| from_bf16(half(bits, i)))?,
        MmaTy::F16 => fragments::<2>(warp, a, b, |bits, i| from_f16(half(bits, i)))?,
        MmaTy::Tf32 => fragments::<1>(warp, a, b, |bits, _| from_tf32(bits))?,
    };
    let place = |lane: usize, q: usize| (lane / 4 + 8 * (q / 2), lane % 4 * 2 + q % 2);
    let mut sum = [[0f32; 8]; 16];
    for (q, src) in c.iter().enumerate() {
        let bits = warp.narrow(*src, warp.live)?;
        for lane in 0..LANES {
            let (row, column) = place(lane, q);
            sum[row][column] = f32::from_bits(bits[lane]);
        }
    }
    match sums {
        MmaSums::Nearest => nearest(&mut sum, &left, &right, k),
        MmaSums::Truncated => truncated(&mut sum, &left, &right, k),
    }
    for (q, dst) in d.iter().enumerate() {
        let value = std::array::from_fn(|lane| {
            let (row, column) = place(lane, q);
            crate::float::canonical(sum[row][column])
        });
        warp.set_narrow(*dst, &value, FULL);
    }
    Ok(())
}

/// C and D.
type Tile = [[f32; 8]; 16];

fn nearest(sum: &mut Tile, left: &[[f32; 16]; 16], right: &[[f32; 8]; 16], k: usize) {
    for (sum, left) in sum.iter_mut().zip(left) {
        let mut row = *sum;
        for (x, right) in left.iter().zip(right).take(k) {
            for (sum, y) in row.iter_mut().zip(right) {
                *sum += x * y;
            }
        }
        *sum = row;
    }
}

fn truncated(sum: &mut Tile, left: &[[f32; 16]; 16], right: &[[f32; 8]; 16], k: usize) {
    for (sum, left) in sum.iter_mut().zip(left) {
        for (column, sum) in sum.iter_mut().enumerate() {
            for first in (0..k).step_by(AT_ONCE).rev() {
                let products = first..(first + AT_ONCE).min(k);
                let product = |i: usize| f64::from(left[i]) * f64::from(right[i][column]);
                *sum = sum_aligned(*sum, products.map(product));
            }
        }
    }
}

/// Products that tensor cores add at once.
const AT_ONCE: usize = 8;

/// The sum of terms that are cut off, towards zero, one bit behind the 24 of the largest; itself cut
/// off to f32.
fn sum_aligned(c: f32, products: impl Iterator<Item = f64> + Clone) -> f32 {
    let terms = std::iter::once(f64::from(c)).chain(products);
    let largest = terms.clone().fold(0.0, |most: f64, x| most.max(x.abs()));
    if !largest.is_normal() || terms.clone().any(f64::is_nan) {
        return terms.sum::<f64>() as f32;
    }
    let exponent = (largest.to_bits() >> 52) as i32 - 1023;
    let unit = 2f64.powi(exponent - 24);
    let sum: f64 = terms.map(|x| (x / unit).trunc() * unit).sum();
    let near = sum as f32;
    match f64::from(near).abs() > sum.abs() {
        true => f32::from_bits(near.to_bits() - 1),
        false => near,
    }
}

/// A (16 × k) and B (k × 8), k at most 16.
type Fragments = ([[f32; 16]; 16], [[f32; 8]; 16]);

/// Gathers A and B from registers that hold `PACKED` elements each; `read` takes one of them.
#[inline(always)]
fn fragments<const PACKED: usize>(
    warp: &Warp,
    a: &[Src],
    b: &[Src],
    read: impl Fn(u32, usize) -> f32,
) -> Result<Fragments, Trap> {
    let (mut left, mut right) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
    for (q, src) in a.iter().enumerate() {
        let bits = warp.narrow(*src, warp.live)?;
        let (rows, columns) = (8 * (q % 2), 4 * PACKED * (q / 2));
        for lane in 0..LANES {
            for i in 0..PACKED {
                left[rows + lane / 4][columns + lane % 4 * PACKED + i] = read(bits[lane], i);
            }
        }
    }
    for (q, src) in b.iter().enumerate() {
        let bits = warp.narrow(*src, warp.live)?;
        for lane in 0..LANES {
            for i in 0..PACKED {
                right[4 * PACKED * q + lane % 4 * PACKED + i][lane / 4] = read(bits[lane], i);
            }
        }
    }
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_tensor_cores_are_cut_off() {
        let sum = |c, products: &[f64]| sum_aligned(c, products.iter().copied());
        assert_eq!(sum(1.0, &[0.5, -0.25]), 1.25);
        // 2⁻²⁴ is the last bit that is kept beside 1, and lost where the sum is cut off; 2⁻²⁵ is lost
        // before it is added.
        let [half, quarter] = [24, 25].map(|n| 2f64.powi(-n));
        assert_eq!(sum(1.0, &[half]), 1.0);
        assert_eq!(sum(1.0, &[half; 2]), 1.0 + f32::EPSILON);
        assert_eq!(sum(1.0, &[half; 3]), 1.0 + f32::EPSILON);
        assert_eq!(sum(1.0, &[quarter; 7]), 1.0);
        // To the nearest it would be the number below −1.
        assert_eq!(sum(-1.0, &[-half, -quarter]), -1.0);
        assert_eq!((sum(0.0, &[]), sum(f32::INFINITY, &[1.0])), (0.0, f32::INFINITY));
        assert!(sum(1.0, &[f64::NAN]).is_nan());
    }
}
