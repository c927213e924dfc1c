//! Whole pipelines, end to end: folders, tokens, encoders, samplers, pictures.

use std::ops::ControlFlow;

use autograd::no_grad;
use samplers::flow::{Guidance, Schedule};
use samplers::masked::{Canvas, DdpmCache};
use serde_json::Value;
use tensor::{Result, Tensor};

use super::Trial;
use super::pictures::read_image;
use super::sampling::unmask;
use crate::data::{pictures_to_tensor, resize};
use crate::folder::Folder;
use crate::pipeline::{GenerateOptions, Pipeline};
use crate::shapes::picture::to_byte;

/// Prompts to pictures, from given noise: token ids, text states, latents, pictures.
pub fn pictures(trial: &mut Trial) -> Result<()> {
    let pipeline = open(trial)?;
    let prompts: Vec<String> = trial.config("prompts")?;
    let options = GenerateOptions {
        steps: trial.config("steps")?,
        guidance: Guidance::new(trial.config("guidance_scale")?),
        negative: trial.config("negative_prompt")?,
        prompt_length: trial.config("max_sequence_length")?,
        ..pipeline.generate_options()
    };
    let pad: u32 = trial.config("pad_id")?;
    trial.compare_flag("config.pad_id", pipeline.tokenizer().pad() == pad);
    let shift: f64 = trial.config("shift")?;
    trial.compare_flag("config.shift", pipeline.folder().scheduler.shift == shift);

    let length = options.prompt_length;
    let rows = prompts.iter().map(|prompt| pipeline.prompt_ids(prompt, length));
    let ids = rows.collect::<Result<Vec<_>>>()?.concat();
    let null = pipeline.prompt_ids(&options.negative, length)?.repeat(prompts.len());
    let numbers = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
    trial.compare_numbers("out.ids", &numbers(&ids))?;
    trial.compare_numbers("out.negative_ids", &numbers(&null))?;
    for (name, ids) in [("mid.context", &ids), ("mid.null_context", &null)] {
        if let Some(states) = pipeline.model().read(ids, length)?.states() {
            trial.compare(name, &states)?;
        }
    }

    let schedule = Schedule::shifted(options.steps, pipeline.folder().scheduler.shift)?;
    let start = trial.get("in.latents")?;
    let latents = no_grad(|| {
        let prompts = pipeline.read_prompts(&prompts, &schedule, &options)?;
        pipeline.draw(&start, &prompts, &schedule, &options, |_| ControlFlow::Continue(()))
    })?;
    trial.compare("out.final_latents", &latents)?;
    let pictures = pipeline.decode(&latents, None)?;
    trial.compare("out.image", &pictures)?;
    let bytes: Vec<u8> = pictures.to_vec::<f32>()?.into_iter().map(to_byte).collect();
    trial.compare("out.u8", &Tensor::from_vec(bytes, pictures.shape())?)
}

/// A picture to a text, with given draws: prepared picture, latents, tokens after every step, and
/// what is made of them.
pub fn texts(trial: &mut Trial) -> Result<()> {
    let pipeline = open(trial)?;
    let tokenizer = pipeline.tokenizer();
    let (mask, length) = (tokenizer.mask(), trial.config("length")?);
    let expected: u32 = trial.config("mask_id")?;
    trial.compare_flag("config.mask_id", mask == expected);

    let picture = resize::fit(&read_image(trial)?, trial.config("resolution")?);
    let pixels = pictures_to_tensor(&[picture])?;
    trial.compare("mid.pixels", &pixels)?;
    let noise = trial.get("in.eps")?;
    let latents = pipeline.encode(pixels, |_| Ok(Some(noise)))?;
    trial.compare("mid.latents", &latents)?;

    let question: Option<String> = trial.config("question")?;
    let mut tokens = match &question {
        Some(question) => {
            let ids: Vec<u32> = trial.config("prompt_ids")?;
            trial.compare_flag("config.prompt_ids", tokenizer.encode(question)? == ids);
            pipeline.prompt_tokens(question, trial.config("keep_eos")?)?
        }
        None => Vec::new(),
    };
    let given = tokens.len().min(length);
    tokens.resize(length, mask);
    let row: Vec<i64> = tokens.into_iter().map(i64::from).collect();
    trial.compare_numbers("mid.x_init", &row)?;

    let canvas = Canvas::new(&[row], i64::from(mask))?;
    let sampler = DdpmCache::new(trial.config("steps")?);
    let seed = stream_seed(trial)?;
    let ids = unmask(trial, pipeline.model(), &latents, canvas, sampler, |i| uniform(seed, i))?;
    trial.compare("out.tokens", &ids)?;
    let ids: Vec<u32> = ids.to_vec::<i64>()?.into_iter().map(|id| id as u32).collect();
    let decoded = tokenizer.decode_clean(&ids)? == trial.said::<String>("decoded_clean")?;
    trial.compare_flag("decoded_clean", decoded);
    let answer = tokenizer.decode_until_end(&ids[given..])? == trial.said::<String>("answer")?;
    trial.compare_flag("answer", answer);
    if let Some(told) = trial.said::<Option<Vec<u32>>>("answer_ids")? {
        let length = ids[given..].iter().take_while(|&&id| id != tokenizer.end()).count();
        trial.compare_flag("answer_ids", ids[given..][..length] == told);
    }
    // With the spaces before punctuation, which the pipeline takes away.
    if trial.said::<Option<String>>("decoded")?.is_some() {
        trial.pass_over("decoded");
    }
    Ok(())
}

fn open(trial: &Trial) -> Result<Pipeline> {
    let path = trial.set().folder(&trial.config::<String>("pipeline")?);
    Pipeline::on(Folder::open(path)?, trial.device())
}

fn stream_seed(trial: &Trial) -> Result<u64> {
    let stream: Value = trial.config("uniform_stream")?;
    let known = stream["algorithm"].as_str().is_some_and(|name| name.starts_with("splitmix64"));
    match stream["seed"].as_u64() {
        Some(seed) if known => Ok(seed),
        _ => Err(trial.malformed("config.uniform_stream", "expected splitmix64 and a seed")),
    }
}

/// Number i of the stream `seed`: splitmix64, of which the top 24 bits count.
/// Source: Steele, Lea & Flood 2014, figure 16.
fn uniform(seed: u64, i: usize) -> f32 {
    let z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of splitmix64 with seed 0 are published with its source code.
    #[test]
    fn the_stream_is_splitmix64() {
        let published = [0xE220_A839_7B1D_CDAF_u64, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F];
        for (i, word) in published.into_iter().enumerate() {
            assert_eq!(uniform(0, i), (word >> 40) as f32 / 16_777_216.0);
        }
    }
}
