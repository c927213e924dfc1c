//! A GPU by the clock.
//!
//! What a GPU is asked for has been queued when a call returns, so that runs are timed in batches,
//! each waited for once. Where a run is shorter than asking for it, that is what is measured: so it
//! is for whoever uses it.

use std::time::{Duration, Instant};

use autograd::spec::{Case, Draw};
use autograd::{Backward, Segment, Var, attention, autocast, no_grad, ops};
use tensor::rng::Rng;
use tensor::{Cuda, DType, Device, Result, Tensor};

use super::Effort;
use super::cards::Card;
use crate::bench::products::{ATTENTIONS, Attention};
use crate::bench::step::Bench;
use crate::bench::workload::{Mode, WORKLOADS, Workload};

/// Something that was timed.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it was.
    pub what: String,
    /// Seconds of a run.
    pub seconds: f64,
    /// Arithmetic of a run.
    pub flops: f64,
    /// Bytes that a run moves at the least.
    pub bytes: f64,
    /// Seconds that it takes at the least, on a card whose rates are known.
    pub bound: Option<f64>,
}

/// Which units do the arithmetic.
#[derive(Clone, Copy)]
enum Unit {
    /// Ordinary multiply-adds of float32.
    Float32,
    /// Tensor cores, in the main loop of this kernel.
    Tensor(&'static str),
}

/// The product on tensor cores, of large squares: small ones can do no better.
const PRODUCT: &str = "gemm_tensor_cores_nt_bf16_f32_store";

/// Rows, columns and length of the sums: maps of SD3's tokens, and squares.
const PRODUCTS: [[usize; 3]; 4] =
    [[1178, 1536, 1536], [1178, 6144, 1536], [2048, 2048, 2048], [4096, 4096, 4096]];

/// Operations that memory bounds.
const STREAMS: [&str; 6] =
    ["layer_norm", "ada_layer_norm", "rms_norm", "group_norm", "softmax", "gelu_tanh"];

/// Bytes that the operands of a row have together at least, more than twice the largest second
/// cache of a known card (L40S: 96 MB): what a run reads has left that since it was read last.
const TURNS: usize = 256 << 20;

/// Sizes that the virtual machine does in a moment.
const TINY_PRODUCT: [usize; 3] = [16, 16, 32];
const TINY_ATTENTION: Attention =
    Attention { name: "tiny", batch: 1, heads: 1, width: 8, image: 6, text: 2 };
#[rustfmt::skip]
const TINY_MODEL: Workload = Workload {
    name: "tiny", width: 16, heads: 2, blocks: 1, channels: 3, side: 4, patch: 2,
    text: 3, context: 8, words: 11, batch: 1,
};

/// Measures everything.
///
/// Errors: the GPU's.
pub fn measure(gpu: &Cuda, effort: Effort) -> Result<Vec<Row>> {
    let (card, device) = (Card::named(&gpu.card().name), Device::Cuda(gpu.clone()));
    let (Effort { budget, tiny, .. }, rows) = (effort, Vec::new());
    let mut timer = Timer { gpu, device, card, budget, tiny, rows };
    let [products, attentions, models] = match effort.tiny {
        true => [1, 1, 1],
        false => [PRODUCTS.len(), ATTENTIONS.len() - 1, WORKLOADS.len()],
    };
    for i in 0..products {
        timer.product(if effort.tiny { TINY_PRODUCT } else { PRODUCTS[i] })?;
    }
    for i in 0..attentions {
        timer.attention(if effort.tiny { TINY_ATTENTION } else { ATTENTIONS[i] })?;
    }
    for name in STREAMS {
        timer.stream(name)?;
    }
    for i in 0..models {
        timer.model(if effort.tiny { TINY_MODEL } else { WORKLOADS[i] })?;
    }
    Ok(timer.rows)
}

struct Timer<'a> {
    gpu: &'a Cuda,
    device: Device,
    card: Option<Card>,
    budget: Duration,
    tiny: bool,
    rows: Vec<Row>,
}

