//! Cross-entropy on a GPU: launches of `kernels::xent::ptx`, which have the CPU's bits.

use kernels::ptx::Team;
use kernels::{reduce, xent};
use tensor::{Cuda, DType, Result, Tensor};

use crate::{Targets, Var};

impl Targets {
    /// The forbidden word, as a number beyond all others if there is none.
    fn none_or_forbidden(&self) -> usize {
        self.forbidden.unwrap_or(u32::MAX) as usize
    }

    /// The loss of scores and each row's part of it; and the log-sum-exp of each row.
    pub(super) fn forward_on(&self, gpu: &Cuda, scores: &Tensor) -> Result<([Tensor; 2], Tensor)> {
        let [rows, words] = scores.dims()?;
        if rows == 0 {
            let nothing = |shape: &[usize]| Tensor::zeros_on(Some(gpu), shape, DType::F32);
            return Ok(([nothing(&[]), nothing(&[0])], nothing(&[0])));
        }
        let scores = scores.contiguous();
        let mut lse = Tensor::uninit_on(Some(gpu), [rows], DType::F32);
        let mut parts = Tensor::uninit_on(Some(gpu), [rows], DType::F64);
        let mut loss = Tensor::uninit_on(Some(gpu), [], DType::F32);
        let team = Team::of(words);
        let launch = gpu.kernel(&format!("cross entropy {team:?}"), || xent::ptx::forward(team))?;
        let launch = launch.input(&scores).input(&self.ids).input(&self.weights);
        let launch = launch.output(&mut lse).output(&mut parts);
        launch.numbers([rows, words, self.none_or_forbidden()]).run([rows, 1, 1])?;
        let launch = gpu.kernel("add_parts", reduce::ptx::add_parts)?;
        launch.input(&parts).output(&mut loss).number(rows).run([1, 1, 1])?;
        Ok(([loss, parts], lse))
    }

    /// The gradient of scores, in their place if nobody else has them.
    pub(super) fn backward_on(
        &self,
        gpu: &Cuda,
        scores: &Tensor,
        lse: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let [rows, words] = scores.dims()?;
        let mut dx = scores.contiguous();
        if rows == 0 {
            return Ok(dx);
        }
        let launch = gpu.kernel("cross entropy backward", xent::ptx::backward)?;
        let launch = launch.output(&mut dx).input(&self.ids).input(&self.weights);
        let launch = launch.input(lse).input(dy);
        launch.numbers([words, self.none_or_forbidden()]).run([rows, words, 1])?;
        Ok(dx)
    }

    /// The scores x·Wᵀ + b; here they exist all at once.
    pub(super) fn scores_on(&self, x: [&Tensor; 3]) -> Result<Tensor> {
        let [x, weight, bias] = x.map(|x| Var::constant(x.clone()));
        Ok(x.linear(&weight, Some(&bias))?.value())
    }

    /// The gradients of x, W and b, from that of the scores.
    pub(super) fn gradients_on(
        &self,
        gpu: &Cuda,
        x: &[Tensor; 3],
        lse: &Tensor,
        dy: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Var>; 3]> {
        let scores = self.scores_on(x.each_ref())?;
        let ds = Var::constant(self.backward_on(gpu, &scores, lse, dy)?);
        let [rows, weight, bias] = x.each_ref().map(|x| Var::constant(x.clone()));
        let dx = || ds.matmul(&weight);
        let dw = || ds.transpose(0, 1)?.matmul(&rows);
        let db = || ds.sum_to(bias.shape());
        Ok([
            needs[0].then(dx).transpose()?,
            needs[1].then(dw).transpose()?,
            needs[2].then(db).transpose()?,
        ])
    }
}
