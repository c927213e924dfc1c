//! Checks the compiled rules by which SentencePiece normalises a text.
//!
//! ```text
//! length of the trie in bytes, u32 · trie, u32 each · replacements, each ended by a zero byte
//! ```
//!
//! The trie is a double array: a unit says by its low byte which byte leads to it, by an offset
//! where the units of the next bytes lie, and by a flag that a rule ends here, whose replacement
//! begins where the unit at that offset says. The `tokenizers` crate follows these numbers without
//! looking, so that a damaged map would end the program. Here all of them are looked at, once.
//! Source: Yata, Darts-clone (the array); SentencePiece, `normalizer.cc` (the map).

use tensor::{Error, Result};

/// The length of the array is a multiple of this, so that no next byte leads out of it.
const BLOCK: usize = 256;

/// Errors: the trie is longer than the map or no whole number of blocks; it leads out of itself;
/// the replacements are not UTF-8, or a rule's does not begin at a letter of them.
pub(super) fn check(map: &[u8]) -> Result<()> {
    let fail = |message: &str| Err(Error::value("charsmap", message));
    let Some((length, rest)) = map.split_first_chunk() else {
        return fail("it has no length");
    };
    let Some((trie, replacements)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    else {
        return fail("the trie is longer than the map");
    };
    if trie.is_empty() || !trie.len().is_multiple_of(4 * BLOCK) {
        return fail("the trie is no whole number of blocks");
    }
    let Ok(replacements) = std::str::from_utf8(replacements) else {
        return fail("the replacements are not UTF-8");
    };
    let unit = |place: usize| {
        let bytes = trie[4 * place..][..4].try_into().expect("four bytes to a unit");
        u32::from_le_bytes(bytes)
    };
    let units = trie.len() / 4;
    // A place that units of next bytes are counted from, once for each.
    let mut seen = vec![false; units];
    let mut waiting = vec![offset(unit(0))];
    while let Some(base) = waiting.pop() {
        if base >= units {
            return fail("the trie leads out of itself");
        }
        if std::mem::replace(&mut seen[base], true) {
            continue;
        }
        for byte in 1..BLOCK {
            let place = base ^ byte;
            let found = unit(place);
            if found & 0x8000_00FF != byte as u32 {
                continue;
            }
            let next = place ^ offset(found);
            let ends_rule = found >> 8 & 1 == 1;
            if ends_rule && next < units {
                let start = unit(next) & 0x7FFF_FFFF;
                if !replacements.is_char_boundary(start as usize) {
                    return fail("a rule's replacement does not begin at a letter");
                }
            }
            waiting.push(next);
        }
    }
    Ok(())
}

/// How far away the next units lie: 22 bits, or with a flag the upper part of 30.
fn offset(unit: u32) -> usize {
    (unit as usize >> 10) << ((unit & 1 << 9) >> 6)
}

/// A map with the only rule `A` → `a`, for tests of whatever holds one.
#[cfg(test)]
pub(super) fn lower_case_a() -> Vec<u8> {
    let mut trie = [0_u32; BLOCK];
    trie[usize::from(b'A')] = 1 << 10 | 1 << 8 | u32::from(b'A');
    trie[usize::from(b'A') ^ 1] = 0x8000_0000;
    let trie = trie.iter().flat_map(|unit| unit.to_le_bytes());
    let length = (4 * BLOCK as u32).to_le_bytes();
    length.into_iter().chain(trie).chain(*b"a\0").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(map: &mut [u8], unit: usize, value: u32) {
        map[4 + 4 * unit..][..4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_map_that_stays_inside_is_good() {
        check(&lower_case_a()).unwrap();
        // A circle is no harm: a text ends.
        let mut circle = lower_case_a();
        set(&mut circle, usize::from(b'B'), u32::from(b'B') << 10 | u32::from(b'B'));
        check(&circle).unwrap();
    }

    #[test]
    fn a_map_that_leads_astray_is_an_error() {
        let good = lower_case_a();
        let broken = |unit: usize, value: u32| {
            let mut map = good.clone();
            set(&mut map, unit, value);
            map
        };
        for (map, told) in [
            (good[..3].to_vec(), "no length"),
            (good[..1000].to_vec(), "longer than the map"),
            ([8, 0, 0, 0].iter().chain(&good[4..]).copied().collect(), "whole number"),
            ([&good[..], &[0xFF]].concat(), "UTF-8"),
            (broken(0, 256 << 10), "out of itself"),
            (broken(usize::from(b'A'), 1 << 20 | u32::from(b'A')), "out of itself"),
            (broken(usize::from(b'A') ^ 1, 0x8000_0003), "begin at a letter"),
        ] {
            let error = check(&map).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
