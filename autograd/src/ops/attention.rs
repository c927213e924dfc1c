//! Attention over a list of segments that are never concatenated.

use kernels::Real;
use kernels::attention::{
    self as kernel, Gradient as KernelGradient, Output, Problem, Saved, View,
};
use tensor::{DType, Element, Error, Result, Tensor};

use super::product::check_floats;
use crate::{Gradient, Keep, Kept, OpMany, Var, apply_many, compute_dtype};

mod cases;
mod gpu;

pub use cases::JointAttention;

/// One segment of a joint attention: queries, keys and values of the same tokens, each
/// \[B, S, H·D\]. They may be parts of one fused tensor.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The queries; `None` where no answer is wanted for these tokens.
    pub q: Option<&'a Var>,
    /// The keys.
    pub k: &'a Var,
    /// The values.
    pub v: &'a Var,
    /// How many keys each sample has, the ones behind them being padding; `None` for all.
    pub key_len: Option<&'a [usize]>,
}

impl<'a> Segment<'a> {
    /// A segment with queries and without padding.
    pub fn new(q: &'a Var, k: &'a Var, v: &'a Var) -> Self {
        Segment { q: Some(q), k, v, key_len: None }
    }
}

/// Attention of each segment's queries to the keys of all segments.
///
/// O = softmax(scale·Q·Kᵀ + bias)·V for each head, as if Q, K and V were the concatenation of the
/// segments along the tokens. Answers come for the segments with queries, in their order. A sample
/// without any key has the answer 0. No score is kept, on a GPU neither: operands in bf16 (or under
/// [`autocast`](crate::autocast())) with heads 32, 64 or 128 wide go to its tensor cores, where P
/// and its gradient are rounded to bf16; all others are computed in float32.
/// Source: Vaswani et al. 2017, eq. (1); Esser et al. 2024, figure 2; Dao et al. 2022, algorithm 1.
///
/// Shapes: q, k, v \[B, S, H·D\] (of each segment), bias \[H, ΣS of queries, ΣS of keys\] →
/// y \[B, S, H·D\]. Saves: q, k, v, bias, y, log Σ exp \[B, H, S\]. Cost: 4·B·S²·H·D flop, and
/// 10·B·S²·H·D backward, for S in all.
/// Errors: no segment; other shapes; `heads` does not divide the channels; elements are not floats.
#[track_caller]
pub fn attention(
    segments: &[Segment],
    heads: usize,
    scale: f64,
    bias: Option<&Var>,
) -> Result<Vec<Var>> {
    let mut operands = Vec::new();
    let mut parts = Vec::new();
    for segment in segments {
        operands.extend(segment.q);
        operands.extend([segment.k, segment.v]);
        let key_len = segment.key_len.map(<[usize]>::to_vec);
        parts.push(Part { queries: segment.q.is_some(), key_len });
    }
    operands.extend(bias);
    apply_many(AttentionOp { parts, heads, scale, bias: bias.is_some() }, &operands)
}

/// What a segment is, without its operands.
#[derive(Debug)]
struct Part {
    queries: bool,
    key_len: Option<Vec<usize>>,
}

/// Operands: for each part q if it has queries, k, v; in the end the bias if there is one.
#[derive(Debug)]
struct AttentionOp {
    parts: Vec<Part>,
    heads: usize,
    scale: f64,
    bias: bool,
}

/// On the CPU, halves are widened.
fn widened(x: &[&Tensor]) -> Vec<Tensor> {
    x.iter().map(|x| x.to_dtype(compute_dtype(x.dtype()))).collect()
}

impl OpMany for AttentionOp {
    const NAME: &'static str = "attention";
    const HALF: bool = true;
    const CUDA: bool = true;
    /// Log-sum-exp of the scores \[B, H, S\] of each part with queries.
    type Aux = Vec<Tensor>;

    fn keeps(&self, _: usize) -> Keep {
        let operands = self.parts.iter().map(|part| 2 + usize::from(part.queries)).sum::<usize>();
        let all = (0..operands + usize::from(self.bias)).map(Keep::x);
        all.fold(Keep::Y, Keep::and)
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        self.check(x)?;
        if let Some(gpu) = x[0].cuda() {
            return gpu::forward(gpu, self, x);
        }
        let x = widened(x);
        let x: Vec<&Tensor> = x.iter().collect();
        match x[0].dtype() {
            DType::F64 => forward::<f64>(self, &x),
            _ => forward::<f32>(self, &x),
        }
    }

