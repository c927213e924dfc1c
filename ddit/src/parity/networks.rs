//! The networks: values, values on the way, gradients.

use autograd::{Params, Var, backward_with};
use tensor::{Result, Tensor};

use super::Trial;
use crate::config::{TransformerConfig, VaeConfig};
use crate::mmdit::{Mmdit, TextInput};
use crate::shapes::picture::to_byte;
use crate::t5::{T5Config, T5Encoder};
use crate::vae::AutoencoderKl;

/// The transformer that a case names, and its parameters.
pub fn load_transformer(trial: &Trial) -> Result<(Mmdit, Params)> {
    let (config, params) = trial.network::<TransformerConfig>(0)?;
    Ok((Mmdit::new(config, &params)?, params))
}

/// The text encoder that a case names at `place`, and its parameters.
pub fn load_text_encoder(trial: &Trial, place: usize) -> Result<(T5Encoder, Params)> {
    let (config, params) = trial.network::<T5Config>(place)?;
    Ok((T5Encoder::new(config, &params)?, params))
}

fn load_autoencoder(trial: &Trial) -> Result<AutoencoderKl> {
    let (config, params) = trial.network::<VaeConfig>(0)?;
    AutoencoderKl::new(config, &params)
}

/// `out.image`, `out.logits`, the streams after the embeddings and after every block and, where
/// `in.gy` and `in.gl` are given, the gradients of `out.loss` = Σ image·gy + Σ logits·gl.
pub fn transformer(trial: &mut Trial) -> Result<()> {
    let (model, params) = load_transformer(trial)?;
    let latents = trial.find_there("in.latents")?.map(Var::parameter);
    let context = Var::parameter(trial.there("in.context")?);
    let times = trial.floats("in.t")?;
    trial.compare("mid.temb", &model.time_embedding(&times)?.value())?;

    let mut streams = Vec::new();
    let text = TextInput::States(&context);
    let [image, text] =
        model.observe(latents.as_ref(), text, &times, &mut |stage, image, text| {
            let name = |branch| match stage {
                0 => format!("mid.tokens_{branch}"),
                _ => format!("mid.block{}_{branch}", stage - 1),
            };
            streams.extend([(name("image"), image.value()), (name("text"), text.value())]);
        })?;
    for (name, stream) in streams {
        trial.compare(&name, &stream)?;
    }
    let logits = model.text_logits(&text)?;
    trial.compare("out.image", &image.value())?;
    trial.compare("out.logits", &logits.value())?;

    let weights = [trial.find_there("in.gy")?, trial.find_there("in.gl")?];
    let [Some(gy), Some(gl)] = weights else { return Ok(()) };
    let product = |x: &Var, weights: &Tensor| x.mul(&Var::constant(weights.clone()))?.sum_all();
    let loss = product(&image, &gy)?.add(&product(&logits, &gl)?)?;
    trial.compare("out.loss", &loss.value())?;
    let grads = backward_with(&[(image, gy), (logits, gl)])?;
    trial.compare_gradients(&params, &grads)?;
    for (name, input) in
        [("grad.in.context", Some(&context)), ("grad.in.latents", latents.as_ref())]
    {
        if let Some(gradient) = input.and_then(|input| grads.get(input)) {
            trial.compare(name, &gradient)?;
        }
    }
    Ok(())
}

/// `out.hidden`, the streams after every block and, where `in.g` is given, the gradients of
/// Σ hidden·g.
pub fn text_encoder(trial: &mut Trial) -> Result<()> {
    let (encoder, params) = load_text_encoder(trial, 0)?;
    let (ids, [_, length]) = (trial.ids("in.ids")?, trial.get("in.ids")?.dims()?);
    let mut stream = encoder.embedding().forward(&ids, length)?;
    let bias = encoder.relative_bias(length)?;
    for (i, block) in encoder.blocks().enumerate() {
        stream = block.forward(&stream, &bias)?;
        trial.compare(&format!("mid.block{i}"), &stream.value())?;
    }
    let hidden = encoder.forward(&ids, length)?;
    trial.compare("out.hidden", &hidden.value())?;
    match trial.find_there("in.g")? {
        Some(weights) => {
            let grads = backward_with(&[(hidden, weights)])?;
            trial.compare_gradients(&params, &grads)
        }
        None => Ok(()),
    }
}

/// The posterior of pictures, its sample with `in.eps` and its mode as the transformer takes them,
/// and the encoder's levels.
pub fn encoder(trial: &mut Trial) -> Result<()> {
    let vae = load_autoencoder(trial)?;
    let mut levels = Vec::new();
    let pictures = Var::constant(trial.there("in.image")?);
    let posterior = vae.observe_encode(&pictures, &mut |level| levels.push(level.value()))?;
    if let Some(middle) = levels.pop() {
        trial.compare("mid.mid", &middle)?;
    }
    for (i, level) in levels.iter().enumerate() {
        trial.compare(&format!("mid.down{i}"), level)?;
    }
    trial.compare("out.mean", &posterior.mean.value())?;
    trial.compare("out.logvar", &posterior.logvar.value())?;
    trial.compare("out.latents_mode", &vae.to_model(posterior.mode())?.value())?;
    let sample = posterior.sample(&trial.there("in.eps")?)?;
    trial.compare("out.latents", &vae.to_model(&sample)?.value())
}

/// Pictures of latents, as numbers and as bytes.
pub fn decoder(trial: &mut Trial) -> Result<()> {
    let vae = load_autoencoder(trial)?;
    let latents = vae.from_model(&Var::constant(trial.there("in.latents")?))?;
    trial.compare("mid.z", &latents.value())?;
    let pictures = vae.decode(&latents)?.value();
    trial.compare("out.image", &pictures)?;
    let bytes: Vec<u8> = pictures.to_vec::<f32>()?.into_iter().map(to_byte).collect();
    trial.compare("out.u8", &Tensor::from_vec(bytes, pictures.shape())?)
}
