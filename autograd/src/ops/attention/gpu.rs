//! Attention on a GPU: launches of `kernels::attention::ptx`. No scores are kept, forward or
//! backward; what is saved is what the CPU saves.

mod operands;

use kernels::attention::ptx::{Attention, Backward, Exact, exact};
use kernels::ptx::{Kernel, Storage};
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Result, Tensor};

use super::{Answer, AttentionOp};
use operands::{padding, prepared, storage, view};

/// The widths of heads that tensor cores answer, and those whose gradients they make.
const WIDTHS: [usize; 3] = [32, 64, 128];
const WIDTHS_BACKWARD: [usize; 2] = [32, 64];
/// The same where scores have a bias: T5's heads.
const WIDTHS_BIASED: [usize; 1] = [64];

/// The kernels that a pass is made by.
#[derive(Clone, Copy, Debug)]
enum Family {
    /// Of bf16, for heads of this width.
    TensorCores(u32),
    /// In float32, of operands stored so, for heads of this width.
    Exact(Storage, u32),
}

/// What a kernel makes.
#[derive(Clone, Copy, Debug)]
enum Pass {
    Forward,
    Queries,
    Keys,
    Bias,
}

impl Family {
    fn kernel(self, pass: Pass, segments: usize, bias: bool) -> Kernel {
        match self {
            Self::TensorCores(width) => {
                let backward = Backward { width, segments, bias };
                match pass {
                    Pass::Forward => Attention { width, segments, bias }.forward(),
                    Pass::Queries => backward.queries(),
                    Pass::Keys => backward.keys(),
                    Pass::Bias => Backward::bias_gradient(width),
                }
            }
            Self::Exact(operands, width) => {
                let exact = Exact { operands, width, segments, bias };
                match pass {
                    Pass::Forward => exact.forward(),
                    Pass::Queries => exact.queries(),
                    Pass::Keys => exact.keys(),
                    Pass::Bias => Exact::bias_gradient(operands, width),
                }
            }
        }
    }
}

/// An attention as the kernels take it.
struct Problem<'a> {
    gpu: &'a Cuda,
    segments: Vec<Segment>,
    /// \[H, queries, keys\], float32 and packed.
    bias: Option<Tensor>,
    /// How q, k and v are stored.
    storage: Storage,
    batch: usize,
    heads: usize,
    width: usize,
    scale: f32,
}

/// Operands of a segment; `first_query` and `first_key` are its places in the bias.
struct Segment {
    q: Option<Tensor>,
    k: Tensor,
    v: Tensor,
    /// Keys of each sample that are padding, \[B\].
    padding: Tensor,
    tokens: usize,
    first_query: usize,
    first_key: usize,
}

/// Queries whose answers have a gradient, and what their keys want to know of them.
struct Asking<'a> {
    segment: &'a Segment,
    q: &'a Tensor,
    d_o: Tensor,
    lse: &'a Tensor,
    /// Σ o·dO of each query, \[B, H, S\].
    delta: Tensor,
}

impl<'a> Problem<'a> {
    fn new(gpu: &'a Cuda, op: &AttentionOp, x: &[&Tensor]) -> Result<Self> {
        let [batch, _, channels] = x[0].dims()?;
        let (operands, bias) = x.split_at(x.len() - usize::from(op.bias));
        let (heads, width) = (op.heads, channels / op.heads);
        let storage = storage(operands, width)?;
        let mut operands = operands.iter().map(|x| prepared(x, storage, width));
        let mut next = || operands.next().expect("check has counted the operands");
        let (mut first_query, mut first_key) = (0, 0);
        let none = Tensor::zeros_on(Some(gpu), [batch], DType::I32);
        let mut segments = Vec::with_capacity(op.parts.len());
        for part in &op.parts {
            let (q, k, v) = (part.queries.then(&mut next), next(), next());
            let tokens = k.shape()[1];
            let len = part.key_len.as_ref();
            let padding = len.map_or(Ok(none.clone()), |len| padding(gpu, len, tokens))?;
            segments.push(Segment { q, k, v, padding, tokens, first_query, first_key });
            first_query += if part.queries { tokens } else { 0 };
            first_key += tokens;
        }
        let bias = bias.first().map(|bias| bias.to_dtype(DType::F32).contiguous());
        let scale = op.scale as f32;
        Ok(Self { gpu, segments, bias, storage, batch, heads, width, scale })
    }

    /// The kernels for a pass whose tensor cores are made for these widths.
    fn family(&self, widths: &[usize]) -> Family {
        let widths = if self.bias.is_some() { &WIDTHS_BIASED } else { widths };
        let width = self.width as u32;
        match self.storage {
            Storage::Bf16 if widths.contains(&self.width) => Family::TensorCores(width),
            storage => Family::Exact(storage, width),
        }
    }

