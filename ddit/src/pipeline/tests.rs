//! A tiny untrained model, end to end: what it makes is noise, but the same noise in any company.

mod encoder;

use samplers::masked::Query;
use serde_json::json;

use super::*;
use crate::config::{GenerationConfig, SchedulerConfig, TransformerConfig, VaeConfig};
use crate::folder::Component;
use crate::weights::Inventory;
use crate::{mmdit, tiny, vae};

/// Weights that are not zero where a fresh model's are, stored in 16 bits as published ones.
fn weights(list: &Inventory) -> Vec<(String, Tensor)> {
    let stored = |(name, weight): (String, Tensor)| (name, weight.to_dtype(DType::BF16));
    tiny::lively(list, 0.05).into_iter().map(stored).collect()
}

/// A model of 16 x 16 pictures; with an autoencoder, of 8 x 8 latents.
fn folder(recipe: Recipe, with_vae: bool) -> Folder {
    let tokenizer = Tokenizer::of_words(crate::shapes::WORDS).unwrap();
    let (channels, side) = if with_vae { (2, 8) } else { (3, 16) };
    let config = tiny::transformer(json!({
        "vocab_size": tokenizer.len(), "sample_size": side, "in_channels": channels,
        "out_channels": channels, "pos_embed_max_size": 12, "max_text_length": 12,
    }));
    let vae: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [2, 4], "layers_per_block": 1,
        "latent_channels": 2, "norm_num_groups": 2, "scaling_factor": 1.5, "shift_factor": 0.1,
    }))
    .unwrap();
    let generation = GenerationConfig { recipe, steps: 3, text_steps: 5, ..Default::default() };
    let vae = with_vae.then(|| Component { weights: weights(&vae::inventory(&vae)), config: vae });
    Folder {
        transformer: Component { weights: weights(&mmdit::inventory(&config)), config },
        text_encoder: None,
        vae,
        tokenizer,
        scheduler: SchedulerConfig::new(3.0),
        generation,
    }
}

fn pipeline(recipe: Recipe) -> Pipeline {
    Pipeline::new(folder(recipe, true)).unwrap()
}

fn picture(seed: u64) -> Picture {
    let bytes = (0..16 * 16 * 3).map(|i| (Rng::new(seed).word_at(i) >> 56) as u8);
    Picture::new(16, 16, bytes.collect()).unwrap()
}

/// One by one, as here, and two with one left.
#[test]
fn large_pictures_have_the_same_bits_decoded_a_few_at_a_time() {
    let mut folder = folder(Recipe::Paper, true);
    let vae = folder.vae.as_mut().expect("it has one");
    vae.config.mid_block_add_attention = false;
    vae.weights.retain(|(name, _)| !name.contains("attentions"));
    let pipeline = Pipeline::new(folder).unwrap();
    let own = pipeline.vae.as_ref().unwrap();
    for ([height, width], at_a_time) in [([200, 170], 1), ([200, 160], 2)] {
        assert_eq!(DECODED / (4 * height * width), at_a_time);
        let latents = Rng::new(1).normal([3, 2, height, width], DType::F32).unwrap();
        let whole = own.decode(&own.from_model(&latents.clone().into()).unwrap()).unwrap();
        let parts = pipeline.decode(&latents, None).unwrap();
        assert_eq!(parts.to_f64_vec(), whole.value().to_f64_vec());
    }
}

#[test]
fn an_error_of_whoever_watches_ends_the_sampling() {
    let pipeline = pipeline(Recipe::Paper);
    let mut calls = 0;
    let mut enough = |_: usize, _: usize| {
        calls += 1;
        Err(Error::value("test", "enough"))
    };
    let options = pipeline.generate_options();
    let drawn = pipeline.generate(&["a circle"], &options, &mut enough);
    let written = pipeline.caption(&[&picture(1)], &pipeline.write_options(), &mut enough);
    assert_eq!(drawn.unwrap_err().message(), "enough");
    assert_eq!(written.unwrap_err().message(), "enough");
    assert_eq!(calls, 2, "and no step is made after it");
}

