//! What a run leaves behind: sample sheets on the way, the finished model at the end.
//!
//! Everything here uses the moving average of the weights, which is what inference gets.

use std::path::PathBuf;

use autograd::no_grad;
use serde_json::{Value, json};
use tensor::rng::Rng;
use tensor::{DType, Result};

use super::autoencoder::Autoencoder;
use super::config::SamplingConfig;
use super::curves::Curves;
use super::dual::Dual;
use super::frozen::frozen_vae;
use super::networks::{self, TRANSFORMER, VAE};
use super::samples::{sheet, write_png};
use super::setup::MODEL;
use super::trainable::MASK_EMBEDDING;
use super::trainer::{Subject, Trainer};
use crate::config::{GenerationConfig, SchedulerConfig, VaeConfig};
use crate::data::{Dataset, Purpose, pictures_from_tensor, stream};
use crate::folder::{self, Component, Folder};
use crate::pipeline::{GenerateOptions, Pipeline, Progress};
use crate::shapes::Picture;
use crate::t5::save_row;
use crate::vae::AutoencoderKl;

/// Pictures in a row of a sample sheet.
const COLUMNS: usize = 8;

impl Trainer {
    /// The model as it is now, ready for use; `None` for an autoencoder's run.
    ///
    /// Errors: weights that are no numbers; those of [`Pipeline::on`].
    pub fn pipeline(&self) -> Result<Option<Pipeline>> {
        match &self.subject {
            Subject::Autoencoder(_) => Ok(None),
            Subject::Dual(dual) => Ok(Some(Pipeline::on(self.folder(dual)?, &self.device)?)),
        }
    }

    /// The autoencoder as it is now, ready for use; `None` for a transformer's run.
    ///
    /// Errors: weights that are no numbers; those of [`AutoencoderKl::new`].
    pub fn vae(&self) -> Result<Option<AutoencoderKl>> {
        match &self.subject {
            Subject::Autoencoder(autoencoder) => {
                frozen_vae(&self.autoencoder(autoencoder)?, &self.device).map(Some)
            }
            Subject::Dual(_) => Ok(None),
        }
    }

    /// Writes the model as it is now into the run's folder, in the official layout; an
    /// autoencoder's run has nothing but `vae`. Its folder.
    ///
    /// Errors: weights that are no numbers; the operating system's.
    pub fn export(&self) -> Result<PathBuf> {
        self.export_with(&mut |_, _| Ok(()))
    }

    /// The same; `progress` is told of how many pictures an autoencoder's latents have been
    /// measured, and an error of its ends that.
    pub(super) fn export_with(&self, progress: Progress) -> Result<PathBuf> {
        let path = self.out.join(MODEL);
        match &self.subject {
            Subject::Dual(dual) => {
                self.folder(dual)?.save(&path)?;
                // Apart and unrounded too, as others store it.
                let mut average = self.learner.average().into_iter();
                if let Some((_, row)) = average.find(|(name, _)| name == MASK_EMBEDDING) {
                    save_row(path.join("mask_embedding.safetensors"), &row)?;
                }
            }
            Subject::Autoencoder(autoencoder) => {
                let component = self.autoencoder(autoencoder)?;
                let vae = frozen_vae(&component, &self.device)?;
                let found = autoencoder.measure(&vae, progress)?;
                let config = VaeConfig {
                    shift_factor: Some(found.mean),
                    scaling_factor: 1.0 / found.deviation,
                    ..component.config
                };
                let component = Component { config, ..component };
                folder::replace(&path, |new| component.write(&new.join("vae")))?;
            }
        }
        Ok(path)
    }

    /// Writes a sheet of samples of the model as it is now, and beside it, for a transformer, a
    /// JSON file of the texts that belong to it. What the sheet shows is the same at every step.
    ///
    /// Errors: weights that are no numbers; those of the networks and of `progress`; the operating
    /// system's.
    pub fn write_samples(&mut self, progress: Progress) -> Result<PathBuf> {
        let path = self.out.join("samples").join(format!("step-{:08}.png", self.state.step));
        let (pictures, texts) = match &self.subject {
            Subject::Autoencoder(autoencoder) => {
                let component = self.autoencoder(autoencoder)?;
                (self.reconstructions(autoencoder.dataset(), &component)?, Value::Null)
            }
            Subject::Dual(dual) => self.drawn_and_described(dual, progress)?,
        };
        write_png(&sheet(&pictures, COLUMNS), &path)?;
        if !texts.is_null() {
            tensor::io::atomic_write(path.with_extension("json"), format!("{texts:#}\n"))?;
        }
        self.state.sampled = self.state.step;
        Ok(path)
    }

