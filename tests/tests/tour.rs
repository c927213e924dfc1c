//! The step that `docs/tour.md` follows, taken by hand: the weights are the trainer's, to the last
//! bit. The code on that page is this file's.

use autograd::Params;
use ddit::config::Recipe;
use ddit::data::{Dataset, Order, Purpose, stream};
use ddit::mmdit::{Mmdit, TextInput, inventory};
use ddit::objective::{Corrupted, Draws, Noised, Texts, drop_captions};
use ddit::text::{Row, Tokenizer};
use ddit::train::learner::Learner;
use ddit::train::setup::transformer_geometry;
use ddit::train::{RunConfig, Trainer};
use ddit::weights::Inventory;
use samplers::flow::{ImageLoss, timestep};
use tensor::{DType, Device, Result, Tensor};

/// Steps taken: gates that start shut are open after the first.
const STEPS: u64 = 3;

fn config() -> Result<RunConfig> {
    let overrides = [
        "autoencoder.source=none",
        "data.scenes=16",
        "data.questions=0.5",
        "model.patch=16",
        "batch.images=4",
        "batch.texts=4",
    ];
    RunConfig::load("tiny", &overrides.map(str::to_owned))
}

/// The rows of the text pass: captions, and questions with their answers.
fn text_row(
    config: &RunConfig,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    [step, row, sample]: [usize; 3],
) -> Result<Row> {
    let mut rng = stream(config.seed, Purpose::Text, step as u64, row);
    let (length, end) = (config.model.text_length, tokenizer.end());
    let asks = rng.next_uniform() < config.data.questions;
    if asks && let Some(asked) = dataset.question(sample, &mut rng) {
        return tokenizer.answer_row(&asked.question, &asked.answer, length, end);
    }
    tokenizer.caption_row(&dataset.caption(sample, &mut rng), length, end)
}

#[test]
fn the_tour_takes_the_trainers_steps() -> Result<()> {
    let config = config()?;
    let dataset = Dataset::open(&config.data, config.seed, &mut |_, _| Ok(()))?;
    let tokenizer = dataset.tokenizer(config.data.vocabulary)?;
    let (length, end) = (config.model.text_length, tokenizer.end());

    let geometry = transformer_geometry(&config.model, [3, 64, 64], tokenizer.len());
    let inventory = inventory(&geometry);
    let learns = |name: &str| !inventory.iter().any(|w| w.buffer && name.ends_with(&w.name));
    let mut learner =
        Learner::new(named(&inventory, config.seed)?, learns, &config.optimizer, &Device::Cpu)?;
    let model = Mmdit::new(geometry, &learner.params().scope("transformer"))?;

    let mut image_order = Order::new(config.seed, Purpose::ImageOrder, dataset.len());
    let mut text_order = Order::new(config.seed, Purpose::TextOrder, dataset.len());
    let null = tokenizer.caption_row("", length, end)?.ids;
    for step in 0..STEPS {
        // Two batches of different samples.
        let (images, texts) = (config.batch.images, config.batch.texts);
        let image_samples = image_order.batch(step, images);
        let text_samples = text_order.batch(step, texts);
        let draws = Draws::new(config.seed, step);

        // Pixels, and words as numbers.
        let clean = dataset.pictures(&image_samples)?;
        let mut captions = Vec::new();
        for (row, &sample) in image_samples.iter().enumerate() {
            let mut rng = stream(config.seed, Purpose::ImageCaption, step, row);
            let caption = dataset.caption(sample, &mut rng);
            captions.extend(tokenizer.caption_row(&caption, length, end)?.ids);
        }

        // The image pass: noisy pictures beside clean captions.
        let drawn = draws.image(0..images, [3, 64, 64], Recipe::Paper, 0.1)?;
        let ids = drop_captions(&captions, &null, &drawn.drop)?;
        let noised = Noised::new(&clean, &drawn)?;
        let times: Vec<f32> = noised.sigma.iter().map(|&sigma| timestep(sigma)).collect();
        let text = TextInput::Ids(&ids, length);
        let velocity = model.velocity(&noised.state, text, &times)?;
        let image_loss = noised.velocity_loss(&velocity, ImageLoss::Velocity)?;
        let mut grads = image_loss.backward()?;

        // The text pass: masked texts beside clean pictures.
        let (mut ids, mut learned) = (Vec::new(), Vec::new());
        for (row, &sample) in text_samples.iter().enumerate() {
            let row = text_row(&config, &dataset, &tokenizer, [step as usize, row, sample])?;
            ids.extend(row.ids);
            learned.extend(row.learn);
        }
        let drawn = draws.text(0..texts, 0..texts, length);
        let rows = Texts { ids: &ids, learned: &learned, counted: None, length };
        let corrupted = Corrupted::new(&rows, &drawn, tokenizer.mask(), Recipe::Paper)?;
        let text_loss =
            corrupted.loss(&model, &dataset.pictures(&text_samples)?, corrupted.input())?;

        // One gradient of both, and the weights follow it.
        let joint = text_loss.mean.mul_scalar(config.objective.text_weight)?;
        joint.backward_into(&mut grads)?;
        let rate = config.optimizer.rate(step, config.run.steps);
        learner.update(&grads, rate)?;
    }

    let folder = tempfile::tempdir().expect("there is a place for it");
    let mut trainer = Trainer::open(config, folder.path(), &Device::Cpu, &mut |_, _| Ok(()))?;
    for _ in 0..STEPS {
        trainer.step()?;
    }
    assert_eq!(bits(&learner.weights())?, bits(&trainer.weights())?);
    assert!(moved(learner.params(), &named(&inventory, 0)?));
    Ok(())
}

/// Fresh weights by their names in a pipeline.
fn named(inventory: &Inventory, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let named = |(name, weight): (String, Tensor)| (format!("transformer.{name}"), weight);
    Ok(inventory.fresh(seed, DType::F32)?.into_iter().map(named).collect())
}

fn bits(weights: &[(String, Tensor)]) -> Result<Vec<(&str, Vec<u32>)>> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
        Ok(tensor.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    weights.iter().map(|(name, tensor)| Ok((name.as_str(), bits(tensor)?))).collect()
}

/// Whether every trained weight that has a part in training is no longer what it was.
fn moved(params: &Params, fresh: &[(String, Tensor)]) -> bool {
    let trained = params.trained().filter(|(name, _)| !name.ends_with("null_image_embd"));
    trained.into_iter().all(|(name, weight)| {
        let (_, before) = fresh.iter().find(|(n, _)| n == name).expect("names are the same");
        weight.value().to_f64_vec() != before.to_f64_vec()
    })
}
