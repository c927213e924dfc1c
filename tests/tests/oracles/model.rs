//! The equations that a whole D-DiT has to do with: its losses, its likelihood, its attention.

use autograd::{Grads, Params, Var};
use ddit::config::Recipe;
use ddit::mmdit::TextInput;
use ddit::objective::{Draws, ImagePairs, Losses, TextPairs, Texts};
use ddit::pipeline::Model;
use proptest::prelude::*;
use samplers::masked::{Likelihood, LogLinear, MIN_TIME, Query};
use tensor::Tensor;
use tests::stats::mean_and_error;
use tests::tiny::{self, LATENTS, MASK, VOCAB};

use crate::likelihood::permutations;

/// A caption with a prompt of one token, which is given.
const TEXT: [u32; 6] = [4, 0, 6, 1, 5, 2];
const LEARNED: [bool; 6] = [false, true, true, true, true, true];
const SCORED: [usize; 5] = [1, 2, 3, 4, 5];

fn ids() -> [i64; 6] {
    TEXT.map(i64::from)
}

fn likelihood(tokens: &[i64]) -> Likelihood<'_> {
    Likelihood { tokens, scored: &SCORED, mask: i64::from(MASK), batch: 32 }
}

/// −ln of the softmax without the mask, at one token.
fn surprisal(logits: &[f64], token: u32) -> f64 {
    let words = (0..VOCAB).filter(|&v| v != MASK as usize);
    words.map(|v| logits[v].exp()).sum::<f64>().ln() - logits[token as usize]
}

/// `ℓ(S)` for every set S of learnt tokens, by bits.
fn cross_entropies(model: &Model, picture: &Tensor) -> Vec<f64> {
    let sets: Vec<Vec<usize>> = (1..1 << SCORED.len())
        .map(|bits: usize| (0..5).filter(|i| bits >> i & 1 == 1).map(|i| SCORED[i]).collect())
        .collect();
    let mut rows = vec![ids(); sets.len()];
    for (row, set) in rows.iter_mut().zip(&sets) {
        set.iter().for_each(|&i| row[i] = i64::from(MASK));
    }
    let cells = sets.iter().enumerate().flat_map(|(r, set)| set.iter().map(move |i| r * 6 + i));
    let masked: Vec<usize> = cells.collect();
    let tokens = Tensor::from_vec(rows.concat(), [rows.len(), 6]).unwrap();
    let query = Query { ids: &tokens, items: &vec![0; rows.len()], masked: &masked };
    let logits = tiny::denoise(model, picture, &query).unwrap().to_f64_vec();
    let mut all = vec![0.0; sets.len() + 1];
    for (&cell, logits) in masked.iter().zip(logits.chunks(VOCAB)) {
        all[cell / 6 + 1] += surprisal(logits, TEXT[cell % 6]);
    }
    all
}

/// What the trainer minimises, drawn as the trainer draws, is the bound on the mean. It draws
/// t from [0.001, 1], and in recipe `release` masks with 0.999 t: the integral of the loss over
/// these times is what the mean is held against, and the NELBO is within 0.2 % of it.
#[test]
fn equation_7_training_loss_has_the_nelbo_as_its_mean() {
    const BATCH: usize = 16;
    const STEPS: u64 = 600;
    let (model, _) = tiny::model().unwrap();
    let picture = tiny::latents(71, 1).unwrap();
    let of_set = cross_entropies(&model, &picture);
    let nelbo = likelihood(&ids()).nelbo(|query| tiny::denoise(&model, &picture, query)).unwrap();

    let latents = picture.index_rows(&[0; BATCH]).unwrap();
    let (tokens, learned) = (TEXT.repeat(BATCH), LEARNED.repeat(BATCH));
    let texts = Texts { ids: &tokens, learned: &learned, counted: None, length: 6 };
    let pairs = TextPairs { latents: &latents, texts };
    for (recipe, noise, divisor) in
        [(Recipe::Paper, LogLinear::PAPER, 5.0), (Recipe::Release, LogLinear::RELEASE, 6.0)]
    {
        let at = |t: f64| {
            let p = noise.mask_probability(t);
            let chance = |k: u32| p.powi(k as i32) * (1.0 - p).powi(5 - k as i32);
            let loss = |(bits, loss): (usize, &f64)| chance(bits.count_ones()) * loss;
            of_set.iter().enumerate().map(loss).sum::<f64>() / t
        };
        // A polynomial of degree 4, which three Gauss–Legendre points integrate exactly.
        let middle = |x: f64| 0.5 * (1.0 + MIN_TIME) + 0.5 * (1.0 - MIN_TIME) * x;
        let root = 0.6_f64.sqrt();
        let mean =
            (5.0 * at(middle(-root)) + 8.0 * at(middle(0.0)) + 5.0 * at(middle(root))) / 18.0;
        assert!((mean - nelbo).abs() < 2e-3 * nelbo, "{recipe}: {mean} and {nelbo}");

        let objective = tiny::objective(recipe, 1.0, 6);
        let loss = |step| {
            let draws = Draws::new(72, step).text(0..BATCH, 0..BATCH, 6);
            divisor * objective.text_loss(&model, &pairs, &draws).unwrap().mean.item().unwrap()
        };
        let losses: Vec<f64> = (0..STEPS).map(loss).collect();
        let (found, error) = mean_and_error(&losses);
        assert!((found - mean).abs() < 4.0 * error, "{recipe}: {found} ± {error} of {mean}");
        assert!(error < 0.05 * mean, "{recipe}: {found} ± {error} tells nothing");
    }
}

