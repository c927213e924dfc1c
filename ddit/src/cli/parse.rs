//! Values on the command line that are more than a number or a path.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddit::config::Recipe;
use ddit::pipeline::{Latents, TextSampler};
use samplers::flow::Solver;

/// More steps, pixels, cases than this are a typing error.
const MOST: usize = 100_000;

/// More tokens of a text than any model was trained with; memory grows with their square.
const MOST_TOKENS: usize = 4096;

/// As many pictures and questions of each kind as the memory of a small machine holds.
const MOST_ITEMS: usize = 10_000;

/// More threads than any machine has cores are a typing error.
const MOST_THREADS: usize = 1024;

/// Solvers of the flow by name.
const SOLVERS: [(&str, Solver); 3] =
    [("euler", Solver::Euler), ("heun", Solver::Heun), ("midpoint", Solver::Midpoint)];

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    count(text, MOST)
}

/// A number of tokens of a text.
pub fn tokens(text: &str) -> Result<usize, String> {
    count(text, MOST_TOKENS)
}

/// A number of items of each kind of a suite.
pub fn items(text: &str) -> Result<usize, String> {
    count(text, MOST_ITEMS)
}

/// A number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    count(text, MOST_THREADS)
}

/// A whole number of at least 1 and at most `most`.
fn count(text: &str, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("a whole number from 1 to {most} is needed")),
    }
}

/// A seed.
pub fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a whole number from 0 to {} is needed", u64::MAX))
}

/// A text that says something.
pub fn words(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("it says nothing".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A guidance scale.
pub fn scale(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(scale) if scale.is_finite() && scale >= 0.0 => Ok(scale),
        _ => Err("a number of at least 0 is needed, as in 3.5".to_owned()),
    }
}

/// A shift of noise levels.
pub fn shift(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(shift) if shift.is_finite() && shift > 0.0 => Ok(shift),
        _ => Err("a number above 0 is needed, as in 3.0".to_owned()),
    }
}

/// Width and height in pixels, as in `64x64`.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').map(|(width, height)| [positive(width), positive(height)]);
    match sides {
        Some([Ok(width), Ok(height)]) => Ok([width, height]),
        _ => Err(format!("WIDTHxHEIGHT is needed, as in 64x64, of 1 to {MOST} each")),
    }
}

/// The name of a solver.
pub fn solver() -> impl TypedValueParser<Value = Solver> {
    let by_name =
        |name: String| SOLVERS.iter().find(|(known, _)| *known == name).map(|(_, solver)| *solver);
    PossibleValuesParser::new(SOLVERS.map(|(name, _)| name))
        .try_map(move |name| by_name(name).ok_or("no such solver"))
}

/// The name of a text sampler.
pub fn text_sampler() -> impl TypedValueParser<Value = TextSampler> {
    PossibleValuesParser::new(TextSampler::ALL.map(|(name, _)| name))
        .try_map(|name| name.parse::<TextSampler>())
}

/// The name of a recipe.
pub fn recipe() -> impl TypedValueParser<Value = Recipe> {
    PossibleValuesParser::new(["paper", "release"]).try_map(|name| name.parse::<Recipe>())
}

/// Which latents of a picture are seen.
pub fn latents() -> impl TypedValueParser<Value = Latents> {
    PossibleValuesParser::new(["sample", "mode"]).map(|name| match name.as_str() {
        "mode" => Latents::Mode,
        _ => Latents::Sample,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_bounds() {
        assert_eq!((positive("7"), positive("0").is_err()), (Ok(7), true));
        assert!(positive("-1").is_err() && positive("many").is_err());
        assert!(positive("100000").is_ok() && positive("100001").is_err());
        assert!(tokens("4096").is_ok() && tokens("4097").is_err());
        assert!(items("10000").is_ok() && items("10001").is_err());
        assert!(seed("18446744073709551615").is_ok() && seed("-1").is_err() && seed("x").is_err());
        assert!(words(" a ").is_ok() && words(" \t").is_err());
        assert!(threads("1024").is_ok() && threads("1025").is_err());
        assert_eq!((scale("0"), scale("7.5")), (Ok(0.0), Ok(7.5)));
        assert_eq!((shift("3"), shift("0").is_err(), shift("inf").is_err()), (Ok(3.0), true, true));
        assert!(scale("-1").is_err() && scale("inf").is_err() && scale("NaN").is_err());
    }

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(size("64x32"), Ok([64, 32]));
        for wrong in ["64", "64x", "x64", "0x64", "64x64x3", "64 x 64", "64*64"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
