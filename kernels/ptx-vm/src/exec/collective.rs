//! What the lanes of a warp do together: shuffles, votes, matrix loads.

use super::Block;
use super::place::addresses;
use super::warp::{Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{Address, Dst, FULL, LANES, Op, Shuffle, Space, Vote, W32};
use crate::memory::rmw;

impl Block<'_> {
    /// `shfl`, `vote` and `redux`.
    pub(super) fn exchange(&self, warp: &mut Warp, op: &Op, active: u32) -> Result<(), Trap> {
        match op {
            Op::Shuffle { how, dst, found, a, b, clamp, mask } => {
                let mask = warp.narrow(*mask, active)?;
                self.joined(warp, &mask, active, "shfl.sync")?;
                let (a, b) = (warp.narrow(*a, active)?, warp.narrow(*b, active)?);
                let clamp = warp.narrow(*clamp, active)?;
                let (value, valid) = shuffle(*how, &a, &b, &clamp, active)?;
                warp.set_narrow(*dst, &value, active);
                warp.set_predicate(*found, valid, active);
            }
            Op::Vote { how, dst, p, mask } => {
                let mask = warp.narrow(*mask, active)?;
                self.joined(warp, &mask, active, "vote.sync")?;
                let yes = warp.predicate(*p, active)? & active;
                let all = |held: bool| if held { FULL } else { 0 };
                match how {
                    Vote::Ballot => warp.set_narrow(*dst, &[yes; LANES], active),
                    Vote::All => warp.set_predicate(*dst, all(yes == active), active),
                    Vote::Any => warp.set_predicate(*dst, all(yes != 0), active),
                    Vote::Uni => warp.set_predicate(*dst, all(yes == 0 || yes == active), active),
                }
            }
            Op::Redux { rmw: op, ty, dst, a, mask } => {
                let mask = warp.narrow(*mask, active)?;
                self.joined(warp, &mask, active, "redux.sync")?;
                let a = warp.narrow(*a, active)?;
                let value = |lane: usize| u64::from(a[lane]);
                let sum = lanes(active).map(value).reduce(|x, y| rmw(*op, *ty, x, y, 0));
                warp.set_narrow(*dst, &[sum.unwrap_or(0) as u32; LANES], active);
            }
            _ => {}
        }
        Ok(())
    }

    /// `ldmatrix`: 8×8 matrices of 16-bit elements; lane 8·m + r gives the address of row r of
    /// matrix m, and lane l receives elements 2(l mod 4) and the next of row ⌊l/4⌋, or, transposed,
    /// of that column.
    pub(super) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        pc: usize,
        dst: &[Dst],
        address: Address,
        transposed: bool,
        active: u32,
    ) -> Result<(), Trap> {
        self.converged(active, FULL, "ldmatrix")?;
        let rows = addresses(warp, Space::Shared, address, active)?;
        for (matrix, dst) in dst.iter().enumerate() {
            let mut elements = [[0u16; 8]; 8];
            for row in 0..8 {
                let lane = 8 * matrix + row;
                let Some(at) = self.shared_place(lane, rows[lane], 16, 16)? else { continue };
                let now = self.now(warp, lane);
                let bytes = self.shared.read(at, 16, now)?;
                for (element, pair) in elements[row].iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *element = u16::from_le_bytes(*pair);
                }
            }
            let given = (0..8).map(|row| (row, rows[8 * matrix + row]));
            self.counters.shared(pc, given, 16);
            let pair = |lane: usize| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                match transposed {
                    false => [elements[row][column], elements[row][column + 1]],
                    true => [elements[column][row], elements[column + 1][row]],
                }
            };
            let value = std::array::from_fn(|lane| {
                let [low, high] = pair(lane);
                u32::from(low) | u32::from(high) << 16
            });
            warp.set_narrow(*dst, &value, active);
        }
        Ok(())
    }
}

/// The PTX manual's pseudocode for `shfl`: c holds a clamp in bits 0–4 and a segment mask in 8–12.
fn shuffle(how: Shuffle, a: &W32, b: &W32, c: &W32, active: u32) -> Result<(W32, u32), Trap> {
    let (mut out, mut valid) = ([0; LANES], 0);
    for lane in lanes(active) {
        let me = lane as u32;
        let (step, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
        let max = me & segment | clamp & !segment;
        let min = me & segment;
        let (from, held) = match how {
            Shuffle::Up => (me.wrapping_sub(step), me as i32 - step as i32 >= max as i32),
            Shuffle::Down => (me + step, me + step <= max),
            Shuffle::Bfly => (me ^ step, me ^ step <= max),
            Shuffle::Idx => {
                let from = min | step & !segment;
                (from, from <= max)
            }
        };
        let from = if held { from } else { me };
        if active >> from & 1 == 0 {
            let text = format!("shfl.sync reads lane {from}, which does not take part");
            return Err(Trap::new(FaultKind::DivergentSync, lane, text));
        }
        out[lane] = a[from as usize];
        valid |= u32::from(held) << lane;
    }
    Ok((out, valid))
}
