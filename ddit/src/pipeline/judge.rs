//! Which of its own pictures a model keeps.

use samplers::masked::Decoding;
use tensor::Result;

use super::{Latents, Pipeline, TextSampler, WriteOptions};
use crate::shapes::Picture;

/// What the caption's likelihood counts beside the prompt's. Of 1,260 prompts of shapes in three sets,
/// 0.90 to 0.92 of the pictures kept were right without it, and 0.92 to 0.94 with 0.3 of it. The whole
/// of it was better still in two sets and worse in the third: then a picture may win that shows
/// something else, and shows it well.
const CAPTION_WEIGHT: f64 = 0.3;

/// What a model says of a picture that it drew of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// `ln p(prompt | picture)`, in nats.
    pub likelihood: f64,
    /// What the model says to the picture, unasked: at every step the likeliest word.
    pub caption: String,
    /// `ln p(caption | picture)`, in nats.
    pub caption_likelihood: f64,
}

impl Judgement {
    /// By which pictures of one prompt compare: `ln p(prompt | picture) + 0.3 · ln p(caption | picture)`.
    ///
    /// The prompt says nothing of what it leaves open. A circle that is half red and half blue is as
    /// good as any to `a circle`; but there are no words for it, so that the model describes it
    /// unsurely.
    pub fn score(&self) -> f64 {
        self.likelihood + CAPTION_WEIGHT * self.caption_likelihood
    }
}

impl Pipeline {
    /// How well each picture answers its prompt, by the model's own [likelihood](Self::likelihood) of
    /// the prompt and of its caption. The picture is looked at without noise and described without
    /// chance, so that only the picture decides.
    ///
    /// Cost: a caption, and two likelihoods, a picture. Errors: those of tokenizer and networks.
    pub fn judge(
        &self,
        pictures: &[&Picture],
        prompts: &[impl AsRef<str>],
    ) -> Result<Vec<Judgement>> {
        let options = WriteOptions {
            sampler: TextSampler::Confidence,
            decoding: Decoding { temperature: 0.0, ..Decoding::default() },
            latents: Latents::Mode,
            ..self.write_options()
        };
        let captions = self.caption(pictures, &options, &mut |_, _| Ok(()))?;
        let judgement = |((picture, prompt), caption): ((&&Picture, &_), String)| {
            let texts = [AsRef::<str>::as_ref(prompt), &caption];
            let found = self.likelihood(picture, &texts, &options, &mut |_, _| Ok(()))?;
            Ok(Judgement { likelihood: found[0], caption_likelihood: found[1], caption })
        };
        let captions = captions.into_iter().map(|written| written.text);
        pictures.iter().zip(prompts).zip(captions).map(judgement).collect()
    }
}
