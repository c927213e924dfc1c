//! What an autoencoder leaves of the shapes world, which bounds what can be drawn from its latents.

use autograd::{Var, no_grad};
use tensor::Result;

use super::{Size, rng};
use crate::data::{pictures_from_tensor, pictures_to_tensor};
use crate::pipeline::Progress;
use crate::shapes::suite::{Scores, scenes};
use crate::shapes::{Picture, Pool, Scene, SceneKind, Seen, look};
use crate::vae::AutoencoderKl;

/// The set of [`validate_autoencoder`]: 200 scenes, which no other suite shows.
const VALIDATION: Size = Size { per_kind: 25, seed: 2_000_000 };

/// Pictures that go through the autoencoder at a time.
const BATCH: usize = 20;

/// Scenes of all four kinds, sent through `reconstruct` all at once: scores of the seen and of the
/// novel part. A picture is right if the judge finds the scene's objects in it: as many, each of
/// its colour, form and size.
///
/// Errors: those of `reconstruct`.
pub fn reconstruction<E>(
    size: Size,
    reconstruct: impl FnOnce(&[Picture]) -> Result<Vec<Picture>, E>,
) -> Result<[Scores; 2], E> {
    let of = |part| scenes(part, 4 * size.per_kind, &mut rng(size, part)).into_iter();
    let set: Vec<Scene> = Pool::ALL.into_iter().flat_map(of).collect();
    let pictures: Vec<Picture> = set.iter().map(Scene::draw).collect();
    let mut parts = Pool::ALL.map(|_| Scores::new(SceneKind::ALL.map(SceneKind::word)));
    for (scene, came) in set.iter().zip(reconstruct(&pictures)?) {
        let is_right = features(&scene.seen()) == features(&look(&came).objects);
        parts[usize::from(scene.is_novel())].record(scene.kind.word(), is_right);
    }
    Ok(parts)
}

/// Scores of an autoencoder under training, by name.
///
/// Errors: those of the autoencoder and of `progress`, which is told of pictures.
pub fn validate_autoencoder(vae: &AutoencoderKl, progress: Progress) -> Result<Vec<(String, f64)>> {
    let [seen, novel] = reconstruction(VALIDATION, |pictures| {
        let mut came = Vec::new();
        for batch in pictures.chunks(BATCH) {
            let batch = Var::constant(pictures_to_tensor(batch)?);
            let back = no_grad(|| vae.decode(vae.encode(&batch)?.mode()))?;
            came.extend(pictures_from_tensor(&back.value())?);
            progress(came.len(), pictures.len())?;
        }
        Ok::<_, tensor::Error>(came)
    })?;
    let score = |name: &str, scores: Scores| (name.to_owned(), scores.overall());
    Ok(vec![score("reconstruction", seen), score("reconstruction_novel", novel)])
}

/// What objects are, wherever they lie, in one order.
fn features(objects: &[Seen]) -> Vec<impl PartialEq + use<>> {
    let mut features: Vec<_> = objects.iter().map(|o| (o.colour, o.shape)).collect();
    features.sort();
    features
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn pictures_that_come_back_score_one_and_lost_objects_nothing() {
        let size = Size { per_kind: 5, seed: 1 };
        let same = |pictures: &[Picture]| Ok::<_, Infallible>(pictures.to_vec());
        let perfect = reconstruction(size, same).unwrap();
        assert_eq!(perfect.each_ref().map(Scores::overall), [1.0, 1.0]);
        // The scene after it: now and then of the same objects, but not here.
        let next = |pictures: &[Picture]| {
            let mut pictures = pictures.to_vec();
            pictures.rotate_left(1);
            Ok::<_, Infallible>(pictures)
        };
        assert_eq!(reconstruction(size, next).unwrap()[0].overall(), 0.0);
    }
}