/// A denoiser that is not told the time may reveal words in any order, and the bound is the mean
/// over all orders.
#[test]
fn equation_7_nelbo_of_a_d_dit_is_the_mean_over_all_orders() {
    let (model, _) = tiny::model().unwrap();
    let picture = tiny::latents(73, 1).unwrap();
    let denoiser = |query: &Query| tiny::denoise(&model, &picture, query);
    let tokens = ids();
    let likelihood = likelihood(&tokens);
    let orders = permutations(&SCORED);
    let chains: Vec<f64> =
        orders.iter().map(|order| likelihood.chain_rule(order, denoiser).unwrap()).collect();
    let mean = chains.iter().sum::<f64>() / chains.len() as f64;
    let nelbo = likelihood.nelbo(denoiser).unwrap();
    assert!((mean - nelbo).abs() < 1e-10, "{mean} and {nelbo}");
    assert!(chains.iter().any(|chain| (chain - mean).abs() > 0.01), "orders differ");
}

/// A step's pictures and texts.
#[derive(Clone, Debug)]
struct Batch {
    latents: [Tensor; 2],
    ids: [Vec<u32>; 2],
    learned: Vec<bool>,
}

const BATCH: usize = 3;
const LENGTH: usize = 4;

impl Batch {
    fn pairs(&self) -> (ImagePairs<'_>, TextPairs<'_>) {
        let [latents, others] = &self.latents;
        let (ids, learned) = (&self.ids[1], &self.learned);
        let texts = Texts { ids, learned, counted: None, length: LENGTH };
        (ImagePairs { latents, ids: &self.ids[0] }, TextPairs { latents: others, texts })
    }

    fn gradients(&self, model: &Model, draws: &Draws, text_weight: f64) -> (Grads, Losses) {
        let (images, texts) = self.pairs();
        let objective = tiny::objective(Recipe::Paper, text_weight, LENGTH);
        objective.gradients(model, &images, &texts, draws, 1).unwrap()
    }
}

/// Batches of words, without a mask among them.
fn batches() -> impl Strategy<Value = Batch> {
    let word = || (0..VOCAB as u32 - 1).prop_map(|id| if id < MASK { id } else { id + 1 });
    let words = || prop::collection::vec(word(), BATCH * LENGTH);
    let learned = prop::collection::vec(any::<bool>(), BATCH * LENGTH);
    (any::<[u32; 2]>(), words(), words(), learned).prop_map(|(seeds, a, b, learned)| {
        let latents = seeds.map(|seed| tiny::latents(u64::from(seed), BATCH).unwrap());
        Batch { latents, ids: [a, b], learned }
    })
}

