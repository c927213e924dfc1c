//! The dual diffusion transformer: one network that gives a velocity for images and words for
//! texts, seeing both.

use std::sync::Arc;

use autograd::{Params, Var, checkpoint, scope};
use tensor::{Error, Result};

use crate::config::TransformerConfig;
use crate::layers::{EPS, Linear};

use super::block::{JointBlock, Want};
use super::embed::{PatchEmbed, TextEmbed, TextInput, TimeEmbed};

/// What a pass works on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// \[B, C_in, height, width\]: at noise level t/1000 to get a velocity, clean to get a text.
    /// Without them, learned tokens stand for an absent image.
    pub latents: Option<&'a Var>,
    /// B texts of L tokens: clean to get a velocity, partly masked to get a text.
    pub text: TextInput<'a>,
    /// A time in 0..1000 for every sample; 0 where latents are clean.
    pub times: &'a [f32],
    /// Which results to compute.
    pub want: Want,
}

/// What a pass results in, as far as it was wanted.
#[derive(Clone, Debug)]
pub struct Output {
    /// The velocity \[B, C_out, height, width\], sides cut down to multiples of P.
    pub velocity: Option<Var>,
    /// Where no latents were given: the tokens that stood for them, after the last block
    /// \[B, 8, C\].
    pub null_image: Option<Var>,
    /// The text tokens after the final norm \[B, L, C\]: what the text head reads.
    pub text: Option<Var>,
}

/// Sees the streams on their way: how many blocks they have passed, image tokens \[B, N, C\] and
/// text tokens \[B, L, C\]. What nobody waits for is absent after the last block.
pub type Observer<'a> = &'a mut dyn FnMut(usize, Option<&Var>, Option<&Var>);

/// The dual diffusion transformer. Source: Li et al. 2025 (arXiv 2501.00289), §3.2.
#[derive(Debug)]
pub struct Mmdit {
    config: TransformerConfig,
    patch_embed: PatchEmbed,
    time_embed: TimeEmbed,
    text_embed: TextEmbed,
    null_image: Var,
    /// Shared with the graphs of checkpointed passes, which run them again.
    blocks: Vec<Arc<JointBlock>>,
    checkpointing: bool,
    /// What the blocks are made of, if they let go of it when they have run.
    streamed: Option<Params>,
    image_norm_out: Linear,
    image_proj_out: Linear,
    text_proj_out: Linear,
}

impl Mmdit {
    /// The model of this geometry on these parameters, which are those of
    /// [`inventory`](super::inventory()).
    ///
    /// Errors: the geometry is impossible; a parameter is missing.
    pub fn new(config: TransformerConfig, params: &Params) -> Result<Self> {
        config.check()?;
        let linear = |name| Linear::new(&params.scope(name));
        let block = |i: usize| {
            let params = params.scope("transformer_blocks").scope(&i.to_string());
            Ok(Arc::new(JointBlock::new(&params, config.num_attention_heads)?))
        };
        let times = params.scope("time_text_embed").scope("timestep_embedder");
        Ok(Self {
            patch_embed: PatchEmbed::new(&config, &params.scope("pos_embed"))?,
            time_embed: TimeEmbed::new(&times)?,
            text_embed: TextEmbed::new(&config, params)?,
            null_image: params.get("null_image_embd")?,
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            checkpointing: false,
            streamed: None,
            image_norm_out: linear("image_norm_out.linear")?,
            image_proj_out: linear("image_proj_out")?,
            text_proj_out: linear("text_proj_out")?,
            config,
        })
    }

    /// Sets whether a training pass keeps only the streams between blocks, and runs each block but
    /// the last again on the way back: a third more arithmetic for a fraction of the memory.
    pub fn with_checkpointing(mut self, on: bool) -> Self {
        self.checkpointing = on;
        self
    }

    /// Makes every block give back the memory of its weights, as far as they are mapped from a
    /// file, as soon as it has run: a pass holds one block's weights at a time, and the next reads
    /// them anew. `params` are those of the model.
    pub fn streaming(mut self, params: &Params) -> Self {
        self.streamed = Some(params.scope("transformer_blocks"));
        self
    }

    /// The geometry.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// The map from text tokens \[.., C\] to a score for each of V words.
    pub fn text_head(&self) -> &Linear {
        &self.text_proj_out
    }

    /// The vector of each of B times → \[B, C\].
    #[track_caller]
    pub fn time_embedding(&self, times: &[f32]) -> Result<Var> {
        self.time_embed.forward(times)
    }

