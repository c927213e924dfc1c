//! `text_encoder/config.json`: the geometry of a T5 encoder.

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::config::{MOST_CHANNELS, MOST_LAYERS, MOST_WORDS, OtherKeys, check_lengths};

/// The geometry of a T5 v1.1 encoder. Keys that only its decoder has are kept, and not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Rows of the embedding table, V; at least as many as the tokenizer has tokens.
    pub vocab_size: usize,
    /// Model width, C.
    pub d_model: usize,
    /// Width of an attention head, D. Other than elsewhere, H · D need not be C.
    pub d_kv: usize,
    /// Width inside the feed-forward.
    pub d_ff: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Number of attention heads, H.
    pub num_heads: usize,
    /// Number of relative positions that attention tells apart, both directions together.
    #[serde(default = "thirty_two")]
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions are one.
    #[serde(default = "hundred_and_twenty_eight")]
    pub relative_attention_max_distance: usize,
    /// ε of every norm.
    #[serde(default = "millionth")]
    pub layer_norm_epsilon: f64,
    /// The kind of feed-forward: `gated-gelu` in version 1.1.
    pub feed_forward_proj: String,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl T5Config {
    /// Refuses geometries that cannot be and encoders of another kind.
    ///
    /// Errors: a length that is 0 or absurd; too few buckets or too short a distance for
    /// logarithmic ones; a feed-forward other than gated GELU, as version 1.0 has.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("t5 config", message));
        check_lengths(&[
            ("vocab_size", self.vocab_size, MOST_WORDS),
            ("d_model", self.d_model, MOST_CHANNELS),
            ("d_kv", self.d_kv, MOST_CHANNELS),
            ("d_ff", self.d_ff, MOST_CHANNELS),
            ("num_layers", self.num_layers, MOST_LAYERS),
            ("num_heads", self.num_heads, MOST_CHANNELS),
        ])
        .or_else(fail)?;
        Self::check_positions(
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )?;
        if !(self.layer_norm_epsilon.is_finite() && self.layer_norm_epsilon >= 0.0) {
            return fail(format!("layer_norm_epsilon is {}", self.layer_norm_epsilon));
        }
        if self.feed_forward_proj != "gated-gelu" {
            return fail(format!(
                "feed_forward_proj is {}, not gated-gelu",
                self.feed_forward_proj
            ));
        }
        match self.other.get("dense_act_fn") {
            Some(name) if name != "gelu_new" => fail(format!("dense_act_fn is {name}")),
            _ => Ok(()),
        }
    }

    /// Refuses numbers of buckets and distances that make no logarithmic buckets.
    ///
    /// Errors: too few buckets or absurdly many; a distance that they tell apart exactly.
    pub fn check_positions(buckets: usize, distance: usize) -> Result<()> {
        let fail = |message: String| Err(Error::value("t5 config", message));
        if !(4..=MOST_CHANNELS).contains(&buckets) {
            let key = "relative_attention_num_buckets";
            return fail(format!("{key} is {buckets}, not within 4 to {MOST_CHANNELS}"));
        }
        let exact = buckets / 4;
        if distance <= exact {
            return fail(format!(
                "relative_attention_max_distance is {distance}, within the {exact} that \
                 {buckets} buckets tell apart exactly"
            ));
        }
        Ok(())
    }
}

fn thirty_two() -> usize {
    32
}

fn hundred_and_twenty_eight() -> usize {
    128
}

fn millionth() -> f64 {
    1e-6
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({
            "architectures": ["T5EncoderModel"], "vocab_size": 384, "d_model": 40, "d_kv": 16,
            "d_ff": 64, "num_layers": 2, "num_heads": 3, "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
            "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "dropout_rate": 0.1,
        })
    }

    #[test]
    fn unknown_keys_survive_and_positions_have_defaults() {
        let read: T5Config = serde_json::from_value(config()).unwrap();
        read.check().unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), config());
        let mut short = config();
        for key in ["num_buckets", "max_distance"] {
            short.as_object_mut().unwrap().remove(&format!("relative_attention_{key}"));
        }
        short.as_object_mut().unwrap().remove("layer_norm_epsilon");
        assert_eq!(serde_json::from_value::<T5Config>(short).unwrap(), read);
    }

    #[test]
    fn other_encoders_are_refused() {
        for (key, value, told) in [
            ("feed_forward_proj", json!("relu"), "relu"),
            ("dense_act_fn", json!("silu"), "silu"),
            ("d_kv", json!(0), "d_kv is 0"),
            ("relative_attention_num_buckets", json!(3), "is 3, not within 4"),
            ("relative_attention_max_distance", json!(8), "exactly"),
        ] {
            let mut config = config();
            config[key] = value;
            let config: T5Config = serde_json::from_value(config).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
