//! Networks and losses against stored results of the official model.
//!
//! The results are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository, and without them the tests say so and pass, unless
//! `DDIT_REQUIRE_SHARED=1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use autograd::{Params, Var, backward_with};
use ddit::config::{Recipe, TransformerConfig, VaeConfig};
use ddit::mmdit::{self, Input, Mmdit, TextInput, Want};
use ddit::objective::{Corrupted, ImageDraws, Noised, TextDraws, Texts, noise_level};
use ddit::vae::{self, AutoencoderKl};
use ddit::weights::Inventory;
use samplers::flow::{Guidance, ImageLoss, Pass, Schedule, Solver, timestep};
use samplers::masked::{MIN_TIME, stratified_times, subs_log_probs};
use serde_json::Value;
use tensor::io::safetensors::SafeTensors;
use tensor::{DType, Tensor};

/// The fixture set: its folder and what is in it.
struct Fixtures {
    root: PathBuf,
    manifest: Value,
}

/// One case: what is given, what is expected, and how near is near enough.
struct Case<'a> {
    entry: &'a Value,
    file: SafeTensors,
    misses: Vec<String>,
}

impl Fixtures {
    fn open() -> Option<Self> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
        let root = PathBuf::from(shared).join("reference/fixtures");
        let Ok(manifest) = std::fs::read(root.join("manifest.json")) else {
            let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
            assert!(!required, "no fixtures at {}", root.display());
            eprintln!("skipped: no fixtures at {}", root.display());
            return None;
        };
        // Python writes a number that JSON does not have.
        let text = String::from_utf8(manifest).unwrap().replace(": Infinity", ": null");
        Some(Self { manifest: serde_json::from_str(&text).unwrap(), root })
    }

    /// Every case of a kind, judged by `check`; fails with everything that missed.
    fn each(&self, kind: &str, mut check: impl FnMut(&mut Case)) {
        let cases = self.manifest["cases"].as_array().unwrap();
        let cases: Vec<_> = cases.iter().filter(|case| case["kind"] == kind).collect();
        assert!(!cases.is_empty(), "no case of kind {kind}");
        let mut misses = Vec::new();
        for entry in cases {
            let file = self.root.join(entry["file"].as_str().unwrap());
            let mut case =
                Case { entry, file: SafeTensors::open(file).unwrap(), misses: Vec::new() };
            check(&mut case);
            let id = entry["id"].as_str().unwrap();
            misses.extend(case.misses.iter().map(|miss| format!("{id}: {miss}")));
        }
        assert!(misses.is_empty(), "{}", misses.join("\n"));
    }

    /// The configuration and tensors of a case's weights.
    fn weights<C: serde::de::DeserializeOwned>(
        &self,
        case: &Case,
        inventory: impl Fn(&C) -> Inventory,
    ) -> (C, Params) {
        let entry = &self.manifest["weights"][case.entry["weights"].as_str().unwrap()];
        let config: C = serde_json::from_value(entry["config"].clone()).unwrap();
        let file = SafeTensors::open(self.root.join(entry["file"].as_str().unwrap())).unwrap();
        let widened = |name: &str| (name.to_owned(), file.get(name).unwrap().to_dtype(DType::F32));
        let found: BTreeMap<String, Tensor> = file.names().map(widened).collect();
        let weights = inventory(&config).take(found).unwrap();
        let params = weights.into_iter().map(|(name, tensor)| (name, Var::parameter(tensor)));
        (config, Params::from_vars(params).unwrap())
    }

    fn transformer(&self, case: &Case) -> (Mmdit, Params) {
        let (config, params) = self.weights::<TransformerConfig>(case, mmdit::inventory);
        (Mmdit::new(config, &params).unwrap(), params)
    }

    fn autoencoder(&self, case: &Case) -> AutoencoderKl {
        let (config, params) = self.weights::<VaeConfig>(case, vae::inventory);
        AutoencoderKl::new(config, &params).unwrap()
    }
}

