//! Whole networks under their whole losses: gradients against finite differences in `f64`.

use autograd::{Params, Var, gradcheck};
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use super::*;
use crate::config::{Recipe, TransformerConfig, VaeConfig};
use crate::mmdit::{self, Mmdit};
use crate::pipeline::Model;
use crate::t5::{self, T5Config, T5Encoder};
use crate::tiny;
use crate::vae::{self, AutoencoderKl};
use crate::weights::Inventory;

const MASK: u32 = 3;
const LENGTH: usize = 3;

fn transformer_config() -> TransformerConfig {
    tiny::transformer(json!({}))
}

/// Values for every tensor of a list that is trained.
fn lively(list: &Inventory) -> Vec<(String, Tensor)> {
    let all = tiny::lively(list, 0.3).into_iter().zip(list.iter());
    all.filter(|(_, weight)| !weight.buffer).map(|(value, _)| value).collect()
}

/// Trained tensors, and the table of places, which is none.
fn params(names: &[String], values: &[Var]) -> Result<Params> {
    let table = Var::constant(mmdit::position_table(8, 4, 2).to_dtype(DType::F64));
    let trained = names.iter().cloned().zip(values.iter().cloned());
    Params::from_vars(trained.chain([("pos_embed.pos_embed".to_owned(), table)]))
}

fn objective(recipe: Recipe) -> Objective {
    let null = vec![1; LENGTH];
    Objective { recipe, text_weight: 0.7, caption_dropout: 0.5, noise_shift: 1.0, null, mask: MASK }
}

/// A batch of two pictures with captions, and two with texts, the second of them a question.
struct Batch {
    latents: Tensor,
    ids: [u32; 2 * LENGTH],
    learned: [bool; 2 * LENGTH],
}

impl Batch {
    fn new() -> Self {
        let latents = Rng::new(9).normal([2, 2, 4, 4], DType::F64).unwrap();
        let learned = [true, true, true, false, true, true];
        Self { latents, ids: [4, 5, 1, 6, 4, 1], learned }
    }

    fn pairs(&self) -> (ImagePairs<'_>, TextPairs<'_>) {
        let texts = Texts { ids: &self.ids, learned: &self.learned, counted: None, length: LENGTH };
        let latents = &self.latents;
        (ImagePairs { latents, ids: &self.ids }, TextPairs { latents, texts })
    }
}

#[test]
fn joint_loss_has_the_gradient_of_its_differences() {
    let weights = lively(&mmdit::inventory(&transformer_config()));
    let (names, values): (Vec<_>, Vec<_>) = weights.into_iter().unzip();
    let batch = Batch::new();
    let (images, texts) = batch.pairs();
    let draws = Draws::new(2, 0);
    for recipe in [Recipe::Paper, Recipe::Release] {
        let objective = objective(recipe);
        let image_draws = draws.image(0..2, [2, 4, 4], recipe, 0.5).unwrap();
        let text_draws = TextDraws { times: vec![0.9, 0.7], uniforms: vec![0.5; 2 * LENGTH] };
        let loss = |values: &[Var]| {
            let transformer = Mmdit::new(transformer_config(), &params(&names, values)?)?;
            let model = Model { transformer, text_encoder: None };
            let image = objective.image_loss(&model, &images, &image_draws)?.mean;
            let text = objective.text_loss(&model, &texts, &text_draws)?.mean;
            image.add(&text.mul_scalar(objective.text_weight)?)
        };
        let report = gradcheck(loss, &values).unwrap();
        assert!(report.passed(), "{recipe}: {report}");
        assert!(report.inputs.len() > 60, "{} tensors have a gradient", report.inputs.len());
    }
}

#[test]
fn parts_of_a_batch_make_the_gradient_of_the_whole() {
    let weights = lively(&mmdit::inventory(&transformer_config()));
    let (names, values): (Vec<_>, Vec<_>) =
        weights.into_iter().map(|(name, value)| (name, Var::parameter(value))).unzip();
    let run = |parts: usize, checkpointing: bool| {
        let params = params(&names, &values).unwrap();
        let transformer = Mmdit::new(transformer_config(), &params).unwrap();
        let transformer = transformer.with_checkpointing(checkpointing);
        let model = Model { transformer, text_encoder: None };
        let batch = Batch::new();
        let (images, texts) = batch.pairs();
        let objective = objective(Recipe::Paper);
        objective.gradients(&model, &images, &texts, &Draws::new(2, 0), parts).unwrap()
    };
    let ((whole, losses), (parts, part_losses)) = (run(1, false), run(2, false));
    let (again, _) = run(1, true);
    assert!((losses.total - losses.image - 0.7 * losses.text).abs() < 1e-15);
    assert!((losses.total - part_losses.total).abs() < 1e-12);
    assert!(losses.text > 0.0, "some token is masked");
    for (loss, found, apart) in [
        (losses.image, losses.image_by_noise, part_losses.image_by_noise),
        (losses.text, losses.text_by_noise, part_losses.text_by_noise),
    ] {
        assert!((found.sums.iter().sum::<f64>() / 2.0 - loss).abs() < 1e-12, "two samples' mean");
        // Parts of one sample each have that sample's loss and nothing else.
        assert_eq!((found.counts, found.counts.iter().sum::<u64>()), (apart.counts, 2));
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
        assert!(found.sums.iter().zip(&apart.sums).all(close), "{found:?} and {apart:?}");
    }
    assert_eq!(losses.text_by_noise.counts[..2].iter().sum::<u64>(), 1, "times are stratified");
    for (name, value) in names.iter().zip(&values) {
        let Some(gradient) = whole.get(value) else {
            assert_eq!(name, "null_image_embd");
            continue;
        };
        let gradients = gradient.to_f64_vec();
        let size = gradients.iter().fold(1e-3, |size: f64, g| size.max(g.abs()));
        for (a, b) in gradients.iter().zip(parts.get(value).unwrap().to_f64_vec()) {
            assert!((a - b).abs() < 1e-12 * size, "{name}: {a} and {b}");
        }
        assert_eq!(gradients, again.get(value).unwrap().to_f64_vec(), "{name} checkpointed");
    }
}