    /// A launch of a kernel that goes over so many segments.
    fn launch(&self, family: Family, pass: Pass, segments: usize) -> Result<Launch<'_>> {
        let bias = self.bias.is_some();
        let name = format!("attention {pass:?} {family:?} {segments} {bias}");
        self.gpu.kernel(&name, || family.kernel(pass, segments, bias))
    }

    /// The extent of a grid over so many rows of every head.
    fn extent(&self, family: Family, rows: usize) -> [usize; 3] {
        let parts = match family {
            Family::TensorCores(_) => 1,
            Family::Exact(..) => exact::parts(self.width),
        };
        [rows, self.heads * parts, self.batch]
    }

    /// A new tensor \[B, `tokens`, H·D\] of float32.
    fn new_rows(&self, tokens: usize) -> Tensor {
        let shape = [self.batch, tokens, self.heads * self.width];
        Tensor::uninit_on(Some(self.gpu), shape, DType::F32)
    }

    /// A new tensor \[B, H, `queries`\] of float32.
    fn new_statistics(&self, queries: usize) -> Tensor {
        Tensor::uninit_on(Some(self.gpu), [self.batch, self.heads, queries], DType::F32)
    }

    /// Elements of the bias from head to head and from row to row.
    fn strides_of_bias(&self) -> [usize; 2] {
        let queries = self.segments.iter().filter(|segment| segment.q.is_some());
        let queries: usize = queries.map(|segment| segment.tokens).sum();
        let keys = self.segments.iter().map(|segment| segment.tokens).sum();
        [queries * keys, keys]
    }

    /// Adds all segments of keys.
    fn with_segments<'l>(&'l self, launch: Launch<'l>) -> Launch<'l> {
        self.segments.iter().fold(launch, |launch, segment| {
            let launch = view(view(launch, &segment.k), &segment.v);
            launch.number(segment.tokens).input(&segment.padding)
        })
    }

    /// The bias from the row of some queries, or from the column of some keys, on.
    fn bias_from(&self, axis: usize, first: usize) -> Result<Option<Tensor>> {
        let from = |bias: &Tensor| bias.narrow(axis, first, bias.shape()[axis] - first);
        self.bias.as_ref().map(from).transpose()
    }

    /// Adds a bias, and where in it other segments begin.
    fn with_bias<'l>(
        &self,
        launch: Launch<'l>,
        bias: Option<&'l Tensor>,
        firsts: impl Iterator<Item = usize>,
    ) -> Launch<'l> {
        match bias {
            Some(bias) => launch.view(bias).numbers(self.strides_of_bias()).numbers(firsts),
            None => launch,
        }
    }
}

/// The answers of the segments with queries, and the log-sum-exp of their scores.
pub(super) fn forward(
    gpu: &Cuda,
    op: &AttentionOp,
    x: &[&Tensor],
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let problem = Problem::new(gpu, op, x)?;
    let family = problem.family(&WIDTHS);
    let mut answers = (Vec::new(), Vec::new());
    for segment in &problem.segments {
        let Some(q) = &segment.q else { continue };
        let tokens = segment.tokens;
        let (mut o, mut lse) = (problem.new_rows(tokens), problem.new_statistics(tokens));
        let bias = problem.bias_from(1, segment.first_query)?;
        let launch = problem.launch(family, Pass::Forward, problem.segments.len())?;
        let launch = problem.with_segments(view(launch, q));
        let firsts = problem.segments.iter().map(|segment| segment.first_key);
        let launch = problem.with_bias(launch, bias.as_ref(), firsts);
        let launch = launch.output(&mut o).output(&mut lse).numbers([tokens, problem.heads]);
        launch.float(problem.scale).run(problem.extent(family, tokens))?;
        answers.0.push(o);
        answers.1.push(lse);
    }
    Ok(answers)
}

/// The gradient of each operand; that of the bias only if it is wanted.
pub(super) fn backward(
    gpu: &Cuda,
    op: &AttentionOp,
    x: &[&Tensor],
    answers: &[Answer],
    wants_bias: bool,
) -> Result<Vec<Option<Tensor>>> {
    let problem = Problem::new(gpu, op, x)?;
    let family = problem.family(&WIDTHS_BACKWARD);
    let asking = problem.asking(family, answers)?;
    let mut gradients = Vec::with_capacity(x.len());
    for segment in &problem.segments {
        if segment.q.is_some() {
            gradients.push(Some(problem.query_gradient(family, segment, &asking)?));
        }
        gradients.extend(problem.key_gradients(family, segment, &asking)?.map(Some));
    }
    match &problem.bias {
        Some(bias) if wants_bias => {
            gradients.push(Some(problem.bias_gradient(family, bias, &asking)?));
        }
        Some(_) => gradients.push(None),
        None => {}
    }
    Ok(gradients)
}