#[test]
fn a_picture_is_the_same_in_any_company() {
    let pipeline = pipeline(Recipe::Paper);
    let prompts = ["a red circle", "two small squares", "a green triangle"];
    let options = GenerateOptions { seed: 7, batch: 2, trace: true, ..pipeline.generate_options() };
    let mut steps = Vec::new();
    let drawn = pipeline
        .generate(&prompts, &options, &mut |done, all| {
            steps.push((done, all));
            Ok(())
        })
        .unwrap();
    assert_eq!(steps, [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]);
    assert_ne!(drawn[0].picture, drawn[1].picture);
    for (prompt, together) in prompts.iter().zip(&drawn) {
        let options = GenerateOptions { seed: together.seed, ..options.clone() };
        let alone = &pipeline.generate(&[prompt], &options, &mut |_, _| Ok(())).unwrap()[0];
        assert_eq!(alone.picture, together.picture);
        assert_eq!((alone.seed, alone.trace.len()), (together.seed, 3));
        // The last step goes to noise level 0, where the estimate is the picture.
        assert_eq!(together.trace[2].estimate, together.picture);
        assert_eq!(together.trace[0].sigma, 1.0);
    }
    let shifted = GenerateOptions { shift: 2.0 * options.shift, ..options };
    let other = &pipeline.generate(&prompts[..1], &shifted, &mut |_, _| Ok(())).unwrap()[0];
    assert!(other.trace[1].sigma > drawn[0].trace[1].sigma, "more steps at higher levels");
    assert_ne!(other.picture, drawn[0].picture);
}

#[test]
fn the_best_candidate_is_kept() {
    let pipeline = pipeline(Recipe::Paper);
    let prompts = ["a red circle", "two small squares", "a green triangle"];
    let draw = |prompts: &[&str], seed, candidates| {
        let model = pipeline.generate_options();
        let options = GenerateOptions { seed, candidates, batch: 2, trace: true, ..model };
        pipeline.generate(prompts, &options, &mut |_, _| Ok(())).unwrap()
    };
    let steps = |drawn: &Generated| -> Vec<(f32, Picture)> {
        drawn.trace.iter().map(|step| (step.sigma, step.estimate.clone())).collect()
    };
    let look = WriteOptions { latents: Latents::Mode, ..pipeline.write_options() };
    let kept = draw(&prompts, 7, 4);
    for (i, (prompt, kept)) in prompts.into_iter().zip(&kept).enumerate() {
        let seed = 7 + i as u64;
        let alone = |candidate| {
            let own = generate::candidate_seed(seed, candidate);
            let mut drawn = draw(&[prompt], own, 1);
            assert_eq!((drawn[0].seed, &drawn[0].judgement), (own, &None));
            let (steps, picture) = (steps(&drawn[0]), drawn.remove(0).picture);
            let judgement = pipeline.judge(&[&picture], &[prompt]).unwrap().remove(0);
            let texts = [prompt, &judgement.caption];
            let found = pipeline.likelihood(&picture, &texts, &look, &mut |_, _| Ok(())).unwrap();
            assert_eq!(found, [judgement.likelihood, judgement.caption_likelihood]);
            assert_eq!(judgement.score(), found[0] + 0.3 * found[1]);
            (judgement, candidate, picture, steps)
        };
        let better = |a: &Judgement, b: &Judgement| a.score() > b.score();
        let best = (0..4).map(alone);
        let best = best.reduce(|a, b| if better(&b.0, &a.0) { b } else { a }).unwrap();
        assert_eq!((kept.judgement.as_ref(), kept.seed), (Some(&best.0), seed));
        assert_eq!((kept.candidate, &kept.picture, steps(kept)), (best.1, &best.2, best.3));
        let again = &draw(&[prompt], kept.seed, 4)[0];
        assert_eq!((&again.picture, again.candidate), (&kept.picture, kept.candidate));
    }
    assert!(kept.iter().any(|kept| kept.candidate != 0), "no comparison was made");
}

