//! Every operation of the registry, timed on the typical case that it names itself.

use std::time::Duration;

use autograd::spec::{Case, Draw, Spec};
use autograd::{Backward, no_grad};
use tensor::{DType, Result, Tensor};

use super::clock::{Times, time_for};

/// What timing an operation gave.
#[derive(Clone, Debug)]
pub struct Row {
    /// The operation.
    pub name: &'static str,
    /// Its case.
    pub case: String,
    /// Arithmetic operations of the forward pass.
    pub flops: f64,
    /// Bytes of its operands and results.
    pub bytes: f64,
    /// The forward pass.
    pub forward: Times,
    /// The backward pass, to every operand that has a gradient; `None` where none has.
    pub backward: Option<Times>,
}

impl Row {
    /// GFLOP/s of the forward pass.
    pub fn gflops(&self) -> f64 {
        self.flops / self.forward.min() / 1e9
    }

    /// GB/s of the forward pass.
    pub fn gbs(&self) -> f64 {
        self.bytes / self.forward.min() / 1e9
    }
}

/// Times an operation in float32 on contiguous operands.
///
/// Errors: those of the operation.
pub fn time_op(spec: &dyn Spec, budget: Duration) -> Result<Row> {
    let case = spec.bench(&mut Draw::contiguous(0, DType::F32))?;
    let cost = no_grad(|| case.cost())?;
    let constants = case.constants();
    let forward = time_for(budget, || no_grad(|| case.run(&constants)).map(drop))?;
    Ok(Row {
        name: spec.name(),
        flops: cost.flops,
        bytes: cost.bytes,
        forward,
        backward: time_backward(&case, budget)?,
        case: case.label,
    })
}

fn time_backward(case: &Case, budget: Duration) -> Result<Option<Times>> {
    let parameters = case.parameters();
    let y = case.run(&parameters)?;
    if !y.is_tracked() {
        return Ok(None);
    }
    let ones = Tensor::ones(y.shape(), y.dtype());
    let pass = || Backward::new().root(&y, ones.clone()).retain_graph().run().map(drop);
    time_for(budget, pass).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_timed_both_ways() {
        let op = autograd::ops::find("silu").unwrap();
        let row = time_op(op, Duration::ZERO).unwrap();
        assert!(row.forward.min() > 0.0 && row.backward.unwrap().min() > 0.0);
        assert!(row.flops > 0.0 && row.bytes > 0.0 && !row.case.is_empty());
    }
}