/// The pass of the network that a loss is computed from, with nothing left out.
fn pass(model: &Model, latents: Tensor, ids: &[u32], times: &[f32]) -> [Var; 2] {
    let (latents, text) = (Var::constant(latents), TextInput::Ids(ids, LENGTH));
    let [velocity, tokens] = model.transformer.both(Some(&latents), text, times).unwrap();
    [velocity, model.transformer.text_logits(&tokens).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In the image pass latents are noisy and the caption is clean, but for what dropout takes;
    /// and what the text pass works on has no say in it.
    #[test]
    fn equation_8_image_pass_sees_clean_text(
        batch in batches(),
        other in batches(),
        step in 0_u64..1 << 30,
    ) {
        let (model, params) = tiny::model().unwrap();
        let draws = Draws::new(81, step);
        let (grads, losses) = batch.gradients(&model, &draws, 0.0);

        let drawn = draws.image(0..BATCH, LATENTS, Recipe::Paper, 0.5).unwrap();
        let (clean, noise) = (batch.latents[0].to_f64_vec(), drawn.noise.to_f64_vec());
        let size = clean.len() / BATCH;
        let sigma = |i: usize| f64::from(drawn.sigma[i / size]);
        let noisy = (0..clean.len()).map(|i| (1.0 - sigma(i)) * clean[i] + sigma(i) * noise[i]);
        let noisy = Tensor::from_vec(noisy.collect::<Vec<_>>(), batch.latents[0].shape()).unwrap();
        let mut ids = batch.ids[0].clone();
        for (caption, _) in ids.chunks_mut(LENGTH).zip(&drawn.drop).filter(|(_, drop)| **drop) {
            caption.fill(1);
        }
        let times: Vec<f32> = drawn.sigma.iter().map(|sigma| 1000.0 * sigma).collect();
        let [velocity, _] = pass(&model, noisy, &ids, &times);
        let error = |(i, v): (usize, f64)| (v - (noise[i] - clean[i])).powi(2);
        let squares: f64 = velocity.value().to_f64_vec().into_iter().enumerate().map(error).sum();
        let expected = squares / clean.len() as f64;
        prop_assert!((losses.image - expected).abs() < 1e-12 * expected);

        // No gradient reaches the mask's embedding: the image pass never saw it.
        let embedding = params.get("token_embedding.weight").unwrap();
        let of_mask = grads.get(&embedding).unwrap().select(0, MASK as usize).unwrap();
        prop_assert!(of_mask.to_f64_vec().iter().all(|&g| g == 0.0));

        let mixed = Batch {
            latents: [batch.latents[0].clone(), other.latents[1].clone()],
            ids: [batch.ids[0].clone(), other.ids[1].clone()],
            ..other
        };
        let (_, apart) = mixed.gradients(&model, &draws, 0.0);
        prop_assert_eq!(losses.image.to_bits(), apart.image.to_bits());
    }

    /// In the text pass the text is masked and the picture is clean, at time 0; and neither the
    /// noise of the image pass nor its pictures have a say in it.
    #[test]
    fn equation_8_text_pass_sees_a_clean_picture(
        batch in batches(),
        other in batches(),
        step in 0_u64..1 << 30,
    ) {
        let (model, _) = tiny::model().unwrap();
        let draws = Draws::new(82, step);
        let (_, losses) = batch.gradients(&model, &draws, 1.0);

        let drawn = draws.text(0..BATCH, 0..BATCH, LENGTH);
        let time = |i: usize| drawn.times[i / LENGTH];
        let hidden = |i: usize| batch.learned[i] && drawn.uniforms[i] < time(i);
        let clean = &batch.ids[1];
        let ids: Vec<u32> =
            (0..clean.len()).map(|i| if hidden(i) { MASK } else { clean[i] }).collect();
        let [_, logits] = pass(&model, batch.latents[1].clone(), &ids, &[0.0; BATCH]);
        let logits = logits.value().to_f64_vec();
        let share = |i: usize| {
            let text = i / LENGTH * LENGTH..(i / LENGTH + 1) * LENGTH;
            (BATCH * text.filter(|&i| batch.learned[i]).count()) as f64
        };
        let loss = |i: usize| surprisal(&logits[i * VOCAB..][..VOCAB], clean[i]);
        let expected: f64 = (0..clean.len())
            .filter(|&i| hidden(i))
            .map(|i| loss(i) / time(i) / share(i))
            .sum();
        prop_assert!((losses.text - expected).abs() <= 1e-12 * expected);

        let mixed = Batch {
            latents: [other.latents[0].clone(), batch.latents[1].clone()],
            ids: [other.ids[0].clone(), batch.ids[1].clone()],
            learned: batch.learned.clone(),
        };
        let (_, apart) = mixed.gradients(&model, &draws, 1.0);
        prop_assert_eq!(losses.text.to_bits(), apart.text.to_bits());
    }

    /// The gradient of the joint loss is the sum of its terms' gradients. With λ = 0 nothing of
    /// it reaches the text head; and none of the text loss ever reaches the image head.
    #[test]
    fn equation_9_gradient_of_the_sum_is_the_sum_of_gradients(
        batch in batches(),
        text_weight in 0.1_f64..2.0,
        step in 0_u64..1 << 30,
    ) {
        let (model, params) = tiny::model().unwrap();
        let draws = Draws::new(91, step);
        let (joint, losses) = batch.gradients(&model, &draws, text_weight);
        let (image, image_losses) = batch.gradients(&model, &draws, 0.0);
        prop_assert_eq!(losses.image.to_bits(), image_losses.image.to_bits());
        let total = losses.image + text_weight * losses.text;
        prop_assert!((losses.total - total).abs() < 1e-12 * total);

        let objective = tiny::objective(Recipe::Paper, 1.0, LENGTH);
        let drawn = draws.text(0..BATCH, 0..BATCH, LENGTH);
        let text_loss = objective.text_loss(&model, &batch.pairs().1, &drawn).unwrap().mean;
        let text = match text_loss.is_tracked() {
            true => text_loss.backward().unwrap(),
            false => Grads::default(),
        };
        compare(&params, [&joint, &image, &text], text_weight)?;
    }
}

/// `joint = image + λ·text` for every parameter, and which of them the terms leave out.
fn compare(
    params: &Params,
    [joint, image, text]: [&Grads; 3],
    text_weight: f64,
) -> Result<(), TestCaseError> {
    for (name, weight) in params.trained() {
        let of =
            |grads: &Grads| grads.get(weight).map_or(vec![0.0; weight.numel()], |g| g.to_f64_vec());
        let [joint, image, text] = [of(joint), of(image), of(text)];
        let size = image.iter().chain(&text).fold(1e-3, |size: f64, g| size.max(g.abs()));
        for ((joint, image), text) in joint.iter().zip(&image).zip(&text) {
            let sum = image + text_weight * text;
            prop_assert!((joint - sum).abs() < 1e-12 * size, "{}: {} and {}", name, joint, sum);
        }
        let zero = |gradient: &[f64]| gradient.iter().all(|&g| g == 0.0);
        if name.starts_with("text_proj_out") {
            prop_assert!(zero(&image), "{} without a text loss", name);
        }
        if name.starts_with("image_proj_out") || name.starts_with("image_norm_out") {
            prop_assert!(zero(&text), "{} without an image loss", name);
            prop_assert!(!zero(&image), "{} learns nothing", name);
        }
    }
    Ok(())
}

/// Attention knows no order: without the embeddings of places, tokens that change places take
/// their results with them, and the other modality does not notice.
#[test]
fn attention_is_permutation_equivariant() {
    let placeless = tiny::params(|name, value| match name {
        "pos_embed.pos_embed" | "text_pos_embed" => Tensor::zeros(value.shape(), value.dtype()),
        _ => value,
    })
    .unwrap();
    let placeless = tiny::on(&placeless).unwrap();
    let (placed, _) = tiny::model().unwrap();
    // Patches and words in another order: [0, 1, 2, 3] to this.
    let order = [2, 0, 3, 1];
    let latents = tiny::latents(3, 1).unwrap();
    let words = [4, 0, 6, 2];
    let patch = |x: &Tensor, p: usize| -> Tensor {
        x.narrow(2, 2 * (p / 2), 2).unwrap().narrow(3, 2 * (p % 2), 2).unwrap()
    };
    let row =
        |x: &Tensor, a: usize, b: usize| Tensor::cat(&[&patch(x, a), &patch(x, b)], 3).unwrap();
    let permuted = |x: &Tensor| {
        Tensor::cat(&[&row(x, order[0], order[1]), &row(x, order[2], order[3])], 2).unwrap()
    };
    let furthest = |a: &Tensor, b: &Tensor| {
        let pairs = a.to_f64_vec().into_iter().zip(b.to_f64_vec());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let apart = |model: &Model| {
        let [velocity, logits] = pass(model, latents.clone(), &words, &[300.0]);
        let turned = pass(model, permuted(&latents), &order.map(|i| words[i]), &[300.0]);
        let words = logits.value().reshape([LENGTH, VOCAB]).unwrap().index_rows(&order).unwrap();
        let images = furthest(&permuted(&velocity.value()), &turned[0].value());
        images.max(furthest(&words, &turned[1].value().reshape([LENGTH, VOCAB]).unwrap()))
    };
    assert!(apart(&placeless) < 1e-12, "{}", apart(&placeless));
    assert!(apart(&placed) > 1e-2, "places tell tokens apart");
}