/// The chain rule by hand: one token after the other, of what the denoiser says of it.
#[test]
fn a_likelihood_is_that_of_revealing_from_left_to_right() {
    let pipeline = pipeline(Recipe::Paper);
    let options = pipeline.write_options();
    let picture = picture(3);
    let text = pipeline.tokenizer().encode("a red circle").unwrap();
    assert_eq!(text.last(), Some(&pipeline.tokenizer().end()));
    let mask = i64::from(pipeline.tokenizer().mask());
    let denoiser = pipeline.denoiser(&[&picture], &[5], &options).unwrap();
    let mut row = vec![mask; options.length];
    let mut expected = 0.0;
    for (position, &token) in text.iter().enumerate() {
        let masked: Vec<usize> = (position..row.len()).collect();
        let ids = Tensor::from_vec(row.clone(), [1, row.len()]).unwrap();
        let logits = denoiser(&Query { ids: &ids, items: &[0], masked: &masked }).unwrap();
        let logits = logits.select(0, 0).unwrap().to_f64_vec();
        let known = |&id: &usize| id as i64 != mask;
        let total: f64 = (0..logits.len()).filter(known).map(|id| logits[id].exp()).sum();
        expected += logits[token as usize] - total.ln();
        row[position] = i64::from(token);
    }
    let options = WriteOptions { seed: 5, batch: 3, ..options };
    let texts = ["a green square", "a red circle"];
    let found = pipeline.likelihood(&picture, &texts, &options, &mut |_, _| Ok(())).unwrap()[1];
    assert!((found - expected).abs() < 1e-9, "{found} {expected}");
}

#[test]
fn sizes_are_whole_patches() {
    let pipeline = pipeline(Recipe::Paper);
    let draw = |size| -> Result<(usize, usize)> {
        let options = GenerateOptions { size: Some(size), ..pipeline.generate_options() };
        let drawn = pipeline.generate(&["a circle"], &options, &mut |_, _| Ok(()))?;
        Ok((drawn[0].picture.width(), drawn[0].picture.height()))
    };
    assert_eq!(draw([24, 12]).unwrap(), (24, 12));
    for size in [[22, 16], [0, 16], [16, 52]] {
        let error = draw(size).unwrap_err().to_string();
        assert!(error.contains("multiples of 4, at most 48"), "{error}");
    }
}

/// What networks make of damaged weights is an error, and no black picture.
#[test]
fn what_is_no_number_is_no_picture() {
    let damaged = |damage: fn(&mut Folder) -> (&mut Vec<(String, Tensor)>, &str)| {
        let mut folder = folder(Recipe::Paper, true);
        let (weights, name) = damage(&mut folder);
        let (_, weight) = weights.iter_mut().find(|(known, _)| known == name).unwrap();
        *weight = Tensor::full(weight.shape(), f64::NAN, weight.dtype());
        let pipeline = Pipeline::new(folder).unwrap();
        let options = pipeline.generate_options();
        pipeline.generate(&["a circle"], &options, &mut |_, _| Ok(())).unwrap_err().to_string()
    };
    for error in [
        damaged(|folder| (&mut folder.transformer.weights, "image_proj_out.bias")),
        damaged(|folder| (&mut folder.vae.as_mut().unwrap().weights, "decoder.conv_out.bias")),
    ] {
        assert!(error.contains("picture 1 of 1") && error.contains("NaN"), "{error}");
    }
}

#[test]
fn texts_are_the_same_in_any_company() {
    let pipeline = pipeline(Recipe::Paper);
    let pictures = [picture(1), picture(2), picture(3)];
    for (_, sampler) in TextSampler::ALL {
        let options = WriteOptions { sampler, seed: 4, batch: 2, ..pipeline.write_options() };
        let seen: Vec<&Picture> = pictures.iter().collect();
        let together = pipeline.caption(&seen, &options, &mut |_, _| Ok(())).unwrap();
        assert_eq!(together.len(), 3);
        for (picture, written) in pictures.iter().zip(&together) {
            let options = WriteOptions { seed: written.seed, ..options.clone() };
            let alone = pipeline.caption(&[picture], &options, &mut |_, _| Ok(())).unwrap();
            assert_eq!(alone[0].ids, written.ids, "{sampler}");
            assert!(!written.ids.contains(&pipeline.tokenizer().mask()));
        }
    }
}

#[test]
fn answers_leave_the_question_alone() {
    for recipe in [Recipe::Paper, Recipe::Release] {
        let pipeline = pipeline(recipe);
        let seen = picture(1);
        let questions = [(&seen, "is there a circle?"), (&seen, "how many squares are there?")];
        let options = WriteOptions { trace: true, ..pipeline.write_options() };
        let written = pipeline.ask(&questions, &options, &mut |_, _| Ok(())).unwrap();
        for ((_, question), written) in questions.iter().zip(written) {
            let prompt = format!("Q: {question} A: ");
            let prompt = match recipe {
                Recipe::Paper => pipeline.tokenizer().encode_open(&prompt).unwrap(),
                Recipe::Release => pipeline.tokenizer().encode(&prompt).unwrap(),
            };
            assert_eq!(written.ids[..prompt.len()], prompt);
            let answer = pipeline.tokenizer().decode_until_end(&written.ids[prompt.len()..]);
            assert_eq!(written.text, answer.unwrap());
            // The other recipe's sampler fills what is left after its last step.
            if recipe == Recipe::Paper {
                assert_eq!(written.trace.last().unwrap().ids, written.ids);
            }
        }
    }
}

