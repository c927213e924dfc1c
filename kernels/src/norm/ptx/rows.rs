//! Layer, adaptive layer and RMS norm.

use crate::norm::rows::ROWS;
use crate::num::Num;
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK, Row, RowLane};
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, U32};

/// The widest row that a half-warp holds in registers: 96 for each thread.
pub const MOST_HELD: u32 = 1536;

/// Threads of a block that goes along columns.
const COLUMN_THREADS: u32 = 128;

/// What normalised rows are multiplied by, and what is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gain {
    /// Nothing: layer norm.
    Identity,
    /// 1 + scale and shift of the sample: adaptive layer norm.
    Modulation,
    /// A weight: RMS norm.
    Weight,
}

/// A normalisation of rows of up to 4096 elements, in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowNorm {
    /// Whether the mean is subtracted; if not, this is RMS norm.
    pub centered: bool,
    /// What becomes of normalised rows.
    pub gain: Gain,
}

impl RowNorm {
    fn name(&self, what: &str) -> String {
        let norm = match (self.centered, self.gain) {
            (true, Gain::Identity) => "layer_norm",
            (true, Gain::Modulation) => "adaptive_layer_norm",
            (true, Gain::Weight) => "weighted_layer_norm",
            (false, Gain::Identity) => "plain_rms_norm",
            (false, Gain::Modulation) => "adaptive_rms_norm",
            (false, Gain::Weight) => "rms_norm",
        };
        format!("{norm}{what}_f32")
    }

    /// y, and μ and 1/σ of each row (float32). Parameters: x, y, mean, rstd, those of the gain
    /// (scale, shift, stride and rows_per_sample; or weight), rows, width unless it is `held`, eps
    /// (float64). The extent of the grid is the rows.
    ///
    /// A row of `held` width, at most [`MOST_HELD`], is read once and kept in registers; of any
    /// other it is read three times, from cache after the first.
    pub fn forward(&self, held: Option<u32>) -> Kernel {
        let name = match held {
            Some(width) => format!("{}_held{width}", self.name("")),
            None => self.name(""),
        };
        Kernel::new(&name, ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| self.write_forward(k, held))
    }

    /// The gradient of x. Parameters: x, dy, dx, mean, rstd, those of the gain (without shift),
    /// rows, width. The extent of the grid is the rows.
    pub fn backward(&self) -> Kernel {
        let name = self.name("_backward");
        Kernel::new(&name, ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| self.write_backward(k))
    }

    /// Parts of the gradients of gain and shift: of 64 rows the sums of dy·x̂, then of dy, \[parts,
    /// 2, C\] in float32. Parameters: x, dy, mean, rstd, parts, width, rows (of all that are summed
    /// together), chunks = ⌈rows / 64⌉. The extent of the grid is the number of parts by C.
    pub fn slope_parts() -> Kernel {
        let per_block = [1, COLUMN_THREADS, 1];
        Kernel::new("norm_slope_parts_f32", COLUMN_THREADS, per_block, write_slope_parts)
    }

    /// The sum of those parts, in order: out \[samples, C\]. Parameters: parts (its first element
    /// is that of the first part that is wanted), out, width, chunks. The extent of the grid is the
    /// samples by C.
    pub fn add_slope_parts() -> Kernel {
        Kernel::new("norm_add_slope_parts", COLUMN_THREADS, [1, COLUMN_THREADS, 1], |k| {
            let (parts, out) = (k.global::<F32>("parts"), k.global::<F32>("out"));
            let (width, chunks) = (k.u32("width"), k.u32("chunks"));
            let (sample, column) = (k.block(0), k.block(1).mad(COLUMN_THREADS, k.thread()));
            k.if_(column.lt(width), || {
                let first = (sample * chunks * 2).mad(width, column);
                let sum = k.var::<F32>(0.0);
                k.for_(0, chunks, 1, |i| sum.add(parts.at((i * 2).mad(width, first)).load()));
                out.at(sample.mad(width, column)).store(sum.get());
            });
        })
    }

    fn write_forward(&self, k: &Body, held: Option<u32>) {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let [mean_out, rstd_out] = ["mean", "rstd"].map(|name| k.global::<F32>(name));
        let affine = Affine::parameters(k, self.gain, true);
        let rows = k.u32("rows");
        let width = held.map_or_else(|| k.u32("width"), |width| k.value::<U32>(width));
        let eps = k.f64("eps");
        let lane = RowLane::new(k, rows);
        let x = Row::new(lane, x.at(lane.row * width), width, held);

        let n = width.to_f64();
        let mean = if self.centered {
            let sum = k.var::<F32>(0.0);
            x.each(|_, x| sum.add(x));
            (lane.sum(sum.get()).to_f64() / n).to_f32()
        } else {
            k.value::<F32>(0.0)
        };
        let squares = k.var::<F32>(0.0);
        x.each(|_, x| {
            let d = x - mean;
            squares.fma(d, d);
        });
        let variance = lane.sum(squares.get()).to_f64() / n;
        let rstd = (k.value::<F64>(1.0) / (variance + eps).sqrt()).to_f32();
        lane.store_one(mean_out.at(lane.row), mean);
        lane.store_one(rstd_out.at(lane.row), rstd);

        let affine = affine.of_row(lane.row);
        let y = y.at(lane.row * width);
        k.if_(lane.valid, || {
            x.each(|c, x| {
                let normal = (x - mean) * rstd;
                y.at(c).store(match affine.gain(c) {
                    Some(gain) => normal.mul_add(gain, affine.shift(c)),
                    None => normal,
                });
            });
        });
    }