    /// One pass.
    ///
    /// Errors: batch sizes that differ; shapes that do not fit the geometry.
    #[track_caller]
    pub fn forward(&self, input: &Input) -> Result<Output> {
        self.observe(input, &mut |_, _, _| {})
    }

    /// One pass, whose streams `observer` sees after the embeddings and after every block.
    ///
    /// Errors: as [`forward`](Self::forward).
    #[track_caller]
    pub fn observe(&self, input: &Input, observer: Observer) -> Result<Output> {
        let text = self.text_embed.forward(input.text)?;
        let [batch, _, width] = text.dims()?;
        let (image, grid) = match input.latents {
            Some(latents) => {
                let (tokens, grid) = self.patch_embed.forward(latents)?;
                (tokens, Some(grid))
            }
            None => {
                let [_, tokens, _] = self.null_image.dims()?;
                (self.null_image.broadcast_to([batch, tokens, width])?, None)
            }
        };
        if input.times.len() != batch || image.shape()[0] != batch {
            let message = format!("{} times for", input.times.len());
            return Err(Error::shape("transformer", message)
                .operand("image tokens", &image)
                .operand("text tokens", &text));
        }
        let condition = self.time_embedding(input.times)?.silu()?;
        observer(0, Some(&image), Some(&text));
        let (image, text) = self.run_blocks([image, text], &condition, input.want, observer)?;
        let text = text.map(|text| text.layer_norm(EPS)).transpose()?;
        match (image, grid) {
            (Some(image), Some(grid)) => {
                let velocity = Some(self.image_head(&image, &condition, grid)?);
                Ok(Output { velocity, null_image: None, text })
            }
            (null_image, _) => Ok(Output { velocity: None, null_image, text }),
        }
    }

    /// Scores of all words for text tokens \[B, L, C\] of an [`Output`] → \[B, L, V\].
    #[track_caller]
    pub fn text_logits(&self, text: &Var) -> Result<Var> {
        self.text_proj_out.forward(text)
    }

    /// All blocks, of which only the last leaves anything out.
    fn run_blocks(
        &self,
        [mut image, mut text]: [Var; 2],
        condition: &Var,
        want: Want,
        observer: Observer,
    ) -> Result<(Option<Var>, Option<Var>)> {
        let name = |i: usize| format!("transformer_blocks.{i}");
        let Some((last, others)) = self.blocks.split_last() else {
            unreachable!("a checked geometry has a block")
        };
        for (i, block) in others.iter().enumerate() {
            [image, text] = scope(&name(i), || match self.checkpointing {
                false => block.both(&image, &text, condition),
                true => {
                    let block = block.clone();
                    checkpoint([&image, &text, condition], move |[image, text, condition]| {
                        block.both(&image, &text, &condition)
                    })
                }
            })?;
            self.unload(i);
            observer(i + 1, Some(&image), Some(&text));
        }
        let forward = || last.forward(&image, &text, condition, want);
        let (image, text) = scope(&name(others.len()), forward)?;
        self.unload(others.len());
        observer(self.blocks.len(), image.as_ref(), text.as_ref());
        Ok((image, text))
    }

    /// Lets go of a block's weights, if that is asked for.
    fn unload(&self, block: usize) {
        if let Some(params) = &self.streamed {
            params.scope(&block.to_string()).unload();
        }
    }

    /// Image tokens \[B, N, C\] → velocity \[B, C_out, rows·P, columns·P\].
    ///
    /// Other than in the blocks, the scale comes before the shift. Of a token's numbers the
    /// channel runs fastest, then the column in the patch, then the row.
    fn image_head(&self, image: &Var, condition: &Var, grid: [usize; 2]) -> Result<Var> {
        let modulation = self.image_norm_out.forward(condition)?.chunk(1, 2)?;
        let (scale, shift) = (&modulation[0], &modulation[1]);
        let patches = self.image_proj_out.forward(&image.ada_layer_norm(shift, scale, EPS)?)?;
        let (patch, channels) = (self.config.patch_size, self.config.out_channels);
        let ([rows, columns], batch) = (grid, image.shape()[0]);
        patches
            .reshape([batch, rows, columns, patch, patch, channels])?
            .permute(&[0, 5, 1, 3, 2, 4])?
            .reshape([batch, channels, rows * patch, columns * patch])
    }
}
