//! Layer, adaptive layer and RMS norm.

use crate::norm::rows::ROWS;
use crate::num::Num;
use crate::ptx::rows::{Place, in_batches};
use crate::ptx::teams::TeamRow;
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, Team, U32};

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
    fn kernel(&self, what: &str, team: Team, write: impl FnOnce(&Body)) -> Kernel {
        let norm = match (self.centered, self.gain) {
            (true, Gain::Identity) => "layer_norm",
            (true, Gain::Modulation) => "adaptive_layer_norm",
            (true, Gain::Weight) => "weighted_layer_norm",
            (false, Gain::Identity) => "plain_rms_norm",
            (false, Gain::Modulation) => "adaptive_rms_norm",
            (false, Gain::Weight) => "rms_norm",
        };
        let name = format!("{norm}{what}{}_f32", team.suffix());
        Kernel::new(&name, team.threads(), team.per_block(), write)
    }

    /// y, and μ and 1/σ of each row (float32). Parameters: x, y, mean, rstd, those of the gain
    /// (scale, shift, stride and rows_per_sample; or weight), rows, width, eps (float64). The
    /// extent of the grid is the rows.
    ///
    /// A row is read from memory once, and then from cache.
    pub fn forward(&self, team: Team) -> Kernel {
        self.kernel("", team, |k| self.write_forward(k, team))
    }

    /// The gradient of x. Parameters: x, dy, dx, mean, rstd, those of the gain (without shift),
    /// rows, width. The extent of the grid is the rows.
    pub fn backward(&self, team: Team) -> Kernel {
        self.kernel("_backward", team, |k| self.write_backward(k, team))
    }

    /// Parts of the gradients of gain and shift: of 64 rows the sums of dy·x̂, then of dy, \[parts,
    /// 2, C\] in float32. Parameters: x, dy, mean, rstd, parts, width, rows (of all that are summed
    /// together), chunks = ⌈rows / 64⌉. The extent of the grid is the number of parts by C.
    pub fn slope_parts() -> Kernel {
        let per_block = [1, COLUMN_THREADS, 1];
        Kernel::new("norm_slope_parts_f32", COLUMN_THREADS, per_block, write_slope_parts)
    }

    /// The sums of those parts, in order: gain and shift \[samples, C\]. Parameters: parts, gain,
    /// shift, width, chunks. The extent of the grid is the samples by C.
    pub fn add_slope_parts() -> Kernel {
        let per_block = [1, COLUMN_THREADS, 1];
        Kernel::new("norm_add_slope_parts", COLUMN_THREADS, per_block, add_slope_parts)
    }

    fn write_forward<'k>(&self, k: &'k Body, team: Team) {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let [mean_out, rstd_out] = ["mean", "rstd"].map(|name| k.global::<F32>(name));
        let affine = Affine::parameters(k, self.gain, true);
        let [rows, width] = ["rows", "width"].map(|name| k.u32(name));
        let eps = k.f64("eps");
        let team = TeamRow::new(k, team, rows, 1);
        let [x, y] = [x, y].map(|array| array.at(team.row() * width));

        let n = || width.to_f64();
        let mean = if self.centered {
            let mean = |[sum]: [Reg<'k, F32>; 1]| [(sum.to_f64() / n()).to_f32()];
            team.sums(width, |at| at.of(x), |x| [x], |[sum], [x]| sum.add(x), mean)[0]
        } else {
            k.value::<F32>(0.0)
        };
        let [rstd] = team.sums(
            width,
            |at| at.of(x),
            |x| [x - mean],
            |[sum], [d]| sum.fma(d, d),
            |[squares]| {
                let variance = squares.to_f64() / n();
                [(k.value::<F64>(1.0) / (variance + eps).sqrt()).to_f32()]
            },
        );
        team.once(|| {
            mean_out.at(team.row()).store(mean);
            rstd_out.at(team.row()).store(rstd);
        });
        let affine = affine.of_row(team.row());
        team.if_valid(|| {
            let load = |at: Place<'k>| (at.of(x), affine.gain(at), affine.shift(at));
            team.each(width, load, |at, (x, gain, shift)| {
                let normal = (x - mean) * rstd;
                at.in_row(y).store(gain.map_or(normal, |gain| normal.mul_add(gain, shift)));
            });
        });
    }

    fn write_backward<'k>(&self, k: &'k Body, team: Team) {
        let [x, dy, dx] = ["x", "dy", "dx"].map(|name| k.global::<F32>(name));
        let [mean, rstd] = ["mean", "rstd"].map(|name| k.global::<F32>(name));
        let affine = Affine::parameters(k, self.gain, false);
        let [rows, width] = ["rows", "width"].map(|name| k.u32(name));
        let team = TeamRow::new(k, team, rows, 2);
        let [x, dy, dx] = [x, dy, dx].map(|array| array.at(team.row() * width));
        let [mean, rstd] = [mean, rstd].map(|array| array.at(team.row()).load());
        let affine = affine.of_row(team.row());
        let load = |at: Place<'k>| (at.of(x), at.of(dy), affine.gain(at));
        // x̂ and the gradient of it.
        let slopes = |(x, dy, gain): (Reg<'k, F32>, Reg<'k, F32>, Option<Reg<'k, F32>>)| {
            [(x - mean) * rstd, gain.map_or(dy, |gain| dy * gain)]
        };
        let [sum, product] = team.sums(
            width,
            load,
            slopes,
            |[sum, product], [normal, d]| {
                sum.add(d);
                product.fma(d, normal);
            },
            |sums| sums.map(|sum| sum / width.to_f32()),
        );
        let sum = if self.centered { sum } else { k.value(0.0) };
        team.if_valid(|| {
            team.each(width, load, |at, found| {
                let [normal, d] = slopes(found);
                at.in_row(dx).store((d - sum - normal * product) * rstd);
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

    /// What a column is multiplied by; `None` for 1.
    fn gain(&self, at: Place<'k>) -> Option<Reg<'k, F32>> {
        let plus = if self.kind == Gain::Modulation { 1.0 } else { 0.0 };
        self.gain.map(|gain| self.k.value::<F32>(plus) + at.of(gain))
    }

    /// What is added to a column.
    fn shift(&self, at: Place<'k>) -> Reg<'k, F32> {
        self.shift.map_or_else(|| self.k.value(0.0), |shift| at.of(shift))
    }
}

fn write_slope_parts<'k>(k: &'k Body) {
    let [x, dy] = ["x", "dy"].map(|name| k.global::<F32>(name));
    let [mean, rstd, parts] = ["mean", "rstd", "parts"].map(|name| k.global::<F32>(name));
    let [width, rows, chunks] = ["width", "rows", "chunks"].map(|name| k.u32(name));
    let (part, column) = (k.block(0), k.block(1).mad(COLUMN_THREADS, k.thread()));
    k.if_(column.lt(width), || {
        let skipped = part % chunks * ROWS as u32;
        let (first, count) = (part / chunks * rows + skipped, (rows - skipped).min(ROWS as u32));
        let [x, dy] = [x, dy].map(|array| array.at(first.mad(width, column)));
        let [mean, rstd] = [mean, rstd].map(|array| array.at(first));
        let [gain, shift] = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
        let load = |row: Place<'k>| {
            let (normal, dy) =
                ((row.down(x, width) - row.of(mean)) * row.of(rstd), row.down(dy, width));
            (normal, dy)
        };
        in_batches(k, [k.value(0), count], 1, load, |_, (normal, dy)| {
            gain.fma(dy, normal);
            shift.add(dy);
        });
        let out = parts.at((part * 2).mad(width, column));
        out.store(gain.get());
        out.at(width).store(shift.get());
    });
}

fn add_slope_parts<'k>(k: &'k Body) {
    let [parts, gain, shift] = ["parts", "gain", "shift"].map(|name| k.global::<F32>(name));
    let (width, chunks) = (k.u32("width"), k.u32("chunks"));
    let (sample, column) = (k.block(0), k.block(1).mad(COLUMN_THREADS, k.thread()));
    k.if_(column.lt(width), || {
        let parts = parts.at((sample * chunks * 2).mad(width, column));
        let sums = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
        let load =
            |part: Place<'k>| [0, 1].map(|which| part.down(parts.at(width * which), width * 2));
        in_batches(k, [k.value(0), chunks], 1, load, |_, parts| {
            sums.into_iter().zip(parts).for_each(|(sum, part)| sum.add(part));
        });
        for (out, sum) in [gain, shift].into_iter().zip(sums) {
            out.at(sample.mad(width, column)).store(sum.get());
        }
    });
}
