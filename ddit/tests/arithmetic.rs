//! The arithmetic that a run tells of is what was really done. Alone in its program: the count is
//! the whole program's.

use ddit::train::{RunConfig, Trainer};
use tensor::Device;

/// The floating-point operations of a step in which `trainable` learns.
fn flops(trainable: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["autoencoder.source=none", "model.patch=16", "data.scenes=8", trainable];
    let settings: Vec<String> = settings.map(str::to_owned).to_vec();
    let config = RunConfig::load("tiny", &settings).unwrap();
    let mut trainer =
        Trainer::open(config, folder.path(), &Device::Cpu, &mut |_, _| Ok(())).unwrap();
    trainer.step().unwrap();
    // Gates that start shut let no gradient through in the first step.
    trainer.step().unwrap().flops
}

#[test]
fn what_is_frozen_costs_no_gradient() {
    let all = flops("trainable=[]");
    let head = flops("trainable=[\"transformer.text_proj_out.*\"]");
    // All but the head goes forward alone: a third of what it takes to learn, and not less.
    let share = head as f64 / all as f64;
    assert!(all > 0 && (0.3..0.6).contains(&share), "{share}");
    assert_eq!(all, flops("trainable=[]"), "the same work every time");
}
