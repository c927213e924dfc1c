//! Attention in float32 on a GPU, made of other operations: products, a softmax, products. Scores
//! exist, as \[B, H, queries, keys\]; gradients are those of what it is made of.

use tensor::{DType, Result, Tensor};

use super::{AttentionOp, Segment};
use crate::Var;

/// Answers for the segments with queries.
pub(super) fn composed(
    op: &AttentionOp,
    segments: &[Segment<'_>],
    bias: Option<&Var>,
) -> Result<Vec<Var>> {
    let queries: Vec<&Var> = segments.iter().filter_map(|segment| segment.q).collect();
    let keys: Vec<&Var> = segments.iter().map(|segment| segment.k).collect();
    let values: Vec<&Var> = segments.iter().map(|segment| segment.v).collect();
    if queries.is_empty() {
        return Ok(Vec::new());
    }
    let [q, k, v] = [op.heads_of(&queries)?, op.heads_of(&keys)?, op.heads_of(&values)?];
    let mut scores = q.matmul(&k.transpose(-1, -2)?)?.mul_scalar(op.scale)?;
    if let Some(bias) = bias {
        scores = scores.add(&bias.to_dtype(DType::F32)?)?;
    }
    if let Some(mask) = padding(segments)? {
        scores = scores.add(&Var::constant(mask.to_device(&keys[0].value().device())?))?;
    }
    let o = scores.softmax(-1)?.matmul(&v)?.permute(&[0, 2, 1, 3])?.flatten(2, 3)?;
    let mut start = 0;
    let mut answer = |q: &&Var| {
        let tokens = q.shape()[1];
        start += tokens;
        o.narrow(1, start - tokens, tokens)
    };
    queries.iter().map(&mut answer).collect()
}

impl AttentionOp {
    /// Segments \[B, Sᵢ, H·D\] as one tensor \[B, H, ΣSᵢ, D\] of float32.
    fn heads_of(&self, parts: &[&Var]) -> Result<Var> {
        let all = Var::cat(parts, 1)?.to_dtype(DType::F32)?;
        let [batch, tokens, channels] = all.dims()?;
        let heads = all.reshape([batch, tokens, self.heads, channels / self.heads])?;
        heads.permute(&[0, 2, 1, 3])
    }
}

/// What is added to the scores of each sample's keys, \[B, 1, 1, ΣSᵢ\]: −∞ for padding. `None` where
/// there is none.
fn padding(segments: &[Segment<'_>]) -> Result<Option<Tensor>> {
    if segments.iter().all(|segment| segment.key_len.is_none()) {
        return Ok(None);
    }
    let [batch, _, _] = segments[0].k.dims()?;
    let mut mask = Vec::new();
    for sample in 0..batch {
        for Segment { k, key_len, .. } in segments {
            let (tokens, len) = (k.shape()[1], key_len.map(|len| len[sample]));
            let is_key = |i: usize| len.is_none_or(|len| i < len);
            mask.extend((0..tokens).map(|i| if is_key(i) { 0.0 } else { f32::NEG_INFINITY }));
        }
    }
    let keys = segments.iter().map(|segment| segment.k.shape()[1]).sum();
    Tensor::from_vec(mask, [batch, 1, 1, keys]).map(Some)
}