/// A caption's states are given to the image pass; how a masked text is read can be learnt.
#[test]
fn only_the_text_pass_leads_into_a_text_encoder() {
    let geometry = TransformerConfig {
        text_embedding: false,
        max_text_length: None,
        joint_attention_dim: 6,
        ..transformer_config()
    };
    let encoder: T5Config = serde_json::from_value(json!({
        "vocab_size": 7, "d_model": 6, "d_kv": 2, "d_ff": 5, "num_layers": 2, "num_heads": 3,
        "feed_forward_proj": "gated-gelu",
    }))
    .unwrap();
    let parameters = |list: &Inventory| -> (Vec<String>, Vec<Var>) {
        lively(list).into_iter().map(|(name, value)| (name, Var::parameter(value))).unzip()
    };
    let (names, values) = parameters(&mmdit::inventory(&geometry));
    let transformer = Mmdit::new(geometry, &params(&names, &values).unwrap()).unwrap();
    let (names, values) = parameters(&t5::inventory(&encoder));
    let store = Params::from_vars(names.into_iter().zip(values.clone())).unwrap();
    let text_encoder = Some(T5Encoder::new(encoder, &store).unwrap());
    let model = Model { transformer, text_encoder };
    let (objective, batch) = (objective(Recipe::Paper), Batch::new());
    let (images, texts) = batch.pairs();
    let drawn = Draws::new(2, 0).image(0..2, [2, 4, 4], Recipe::Paper, 0.5).unwrap();
    let image = objective.image_loss(&model, &images, &drawn).unwrap().mean.backward().unwrap();
    let drawn = TextDraws { times: vec![0.9, 0.7], uniforms: vec![0.5; 2 * LENGTH] };
    let text = objective.text_loss(&model, &texts, &drawn).unwrap().mean.backward().unwrap();
    assert!(values.iter().all(|value| image.get(value).is_none()));
    assert!(values.iter().all(|value| text.get(value).is_some()));
}

#[test]
fn a_fresh_model_predicts_no_velocity() {
    let config = transformer_config();
    let fresh = mmdit::inventory(&config).fresh(3, DType::F32).unwrap();
    let constants = fresh.into_iter().map(|(name, value)| (name, Var::constant(value)));
    let model = Mmdit::new(config, &Params::from_vars(constants).unwrap()).unwrap();
    let latents = Var::constant(Tensor::ones([1, 2, 5, 4], DType::F32));
    let text = mmdit::TextInput::Ids(&[4, 5], 2);
    let [velocity, tokens] = model.both(Some(&latents), text, &[500.0]).unwrap();
    assert_eq!(*velocity.shape(), [1, 2, 4, 4]);
    assert_eq!(velocity.value().to_f64_vec(), [0.0; 32]);
    assert_eq!(*model.text_logits(&tokens).unwrap().shape(), [1, 2, 7]);
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let config = transformer_config();
    let fresh = mmdit::inventory(&config).fresh(3, DType::F32).unwrap();
    let constants = fresh.into_iter().map(|(name, value)| (name, Var::constant(value)));
    let model = Mmdit::new(config, &Params::from_vars(constants).unwrap()).unwrap();
    let run = |shape: [usize; 4], ids: &[u32], length: usize, times: &[f32]| {
        let latents = Var::constant(Tensor::zeros(shape, DType::F32));
        let text = mmdit::TextInput::Ids(ids, length);
        model.both(Some(&latents), text, times).map(|_| ())
    };
    run([1, 2, 4, 4], &[4; 4], 4, &[1.0]).unwrap();
    for (told, result) in [
        ("1 to 4", run([1, 2, 10, 4], &[4], 1, &[1.0])),
        ("1 to 4", run([1, 2, 1, 4], &[4], 1, &[1.0])),
        ("1 to 4 tokens", run([1, 2, 4, 4], &[4; 5], 5, &[1.0])),
        ("2 times", run([1, 2, 4, 4], &[4], 1, &[1.0, 2.0])),
        ("image tokens", run([1, 2, 4, 4], &[4; 2], 1, &[1.0, 2.0])),
        ("no row 7", run([1, 2, 4, 4], &[7], 1, &[1.0])),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn autoencoder_loss_has_the_gradient_of_its_differences() {
    let config: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [2, 4], "layers_per_block": 1,
        "latent_channels": 2, "norm_num_groups": 2, "scaling_factor": 1.5, "shift_factor": 0.1,
    }))
    .unwrap();
    let (names, values): (Vec<_>, Vec<_>) = lively(&vae::inventory(&config)).into_iter().unzip();
    // Far from what an untrained decoder gives: |x̂ − x| has no slope at 0.
    let pixels = Rng::new(1).normal([144], DType::F64).unwrap().to_f64_vec();
    let pixels: Vec<f64> = pixels.into_iter().map(|x| x + 10.0).collect();
    let pictures = Tensor::from_vec(pixels, [2, 3, 4, 6]).unwrap();
    let noise = Rng::new(2).normal([2, 2, 2, 3], DType::F64).unwrap();
    let loss = |values: &[Var]| {
        let vae = AutoencoderKl::new(config.clone(), &params(&names, values)?)?;
        Ok(VaeObjective::default().loss(&vae, &pictures, &noise)?.total)
    };
    let report = gradcheck(loss, &values).unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(report.inputs.len(), names.len());
}
