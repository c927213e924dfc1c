//! The registry's entry of attention.

use tensor::{Result, Tensor};

use super::{Segment, attention};
use crate::spec::{Case, Draw};
use crate::{Spec, Var};

/// The registry's entry for `attention`: an image and a text segment, with padding and a bias or
/// without.
pub struct JointAttention;

impl Spec for JointAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn equation(&self) -> &'static str {
        "softmax(scale·Q·Kᵀ + bias)·V"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [batch, heads, width] = [1 + draw.below(2), 1 + draw.below(3), 1 + draw.below(20)];
        let tokens = [draw.dim(), 1 + draw.below(6)];
        let channels = heads * width;
        let mut operand = |tokens| draw.uniform([batch, tokens, channels], -1.0, 1.0);
        let [q, k, v] = [operand(tokens[0])?, operand(tokens[0])?, operand(tokens[0])?];
        let [tq, tk, tv] = [operand(tokens[1])?, operand(tokens[1])?, operand(tokens[1])?];
        let all = tokens[0] + tokens[1];
        let bias = draw.uniform([heads, all, all], -1.0, 1.0)?;
        let lens: Vec<usize> = (0..batch).map(|_| draw.below(tokens[1] + 1)).collect();
        let scale = draw.number(0.1, 2.0);
        let label = format!("{heads} heads of {width}, text of {lens:?}");
        let reference = {
            let lens = lens.clone();
            let shape = Shape { batch, heads, width, tokens };
            move |x: &[Vec<f64>]| shape.attend(x, &lens, scale)
        };
        let forward = move |x: &[Var]| {
            let image = Segment::new(&x[0], &x[1], &x[2]);
            let text = Segment { key_len: Some(&lens), ..Segment::new(&x[3], &x[4], &x[5]) };
            let answers = attention(&[image, text], heads, scale, Some(&x[6]))?;
            Var::cat(&[&answers[0], &answers[1]], 1)
        };
        // A gradient of k or v is a sum over all queries, one of the bias over all samples.
        let magnitude = (all as f64).sqrt();
        Ok(Case::new(label, [q, k, v, tq, tk, tv, bias], forward, reference).magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let [heads, channels, image, text] = [6, 384, 64, 24];
        let mut operand = |tokens| draw.uniform([32, tokens, channels], -1.0, 1.0);
        let inputs: [Tensor; 6] = [
            operand(image)?,
            operand(image)?,
            operand(image)?,
            operand(text)?,
            operand(text)?,
            operand(text)?,
        ];
        let forward = move |x: &[Var]| {
            let segments = [Segment::new(&x[0], &x[1], &x[2]), Segment::new(&x[3], &x[4], &x[5])];
            Ok(attention(&segments, heads, 0.125, None)?.remove(0))
        };
        let flops = 4 * 32 * channels * (image + text).pow(2);
        Ok(Case::new("32 × (64 + 24), 6 heads of 64", inputs, forward, |_| Vec::new())
            .flops(flops as f64))
    }
}

/// The shape of a case.
struct Shape {
    batch: usize,
    heads: usize,
    width: usize,
    tokens: [usize; 2],
}

impl Shape {
    /// Operand `i` (q, k, v) of a token of the joint sequence: its row of one head.
    fn row<'a>(&self, x: &'a [Vec<f64>], i: usize, [b, h, s]: [usize; 3]) -> &'a [f64] {
        let [image, text] = self.tokens;
        let (x, tokens, s) =
            if s < image { (&x[i], image, s) } else { (&x[i + 3], text, s - image) };
        &x[((b * tokens + s) * self.heads + h) * self.width..][..self.width]
    }

    /// The answers of both segments one behind the other, in plain float64 loops.
    fn attend(&self, x: &[Vec<f64>], lens: &[usize], scale: f64) -> Vec<f64> {
        let all = self.tokens[0] + self.tokens[1];
        let mut o = vec![0.0; self.batch * all * self.heads * self.width];
        for (row, o) in o.chunks_exact_mut(self.width).enumerate() {
            let (h, s) = (row % self.heads, row / self.heads % all);
            let b = row / self.heads / all;
            let score = |t: usize| {
                let (q, k) = (self.row(x, 0, [b, h, s]), self.row(x, 1, [b, h, t]));
                let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                scale * dot + x[6][(h * all + s) * all + t]
            };
            let weights = (0..self.tokens[0] + lens[b]).map(|t| score(t).exp());
            let sum: f64 = weights.clone().sum();
            for (t, weight) in weights.enumerate() {
                let v = self.row(x, 2, [b, h, t]);
                o.iter_mut().zip(v).for_each(|(o, v)| *o += weight / sum * v);
            }
        }
        o
    }
}