impl Case<'_> {
    fn get(&self, key: &str) -> Tensor {
        self.file.get(key).unwrap()
    }

    fn find(&self, key: &str) -> Option<Tensor> {
        self.file.contains(key).then(|| self.get(key))
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        self.get(key).to_vec().unwrap()
    }

    /// Whole numbers as token ids.
    fn ids(&self, key: &str) -> Vec<u32> {
        self.get(key).to_vec::<i64>().unwrap().iter().map(|&id| id as u32).collect()
    }

    /// Records a miss unless `|got - want| <= atol + rtol * |want|` everywhere.
    fn check(&mut self, key: &str, got: &Tensor) {
        let want = self.get(key);
        if got.numel() != want.numel() {
            self.misses.push(format!("{key} is {}, not {}", got.shape(), want.shape()));
            return;
        }
        let told = &self.entry["tensors"][key];
        let [atol, rtol] = ["atol", "rtol"].map(|name| told[name].as_f64().unwrap_or(0.0));
        let atol = atol + told["max_difference"].as_f64().unwrap_or(0.0);
        let mut worst = 0.0_f64;
        for (got, want) in got.to_f64_vec().into_iter().zip(want.to_f64_vec()) {
            let share = (got - want).abs() / (atol + rtol * want.abs());
            worst = worst.max(if got == want {
                0.0
            } else if share.is_nan() {
                f64::INFINITY
            } else {
                share
            });
        }
        if worst > 1.0 {
            self.misses.push(format!("{key} misses by {worst:.3} tolerances"));
        }
    }

    /// Checks every stored gradient of a parameter.
    fn check_gradients(&mut self, params: &Params, grads: &autograd::Grads) {
        let keys: Vec<String> =
            self.file.names().filter(|key| key.starts_with("grad.")).map(str::to_owned).collect();
        for key in keys {
            let Some(name) = key.strip_prefix("grad.").filter(|name| !name.starts_with("in."))
            else {
                continue;
            };
            match grads.get(&params.get(name).unwrap()) {
                Some(gradient) => self.check(&key, gradient),
                None => self.misses.push(format!("{key} is absent")),
            }
        }
    }
}

#[test]
fn transformer_values_and_gradients() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("ddit_forward", |case| {
        let (model, params) = fixtures.transformer(case);
        let latents = case.find("in.latents").map(Var::parameter);
        let context = Var::parameter(case.get("in.context"));
        let input = Input {
            latents: latents.as_ref(),
            text: TextInput::States(&context),
            times: &case.floats("in.t"),
            want: Want::Both,
        };
        let output = model.forward(&input).unwrap();
        let image = output.velocity.or(output.null_image).unwrap();
        let logits = model.text_logits(&output.text.unwrap()).unwrap();
        case.check("out.image", &image.value());
        case.check("out.logits", &logits.value());
        if let (Some(gy), Some(gl)) = (case.find("in.gy"), case.find("in.gl")) {
            let grads = backward_with(&[(image, gy), (logits, gl)]).unwrap();
            case.check_gradients(&params, &grads);
            case.check("grad.in.context", grads.get(&context).unwrap());
            if let Some(latents) = &latents {
                case.check("grad.in.latents", grads.get(latents).unwrap());
            }
        }
    });
}

/// What nobody waits for is left out, and what is left is the same to the last bit.
#[test]
fn one_result_alone_is_the_same() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("ddit_forward", |case| {
        let (model, _) = fixtures.transformer(case);
        let latents = case.find("in.latents").map(Var::constant);
        let context = Var::constant(case.get("in.context"));
        let times = case.floats("in.t");
        let run = |want| {
            let text = TextInput::States(&context);
            let input = Input { latents: latents.as_ref(), text, times: &times, want };
            model.forward(&input).unwrap()
        };
        let (both, image, text) = (run(Want::Both), run(Want::Image), run(Want::Text));
        let bits = |var: Option<Var>| var.map(|var| var.value().to_f64_vec());
        assert_eq!(bits(image.velocity), bits(both.velocity));
        assert_eq!(bits(image.null_image), bits(both.null_image));
        assert_eq!(bits(text.text), bits(both.text));
        assert!(image.text.is_none() && text.velocity.is_none() && text.null_image.is_none());
    });
}