    fn vjp(
        &self,
        kept: Kept<'_, Vec<Tensor>>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let x: Vec<Tensor> = (0..needs.len()).map(|i| kept.x(i).value()).collect();
        let x: Vec<&Tensor> = x.iter().collect();
        let outputs = (0..dy.len()).zip(dy).zip(kept.aux).map(|((i, dy), lse)| Answer {
            o: kept.output(i).value(),
            lse: lse.clone(),
            dy: dy.as_ref().map(|dy| dy.value().contiguous()),
        });
        let outputs: Vec<Answer> = outputs.collect();
        let wants_bias = self.bias && needs[needs.len() - 1];
        let gradients = match x[0].cuda() {
            Some(gpu) => gpu::backward(gpu, self, &x, &outputs, wants_bias)?,
            None => {
                let x = widened(&x);
                let x: Vec<&Tensor> = x.iter().collect();
                match x[0].dtype() {
                    DType::F64 => backward::<f64>(self, &x, &outputs, wants_bias)?,
                    _ => backward::<f32>(self, &x, &outputs, wants_bias)?,
                }
            }
        };
        let wanted = gradients.into_iter().zip(needs).map(|(dx, &needed)| dx.filter(|_| needed));
        Ok(wanted.map(|dx| dx.map(|dx| Var::constant(dx).into())).collect())
    }
}

impl AttentionOp {
    /// Errors unless the operands fit each other.
    fn check(&self, x: &[&Tensor]) -> Result<()> {
        let fail = |message: String| {
            let error = Err(Error::shape("attention", message));
            error.map_err(|error| x.iter().fold(error, |error, x| error.operand("operand", *x)))
        };
        if self.parts.is_empty() {
            return fail("there is no segment".into());
        }
        check_floats(Self::NAME, &x.iter().map(|x| ("operand", *x)).collect::<Vec<_>>())?;
        if let Some(x) = x[..x.len() - usize::from(self.bias)].iter().find(|x| x.rank() != 3) {
            return fail(format!("expected operands [B, S, H·D], not {}", x.shape()));
        }
        let [batch, _, channels] = x[0].dims()?;
        if self.heads == 0 || channels == 0 || channels % self.heads != 0 {
            return fail(format!("{} heads do not divide {channels} channels", self.heads));
        }
        let (mut queries, mut keys, mut rest) = (0, 0, x);
        for part in &self.parts {
            let operands;
            (operands, rest) = rest.split_at(2 + usize::from(part.queries));
            let tokens = operands[0].shape()[1];
            if operands.iter().any(|x| x.shape()[..] != [batch, tokens, channels]) {
                return fail("queries, keys and values of a segment differ in shape".into());
            }
            if let Some(len) = &part.key_len
                && (len.len() != batch || len.iter().any(|&n| n > tokens))
            {
                return fail(format!("key lengths {len:?} for {batch} samples of {tokens} keys"));
            }
            queries += if part.queries { tokens } else { 0 };
            keys += tokens;
        }
        match rest.first() {
            Some(bias) if bias.shape()[..] != [self.heads, queries, keys] => {
                fail(format!("expected a bias [{}, {queries}, {keys}]", self.heads))
            }
            _ => Ok(()),
        }
    }

    /// Operands in the layout that the kernel reads: adjacent channels.
    fn packed(x: &[&Tensor]) -> Vec<Tensor> {
        let adjacent = |x: &&&Tensor| x.strides().last() == Some(&1);
        x.iter().map(|x| if adjacent(&x) { (*x).clone() } else { x.contiguous() }).collect()
    }

    /// Calls `f` with the kernel's description of the problem.
    fn problem<T: Real + Element, R>(
        &self,
        x: &[&Tensor],
        f: impl FnOnce(&Problem<T>) -> Result<R>,
    ) -> Result<R> {
        let [batch, _, channels] = x[0].dims()?;
        let mut operands = Self::packed(x);
        let bias = self.bias.then(|| operands.pop().map(|bias| bias.contiguous())).flatten();
        let mut next = operands.iter();
        let mut segments = Vec::new();
        for part in &self.parts {
            let mut operand = || -> Result<(usize, View<'_, T>)> {
                let x = next.next().expect("check has counted the operands");
                let (data, strides) = x.raw_slice()?;
                let [batch_stride, row_stride] = [strides[0], strides[1]];
                Ok((x.shape()[1], View { data, batch_stride, row_stride }))
            };
            let q = if part.queries { Some(operand()?.1) } else { None };
            let ((tokens, k), (_, v)) = (operand()?, operand()?);
            let key_len = part.key_len.as_deref();
            segments.push(kernel::Segment { tokens, q, k, v, key_len });
        }
        f(&Problem {
            batch,
            heads: self.heads,
            width: channels / self.heads,
            scale: self.scale,
            segments: &segments,
            bias: bias.as_ref().map(Tensor::slice).transpose()?,
        })
    }
}

fn forward<T: Real + Element>(
    op: &AttentionOp,
    x: &[&Tensor],
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    op.problem::<T, _>(x, |problem| {
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        for segment in problem.segments {
            let tokens = if segment.q.is_some() { segment.tokens } else { 0 };
            let shape = [problem.batch, tokens, problem.heads * problem.width];
            o.push(Tensor::uninit(shape, T::DTYPE));
            lse.push(Tensor::uninit([problem.batch, problem.heads, tokens], T::DTYPE));
        }
        let outputs = o.iter_mut().zip(&mut lse);
        let outputs: Result<Vec<_>> = outputs
            .map(|(o, lse)| Ok(Output { o: o.slice_mut()?, lse: lse.slice_mut()? }))
            .collect();
        kernel::forward(problem, &mut outputs?);
        let answered = |all: Vec<Tensor>| {
            let parts = op.parts.iter().zip(all);
            parts.filter_map(|(part, x)| part.queries.then_some(x)).collect()
        };
        Ok((answered(o), answered(lse)))
    })
}

