//! Pictures of prompts.

use std::ops::ControlFlow;
use std::sync::PoisonError;

use autograd::no_grad;
use samplers::flow::{FlowStep, Guidance, Pass, Schedule, Solver};
use tensor::{DType, Error, Result, Tensor};

use super::model::{Prompts, Texts};
use super::{BATCH, Judgement, Pipeline, Progress, Use, go_on, rng};
use crate::data::pictures_from_tensor;
use crate::shapes::Picture;
use crate::vae::Tiling;

/// How pictures are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Steps from noise to picture.
    pub steps: usize,
    /// How closely prompts are followed.
    pub guidance: Guidance,
    /// What guidance leads away from.
    pub negative: String,
    /// Shift of the noise levels towards noise; 1 leaves them alone.
    pub shift: f64,
    /// Seed of the first picture; picture i has this plus i.
    pub seed: u64,
    /// Width and height in pixels; none for the model's own.
    pub size: Option<[usize; 2]>,
    /// How steps are taken.
    pub solver: Solver,
    /// Tokens of a prompt, padding included.
    pub prompt_length: usize,
    /// Pictures drawn of each prompt, of which one is kept: the best in the model's own
    /// [judgement](Pipeline::judge). With 1 there is nothing to compare.
    pub candidates: usize,
    /// Pictures drawn at a time.
    pub batch: usize,
    /// Side in pixels of the tiles that pictures are decoded by, which bounds the memory of the
    /// autoencoder and is not quite the same picture; none to decode at once.
    pub tile: Option<usize>,
    /// Whether to keep what each step believed in.
    pub trace: bool,
}

/// A picture that was drawn.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The picture.
    pub picture: Picture,
    /// The seed that with the same options gives the same picture again, alone too.
    pub seed: u64,
    /// Which of its candidates it is, counted from 0.
    pub candidate: usize,
    /// What the model says of it, if candidates were compared.
    pub judgement: Option<Judgement>,
    /// What each step believed in, if that was asked for.
    pub trace: Vec<FlowTrace>,
}

/// One step of drawing a picture.
#[derive(Clone, Debug)]
pub struct FlowTrace {
    /// The noise level the step started from.
    pub sigma: f32,
    /// The clean picture that the velocity there points at.
    pub estimate: Picture,
}

/// A picture that was drawn, and what each step believed in, which is yet to be decoded.
struct Drawn {
    generated: Generated,
    /// Noise levels, and clean latents \[1, C_in, height, width\].
    estimates: Vec<(f32, Tensor)>,
}

impl Pipeline {
    /// What the folder says about drawing pictures.
    pub fn generate_options(&self) -> GenerateOptions {
        let generation = &self.folder.generation;
        GenerateOptions {
            steps: generation.steps,
            guidance: Guidance::new(generation.guidance as f32),
            negative: String::new(),
            shift: self.folder.scheduler.shift,
            seed: 0,
            size: None,
            solver: Solver::Euler,
            prompt_length: generation.prompt_length.min(self.longest_text()),
            candidates: generation.candidates,
            batch: BATCH,
            tile: None,
            trace: false,
        }
    }

    /// A picture of each prompt.
    ///
    /// Errors: no steps; a size that patches do not fill; tiles without pixels; those of tokenizer,
    /// networks and `progress`.
    pub fn generate(
        &self,
        prompts: &[impl AsRef<str>],
        options: &GenerateOptions,
        progress: Progress,
    ) -> Result<Vec<Generated>> {
        let shape = self.latent_shape(options.size)?;
        let schedule = Schedule::shifted(options.steps, options.shift)?;
        let batches = prompts.chunks(options.batch.max(1));
        let candidates = options.candidates.max(1);
        let total = batches.len() * candidates * options.steps;
        let (mut pictures, mut done) = (Vec::with_capacity(prompts.len()), 0);
        for batch in batches {
            let first = options.seed.wrapping_add(pictures.len() as u64);
            let read = no_grad(|| self.read_prompts(batch, &schedule, options))?;
            let mut best: Vec<Drawn> = Vec::new();
            for candidate in 0..candidates {
                let items: Vec<(u64, usize)> =
                    (0..batch.len() as u64).map(|i| (first.wrapping_add(i), candidate)).collect();
                let mut step = |index: usize| progress(done + index + 1, total);
                let mut drawn = no_grad(|| {
                    self.draw_batch(&read, &items, shape, &schedule, options, &mut step)
                })?;
                done += options.steps;
                if candidates > 1 {
                    let pictures: Vec<_> = drawn.iter().map(|own| &own.generated.picture).collect();
                    let judgements = self.judge(&pictures, batch)?;
                    for (own, judgement) in drawn.iter_mut().zip(judgements) {
                        own.generated.judgement = Some(judgement);
                    }
                }
                keep_better(&mut best, drawn);
            }
            pictures.extend(no_grad(|| self.with_traces(best, options))?);
        }
        Ok(pictures)
    }

