//! A GPU: whether it computes what the CPU does, and how fast, beside what the card could do at best.
//!
//! | file | what is in it |
//! |---|---|
//! | [`cards`] | rates of known cards, and predicted bounds |
//! | [`times`] | products, attention, norms and whole models by the clock |
//! | [`page`] | all of it as a page to be sent |

pub mod cards;
pub mod page;
pub mod times;

use std::time::Duration;

use autograd::ops;
use autograd::spec::{Agreement, agree, agree_by_family};
use tensor::{Cuda, Device, Result};

use times::{Row, measure};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Random instances of each operation, in each of two element types.
    pub cases: u64,
    /// The time to spend on each row.
    pub budget: Duration,
    /// Whether everything that is timed is tiny: to try the report, not the card.
    pub tiny: bool,
}

/// What was found out about a GPU.
#[derive(Debug)]
pub struct Report {
    /// The GPU.
    pub gpu: Cuda,
    /// Every operation of the registry beside the CPU; attention and products by families of kernels.
    pub agreements: Vec<Agreement>,
    /// What was timed.
    pub rows: Vec<Row>,
}

impl Report {
    /// Compares every operation with the CPU, and what goes to tensor cores in cases made for them;
    /// then measures times. `progress` is told what is done, and of how many.
    ///
    /// Errors: those of the CPU's side; of the GPU's, in what is timed.
    pub fn new(gpu: &Cuda, effort: Effort, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let device = Device::Cuda(gpu.clone());
        let total = ops::all().count() + 1;
        let mut agreements = Vec::with_capacity(total);
        for op in ops::all() {
            agreements.push(agree(op, &device, effort.cases)?);
            progress(agreements.len(), total);
        }
        agreements.extend(agree_by_family(gpu)?);
        progress(total, total);
        Ok(Self { gpu: gpu.clone(), agreements, rows: measure(gpu, effort)? })
    }

    /// Whether everything does what it does on the CPU.
    pub fn passed(&self) -> bool {
        self.agreements.iter().all(|agreement| agreement.wrong.is_empty())
    }

    /// Whether the GPU is the virtual machine of the tests.
    pub fn is_stand_in(&self) -> bool {
        self.gpu.card().name.contains("virtual machine")
    }
}