/// What the forward pass answered for one part with queries, and the gradient of that.
struct Answer {
    o: Tensor,
    lse: Tensor,
    dy: Option<Tensor>,
}

/// The gradient of each operand; that of the bias only if it is wanted.
fn backward<T: Real + Element>(
    op: &AttentionOp,
    x: &[&Tensor],
    answers: &[Answer],
    wants_bias: bool,
) -> Result<Vec<Option<Tensor>>> {
    let mut gradients: Vec<Tensor> =
        x.iter().map(|x| Tensor::uninit(x.shape(), x.dtype())).collect();
    let mut dbias = op.bias.then(|| gradients.pop()).flatten().filter(|_| wants_bias);
    op.problem::<T, _>(x, |problem| {
        let (mut answers, mut d) = (answers.iter(), gradients.iter_mut());
        let (mut saved, mut into) = (Vec::new(), Vec::new());
        for part in &op.parts {
            saved.push(match part.queries.then(|| answers.next()).flatten() {
                Some(Answer { o, lse, dy }) => Saved {
                    o: o.slice()?,
                    lse: lse.slice()?,
                    d_o: dy.as_ref().map(Tensor::slice).transpose()?,
                },
                None => Saved { o: &[], lse: &[], d_o: None },
            });
            let mut slice = || -> Result<&mut [T]> {
                d.next().expect("one gradient for each operand").slice_mut()
            };
            let dq = if part.queries { slice()? } else { &mut [] };
            into.push(KernelGradient { dq, dk: slice()?, dv: slice()? });
        }
        let dbias = dbias.as_mut().map(Tensor::slice_mut).transpose()?;
        kernel::backward(problem, &saved, &mut into, dbias);
        Ok(())
    })?;
    let bias = op.bias.then_some(dbias);
    Ok(gradients.into_iter().map(Some).chain(bias).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::rng::Rng;

    fn normal(seed: u64, shape: &[usize]) -> Var {
        Var::parameter(Rng::new(seed).normal(shape, DType::F64).unwrap())
    }

    #[test]
    fn segments_are_as_good_as_their_concatenation() {
        let [a, b] = [3, 5].map(|tokens| [1, 2, 3].map(|i| normal(i, &[2, tokens, 8])));
        let parts = [Segment::new(&a[0], &a[1], &a[2]), Segment::new(&b[0], &b[1], &b[2])];
        let answers = attention(&parts, 2, 0.5, None).unwrap();
        let [q, k, v] = [0, 1, 2].map(|i| Var::cat(&[&a[i], &b[i]], 1).unwrap());
        let joint = attention(&[Segment::new(&q, &k, &v)], 2, 0.5, None).unwrap().remove(0);
        let answers = Var::cat(&[&answers[0], &answers[1]], 1).unwrap();
        assert_eq!(answers.value().to_f64_vec(), joint.value().to_f64_vec());
        let loss = |y: &Var| y.square().unwrap().sum_all().unwrap().backward().unwrap();
        let (grads, joint) = (loss(&answers), loss(&joint));
        for x in a.iter().chain(&b) {
            let [dx, want] = [&grads, &joint].map(|g| g.get(x).unwrap().to_f64_vec());
            assert!(dx.iter().zip(&want).all(|(d, w)| (d - w).abs() < 1e-12));
        }
    }

    #[test]
    fn an_answer_nobody_uses_costs_its_queries_nothing() {
        let [q, k, v] = [1, 2, 3].map(|i| normal(i, &[1, 4, 6]));
        let answers =
            attention(&[Segment::new(&q, &k, &v), Segment::new(&v, &q, &k)], 3, 1.0, None);
        let answers = answers.unwrap();
        let grads = answers[0].sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&k).is_some());
    }

    #[test]
    fn misfits_are_errors() {
        let [q, k] = [[1, 4, 6], [1, 3, 6]].map(|shape| normal(1, &shape));
        assert!(attention(&[], 1, 1.0, None).is_err());
        assert!(attention(&[Segment::new(&q, &k, &k)], 1, 1.0, None).is_err());
        assert!(attention(&[Segment::new(&q, &q, &q)], 4, 1.0, None).is_err());
        let padded = Segment { key_len: Some(&[5]), ..Segment::new(&q, &q, &q) };
        assert!(attention(&[padded], 2, 1.0, None).is_err());
        let bias = normal(2, &[2, 4, 3]);
        assert!(attention(&[Segment::new(&q, &q, &q)], 2, 1.0, Some(&bias)).is_err());
    }
}