    /// Draws the log so far as curves; their file.
    ///
    /// Errors: the operating system's.
    pub fn write_curves(&self) -> Result<PathBuf> {
        let path = self.out.join("curves.svg");
        tensor::io::atomic_write(&path, Curves::read(&self.out)?.to_svg())?;
        Ok(path)
    }

    /// The pipeline folder of the model as it is now.
    fn folder(&self, dual: &Dual) -> Result<Folder> {
        self.check_weights()?;
        let (learner, stored) = (&self.learner, self.stored());
        let mask = dual.tokenizer().mask();
        Ok(Folder {
            transformer: Component {
                config: dual.geometry().clone(),
                weights: learner.network(TRANSFORMER, stored),
            },
            text_encoder: networks::text_encoder(learner, dual.model(), mask, stored)?,
            vae: self.frozen.clone(),
            tokenizer: dual.tokenizer().clone(),
            scheduler: SchedulerConfig::new(self.config.generation.shift),
            generation: self.generation_config(dual.text_length()),
        })
    }

    /// What the finished model's `generation_config.json` says.
    fn generation_config(&self, text_length: usize) -> GenerationConfig {
        let SamplingConfig { steps, guidance, candidates, text_steps, ref sampler, .. } =
            self.config.generation;
        GenerationConfig {
            recipe: self.config.objective.recipe,
            steps,
            guidance,
            candidates,
            prompt_length: text_length,
            text_length,
            text_steps,
            sampler: (!sampler.is_empty()).then(|| sampler.clone()),
            ..GenerationConfig::default()
        }
    }

    /// An autoencoder's run's own network as it is now.
    fn autoencoder(&self, autoencoder: &Autoencoder) -> Result<Component<VaeConfig>> {
        self.check_weights()?;
        let weights = self.learner.network(VAE, self.stored());
        Ok(Component { config: autoencoder.geometry().clone(), weights })
    }

    /// How weights that have learnt are stored in the finished model.
    pub(super) fn stored(&self) -> DType {
        match self.subject {
            Subject::Autoencoder(_) => DType::F32,
            Subject::Dual(_) => self.config.run.weights.into(),
        }
    }

    /// A row of pictures of the data, and below it what the autoencoder makes of them.
    fn reconstructions(
        &self,
        dataset: &Dataset,
        component: &Component<VaeConfig>,
    ) -> Result<Vec<Picture>> {
        let shown: Vec<usize> = (0..dataset.len().min(COLUMNS)).collect();
        let pictures = dataset.pictures(&shown)?;
        let vae = frozen_vae(component, &self.device)?;
        let back = no_grad(|| vae.decode(vae.encode(&pictures.clone().into())?.mode()))?;
        let mut rows = pictures_from_tensor(&pictures)?;
        rows.extend(pictures_from_tensor(&back.value())?);
        Ok(rows)
    }

    /// Two rows of pictures drawn from captions, one of pictures of the data that are described;
    /// and the texts.
    fn drawn_and_described(
        &self,
        dual: &Dual,
        progress: Progress,
    ) -> Result<(Vec<Picture>, Value)> {
        let dataset = dual.dataset();
        let pipeline = Pipeline::on(self.folder(dual)?, &self.device)?;
        let rng = |row: usize| stream(self.config.seed, Purpose::Samples, 0, row);
        let sample = |rng: &mut Rng| rng.below(dataset.len());
        let prompts: Vec<String> = (0..2 * COLUMNS)
            .map(|row| {
                let mut rng = rng(row);
                let sample = sample(&mut rng);
                dataset.caption(sample, &mut rng)
            })
            .collect();
        let shown: Vec<Picture> =
            (0..COLUMNS).map(|row| dataset.picture(sample(&mut rng(row)))).collect();
        // As large as the data, whatever the model could draw.
        let size = shown.first().map(|picture| [picture.width(), picture.height()]);
        let generate = GenerateOptions { size, ..pipeline.generate_options() };
        let drawn = pipeline.generate(&prompts, &generate, progress)?;
        let seen: Vec<&Picture> = shown.iter().collect();
        let captions = pipeline.caption(&seen, &pipeline.write_options(), progress)?;
        let captions: Vec<String> = captions.into_iter().map(|written| written.text).collect();
        let mut pictures: Vec<Picture> = drawn.into_iter().map(|drawn| drawn.picture).collect();
        pictures.extend(shown);
        Ok((pictures, json!({ "prompts": prompts, "captions": captions })))
    }
}
