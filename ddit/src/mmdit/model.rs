//! The dual diffusion transformer: one network that gives a velocity for images and words for
//! texts, seeing both.

use std::sync::Arc;

use autograd::{Params, Var, checkpoint, scope};
use tensor::{Device, Error, Result};

use crate::config::TransformerConfig;
use crate::layers::{EPS, Linear};
use crate::text::Tokens;

use super::block::JointBlock;
use super::embed::{PatchEmbed, TextEmbed, TextInput, TimeEmbed};

/// Sees the streams on their way: how many blocks they have passed, image tokens \[B, N, C\] and
/// text tokens \[B, L, C\].
pub type Observer<'a> = &'a mut dyn FnMut(usize, &Var, &Var);

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
    /// the last again on the way back: a third more arithmetic for a fraction of the memory. Blocks
    /// that no gradient goes into keep nothing in any case.
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

    /// Where the weights lie, and so where it computes.
    pub fn device(&self) -> Device {
        self.null_image.device()
    }

    /// The map from text tokens \[.., C\] to a score for each of V words.
    pub fn text_head(&self) -> &Linear {
        &self.text_proj_out
    }

    /// Texts of `length` tokens, as a model that embeds ids looks them up.
    ///
    /// Errors: those of [`TextEmbed::tokens`](super::embed::TextEmbed::tokens).
    #[track_caller]
    pub fn tokens(&self, ids: &[u32], length: usize) -> Result<Tokens> {
        self.text_embed.tokens(ids, length)
    }

    /// The features of each of B times → \[B, 256\]: all that the model looks at of a time.
    #[track_caller]
    pub fn time_features(&self, times: &[f32]) -> Result<Var> {
        self.time_embed.features(times)
    }

    /// The vector of each of B times → \[B, C\].
    #[track_caller]
    pub fn time_embedding(&self, times: &[f32]) -> Result<Var> {
        self.time_embed.forward(&self.time_features(times)?)
    }

    /// The velocity of latents at noise level t/1000, seeing clean texts. Of the last block's text
    /// branch only the keys and values are computed, since nobody reads its tokens.
    ///
    /// Shapes: `latents` \[B, C_in, height, width\]; B texts; a time in 0..1000 for each →
    /// \[B, C_out, height, width\], sides cut down to multiples of P.
    /// Errors: batch sizes that differ; shapes that do not fit the geometry.
    #[track_caller]
    pub fn velocity(&self, latents: &Var, text: TextInput, times: &[f32]) -> Result<Var> {
        self.velocity_at(latents, text, &self.time_features(times)?)
    }

    /// The velocity at times whose [features](Self::time_features) are given: latents and features are
    /// what changes from step to step of drawing, and are tensors.
    ///
    /// Shapes and errors: as [`velocity`](Self::velocity).
    #[track_caller]
    pub fn velocity_at(&self, latents: &Var, text: TextInput, features: &Var) -> Result<Var> {
        let text = self.text_embed.forward(text)?;
        let (image, grid) = self.patch_embed.forward(latents)?;
        let condition = self.condition(features, &image, &text)?;
        let [image, text] = self.first_blocks([image, text], &condition, &mut |_, _, _| {})?;
        let image = self.last_block(|last| last.image(&image, &text, &condition))?;
        self.image_head(&image, &condition, grid)
    }

    /// What the text head reads: the tokens of partly masked texts after the final norm, seeing
    /// clean latents at time 0, or without them learned tokens for an absent image. The last
    /// block leaves out what the image's tokens would need, as [`velocity`](Self::velocity) does.
    ///
    /// Shapes: as there → \[B, L, C\].   Errors: as there.
    #[track_caller]
    pub fn text_tokens(
        &self,
        latents: Option<&Var>,
        text: TextInput,
        times: &[f32],
    ) -> Result<Var> {
        let text = self.text_embed.forward(text)?;
        let (image, _) = self.image_tokens(latents, &text)?;
        let condition = self.condition(&self.time_features(times)?, &image, &text)?;
        let [image, text] = self.first_blocks([image, text], &condition, &mut |_, _, _| {})?;
        self.last_block(|last| last.text(&image, &text, &condition))?.layer_norm(EPS)
    }

    /// Velocity and text tokens of one pass. Without latents, in place of the velocity, the tokens
    /// that stand for the image after the last block \[B, 8, C\].
    ///
    /// Shapes and errors: as [`velocity`](Self::velocity), [`text_tokens`](Self::text_tokens).
    #[track_caller]
    pub fn both(&self, latents: Option<&Var>, text: TextInput, times: &[f32]) -> Result<[Var; 2]> {
        self.observe(latents, text, times, &mut |_, _, _| {})
    }

    /// The same, of which `observer` sees the streams after the embeddings and after every block.
    ///
    /// Shapes and errors: as [`both`](Self::both).
    #[track_caller]
    pub fn observe(
        &self,
        latents: Option<&Var>,
        text: TextInput,
        times: &[f32],
        observer: Observer,
    ) -> Result<[Var; 2]> {
        let text = self.text_embed.forward(text)?;
        let (image, grid) = self.image_tokens(latents, &text)?;
        let condition = self.condition(&self.time_features(times)?, &image, &text)?;
        observer(0, &image, &text);
        let [image, text] = self.first_blocks([image, text], &condition, observer)?;
        let [image, text] = self.last_block(|last| last.both(&image, &text, &condition))?;
        observer(self.blocks.len(), &image, &text);
        let text = text.layer_norm(EPS)?;
        match grid {
            Some(grid) => Ok([self.image_head(&image, &condition, grid)?, text]),
            None => Ok([image, text]),
        }
    }

    /// Scores of all words for [text tokens](Self::text_tokens) \[B, L, C\] → \[B, L, V\].
    #[track_caller]
    pub fn text_logits(&self, text: &Var) -> Result<Var> {
        self.text_proj_out.forward(text)
    }

    /// Latents as tokens and their rows and columns, or the tokens for an absent image.
    fn image_tokens(&self, latents: Option<&Var>, text: &Var) -> Result<(Var, Option<[usize; 2]>)> {
        match latents {
            Some(latents) => {
                let (tokens, grid) = self.patch_embed.forward(latents)?;
                Ok((tokens, Some(grid)))
            }
            None => {
                let ([batch, ..], [_, tokens, width]) =
                    (text.dims::<3>()?, self.null_image.dims()?);
                Ok((self.null_image.broadcast_to([batch, tokens, width])?, None))
            }
        }
    }

    /// SiLU of the time embedding, which every block is modulated by.
    ///
    /// Errors: there is not one time, one image and one text for each sample.
    fn condition(&self, features: &Var, image: &Var, text: &Var) -> Result<Var> {
        let times = features.shape()[0];
        if [image.shape()[0], text.shape()[0]] != [times; 2] {
            let message = format!("{times} times for");
            return Err(Error::shape("transformer", message)
                .operand("image tokens", image)
                .operand("text tokens", text));
        }
        self.time_embed.forward(features)?.silu()
    }

    /// All blocks but the last.
    fn first_blocks(
        &self,
        [mut image, mut text]: [Var; 2],
        condition: &Var,
        observer: Observer,
    ) -> Result<[Var; 2]> {
        for (i, block) in self.blocks[..self.blocks.len() - 1].iter().enumerate() {
            let inputs = [&image, &text, condition];
            // A checkpoint counts as tracked whatever is in it, so nothing frozen may be in one
            // that nothing tracked goes into.
            let is_tracked = block.learns() || inputs.iter().any(|x| x.is_tracked());
            [image, text] = scope(&block_name(i), || {
                if !(self.checkpointing && is_tracked) {
                    return block.both(&image, &text, condition);
                }
                let block = block.clone();
                checkpoint(inputs, move |[image, text, condition]| {
                    block.both(&image, &text, &condition)
                })
            })?;
            self.unload(i);
            observer(i + 1, &image, &text);
        }
        Ok([image, text])
    }

    /// Runs the last block; a geometry that was checked has one.
    fn last_block<T>(&self, run: impl FnOnce(&JointBlock) -> Result<T>) -> Result<T> {
        let last = self.blocks.len() - 1;
        let result = scope(&block_name(last), || run(&self.blocks[last]));
        self.unload(last);
        result
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

fn block_name(i: usize) -> String {
    format!("transformer_blocks.{i}")
}
