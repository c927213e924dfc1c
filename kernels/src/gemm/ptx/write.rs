//! What becomes of finished sums: the CPU's writers, for the GPU.

use crate::elementwise::{Pointwise, Unary, exprs::GeluTanh};
use crate::gemm::Gated;
use crate::ptx::{Body, F32, Global, Reg, U32};

/// A writer, as [`gemm`](crate::gemm) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writing {
    /// `out = sum`.
    Store,
    /// `out = sum + bias[col]`. Parameter: bias.
    Bias,
    /// `out = sum + bias[row]`. Parameter: bias.
    RowBias,
    /// `out = gelu(sum + bias[col])`; keeps sum + bias. Parameters: bias, kept.
    BiasGelu,
    /// `out = residual + gate[sample, col]·(sum + bias[col])`; keeps sum + bias. Parameters: bias,
    /// kept, gate, residual, gate_stride, rows_per_sample.
    GateResidual,
}

impl Writing {
    /// All of them.
    pub const ALL: [Writing; 5] =
        [Writing::Store, Writing::Bias, Writing::RowBias, Writing::BiasGelu, Writing::GateResidual];

    /// As names of kernels spell it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Writing::Store => "store",
            Writing::Bias => "bias",
            Writing::RowBias => "row_bias",
            Writing::BiasGelu => "bias_gelu",
            Writing::GateResidual => "gate_residual",
        }
    }
}

/// The arrays of a writer.
pub(crate) struct Arrays<'k> {
    out: Global<'k, F32>,
    bias: Option<Global<'k, F32>>,
    kept: Option<Global<'k, F32>>,
    gate: Option<Gate<'k>>,
}

#[derive(Clone, Copy)]
struct Gate<'k> {
    gate: Global<'k, F32>,
    residual: Global<'k, F32>,
    stride: Reg<'k, U32>,
    rows_per_sample: Reg<'k, U32>,
}

impl<'k> Arrays<'k> {
    /// Declares them.
    pub fn parameters(k: &'k Body, writing: Writing) -> Self {
        let keeps = matches!(writing, Writing::BiasGelu | Writing::GateResidual);
        let biased = keeps || matches!(writing, Writing::Bias | Writing::RowBias);
        Arrays {
            out: k.global("out"),
            bias: biased.then(|| k.global("bias")),
            kept: keeps.then(|| k.global("kept")),
            gate: (writing == Writing::GateResidual).then(|| Gate {
                gate: k.global("gate"),
                residual: k.global("residual"),
                stride: k.u32("gate_stride"),
                rows_per_sample: k.u32("rows_per_sample"),
            }),
        }
    }

    /// Where results go.
    pub fn out(&self) -> Global<'k, F32> {
        self.out
    }

    /// What [`Writing::RowBias`] adds to a row.
    pub fn bias_of(&self, row: Reg<'k, U32>) -> Option<Reg<'k, F32>> {
        self.bias.map(|bias| bias.at(row).load())
    }
}

/// Takes sums of one matrix of the batch to the output.
pub(crate) struct Writer<'k> {
    k: &'k Body,
    writing: Writing,
    arrays: Arrays<'k>,
    first: Reg<'k, U32>,
    m: Reg<'k, U32>,
    n: Reg<'k, U32>,
}

impl<'k> Writer<'k> {
    pub fn new(
        k: &'k Body,
        writing: Writing,
        arrays: Arrays<'k>,
        [batch, m, n]: [Reg<'k, U32>; 3],
    ) -> Self {
        Writer { k, writing, arrays, first: batch * m * n, m, n }
    }

    /// Writes adjacent sums of a row, those that are within the matrix. Their number divides
    /// `column`, and n too where it is `even`.
    pub fn write(
        &self,
        row: Reg<'k, U32>,
        column: Reg<'k, U32>,
        sums: &[Reg<'k, F32>],
        even: bool,
    ) {
        let inside = row.lt(self.m) & column.lt(self.n);
        let together = || self.write_all(row, column, sums);
        let one_by_one = || {
            for (i, sum) in (0..).zip(sums) {
                self.k.if_((column + i).lt(self.n), || self.write_all(row, column + i, &[*sum]));
            }
        };
        self.k.if_(inside, || match even {
            true => together(),
            false => {
                let whole = (self.n % sums.len() as u32).eq(0);
                self.k.if_else(whole, together, one_by_one);
            }
        });
    }

    fn write_all(&self, row: Reg<'k, U32>, column: Reg<'k, U32>, sums: &[Reg<'k, F32>]) {
        let count = sums.len();
        let at = self.first + row.mad(self.n, column);
        let Arrays { out, bias, kept, gate } = &self.arrays;
        let out = out.at(at);
        let biased: Vec<Reg<F32>> = match (bias, self.writing) {
            (None, _) => sums.to_vec(),
            (Some(_), Writing::RowBias) => {
                let bias = self.arrays.bias_of(row).expect("the writer adds it");
                sums.iter().map(|&sum| sum + bias).collect()
            }
            (Some(bias), _) => add(sums, &bias.at(column).load_n(count)),
        };
        if let Some(kept) = kept {
            kept.at(at).store_n(&biased);
        }
        out.store_n(&match self.writing {
            Writing::Store | Writing::Bias | Writing::RowBias => biased,
            Writing::BiasGelu => biased.into_iter().map(|x| GeluTanh.f(x)).collect(),
            Writing::GateResidual => {
                let gate = gate.expect("a gated writer has a gate");
                let sample = row / gate.rows_per_sample;
                let gates = gate.gate.at(sample.mad(gate.stride, column)).load_n(count);
                let residuals = gate.residual.at(at).load_n(count);
                let operands = residuals.into_iter().zip(gates).zip(biased);
                operands.map(|((residual, gate), x)| Gated.at([residual, gate, x])).collect()
            }
        });
    }
}

fn add<'k>(a: &[Reg<'k, F32>], b: &[Reg<'k, F32>]) -> Vec<Reg<'k, F32>> {
    a.iter().zip(b).map(|(&a, &b)| a + b).collect()
}
