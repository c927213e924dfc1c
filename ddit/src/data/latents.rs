//! What a frozen autoencoder makes of every picture, computed once.
//!
//! An autoencoder gives a normal distribution for every picture. Its mean and log-variance are
//! kept, and a sample is drawn whenever the picture is used: so the transformer sees all of the
//! distribution, though no picture is encoded twice. Source: Rombach et al. 2022, appendix G.

use std::collections::BTreeMap;
use std::path::Path;

use autograd::{Var, no_grad};
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{Device, Result, Tensor};

use super::Dataset;
use crate::vae::{AutoencoderKl, Posterior};

/// Pixels encoded at a time, or one picture of more: it bounds memory, not results.
const PIXELS: usize = 32 * 64 * 64;

/// What the transformer works on, for every sample of a data set.
#[allow(clippy::large_enum_variant, reason = "a run has one of these")]
pub enum Latents {
    /// Latents of a frozen autoencoder.
    Encoded {
        /// The autoencoder.
        vae: AutoencoderKl,
        /// What it makes of the samples.
        posteriors: Posteriors,
    },
    /// Pixels in `[-1, 1]`, where there is no autoencoder; drawn when they are used.
    Pixels,
}

impl Latents {
    /// The shape of one sample's: channels, height, width.
    ///
    /// Errors: none that a data set can cause.
    pub fn shape(&self, dataset: &Dataset) -> Result<[usize; 3]> {
        let [_, channels, height, width] = match self {
            Self::Encoded { posteriors, .. } => posteriors.mean.dims()?,
            Self::Pixels => dataset.pictures(&[0])?.dims()?,
        };
        Ok([channels, height, width])
    }

    /// What the transformer works on for the samples `indices`, \[B, C_in, height, width\]: their
    /// pixels, or a draw from each one's distribution by standard normal `noise` of that shape.
    ///
    /// Errors: noise of another shape.
    pub fn sample(
        &self,
        dataset: &Dataset,
        indices: &[usize],
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Self::Encoded { vae, posteriors } => {
                let drawn = posteriors.rows(indices)?.sample(&noise()?)?;
                Ok(vae.to_model(&drawn)?.value())
            }
            Self::Pixels => dataset.pictures(indices),
        }
    }
}

/// Normal distributions \[samples, C_z, height, width\] on the autoencoder's own scale.
pub struct Posteriors {
    mean: Tensor,
    logvar: Tensor,
}

/// Mean and standard deviation over all elements of all latents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// What to subtract.
    pub mean: f64,
    /// What to divide by then.
    pub deviation: f64,
}

impl Posteriors {
    /// Those of the first `count` samples, at least one, made where the autoencoder's weights lie and
    /// kept in this machine's memory. `progress` is told how many are done, and of how many; an
    /// error of its ends the work.
    ///
    /// Errors: those of the autoencoder, and of `progress`.
    pub fn compute(
        vae: &AutoencoderKl,
        dataset: &Dataset,
        count: usize,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        let (mut means, mut logvars) = (Vec::new(), Vec::new());
        let first = dataset.picture(0);
        let batch = (PIXELS / (first.width() * first.height()).max(1)).max(1);
        for start in (0..count).step_by(batch) {
            let indices: Vec<usize> = (start..count.min(start + batch)).collect();
            let pictures = Var::constant(dataset.pictures(&indices)?);
            let posterior = no_grad(|| vae.encode(&pictures))?;
            means.push(posterior.mean.value().to_device(&Device::Cpu)?);
            logvars.push(posterior.logvar.value().to_device(&Device::Cpu)?);
            progress(start + indices.len(), count)?;
        }
        let join = |parts: &[Tensor]| Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0);
        Ok(Self { mean: join(&means)?, logvar: join(&logvars)? })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.mean.shape()[0]
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of the samples `indices`.
    fn rows(&self, indices: &[usize]) -> Result<Posterior> {
        let rows = |all: &Tensor| Ok(Var::constant(all.index_rows(indices)?));
        Ok(Posterior { mean: rows(&self.mean)?, logvar: rows(&self.logvar)? })
    }