    fn write_backward<'k>(&self, k: &'k Body) {
        let [x, dy, dx] = ["x", "dy", "dx"].map(|name| k.global::<F32>(name));
        let [mean, rstd] = ["mean", "rstd"].map(|name| k.global::<F32>(name));
        let affine = Affine::parameters(k, self.gain, false);
        let (rows, width) = (k.u32("rows"), k.u32("width"));
        let lane = RowLane::new(k, rows);
        let [x, dy, dx] = [x, dy, dx].map(|array| array.at(lane.row * width));
        let [mean, rstd] = [mean, rstd].map(|array| array.at(lane.row).load());
        let affine = affine.of_row(lane.row);
        // x̂ and the gradient of it.
        let slopes = |c: Reg<'k, U32>| {
            let (normal, dy) = ((x.at(c).load() - mean) * rstd, dy.at(c).load());
            (normal, affine.gain(c).map_or(dy, |gain| dy * gain))
        };
        let [sum, product] = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
        lane.each(width, |c| {
            let (normal, d) = slopes(c);
            sum.add(d);
            product.fma(d, normal);
        });
        let n = width.to_f32();
        let product = lane.sum(product.get()) / n;
        let sum = if self.centered { lane.sum(sum.get()) / n } else { k.value(0.0) };
        k.if_(lane.valid, || {
            lane.each(width, |c| {
                let (normal, d) = slopes(c);
                dx.at(c).store((d - sum - normal * product) * rstd);
            });
        });
    }
}

/// The affine map of a sample, or of all rows: gain − 1 or gain, and shift.
#[derive(Clone, Copy)]
struct Affine<'k> {
    k: &'k Body,
    kind: Gain,
    gain: Option<Global<'k, F32>>,
    shift: Option<Global<'k, F32>>,
    /// From sample to sample, and the rows of one.
    stride: Option<[Reg<'k, U32>; 2]>,
}

impl<'k> Affine<'k> {
    /// Declares its parameters.
    fn parameters(k: &'k Body, kind: Gain, with_shift: bool) -> Self {
        let none = Affine { k, kind, gain: None, shift: None, stride: None };
        match kind {
            Gain::Identity => none,
            Gain::Weight => Affine { gain: Some(k.global("weight")), ..none },
            Gain::Modulation => Affine {
                gain: Some(k.global("scale")),
                shift: with_shift.then(|| k.global("shift")),
                stride: Some(["stride", "rows_per_sample"].map(|name| k.u32(name))),
                ..none
            },
        }
    }

    /// That of one row.
    fn of_row(self, row: Reg<'k, U32>) -> Self {
        let Some([stride, rows_per_sample]) = self.stride else { return self };
        let first = row / rows_per_sample * stride;
        let at = |array: Option<Global<'k, F32>>| array.map(|array| array.at(first));
        Affine { gain: at(self.gain), shift: at(self.shift), ..self }
    }

    /// What column c is multiplied by; `None` for 1.
    fn gain(&self, c: Reg<'k, U32>) -> Option<Reg<'k, F32>> {
        let gain = self.gain?.at(c).load();
        let plus = if self.kind == Gain::Modulation { 1.0 } else { 0.0 };
        Some(self.k.value::<F32>(plus) + gain)
    }

    /// What is added to column c.
    fn shift(&self, c: Reg<'k, U32>) -> Reg<'k, F32> {
        self.shift.map_or_else(|| self.k.value(0.0), |shift| shift.at(c).load())
    }
}

fn write_slope_parts(k: &Body) {
    let [x, dy] = ["x", "dy"].map(|name| k.global::<F32>(name));
    let [mean, rstd, parts] = ["mean", "rstd", "parts"].map(|name| k.global::<F32>(name));
    let [width, rows, chunks] = ["width", "rows", "chunks"].map(|name| k.u32(name));
    let (part, column) = (k.block(0), k.block(1).mad(COLUMN_THREADS, k.thread()));
    k.if_(column.lt(width), || {
        let first_of_all = part / chunks * rows;
        let skipped = part % chunks * ROWS as u32;
        let first = first_of_all + skipped;
        let end = first + (rows - skipped).min(ROWS as u32);
        let [gain, shift] = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
        k.for_(first, end, 1, |row| {
            let at = row.mad(width, column);
            let normal = (x.at(at).load() - mean.at(row).load()) * rstd.at(row).load();
            let dy = dy.at(at).load();
            gain.fma(dy, normal);
            shift.add(dy);
        });
        let out = parts.at((part * 2).mad(width, column));
        out.store(gain.get());
        out.at(width).store(shift.get());
    });
}
