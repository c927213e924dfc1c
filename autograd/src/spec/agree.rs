//! An operation on a GPU beside the CPU, in the registry's own random cases: what a card has to pass.

use tensor::{DType, Device, Result, Tensor};

use super::{Case, Draw, Spec};

/// Operations whose results have other bits on a GPU, and by how much relative to the largest element
/// or to one. Products of bf16 on tensor cores are summed in another order, and so is attention; the
/// gradients of scores that are one layer's are made by another product, and those of filters are
/// added picture by picture.
pub const OTHER_BITS: [(&str, f64); 8] = [
    ("matmul", 1e-6),
    ("linear", 1e-6),
    ("linear_gate_residual", 1e-6),
    ("mlp_gate_residual", 1e-6),
    ("attention", 2e-6),
    ("conv2d", 1e-6),
    ("upsample_conv2d", 1e-6),
    ("linear_cross_entropy", 2e-6),
];

/// A result, and the gradients of all operands.
pub(super) type Results = (Tensor, Vec<Option<Tensor>>);

/// What came of an operation on a GPU, beside the CPU.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The operation, or the [family](super::agree_by_family) of kernels that it went to.
    pub name: &'static str,
    /// Instances that were tried.
    pub cases: u64,
    /// What may differ: 0 where bits are equal.
    pub allowed: f64,
    /// The largest difference of all of them.
    pub worst: Difference,
    /// What is wrong, in words; nothing if the operation passes.
    pub wrong: Vec<String>,
}

/// How two tensors differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The largest difference of elements, relative to the largest element or to one, as operands
    /// are; NaN where one is a NaN.
    pub apart: f64,
    /// Whether all elements are equal.
    pub equal: bool,
}

/// Compares an operation on a GPU with the CPU: results and gradients of so many random instances in
/// float32, and as many from bf16. Bits are equal, except for [`OTHER_BITS`].
///
/// Errors: those of the CPU; what goes wrong on the GPU is part of the answer.
pub fn agree(op: &dyn Spec, gpu: &Device, cases: u64) -> Result<Agreement> {
    let allowed = OTHER_BITS.iter().find(|(name, _)| *name == op.name()).map_or(0.0, |(_, x)| *x);
    let mut found = Agreement::new(op.name(), 2 * cases, allowed);
    for (seed, dtype) in (1..=cases).flat_map(|i| [(i, DType::F32), (i, DType::BF16)]) {
        let here = op.case(&mut Draw::new(seed, dtype))?;
        let what = format!("{} {} in {dtype}, seed {seed}", op.name(), here.label);
        let want = here.gradients()?;
        match op.case(&mut Draw::new(seed, dtype)).and_then(|case| moved(case, gpu)?.gradients()) {
            Ok(got) => found.compare(&what, want, got, difference),
            Err(error) => found.wrong.push(format!("{what}: {error}")),
        }
    }
    Ok(found)
}

impl Agreement {
    pub(super) fn new(name: &'static str, cases: u64, allowed: f64) -> Self {
        let worst = Difference { apart: 0.0, equal: true };
        Self { name, cases, allowed, worst, wrong: Vec::new() }
    }

    /// Adds what a case came to, by one way to say how far tensors are apart.
    pub(super) fn compare(
        &mut self,
        what: &str,
        want: Results,
        got: Results,
        difference: fn(&Tensor, &Tensor) -> Option<Difference>,
    ) {
        let all = |(y, gradients): Results| std::iter::once(Some(y)).chain(gradients);
        for (i, pair) in all(want).zip(all(got)).enumerate() {
            let which = if i == 0 { "y".to_owned() } else { format!("gradient {}", i - 1) };
            let complaint = match pair {
                (None, None) => continue,
                (Some(want), Some(got)) => match difference(&want, &got) {
                    None => "is of another shape or type".to_owned(),
                    Some(Difference { apart, equal }) => {
                        // A NaN is no small difference.
                        let is_worse = apart > self.worst.apart || apart.is_nan();
                        self.worst.apart = if is_worse { apart } else { self.worst.apart };
                        self.worst.equal &= equal;
                        if equal || apart <= self.allowed {
                            continue;
                        }
                        format!("differs by {apart:.1e}")
                    }
                },
                _ => "is there on one device only".to_owned(),
            };
            self.wrong.push(format!("{what}: {which} {complaint}"));
        }
    }
}

/// How two tensors, on any devices, differ; `None` where they are of other shapes or types.
pub fn difference(a: &Tensor, b: &Tensor) -> Option<Difference> {
    if (a.shape(), a.dtype()) != (b.shape(), b.dtype()) {
        return None;
    }
    let pairs: Vec<_> = a.to_f64_vec().into_iter().zip(b.to_f64_vec()).collect();
    let largest = pairs.iter().fold(1.0, |most: f64, (a, _)| most.max(a.abs()));
    let apart = pairs.iter().map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most });
    Some(Difference { apart: apart / largest, equal: pairs.iter().all(|(a, b)| a == b) })
}

/// The same case with its operands on a device, each as contiguous, or not, as the original.
fn moved(mut case: Case, device: &Device) -> Result<Case> {
    for x in &mut case.inputs {
        *x = if x.is_contiguous() {
            x.to_device(device)?
        } else {
            let reversed: Vec<usize> = (0..x.rank()).rev().collect();
            x.permute(&reversed)?.to_device(device)?.permute(&reversed)?
        };
    }
    Ok(case)
}