    /// Writes them, marked with the `origin` they were computed from.
    ///
    /// Errors: the operating system's.
    pub fn save(&self, path: &Path, origin: &str) -> Result<()> {
        let tensors = [("mean", &self.mean), ("logvar", &self.logvar)];
        let metadata = BTreeMap::from([("origin".to_owned(), origin.to_owned())]);
        safetensors::save(path, tensors, &metadata)
    }

    /// Reads them; `None` if there is no such file, or it was computed from something else.
    ///
    /// Errors: a damaged file.
    pub fn open(path: &Path, origin: &str) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = SafeTensors::open(path)?;
        if file.metadata().get("origin").map(String::as_str) != Some(origin) {
            return Ok(None);
        }
        Ok(Some(Self { mean: file.get("mean")?, logvar: file.get("logvar")? }))
    }

    /// Mean and deviation over everything that could be sampled: E z = E μ and
    /// Var z = E μ² + E σ² − (E μ)².
    ///
    /// Errors: none of latents that an autoencoder made.
    pub fn statistics(&self) -> Result<Statistics> {
        let (means, logvars) = (self.mean.slice::<f32>()?, self.logvar.slice::<f32>()?);
        let (mut sum, mut squares) = (0.0, 0.0);
        for (&mean, &logvar) in means.iter().zip(logvars) {
            let mean = f64::from(mean);
            sum += mean;
            squares += mean * mean + f64::from(logvar).exp();
        }
        let count = means.len() as f64;
        let mean = sum / count;
        Ok(Statistics { mean, deviation: (squares / count - mean * mean).sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use autograd::Params;
    use tensor::DType;
    use tensor::rng::Rng;

    use super::*;
    use crate::train::RunConfig;
    use crate::train::setup::vae_geometry;

    fn tiny() -> (AutoencoderKl, Dataset) {
        let config = RunConfig::load("tiny-vae", &[]).unwrap();
        let geometry = vae_geometry(&config.autoencoder, config.data.size);
        let weights = crate::vae::inventory(&geometry).fresh(0, DType::F32).unwrap();
        let constants = weights.into_iter().map(|(name, w)| (name, Var::constant(w)));
        let vae = AutoencoderKl::new(geometry, &Params::from_vars(constants).unwrap()).unwrap();
        (vae, Dataset::open(&config.data, 0, &mut |_, _| Ok(())).unwrap())
    }

    #[test]
    fn latents_are_the_same_however_many_are_computed_and_when_read_back() {
        let (vae, dataset) = tiny();
        let compute = |n| Posteriors::compute(&vae, &dataset, n, &mut |_, _| Ok(())).unwrap();
        let (few, many) = (compute(3), compute(40));
        let head = many.mean.narrow(0, 0, 3).unwrap();
        assert_eq!(few.mean.to_f64_vec(), head.to_f64_vec());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.safetensors");
        assert!(Posteriors::open(&path, "this").unwrap().is_none());
        many.save(&path, "this").unwrap();
        let read = Posteriors::open(&path, "this").unwrap().unwrap();
        assert_eq!(read.mean.to_f64_vec(), many.mean.to_f64_vec());
        assert_eq!(read.logvar.to_f64_vec(), many.logvar.to_f64_vec());
        assert!(Posteriors::open(&path, "another autoencoder").unwrap().is_none());
    }

    #[test]
    fn samples_have_the_statistics_told() {
        let (vae, dataset) = tiny();
        let posteriors = Posteriors::compute(&vae, &dataset, 64, &mut |_, _| Ok(())).unwrap();
        let told = posteriors.statistics().unwrap();
        let latents = Latents::Encoded { vae, posteriors };
        let [c, h, w] = latents.shape(&dataset).unwrap();
        let noise = || Rng::new(1).normal([64, c, h, w], DType::F32);
        let all: Vec<usize> = (0..64).collect();
        let drawn = latents.sample(&dataset, &all, noise).unwrap().to_f64_vec();
        let count = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / count;
        let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        // 16,384 draws: four standard errors of their mean, and of their deviation, in deviations.
        assert!((mean - told.mean).abs() < 4.0 / 128.0 * told.deviation, "{mean} {told:?}");
        assert!((variance.sqrt() / told.deviation - 1.0).abs() < 4.0 / 181.0, "{told:?}");
    }
}
