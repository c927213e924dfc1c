//! Which weights of a pipeline a run trains.
//!
//! A weight's full name is its network's folder and its own name, as in
//! `transformer.text_proj_out.bias`. In a pattern, `*` stands for any characters, dots included:
//!
//! ```toml
//! trainable = ["transformer.text_proj_out.*", "transformer.transformer_blocks.23.*"]
//! ```
//!
//! Everything that no pattern matches is frozen.

use std::collections::{BTreeSet, HashSet};

use tensor::{Error, Result, spelling};

/// One row of the text encoder's table as a weight of its own \[C\]: the embedding of the mask,
/// the only one that the paper's second stage trains in the encoder. It is a word as T5 was
/// trained, and is to mean "unknown" here. Source: Li et al. 2025, §4.
pub const MASK_EMBEDDING: &str = "text_encoder.mask_embedding";

/// The table that has this row too: where all of it learns, the row is no weight of its own.
pub const EMBEDDINGS: &str = "text_encoder.shared.weight";

/// Names that an error offers in place of a pattern.
const OFFERED: usize = 3;

/// Those of the weights that a run can train, by full name, which the patterns match; with no
/// pattern, all of the network `own`.
///
/// Errors: a pattern that matches none of them; the nearest names are offered.
pub fn select(patterns: &[String], own: &str, learnable: &[String]) -> Result<HashSet<String>> {
    let all_of_own = [format!("{own}.*")];
    let patterns = if patterns.is_empty() { &all_of_own } else { patterns };
    let mut selected = HashSet::new();
    for pattern in patterns {
        let mut matching = learnable.iter().filter(|name| matches(pattern, name)).peekable();
        if matching.peek().is_none() {
            return Err(unmatched(pattern, learnable));
        }
        selected.extend(matching.cloned());
    }
    if selected.contains(EMBEDDINGS) {
        selected.remove(MASK_EMBEDDING);
    }
    Ok(selected)
}

/// Whether `name` is `pattern` with each `*` in it replaced by something.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let Some((between, last)) = rest.rsplit_once('*') else { return name.ends_with(rest) };
    for part in between.split('*') {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

fn unmatched(pattern: &str, learnable: &[String]) -> Error {
    let message = format!("`{pattern}` matches nothing that this run can train");
    let error = Error::value("config", message).key("trainable");
    let near = nearest(pattern, learnable).join(", ");
    let networks: BTreeSet<&str> =
        learnable.iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let networks = Vec::from_iter(networks).join(", ");
    error
        .note(format!("the nearest names: {near}"))
        .note(format!("networks that can be trained in this run: {networks}"))
}

/// What is most like a pattern among the modules and weights as deep as it is.
fn nearest<'a>(pattern: &str, learnable: &'a [String]) -> Vec<&'a str> {
    let wanted = pattern.trim_end_matches(['*', '.']);
    let depth = wanted.matches('.').count();
    let cut = |name: &'a String| match name.match_indices('.').nth(depth) {
        Some((end, _)) => &name[..end],
        None => name.as_str(),
    };
    let modules: BTreeSet<&str> = learnable.iter().map(cut).collect();
    let mut modules: Vec<&str> = modules.into_iter().collect();
    modules.sort_by_cached_key(|module| spelling::distance(wanted, module));
    modules.truncate(OFFERED);
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnable() -> Vec<String> {
        let names = [
            "transformer.transformer_blocks.0.attn.to_q.weight",
            "transformer.transformer_blocks.0.attn.to_q.bias",
            "transformer.transformer_blocks.10.attn.to_q.bias",
            "transformer.text_proj_out.bias",
            EMBEDDINGS,
            MASK_EMBEDDING,
        ];
        names.map(str::to_owned).to_vec()
    }

    fn selected(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let found = select(&patterns, "transformer", &learnable()).unwrap();
        learnable().into_iter().filter(|name| found.contains(name)).collect()
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b.c", true),
            ("a.*", "ab.c", false),
            ("*.bias", "a.b.bias", true),
            ("*.bias", "a.bias.b", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("a*bc*bcd", "abcd", false),
            ("a*b*b", "ab", false),
            ("*", "", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_add_up_and_none_means_the_runs_own_network() {
        assert_eq!(selected(&[]), learnable()[..4]);
        assert_eq!(selected(&["*.to_q.bias", "*.text_proj_out.*"]), learnable()[1..4]);
        assert_eq!(selected(&[MASK_EMBEDDING]), [MASK_EMBEDDING]);
        assert_eq!(selected(&["text_encoder.*"]), [EMBEDDINGS], "which has the row too");
    }

    #[test]
    fn a_pattern_without_a_match_is_an_error_with_the_nearest_names() {
        for (pattern, near) in [
            ("transformer.transformer_block.0.*", "transformer.transformer_blocks.0"),
            ("transformer.text_projout.bias", "transformer.text_proj_out.bias"),
            ("text_encoders.*", "text_encoder"),
        ] {
            let error = select(&[pattern.to_owned()], "transformer", &learnable()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(pattern) && error.contains("trainable"), "{error}");
            assert!(error.contains(&format!("names: {near}")), "{error}");
        }
    }
}