#[test]
fn time_features_and_position_tables() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("timestep_features", |case| {
        for width in [64, 256] {
            let features = mmdit::time_features(&case.floats("in.t"), width, DType::F32).unwrap();
            case.check(&format!("out.emb{width}"), &features);
        }
    });
    let table = |case: &Case| {
        let config = &case.entry["config"];
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        let side = number("pos_embed_max_size");
        (mmdit::position_table(number("dim"), side, number("base_size")), side)
    };
    fixtures.each("pos_embed", |case| case.check("out.table", &table(case).0));
    fixtures.each("pos_embed_rows", |case| {
        let (table, side) = table(case);
        let cells = case.get("in.row_col").to_vec::<i64>().unwrap();
        let rows: Vec<_> = cells.chunks(2).map(|c| c[0] as usize * side + c[1] as usize).collect();
        case.check("out.rows", &table.select(0, 0).unwrap().index_rows(&rows).unwrap());
    });
}

#[test]
fn autoencoder() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("vae_encode", |case| {
        let vae = fixtures.autoencoder(case);
        let posterior = vae.encode(&Var::constant(case.get("in.image"))).unwrap();
        case.check("out.mean", &posterior.mean.value());
        case.check("out.logvar", &posterior.logvar.value());
        let sample = posterior.sample(&case.get("in.eps")).unwrap();
        case.check("out.latents", &vae.to_model(&sample).unwrap().value());
        case.check("out.latents_mode", &vae.to_model(posterior.mode()).unwrap().value());
    });
    fixtures.each("vae_decode", |case| {
        let vae = fixtures.autoencoder(case);
        let latents = vae.from_model(&Var::constant(case.get("in.latents"))).unwrap();
        case.check("mid.z", &latents.value());
        let pictures = vae.decode(&latents).unwrap().value();
        case.check("out.image", &pictures);
        let pictures = ddit::data::pictures_from_tensor(&pictures).unwrap();
        let planes = pictures
            .iter()
            .flat_map(|p| (0..3).flat_map(|c| p.rgb().iter().skip(c).step_by(3).copied()));
        let planes: Vec<u8> = planes.collect();
        let count = planes.len();
        case.check("out.u8", &Tensor::from_vec(planes, [count]).unwrap());
    });
}

#[test]
fn image_loss_and_gradients() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("image_loss", |case| {
        let (model, params) = fixtures.transformer(case);
        let sigma = case.floats("in.z").iter().map(|&z| noise_level(Recipe::Release, z)).collect();
        let drop: Vec<bool> = case.floats("in.u_drop").iter().map(|&u| u < 0.1).collect();
        let rows: Vec<Tensor> = drop
            .iter()
            .enumerate()
            .map(|(i, &drop)| match drop {
                true => case.get("in.null_context").select(0, 0).unwrap(),
                false => case.get("in.context").select(0, i).unwrap(),
            })
            .collect();
        let context = Var::constant(Tensor::stack(&rows.iter().collect::<Vec<_>>(), 0).unwrap());
        case.check("mid.context_used", &context.value());
        let draws = ImageDraws { sigma, noise: case.get("in.noise"), drop };
        let noised = Noised::new(&case.get("in.latents"), &draws).unwrap();
        let count = noised.sigma.len();
        case.check("mid.sigma", &Tensor::from_slice(&noised.sigma, [count]).unwrap());
        case.check("mid.xt", &noised.state.value());
        let loss = |form| noised.loss(&model, TextInput::States(&context), form).unwrap();
        case.check("out.loss_paper", &loss(ImageLoss::Velocity).value());
        let loss = loss(ImageLoss::CleanEstimate);
        case.check("out.loss", &loss.value());
        let grads = loss.backward().unwrap();
        case.check_gradients(&params, &grads);
        for name in case.entry["parameters_without_gradient"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            assert!(grads.get(&params.get(name).unwrap()).is_none(), "{name} has a gradient");
        }
    });
}