    /// A picture of each prompt, by its seed and which of the candidates it is.
    fn draw_batch(
        &self,
        prompts: &Prompts,
        items: &[(u64, usize)],
        shape: [usize; 3],
        schedule: &Schedule,
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Drawn>> {
        let noise = |&(seed, candidate): &(u64, usize)| {
            rng(candidate_seed(seed, candidate), Use::Noise).normal(shape, DType::F32)
        };
        let noise = items.iter().map(noise).collect::<Result<Vec<_>>>()?;
        let start = Tensor::stack(&noise.iter().collect::<Vec<_>>(), 0)?;
        let mut estimates: Vec<(f32, Tensor)> = Vec::new();
        let mut watch = |step: &FlowStep| {
            if options.trace {
                estimates.push((step.sigma, step.clean_estimate()?));
            }
            progress(step.index)
        };
        let mut watched = Ok(());
        let latents = self.draw(&start, prompts, schedule, options, |step| {
            watched = watch(step);
            go_on(&watched)
        })?;
        watched?;
        let pictures = pictures_from_tensor(&self.decode(&latents, self.tiling(options)?)?)?;
        let drawn = |(row, (picture, &(seed, candidate))): (usize, (Picture, &(u64, usize)))| {
            let own = |(sigma, all): &(f32, Tensor)| Ok((*sigma, all.narrow(0, row, 1)?));
            let estimates = estimates.iter().map(own).collect::<Result<_>>()?;
            let trace = Vec::new();
            let generated = Generated { picture, seed, candidate, judgement: None, trace };
            Ok(Drawn { generated, estimates })
        };
        pictures.into_iter().zip(items).enumerate().map(drawn).collect()
    }

    /// How `options` have pictures decoded: by tiles of that size, or at once.
    fn tiling(&self, options: &GenerateOptions) -> Result<Option<Tiling>> {
        let tile = options.tile.map(|tile| Tiling::of_pixels(tile, self.spatial_factor()));
        tile.transpose()
    }

    /// Latents drawn from noise.
    ///
    /// Shapes: `start` \[B, C_in, height, width\] → the same. Errors: the network's.
    pub(crate) fn draw(
        &self,
        start: &Tensor,
        prompts: &Prompts,
        schedule: &Schedule,
        options: &GenerateOptions,
        observe: impl FnMut(&FlowStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let velocity = |state: &Tensor, sigma: f32| {
            options.guidance.velocity(state, sigma, |state, sigma, pass| {
                self.model.velocity(state, sigma, pass, prompts)
            })
        };
        let drawn = options.solver.integrate(start, schedule, velocity, observe)?;
        if let Some(why) = prompts.refusal() {
            self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        }
        Ok(drawn)
    }

    /// Why a GPU was asked for pictures kernel by kernel, if it was: recording failed.
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().map(|why| format!("pictures are drawn kernel by kernel, slower: {why}"))
    }

    /// Pictures with what each step believed in, decoded step by step.
    fn with_traces(&self, drawn: Vec<Drawn>, options: &GenerateOptions) -> Result<Vec<Generated>> {
        let tiling = self.tiling(options)?;
        let (mut pictures, estimates): (Vec<Generated>, Vec<_>) =
            drawn.into_iter().map(|drawn| (drawn.generated, drawn.estimates)).unzip();
        let steps = estimates.first().map_or(0, Vec::len);
        for step in 0..steps {
            let latents: Vec<&Tensor> = estimates.iter().map(|own| &own[step].1).collect();
            let decoded = pictures_from_tensor(&self.decode(&Tensor::cat(&latents, 0)?, tiling)?)?;
            for ((picture, own), estimate) in pictures.iter_mut().zip(&estimates).zip(decoded) {
                picture.trace.push(FlowTrace { sigma: own[step].0, estimate });
            }
        }
        Ok(pictures)
    }

    /// Prompts as the transformer takes them: the text encoder runs once for each, whatever the
    /// number of steps, and for the null text only when it is another than the last.
    ///
    /// Errors: those of tokenizer and text encoder.
    pub(crate) fn read_prompts(
        &self,
        prompts: &[impl AsRef<str>],
        schedule: &Schedule,
        options: &GenerateOptions,
    ) -> Result<Prompts> {
        let length = options.prompt_length;
        let mut ids = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            ids.extend(self.prompt_ids(prompt.as_ref(), length)?);
        }
        let texts = self.model.read(&ids, length)?;
        let is_guided = |&sigma: &f32| options.guidance.pass(sigma) == Pass::NullThenConditional;
        match schedule.sigmas().iter().any(is_guided) {
            true => Prompts::new(texts, Some(&self.null_text(&options.negative, length)?)),
            false => Prompts::new(texts, None),
        }
    }

