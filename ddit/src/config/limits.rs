//! How large a configuration may say that a network is. What says more is a mistake or an attack,
//! and is refused before memory is asked for. The largest published networks are far below.

/// The most words of a vocabulary.
pub const MOST_WORDS: usize = 1 << 24;

/// The most channels of anything.
pub const MOST_CHANNELS: usize = 1 << 16;

/// The most layers of a kind.
pub const MOST_LAYERS: usize = 1 << 10;

/// The longest side of a patch.
pub const MOST_PATCH: usize = 1 << 8;

/// That lengths, each given with its name and the most it may be, are between 1 and that.
///
/// Errors: what is wrong with the first that is not.
pub fn check_lengths(lengths: &[(&str, usize, usize)]) -> Result<(), String> {
    match lengths.iter().find(|&&(_, length, most)| length == 0 || length > most) {
        Some((key, length, most)) => Err(format!("{key} is {length}, not within 1 to {most}")),
        None => Ok(()),
    }
}
