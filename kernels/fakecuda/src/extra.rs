//! C functions of this library alone, for tests. They need no context.

use crate::api::driver_api;
use crate::card::Card;
use crate::raw::{Out, Text};
use crate::status::Error;
use ptx_vm::Checks;
use std::ffi::{c_char, c_uint};

/// Checks as bits: races 1, asynchronous copies 2, bounds 4, alignment 8, uninitialised reads 16,
/// divergence 32.
fn from_bits(bits: u32) -> Checks {
    let bit = |i: u32| bits >> i & 1 == 1;
    Checks {
        races: bit(0),
        async_copies: bit(1),
        bounds: bit(2),
        alignment: bit(3),
        uninitialised: bit(4),
        divergence: bit(5),
    }
}

driver_api! {
    /// Copies the text of the last error into a buffer, an empty one if there was none, and forgets
    /// it. The text may be cut to fit.
    fn fakecuda_last_fault(text: Out<c_char>, capacity: usize) |driver| {
        let last = driver.last.take().map(|(_, told)| told.to_string_lossy().into_owned());
        text.put_text(&last.unwrap_or_default(), capacity)
    };

    /// Copies what kernels did since the start or the last reset: a line for each kernel, its name
    /// and, tab-separated, launches, blocks, warp instructions, sectors, ideal sectors, shared
    /// wavefronts, ideal wavefronts.
    fn fakecuda_statistics(text: Out<c_char>, capacity: usize) |driver| {
        let mut out = String::new();
        for (kernel, sum) in &driver.statistics {
            let c = &sum.counts;
            out += &format!(
                "{kernel}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                sum.launches,
                sum.blocks,
                c.issued,
                c.sectors,
                c.ideal_sectors,
                c.wavefronts,
                c.ideal_wavefronts
            );
        }
        text.put_text(&out, capacity)
    };

    /// Forgets them.
    fn fakecuda_reset_statistics() |driver| {
        driver.statistics.clear();
        Ok(())
    };

    /// How much was made and not destroyed, and a line of text for each.
    fn fakecuda_leaks(count: Out<usize>, text: Out<c_char>, capacity: usize) |driver| {
        let leaks = driver.leaks();
        count.put(leaks.len())?;
        text.put_text(&leaks.join("\n"), capacity)
    };

    /// Turns checks on and off, by bits: races 1, asynchronous copies 2, bounds 4, alignment 8,
    /// uninitialised reads 16, divergence 32, order of streams 64.
    fn fakecuda_set_checks(bits: c_uint) |driver| {
        driver.machine.checks = from_bits(bits);
        driver.check_order = bits >> 6 & 1 == 1;
        Ok(())
    };

    /// With 1, work is done as late as a card may do it: when it is waited for. Sources of copies are
    /// read then, pageable ones too, and what a kernel does wrong is told then. With 0 it is done at
    /// once.
    fn fakecuda_set_late(late: c_uint) |driver| {
        driver.catch_up()?;
        driver.is_late = late != 0;
        Ok(())
    };

    /// Perturbs `.approx` results by their whole documented error; seed 0 stops it.
    fn fakecuda_set_perturbation(seed: u64) |driver| {
        driver.machine.perturb = (seed != 0).then_some(seed);
        Ok(())
    };

    /// Becomes another card: "A100", "RTX 3090", "RTX 4090" or "H100".
    fn fakecuda_set_card(name: Text) |driver| {
        let card = Card::named(&name.get()?).ok_or(Error::InvalidDevice)?;
        driver.set_card(card);
        Ok(())
    };
}