impl Timer<'_> {
    /// How many operands of so many bytes take turns.
    fn turns(&self, bytes: f64) -> usize {
        if self.tiny { 2 } else { TURNS.div_ceil(bytes as usize).max(2) }
    }

    /// Times runs, and writes down what they came to.
    fn row(
        &mut self,
        what: String,
        unit: Unit,
        [flops, bytes]: [f64; 2],
        run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let seconds = seconds(self.gpu, self.budget, run)?;
        let bound = self.card.and_then(|card| {
            let rate = match unit {
                Unit::Float32 => card.float32,
                Unit::Tensor(kernel) => card.tensor * card.share(kernel)?,
            };
            Some(card.bound(flops, rate, bytes))
        });
        self.rows.push(Row { what, seconds, flops, bytes, bound });
        Ok(())
    }

    /// Normal numbers on the GPU.
    fn numbers(&self, shape: &[usize], dtype: DType, stream: u64) -> Result<Var> {
        let numbers = Rng::new(0).stream(stream).normal(shape, dtype)?;
        Ok(Var::constant(numbers.to_device(&self.device)?))
    }

    /// Times the runs of several operands in turn. Results are kept for as long: memory that is
    /// given back would be the next to be written, and in the cache.
    fn row_of<T>(
        &mut self,
        what: String,
        unit: Unit,
        cost: [f64; 2],
        turns: usize,
        run: impl Fn(usize) -> Result<T>,
    ) -> Result<()> {
        let mut results: Vec<Option<T>> = (0..turns).map(|_| None).collect();
        let mut turn = 0;
        self.row(what, unit, cost, || {
            turn = (turn + 1) % turns;
            results[turn] = Some(run(turn)?);
            Ok(())
        })
    }

    /// A·Bᵀ of float32, and of bf16 on tensor cores.
    fn product(&mut self, [m, n, k]: [usize; 3]) -> Result<()> {
        for (dtype, unit) in [(DType::F32, Unit::Float32), (DType::BF16, Unit::Tensor(PRODUCT))] {
            let moved = ((m * k + n * k) * dtype.size() + m * n * size_of::<f32>()) as f64;
            let turns = self.turns(moved);
            let operands = (0..turns as u64).map(|turn| {
                let b = self.numbers(&[n, k], dtype, 2 * turn + 1)?.transpose(0, 1)?;
                Ok([self.numbers(&[m, k], dtype, 2 * turn)?, b])
            });
            let operands = operands.collect::<Result<Vec<[Var; 2]>>>()?;
            let cost = [2.0 * (m * n * k) as f64, moved];
            let what = format!("product {m} × {n} × {k}, {dtype}");
            self.row_of(what, unit, cost, turns, |turn| {
                let [a, b] = &operands[turn];
                a.matmul(b)
            })?;
        }
        Ok(())
    }

    /// Joint attention of float32, both ways, and forward from bf16.
    fn attention(&mut self, case: Attention) -> Result<()> {
        let Attention { name, batch, heads, width, image, text } = case;
        let scale = 1.0 / (width as f64).sqrt();
        let tensor =
            Unit::Tensor(if width > 64 { "attention_d128_s2_f32" } else { "attention_d64_s2_f32" });
        for (dtype, unit) in [(DType::F32, Unit::Float32), (DType::BF16, tensor)] {
            let moved =
                (3 * dtype.size() + size_of::<f32>()) * batch * (image + text) * heads * width;
            let turns = self.turns(moved as f64);
            let of_turn = |turn: usize| -> Result<Vec<Var>> {
                let tokens = [image, image, image, text, text, text].into_iter().enumerate();
                let numbers = tokens.map(|(i, tokens)| {
                    let shape = [batch, tokens, heads * width];
                    Ok(Var::parameter(self.numbers(&shape, dtype, (6 * turn + i) as u64)?.value()))
                });
                numbers.collect()
            };
            let operands = (0..turns).map(of_turn).collect::<Result<Vec<_>>>()?;
            let run = |turn: usize| {
                let [a, b] = [0, 3].map(|i| {
                    let x = &operands[turn][i..];
                    Segment::new(&x[0], &x[1], &x[2])
                });
                attention(&[a, b], heads, scale, None)
            };
            let cost = [case.flops(), moved as f64];
            let what = format!(
                "attention {name}, {batch} × {heads} heads of {width}, {image} + {text}, {dtype}"
            );
            self.row_of(what, unit, cost, turns, |turn| no_grad(|| run(turn)))?;
            if dtype == DType::F32 {
                let answers = (0..turns).map(run).collect::<Result<Vec<_>>>()?;
                let backward = |turn: usize| {
                    let roots = answers[turn].iter();
                    let pass = roots.fold(Backward::new(), |pass, y| pass.root(y, y.value()));
                    pass.retain_graph().run()
                };
                let cost = [2.5 * case.flops(), 2.0 * moved as f64];
                self.row_of(format!("attention {name}, backward"), unit, cost, turns, backward)?;
            }
        }
        Ok(())
    }

    /// An operation of the registry, both ways, on the case that it names itself.
    fn stream(&mut self, name: &str) -> Result<()> {
        let op = ops::find(name).expect("an operation of the registry");
        let mut draw = Draw::contiguous(0, DType::F32);
        let mut case: Case = if self.tiny { op.case(&mut draw) } else { op.bench(&mut draw) }?;
        let (cost, inputs) = (no_grad(|| case.cost())?, case.inputs.clone());
        let turns = self.turns(cost.bytes);
        let (mut constants, mut results) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            let there = inputs.iter().map(|x| x.to_device(&self.device));
            case.inputs = there.collect::<Result<_>>()?;
            constants.push(case.constants());
            results.push(case.run(&case.parameters())?);
        }
        let what = format!("{name}, {}", case.label);
        let forward = |turn: usize| no_grad(|| case.run(&constants[turn]));
        self.row_of(what, Unit::Float32, [cost.flops, cost.bytes], turns, forward)?;
        let y = &results[0];
        let ones = Tensor::ones(y.shape(), y.dtype()).to_device(&self.device)?;
        let backward =
            |turn: usize| Backward::new().root(&results[turn], ones.clone()).retain_graph().run();
        let what = format!("{name}, backward");
        self.row_of(what, Unit::Float32, [0.0, cost.bytes], turns, backward)
    }

    /// A whole model: a training step and a forward pass, in float32 and with products in bf16.
    fn model(&mut self, case: Workload) -> Result<()> {
        for mode in [Mode::Train, Mode::Forward] {
            let pass = if mode == Mode::Train { "training step" } else { "forward" };
            for (is_cast, unit, rounded) in
                [(false, Unit::Float32, ""), (true, Unit::Tensor(PRODUCT), ", bf16")]
            {
                let mut bench = Bench::new(case, mode, &self.device)?;
                let run = |bench: &mut Bench| match is_cast {
                    true => autocast(|| bench.run()),
                    false => bench.run(),
                };
                run(&mut bench)?;
                let (cost, how) = ([bench.executed(), 0.0], bench.is_recorded());
                let how = if how { "repeated" } else { "kernel by kernel" };
                let what = format!("model {}, {pass}, {how}{rounded}", case.name);
                self.row(what, unit, cost, || run(&mut bench))?;
            }
        }
        Ok(())
    }
}

/// Seconds of a run, in the quickest of some batches; two runs before do not count.
fn seconds(gpu: &Cuda, budget: Duration, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    /// A batch grows until so many of them fill the time.
    const BATCHES: u32 = 8;
    let mut batch = |runs: u32| -> Result<f64> {
        let begun = Instant::now();
        (0..runs).try_for_each(|_| run())?;
        gpu.synchronize()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    batch(2)?;
    let (begun, mut runs, mut best) = (Instant::now(), 1, f64::INFINITY);
    loop {
        let taken = batch(runs)?;
        best = best.min(taken / f64::from(runs));
        if begun.elapsed() >= budget {
            return Ok(best);
        }
        if taken * f64::from(BATCHES) < budget.as_secs_f64() {
            runs *= 2;
        }
    }
}
