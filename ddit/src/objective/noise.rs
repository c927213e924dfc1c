//! A loss apart by level of noise: where on the way from data to noise a model errs.

use autograd::Var;
use tensor::Tensor;

/// Parts of the way from no noise, 0, to nothing but noise, 1.
pub const QUARTERS: usize = 4;

/// A loss of samples, and what of it comes from each.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The mean of the samples' losses, one number, to be descended.
    pub mean: Var,
    /// Numbers that add up to it: values, which nothing is learnt from.
    pub parts: Tensor,
    /// Which sample each part is of.
    pub samples: Vec<usize>,
    /// The noise level of each sample: σ of a picture, the time t of a text.
    pub levels: Vec<f64>,
}

/// Losses of samples by the quarter that their noise levels lie in.
///
/// The mean over all quarters, each times its count, is the loss itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ByNoise {
    /// Sums of the samples' losses.
    pub sums: [f64; QUARTERS],
    /// How many samples they are of.
    pub counts: [u64; QUARTERS],
}

impl Loss {
    /// The losses of the samples, by noise level. On a GPU it waits for the parts.
    pub fn by_noise(&self) -> ByNoise {
        let mut found = ByNoise::default();
        for &level in &self.levels {
            found.counts[quarter(level)] += 1;
        }
        let samples = self.levels.len() as f64;
        for (part, &sample) in self.parts.to_f64_vec().into_iter().zip(&self.samples) {
            found.sums[quarter(self.levels[sample])] += part * samples;
        }
        found
    }
}

impl ByNoise {
    /// Adds other samples.
    pub fn add(&mut self, other: &Self) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, other)| *sum += other);
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
    }

    /// The mean loss of each quarter that has samples.
    pub fn means(&self) -> [Option<f64>; QUARTERS] {
        std::array::from_fn(|i| match self.counts[i] {
            0 => None,
            count => Some(self.sums[i] / count as f64),
        })
    }
}

/// The quarter of a level in \[0, 1\].
fn quarter(level: f64) -> usize {
    ((level * QUARTERS as f64) as usize).min(QUARTERS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    #[test]
    fn losses_of_samples_are_apart_by_their_levels() {
        // Four samples, of which the last has no part: nothing of it was masked.
        let parts = Tensor::from_vec(vec![0.25, 0.5, 1.0, 2.0], [4]).unwrap();
        let loss = Loss {
            mean: Var::constant(Tensor::scalar(3.75, DType::F64)),
            parts,
            samples: vec![0, 0, 1, 2],
            levels: vec![0.2, 0.5, 0.24, 1.0],
        };
        let mut found = loss.by_noise();
        assert_eq!(found.sums, [4.0 * 2.75, 0.0, 4.0, 0.0]);
        assert_eq!(found.counts, [2, 0, 1, 1]);
        assert_eq!(found.means(), [Some(5.5), None, Some(4.0), Some(0.0)]);
        let same = found;
        found.add(&same);
        assert_eq!((found.sums[0], found.counts[0], found.means()[0]), (22.0, 4, Some(5.5)));
        let mean = found.sums.iter().sum::<f64>() / found.counts.iter().sum::<u64>() as f64;
        assert_eq!(mean, loss.mean.item().unwrap());
    }

    #[test]
    fn a_level_on_a_border_is_of_the_upper_quarter() {
        let levels = [0.0, 0.249_999, 0.25, 0.5, 0.749_999, 0.75, 1.0];
        assert_eq!(levels.map(quarter), [0, 0, 1, 2, 2, 3, 3]);
    }
}
