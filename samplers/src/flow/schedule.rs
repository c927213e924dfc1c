//! Noise levels: which ones training draws and which ones a sampler visits.
//!
//! Source: Esser et al. 2024 (logit-normal density, shift); the released scheduler for the grid,
//! its rounding, and the shift applied twice.

use tensor::{Error, Result};

/// The number of noise levels training knows.
pub const TRAINING_LEVELS: usize = 1000;

/// The time the network is given at a noise level, `t = 1000·σ`.
pub fn timestep(sigma: f32) -> f32 {
    sigma * TRAINING_LEVELS as f32
}

/// Moves noise levels towards noise, `s·r / (1 + (s − 1)·r)`: the identity for `s = 1`.
///
/// An image of `s²` times as many pixels needs `s` times the noise-to-signal ratio `r/(1 − r)` to
/// be equally unrecognisable, and that ratio is exactly what this map multiplies by `s`.
pub fn shift(level: f64, shift: f64) -> f64 {
    shift * level / (1.0 + (shift - 1.0) * level)
}

/// The noise level of entry `level` of the training table, `σ = (1000 − j)/1000`: most noise first,
/// and never none.
///
/// # Panics
/// If `level` is not below [`TRAINING_LEVELS`].
pub fn training_sigma(level: usize) -> f32 {
    assert!(level < TRAINING_LEVELS, "the training table ends at {TRAINING_LEVELS}, not {level}");
    (TRAINING_LEVELS - level) as f32 / TRAINING_LEVELS as f32
}

/// The table entry that a standard normal number selects, `⌊1000·sigmoid(z)⌋`: levels in the
/// middle are drawn most: at either end the best answer takes no model.
pub fn logit_normal_level(z: f32) -> usize {
    let uniform = (1.0 / (1.0 + f64::from(-z).exp())) as f32;
    ((uniform * TRAINING_LEVELS as f32) as usize).min(TRAINING_LEVELS - 1)
}

/// The noise levels a sampler visits: from the noisiest down to 0.
///
/// ```
/// let schedule = samplers::flow::Schedule::shifted(4, 3.0).unwrap();
/// assert_eq!(schedule.sigmas(), [1.0, 0.857_692_3, 0.602_150_56, 0.008_928_572, 0.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f32>,
}

impl Schedule {
    /// The released schedule: `steps` levels equally spaced between the shifted ends of the
    /// training table, each shifted again, then 0.
    ///
    /// The second shift is the release's and not a slip of ours: with shift 3 the last level
    /// before 0 is 0.0089, not 0.003.
    ///
    /// Errors: no steps; `shift` not positive and finite.
    #[track_caller]
    pub fn shifted(steps: usize, shift: f64) -> Result<Self> {
        if !(shift > 0.0 && shift.is_finite()) {
            return Err(Error::value("Schedule", format!("the shift {shift} is not positive")));
        }
        if steps == 0 {
            return Err(Error::value("Schedule", "sampling takes at least one step"));
        }
        let levels = TRAINING_LEVELS as f64;
        let end = |level| f64::from(shifted_training_sigma(level, shift)) * levels;
        let (first, last) = (end(0), end(TRAINING_LEVELS - 1));
        let spacing = if steps > 1 { (last - first) / (steps - 1) as f64 } else { 0.0 };
        let mut sigmas: Vec<f32> = (0..steps)
            .map(|i| if i > 0 && i == steps - 1 { last } else { i as f64 * spacing + first })
            .map(|time| self::shift(time / levels, shift) as f32)
            .collect();
        sigmas.push(0.0);
        Ok(Self { sigmas })
    }

    /// Levels of the caller's choice. One that starts below 1 continues from partly noised data.
    ///
    /// Errors: fewer than two levels; not strictly decreasing within 1 ≥ σ ≥ 0.
    #[track_caller]
    pub fn from_sigmas(sigmas: Vec<f32>) -> Result<Self> {
        let within = sigmas.iter().all(|sigma| (0.0..=1.0).contains(sigma));
        let decreasing = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
        if sigmas.len() < 2 || !within || !decreasing {
            let message = "a schedule is two or more levels, decreasing, between 1 and 0";
            return Err(Error::value("Schedule", message).note(format!("it was {sigmas:?}")));
        }
        Ok(Self { sigmas })
    }