#[test]
fn text_loss_from_logits() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("text_loss_logits", |case| {
        let logits = case.get("in.logits");
        let [batch, length, vocab] = logits.dims().unwrap();
        let mask = case.entry["config"]["mask_id"].as_u64().unwrap() as u32;
        let marks = |key: &str| -> Vec<bool> { case.ids(key).iter().map(|&m| m == 1).collect() };
        let counted = case.file.contains("in.attention_mask").then(|| marks("in.attention_mask"));
        let uniforms = |key: &str| case.get(key).to_f64_vec();
        let draws = TextDraws {
            times: stratified_times(&uniforms("in.u_t"), MIN_TIME),
            uniforms: uniforms("in.u_mask"),
        };
        let (ids, learned) = (case.ids("in.x0"), marks("in.label_mask"));
        let texts = Texts { ids: &ids, learned: &learned, counted: counted.as_deref(), length };
        let corrupted = Corrupted::new(&texts, &draws, mask, Recipe::Release).unwrap();
        let as_tensor = |values: Vec<f64>| {
            let count = values.len();
            Tensor::from_vec(values, [count]).unwrap()
        };
        case.check("out.t", &as_tensor(draws.times.clone()));
        case.check("out.xt", &as_tensor(corrupted.ids.iter().map(|&id| f64::from(id)).collect()));
        let noisy: Vec<i64> = corrupted.ids.iter().map(|&id| i64::from(id)).collect();
        let noisy = Tensor::from_vec(noisy, [batch, length]).unwrap();
        case.check("out.log_probs", &subs_log_probs(&logits, &noisy, i64::from(mask)).unwrap());

        // Tokens that are unit vectors have the logits themselves as their scores under a head
        // that holds the logits as its columns.
        let tokens = batch * length;
        let unit = |i: usize| if i / tokens == i % tokens { 1.0 } else { 0.0 };
        let unit: Vec<f32> = (0..tokens * tokens).map(unit).collect();
        let unit = Var::constant(Tensor::from_vec(unit, [batch, length, tokens]).unwrap());
        let columns = logits.reshape([tokens, vocab]).unwrap().transpose(0, 1).unwrap();
        let head = Var::parameter(columns.contiguous());
        let bias = Var::constant(Tensor::zeros([vocab], DType::F32));
        let loss = corrupted.token_loss(&unit, &head, &bias).unwrap();
        case.check("out.loss", &loss.value());
        let grads = loss.backward().unwrap();
        let gradient = grads.get(&head).unwrap().transpose(0, 1).unwrap().contiguous();
        case.check("grad.in.logits", &gradient);
    });
}

#[test]
fn sampling_with_guidance() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("t2i_sample", |case| {
        let (model, _) = fixtures.transformer(case);
        let number = |key: &str| case.entry["config"][key].as_f64().unwrap();
        let schedule = Schedule::shifted(number("steps") as usize, number("shift")).unwrap();
        let guidance = Guidance::new(number("guidance_scale") as f32);
        let (prompts, null) = (case.get("in.context"), case.get("in.null_context"));
        let both = Tensor::cat(&[&null, &prompts], 0).unwrap();
        let velocity = |state: &Tensor, sigma: f32, pass: Pass| {
            let context = if pass == Pass::Conditional { &prompts } else { &both };
            let output = model.forward(&Input {
                latents: Some(&Var::constant(state.clone())),
                text: TextInput::States(&Var::constant(context.clone())),
                times: &vec![timestep(sigma); state.shape()[0]],
                want: Want::Image,
            })?;
            Ok(output.velocity.unwrap().value())
        };
        let mut trajectory = Vec::new();
        let end = autograd::no_grad(|| {
            Solver::Euler.integrate(
                &case.get("in.latents"),
                &schedule,
                |state, sigma| guidance.velocity(state, sigma, velocity),
                |step| {
                    trajectory.push(step.state.clone());
                    std::ops::ControlFlow::Continue(())
                },
            )
        });
        case.check("out.latents", &end.unwrap());
        let trajectory = Tensor::stack(&trajectory.iter().collect::<Vec<_>>(), 0).unwrap();
        case.check("mid.trajectory", &trajectory);
    });
}