#[test]
fn templates_are_filled_where_they_have_holes() {
    let pipeline = pipeline(Recipe::Paper);
    let tokenizer = pipeline.tokenizer();
    let id = |word: &str| tokenizer.encode_open(word).unwrap()[0];
    let seen = picture(1);
    let templates = [(Some(&seen), "a _ circle and _{2}"), (None, "_ red square")];
    let options = WriteOptions { length: 8, ..pipeline.write_options() };
    let written = pipeline.fill(&templates, &options, &mut |_, _| Ok(())).unwrap();
    let first = &written[0].ids;
    assert_eq!([first[0], first[2], first[3]], [id("a"), id("circle"), id("and")]);
    assert_eq!(first[6..], [tokenizer.end(); 2]);
    assert_eq!(written[1].ids[1..3], [id("red"), id("square")]);
    for ids in [first, &written[1].ids] {
        assert!(ids.len() == 8 && !ids.contains(&tokenizer.mask()));
    }
    let error = pipeline.fill(&[(None, "a _{8}")], &options, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("8 tokens"), "{error}");
    let huge = pipeline.fill(&[(None, "_{18446744073709551615}")], &options, &mut |_, _| Ok(()));
    assert!(huge.is_err());
}

#[test]
fn a_folder_survives_being_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    for with_vae in [true, false] {
        let path = directory.path().join("model");
        let made = Pipeline::new(folder(Recipe::Paper, with_vae)).unwrap();
        made.folder().save(&path).unwrap();
        let read = Pipeline::open(&path).unwrap();
        assert_eq!(read.folder().generation, made.folder().generation);
        assert_eq!(read.folder().transformer.config, made.folder().transformer.config);
        assert_eq!(read.side(), 16);
        let draw = |pipeline: &Pipeline| {
            let options = pipeline.generate_options();
            pipeline.generate(&["a circle"], &options, &mut |_, _| Ok(())).unwrap()[0]
                .picture
                .clone()
        };
        assert_eq!(draw(&read), draw(&made));
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside the folder");
    }
}

#[test]
fn a_folder_in_memory_is_read_by_the_same_code() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    folder(Recipe::Paper, true).save(&path).unwrap();
    let names = [
        "model_index.json",
        "generation_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "scheduler/scheduler_config.json",
    ];
    let present = names.iter().filter(|name| path.join(name).exists());
    let files: Vec<(&str, Vec<u8>)> =
        present.map(|name| (*name, std::fs::read(path.join(name)).unwrap())).collect();
    let views: Vec<(&str, &[u8])> = files.iter().map(|(n, bytes)| (*n, &bytes[..])).collect();
    let embedded = Pipeline::from_bytes(&views).unwrap();
    assert_eq!(embedded.folder().generation.recipe, Recipe::Paper);
    let without: Vec<_> = views.into_iter().filter(|(name, _)| !name.contains("vae/")).collect();
    let error = Pipeline::from_bytes(&without).err().unwrap().to_string();
    assert!(error.contains("vae/config.json") && error.contains("vae/diffusion"), "{error}");
}

#[test]
fn folders_that_cannot_be_opened_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    let refusal = || Pipeline::open(&path).err().unwrap().to_string();
    assert!(refusal().contains("model_index.json"));
    folder(Recipe::Paper, true).save(&path).unwrap();
    std::fs::remove_dir_all(path.join("tokenizer")).unwrap();
    std::fs::remove_file(path.join("transformer/config.json")).unwrap();
    let error = refusal();
    assert!(error.contains("tokenizer/tokenizer.json"), "{error}");
    assert!(error.contains("transformer/config.json"), "{error}");
    let index = json!({ "text_encoder": ["transformers", "T5EncoderModel"] });
    std::fs::write(path.join("model_index.json"), index.to_string()).unwrap();
    let error = refusal();
    assert!(error.contains("text_encoder/config.json"), "{error}");
    assert!(error.contains("text_encoder/model.safetensors"), "{error}");
}