    /// The levels, one more than there are steps.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// The times the network is given, one a step.
    pub fn timesteps(&self) -> Vec<f32> {
        self.sigmas[..self.steps()].iter().map(|&sigma| timestep(sigma)).collect()
    }
}

/// Entry `level` of the training table after a [`shift`], in single precision throughout, as the
/// release computes it.
///
/// # Panics
/// If `level` is not below [`TRAINING_LEVELS`].
pub fn shifted_training_sigma(level: usize, shift: f64) -> f32 {
    let (raw, factor, excess) = (training_sigma(level), shift as f32, (shift - 1.0) as f32);
    factor * raw / (1.0 + excess * raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of the 28 steps with shift 3 that are the default, computed apart with Python floats.
    const DEFAULT: [u32; 29] = [
        0x3f80_0000,
        0x3f7c_c4fa,
        0x3f79_5f20,
        0x3f75_cb09,
        0x3f72_04ea,
        0x3f6e_088c,
        0x3f69_d13d,
        0x3f65_59b9,
        0x3f60_9c1a,
        0x3f5b_91b9,
        0x3f56_3310,
        0x3f50_7797,
        0x3f4a_5593,
        0x3f43_c1e1,
        0x3f3c_afb1,
        0x3f35_1034,
        0x3f2c_d232,
        0x3f23_e18a,
        0x3f1a_268a,
        0x3f0f_851f,
        0x3f03_dbc4,
        0x3eee_043b,
        0x3ed1_8e4e,
        0x3eb1_dd73,
        0x3e8e_5c69,
        0x3e4c_9f72,
        0x3de3_228b,
        0x3c12_4925,
        0x0000_0000,
    ];

    #[test]
    fn default_schedule_is_bit_exact() {
        let schedule = Schedule::shifted(28, 3.0).unwrap();
        assert_eq!(schedule.sigmas(), DEFAULT.map(f32::from_bits));
        assert_eq!(schedule.timesteps()[0], 1000.0);
        assert_eq!(schedule.timesteps().len(), 28);
    }

    #[test]
    fn without_shift_levels_are_equally_spaced() {
        let schedule = Schedule::shifted(4, 1.0).unwrap();
        for (sigma, expected) in schedule.sigmas().iter().zip([1.0, 0.667, 0.334, 0.001, 0.0]) {
            assert!((f64::from(*sigma) - expected).abs() < 1e-7);
        }
        assert_eq!(Schedule::shifted(1, 3.0).unwrap().sigmas(), [1.0, 0.0]);
    }

    #[test]
    fn shift_multiplies_the_noise_to_signal_ratio() {
        let ratio = |level: f64| level / (1.0 - level);
        for level in [0.001, 0.25, 0.9] {
            assert!((ratio(shift(level, 3.0)) / ratio(level) - 3.0).abs() < 1e-12);
            assert_eq!(shift(level, 1.0), level);
        }
    }

    #[test]
    fn training_table() {
        assert_eq!(training_sigma(0), 1.0);
        assert_eq!(training_sigma(999), 0.001);
        assert_eq!(timestep(training_sigma(391)), 609.0);
        assert_eq!(logit_normal_level(0.0), 500);
        // Stored draws of the official computation.
        assert_eq!([-0.442_356, -0.806_996, 0.878_106].map(logit_normal_level), [391, 308, 706]);
        assert_eq!(logit_normal_level(1e30), 999);
        assert_eq!(logit_normal_level(-1e30), 0);
    }

    #[test]
    fn mistakes_are_errors() {
        assert!(Schedule::shifted(0, 3.0).is_err());
        assert!(Schedule::shifted(4, 0.0).is_err());
        assert!(Schedule::shifted(4, f64::NAN).is_err());
        assert!(Schedule::from_sigmas(vec![1.0]).is_err());
        assert!(Schedule::from_sigmas(vec![0.5, 0.5]).is_err());
        assert!(Schedule::from_sigmas(vec![1.0, f32::NAN]).is_err());
        assert_eq!(Schedule::from_sigmas(vec![0.6, 0.0]).unwrap().steps(), 1);
    }
}
