//! Which samples make which step.

use super::stream::{Purpose, stream};

/// Samples in random order, each once an epoch.
///
/// Position `p` of the endless sequence is a pure function of (seed, purpose, p): epoch
/// `e = p / n` is a permutation of its own. One epoch's is kept at a time.
pub struct Order {
    seed: u64,
    purpose: Purpose,
    epoch: u64,
    permutation: Vec<usize>,
}

impl Order {
    /// The order of `n` samples (at least one), for one of the passes.
    pub fn new(seed: u64, purpose: Purpose, n: usize) -> Self {
        let permutation = stream(seed, purpose, 0, 0).permutation(n);
        Self { seed, purpose, epoch: 0, permutation }
    }

    /// The samples at the `count` positions from `step * count` on: a step's batch.
    pub fn batch(&mut self, step: u64, count: usize) -> Vec<usize> {
        let first = step * count as u64;
        (first..first + count as u64).map(|position| self.at(position)).collect()
    }

    /// The sample at one position.
    fn at(&mut self, position: u64) -> usize {
        let n = self.permutation.len() as u64;
        if position / n != self.epoch {
            self.epoch = position / n;
            self.permutation =
                stream(self.seed, self.purpose, self.epoch, 0).permutation(n as usize);
        }
        self.permutation[(position % n) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_once_an_epoch_from_any_step() {
        let order = || Order::new(4, Purpose::ImageOrder, 10);
        let mut straight = order();
        let batches: Vec<_> = (0..10).map(|step| straight.batch(step, 4)).collect();
        let mut epochs: Vec<Vec<usize>> =
            batches.concat().chunks(10).map(|epoch| epoch.to_vec()).collect();
        assert_ne!(epochs[0], epochs[1], "a new order every epoch");
        for epoch in &mut epochs {
            epoch.sort_unstable();
            assert_eq!(*epoch, (0..10).collect::<Vec<_>>());
        }
        // Straight to step 7, which spans two epochs.
        assert_eq!(order().batch(7, 4), batches[7]);
        assert_ne!(Order::new(4, Purpose::TextOrder, 10).batch(0, 10), batches.concat()[..10]);
    }
}
