//! The Dual Diffusion Transformer: one network that draws pictures from texts and writes texts
//! about pictures, on our own autograd engine.
//!
//! Images are diffused as continuous latents, by flow matching; texts as discrete tokens, by
//! masking. Both kinds of tokens meet in every attention, and either can be the one that is noisy.
//! Source: Li et al. 2025, "Dual Diffusion for Unified Image Generation and Understanding".
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`], [`folder`], [`weights`] | the official files: configurations, folders, tensors |
//! | [`sd3`], [`identify`] | SD3's checkpoints, and models that begin as SD3; what a file holds |
//! | [`mmdit`], [`t5`], [`vae`], [`taesd`], [`layers`] | the networks |
//! | [`autoencoder`] | pictures through any autoencoder |
//! | [`objective`] | what is minimised |
//! | [`text`], [`shapes`], [`data`] | texts as token ids, the shapes world, data sets |
//! | [`pipeline`] | prompts to pictures, pictures to texts |
//! | [`train`], [`eval`], [`mod@bench`] | learning, scores, speed |
//! | [`plot`] | curves as SVG |
//! | [`parity`] | our results beside stored ones of the official model |
//! | [`embedded`], [`demo`] | the model inside the program, and what it can do |
//!
//! Shape comments use one letter an axis: **B** batch, **N** image tokens, **L** text tokens,
//! **S** = N + L, **C** width of the model, **H** heads, **D** = C/H width of a head,
//! **V** vocabulary, **P** side of a patch.

pub mod autoencoder;
pub mod bench;
pub mod config;
pub mod data;
pub mod demo;
pub mod embedded;
pub mod eval;
pub mod folder;
pub mod identify;
pub mod layers;
pub mod mmdit;
pub mod objective;
pub mod parity;
pub mod pipeline;
pub mod plot;
pub mod sd3;
pub mod shapes;
pub mod t5;
pub mod taesd;
pub mod text;
pub mod train;
pub mod vae;
pub mod weights;

#[cfg(test)]
mod tiny;