impl Problem<'_> {
    /// The segments of queries that gradients come from.
    fn asking<'l>(&'l self, family: Family, answers: &'l [Answer]) -> Result<Vec<Asking<'l>>> {
        let asked = self.segments.iter().filter_map(|segment| Some((segment, segment.q.as_ref()?)));
        let mut asking = Vec::new();
        for ((segment, q), Answer { o, lse, dy }) in asked.zip(answers) {
            let Some(dy) = dy else { continue };
            let storage = match family {
                Family::TensorCores(_) => Storage::Bf16,
                Family::Exact(..) => Storage::F32,
            };
            let d_o = prepared(dy, storage, self.width);
            // Of the very numbers that dP will be made of: else rounding them would leave Σ dS,
            // which is nothing, at as much as they changed.
            let rounded = d_o.to_dtype(DType::F32);
            let mut delta = self.new_statistics(segment.tokens);
            let rows = self.batch * segment.tokens * self.heads;
            let launch = self.gpu.kernel("attention delta", Backward::delta)?;
            let launch = launch.input(o).input(&rounded);
            let launch = launch.output(&mut delta);
            let launch = launch.numbers([rows, segment.tokens, self.heads, self.width]);
            launch.run([rows, 1, 1])?;
            asking.push(Asking { segment, q, d_o, lse, delta });
        }
        Ok(asking)
    }

    fn query_gradient(
        &self,
        family: Family,
        segment: &Segment,
        asking: &[Asking<'_>],
    ) -> Result<Tensor> {
        let asks = |asking: &&Asking<'_>| std::ptr::eq(asking.segment, segment);
        let Some(Asking { q, d_o, lse, delta, .. }) = asking.iter().find(asks) else {
            let shape = [self.batch, segment.tokens, self.heads * self.width];
            return Ok(Tensor::zeros_on(Some(self.gpu), shape, DType::F32));
        };
        let mut dq = self.new_rows(segment.tokens);
        let bias = self.bias_from(1, segment.first_query)?;
        let launch = self.launch(family, Pass::Queries, self.segments.len())?;
        let launch = view(view(launch, q), d_o).input(lse).input(delta);
        let firsts = self.segments.iter().map(|segment| segment.first_key);
        let launch = self.with_bias(self.with_segments(launch), bias.as_ref(), firsts);
        let launch = launch.output(&mut dq).numbers([segment.tokens, self.heads]);
        launch.float(self.scale).run(self.extent(family, segment.tokens))?;
        Ok(dq)
    }

    /// dK and dV.
    fn key_gradients(
        &self,
        family: Family,
        segment: &Segment,
        asking: &[Asking<'_>],
    ) -> Result<[Tensor; 2]> {
        let [mut dk, mut dv] = [0, 1].map(|_| self.new_rows(segment.tokens));
        let bias = self.bias_from(2, segment.first_key)?;
        let launch = self.launch(family, Pass::Keys, asking.len())?;
        let launch = view(view(launch, &segment.k), &segment.v).input(&segment.padding);
        let launch =
            asking.iter().fold(launch, |launch, Asking { segment, q, d_o, lse, delta }| {
                view(view(launch, q), d_o).input(lse).input(delta).number(segment.tokens)
            });
        let firsts = asking.iter().map(|asking| asking.segment.first_query);
        let launch = self.with_bias(launch, bias.as_ref(), firsts);
        let launch = launch.output(&mut dk).output(&mut dv).numbers([segment.tokens, self.heads]);
        launch.float(self.scale).run(self.extent(family, segment.tokens))?;
        Ok([dk, dv])
    }

    /// The gradient of the bias, one launch for each pair of segments; rows of queries whose
    /// answers have no gradient are zeros.
    fn bias_gradient(
        &self,
        family: Family,
        bias: &Tensor,
        asking: &[Asking<'_>],
    ) -> Result<Tensor> {
        let mut dbias = Tensor::zeros_on(Some(self.gpu), bias.shape(), DType::F32);
        for Asking { segment: queries, q, d_o, lse, delta } in asking {
            for keys in &self.segments {
                let launch = self.launch(family, Pass::Bias, 1)?;
                let launch = [*q, d_o, &keys.k, &keys.v].into_iter().fold(launch, view);
                let launch = launch.input(lse).input(delta).input(&keys.padding);
                let launch = launch.input(bias).output(&mut dbias);
                let launch = launch.numbers(self.strides_of_bias());
                let launch = launch.numbers([queries.first_query, keys.first_key]);
                let launch = launch.numbers([queries.tokens, keys.tokens, self.heads, self.batch]);
                launch.float(self.scale).run([keys.tokens, queries.tokens, self.heads])?;
            }
        }
        Ok(dbias)
    }
}
