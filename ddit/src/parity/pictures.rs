//! Pictures made ready for the networks.

use tensor::{Result, Tensor};

use super::Trial;
use crate::data::decode::read_picture;
use crate::data::resize::{Filter, fit, fit_square, resize};
use crate::shapes::Picture;
use crate::train::config::Alpha;

/// A decoded picture; the same resized; `out.model_{side}`, as inference takes it; and
/// `out.sft_{side}`, as instruction tuning does.
pub fn preparation(trial: &mut Trial) -> Result<()> {
    let picture = read_image(trial)?;
    trial.compare_numbers("aux.rgb", picture.rgb())?;
    if let Some(expected) = trial.find("out.resize_u8") {
        let [height, width, _] = expected.dims()?;
        let resized = resize(&picture, width, height, Filter::Bicubic);
        trial.compare("out.resize_u8", &Tensor::from_slice(resized.rgb(), expected.shape())?)?;
    }
    for (name, side) in trial.names("out.model_") {
        if let Ok(side) = side.parse() {
            trial.compare_numbers(&name, &fit(&picture, side).to_chw())?;
        }
    }
    for (name, side) in trial.names("out.sft_") {
        if let Ok(side) = side.parse() {
            trial.compare_numbers(&name, &fit_square(&picture, side))?;
        }
    }
    Ok(())
}

/// The picture that the case's `config.image` names.
pub fn read_image(trial: &Trial) -> Result<Picture> {
    read_picture(trial.set().path(&trial.config::<String>("image")?), Alpha::Drop)
}