    /// A prompt as a row: cut with its `</s>` kept, or padded as the folder says.
    pub(crate) fn prompt_ids(&self, prompt: &str, length: usize) -> Result<Vec<u32>> {
        let tokenizer = &self.folder.tokenizer;
        Ok(tokenizer.caption_row(prompt, length, tokenizer.pad())?.ids)
    }

    /// What guidance leads away from, as the transformer takes it.
    pub(crate) fn null_text(&self, negative: &str, length: usize) -> Result<Texts> {
        let ids = self.prompt_ids(negative, length)?;
        // A panic elsewhere cannot have left half a text behind.
        let mut cached = self.null.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((known, texts)) if *known == ids => Ok(texts.clone()),
            _ => {
                let texts = self.model.read(&ids, length)?;
                *cached = Some((ids, texts.clone()));
                Ok(texts)
            }
        }
    }

    /// The shape of one sample's latents for pictures of `size`.
    ///
    /// Errors: a side that is no multiple of a patch's, or 0, or longer than the position table.
    fn latent_shape(&self, size: Option<[usize; 2]>) -> Result<[usize; 3]> {
        let config = self.transformer().config();
        let [width, height] = size.unwrap_or([self.side(); 2]);
        let (factor, unit) = (self.spatial_factor(), self.patch_side());
        let most = self.longest_side();
        let fits = |side: usize| side > 0 && side <= most && side.is_multiple_of(unit);
        if !(fits(width) && fits(height)) {
            let message =
                format!("{width} x {height} pixels; sides are multiples of {unit}, at most {most}");
            return Err(Error::value("size", message));
        }
        Ok([config.in_channels, height / factor, width / factor])
    }
}

/// The seed of a candidate's noise. The first is the picture's own.
pub(super) fn candidate_seed(seed: u64, candidate: usize) -> u64 {
    match candidate {
        0 => seed,
        // Of 32 bits, which every reader of JSON keeps.
        _ => rng(seed, Use::Candidates).word_at(candidate as u64) >> 32,
    }
}

/// Lets a drawn picture take the place of one that is not as good.
fn keep_better(best: &mut Vec<Drawn>, drawn: Vec<Drawn>) {
    if best.is_empty() {
        *best = drawn;
        return;
    }
    let score = |drawn: &Drawn| drawn.generated.judgement.as_ref().map(Judgement::score);
    for (best, drawn) in best.iter_mut().zip(drawn) {
        if score(&drawn) > score(best) {
            *best = drawn;
        }
    }
}
