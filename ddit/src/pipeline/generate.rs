//! Pictures of prompts.

use std::ops::ControlFlow;

use autograd::{Var, no_grad};
use samplers::flow::{FlowStep, Guidance, Pass, Schedule, Solver, timestep};
use tensor::{DType, Error, Result, Tensor};

use super::{BATCH, Pipeline, Progress, Use, rng};
use crate::mmdit::{Input, TextInput, Want};
use crate::shapes::Picture;

/// How pictures are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Steps from noise to picture.
    pub steps: usize,
    /// How closely prompts are followed.
    pub guidance: Guidance,
    /// What guidance leads away from.
    pub negative: String,
    /// Seed of the first picture; picture i has this plus i.
    pub seed: u64,
    /// Width and height in pixels; none for the model's own.
    pub size: Option<[usize; 2]>,
    /// How steps are taken.
    pub solver: Solver,
    /// Tokens of a prompt, padding included.
    pub prompt_length: usize,
    /// Pictures drawn at a time.
    pub batch: usize,
    /// Whether to keep what each step believed in.
    pub trace: bool,
}

/// A picture that was drawn.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The picture.
    pub picture: Picture,
    /// The seed that alone gives the same picture again.
    pub seed: u64,
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

/// Token ids of null text and prompts, L each: twice the batch where guidance acts.
struct Prompts {
    null: Vec<u32>,
    ids: Vec<u32>,
    length: usize,
}

impl Pipeline {
    /// What the folder says about drawing pictures.
    pub fn generate_options(&self) -> GenerateOptions {
        let generation = &self.folder.generation;
        GenerateOptions {
            steps: generation.steps,
            guidance: Guidance::new(generation.guidance as f32),
            negative: String::new(),
            seed: 0,
            size: None,
            solver: Solver::Euler,
            prompt_length: generation.prompt_length.min(self.longest_text()),
            batch: BATCH,
            trace: false,
        }
    }

    /// A picture of each prompt.
    ///
    /// Errors: no steps; a size that patches do not fill; those of tokenizer and networks.
    pub fn generate(
        &self,
        prompts: &[impl AsRef<str>],
        options: &GenerateOptions,
        progress: Progress,
    ) -> Result<Vec<Generated>> {
        let shape = self.latent_shape(options.size)?;
        let schedule = Schedule::shifted(options.steps, self.folder.scheduler.shift)?;
        let batches = prompts.chunks(options.batch.max(1));
        let total = batches.len() * options.steps;
        let mut pictures = Vec::with_capacity(prompts.len());
        for (done, batch) in batches.enumerate() {
            let seeds = (0..batch.len() as u64)
                .map(|i| options.seed.wrapping_add(pictures.len() as u64 + i))
                .collect::<Vec<_>>();
            let prompts = self.tokenize(batch, options)?;
            let mut step = |index: usize| progress(done * options.steps + index + 1, total);
            let drawn = no_grad(|| {
                self.draw_batch(&prompts, &seeds, shape, &schedule, options, &mut step)
            })?;
            pictures.extend(drawn);
        }
        Ok(pictures)
    }

    fn draw_batch(
        &self,
        prompts: &Prompts,
        seeds: &[u64],
        shape: [usize; 3],
        schedule: &Schedule,
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Generated>> {
        let noise = seeds.iter().map(|&seed| rng(seed, Use::Noise).normal(shape, DType::F32));
        let noise = noise.collect::<Result<Vec<_>>>()?;
        let start = Tensor::stack(&noise.iter().collect::<Vec<_>>(), 0)?;
        let mut estimates: Vec<(f32, Tensor)> = Vec::new();
        let mut failed = None;
        let latents = options.solver.integrate(
            &start,
            schedule,
            |state, sigma| {
                options.guidance.velocity(state, sigma, |state, sigma, pass| {
                    self.velocity(state, sigma, pass, prompts)
                })
            },
            |step: &FlowStep| {
                progress(step.index);
                if options.trace {
                    match step.clean_estimate() {
                        Ok(estimate) => estimates.push((step.sigma, estimate)),
                        Err(error) => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
                ControlFlow::Continue(())
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.finish(&latents, seeds, &estimates)
    }

    /// Decodes final latents and the estimates on the way to them.
    fn finish(
        &self,
        latents: &Tensor,
        seeds: &[u64],
        estimates: &[(f32, Tensor)],
    ) -> Result<Vec<Generated>> {
        let mut drawn: Vec<Generated> = self
            .decode(latents)?
            .into_iter()
            .zip(seeds)
            .map(|(picture, &seed)| Generated { picture, seed, trace: Vec::new() })
            .collect();
        for (sigma, estimate) in estimates {
            for (item, estimate) in drawn.iter_mut().zip(self.decode(estimate)?) {
                item.trace.push(FlowTrace { sigma: *sigma, estimate });
            }
        }
        Ok(drawn)
    }

    /// The network's velocity at states of one noise level.
    fn velocity(
        &self,
        state: &Tensor,
        sigma: f32,
        pass: Pass,
        prompts: &Prompts,
    ) -> Result<Tensor> {
        let both;
        let ids = match pass {
            Pass::Conditional => &prompts.ids,
            Pass::NullThenConditional => {
                let texts = prompts.ids.len() / prompts.length;
                both = [prompts.null.repeat(texts), prompts.ids.clone()].concat();
                &both
            }
        };
        let latents = Var::constant(state.clone());
        let output = self.transformer.forward(&Input {
            latents: Some(&latents),
            text: TextInput::Ids(ids, prompts.length),
            times: &vec![timestep(sigma); state.shape()[0]],
            want: Want::Image,
        })?;
        match output.velocity {
            Some(velocity) => Ok(velocity.value()),
            None => unreachable!("latents were given and their velocity was wanted"),
        }
    }

    fn tokenize(&self, prompts: &[impl AsRef<str>], options: &GenerateOptions) -> Result<Prompts> {
        let (tokenizer, length) = (&self.folder.tokenizer, options.prompt_length);
        let row = |text: &str| Ok(tokenizer.caption_row(text, length, tokenizer.pad())?.ids);
        let mut ids = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            ids.extend(row(prompt.as_ref())?);
        }
        Ok(Prompts { null: row(&options.negative)?, ids, length })
    }

    /// The shape of one sample's latents for pictures of `size`.
    ///
    /// Errors: a side that is no multiple of a patch's, or 0, or longer than the position table.
    fn latent_shape(&self, size: Option<[usize; 2]>) -> Result<[usize; 3]> {
        let config = self.transformer.config();
        let [width, height] = size.unwrap_or([self.side(); 2]);
        let (factor, patch) = (self.spatial_factor(), config.patch_size);
        let unit = factor * patch;
        let most = unit * config.pos_embed_max_size;
        let fits = |side: usize| side > 0 && side <= most && side.is_multiple_of(unit);
        if !(fits(width) && fits(height)) {
            let message =
                format!("{width} x {height} pixels; sides are multiples of {unit}, at most {most}");
            return Err(Error::value("size", message));
        }
        Ok([config.in_channels, height / factor, width / factor])
    }
}
