//! What every text sampler promises: given tokens stay, rows do not influence one another, and the
//! same seed gives the same tokens.

use std::ops::ControlFlow;

use proptest::prelude::*;
use samplers::masked::{
    Canvas, Confidence, DdpmCache, Decoding, Pace, Query, Score, TextStep, TwoStage,
};
use tensor::rng::Rng;
use tensor::{Result, Tensor};
use tests::table::{MASK, at_masks, everywhere};

const TOKENS: [i64; 3] = [0, 2, 3];

fn go_on(_: &TextStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every sampler in several variants, by number.
const SAMPLERS: usize = 8;

fn sample(
    number: usize,
    canvas: Canvas,
    mut rngs: Vec<Rng>,
    denoiser: impl FnMut(&Query) -> Result<Tensor>,
) -> Canvas {
    let decoding = Decoding { temperature: 0.8, top_p: 0.9 };
    let confidence = |score, pace| Confidence { score, pace, decoding };
    let cached = DdpmCache::new(9);
    let filled = match number {
        0 => TwoStage::new(4).sample(canvas, &mut rngs, denoiser, go_on),
        1 => TwoStage { steps: 100, decoding }.sample(canvas, &mut rngs, denoiser, go_on),
        2 => cached.sample(canvas, &mut rngs, denoiser, go_on),
        3 => DdpmCache { reuse: false, ..cached }.sample(canvas, &mut rngs, denoiser, go_on),
        4 => {
            confidence(Score::Probability, Pace::Even(3)).sample(canvas, &mut rngs, denoiser, go_on)
        }
        5 => {
            confidence(Score::Margin, Pace::AtLeast(0.5)).sample(canvas, &mut rngs, denoiser, go_on)
        }
        6 => confidence(Score::NegativeEntropy, Pace::Even(50))
            .sample(canvas, &mut rngs, denoiser, go_on),
        _ => confidence(Score::Random, Pace::Even(2)).sample(canvas, &mut rngs, denoiser, go_on),
    };
    filled.unwrap()
}

/// The generator of a batch item.
fn generator(item: usize) -> Rng {
    Rng::new(50 + item as u64)
}

/// Rows of seven tokens, and which of them to keep.
fn puzzles() -> impl Strategy<Value = Vec<(Vec<i64>, Vec<bool>)>> {
    let token = prop::sample::select(&TOKENS[..]);
    let row = (prop::collection::vec(token, 7), prop::collection::vec(any::<bool>(), 7));
    prop::collection::vec(row, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn rows_are_independent_and_given_tokens_stay(
        puzzles in puzzles(),
        number in 0..SAMPLERS,
    ) {
        let (tokens, keep): (Vec<_>, Vec<_>) = puzzles.into_iter().unzip();
        let canvas = Canvas::keeping(&tokens, &keep, MASK).unwrap();
        let rngs = || (0..tokens.len()).map(generator).collect::<Vec<_>>();
        let together = sample(number, canvas.clone(), rngs(), everywhere);
        prop_assert_eq!(&together, &sample(number, canvas.clone(), rngs(), at_masks));

        for row in 0..tokens.len() {
            for (position, &kept) in keep[row].iter().enumerate() {
                let token = together.row(row)[position];
                prop_assert!(TOKENS.contains(&token));
                prop_assert!(!kept || token == tokens[row][position]);
            }
            let single = Canvas::new(&[canvas.row(row)], MASK).unwrap();
            let denoiser = |query: &Query| everywhere(&Query { items: &[row], ..*query });
            let alone = sample(number, single, vec![generator(row)], denoiser);
            prop_assert_eq!(alone.row(0), together.row(row));
        }
    }
}

/// The order of the batch, too, makes no difference.
#[test]
fn rows_may_be_permuted() {
    let rows = [[MASK, 0, MASK, MASK], [MASK; 4], [2, 3, 0, 0], [3, MASK, 0, 2]];
    let order = [2, 0, 3, 1];
    for number in 0..SAMPLERS {
        let straight = Canvas::new(&rows, MASK).unwrap();
        let straight = sample(number, straight, (0..4).map(generator).collect(), at_masks);
        let permuted = Canvas::new(&order.map(|row| rows[row]), MASK).unwrap();
        let denoiser = |query: &Query| {
            let items: Vec<usize> = query.items.iter().map(|&slot| order[slot]).collect();
            at_masks(&Query { items: &items, ..*query })
        };
        let permuted = sample(number, permuted, order.map(generator).to_vec(), denoiser);
        for (slot, &row) in order.iter().enumerate() {
            assert_eq!(permuted.row(slot), straight.row(row), "sampler {number}");
        }
    }
}

/// Reusing predictions changes no token, also when the denoiser heeds every token it sees.
#[test]
fn released_sampler_with_and_without_cache() {
    let canvas = Canvas::new(&[[MASK; 7], [MASK, 0, 2, MASK, 3, MASK, 0]], MASK).unwrap();
    let run = |reuse: bool| {
        let mut rngs = [generator(0), generator(1)];
        let mut asked = 0;
        let counting = |query: &Query| {
            asked += query.items.len();
            everywhere(query)
        };
        let sampler = DdpmCache { reuse, ..DdpmCache::new(60) };
        let canvas = canvas.clone();
        let filled = sampler.sample(canvas, &mut rngs, counting, go_on).unwrap();
        (filled, asked)
    };
    let ((cached, few), (plain, many)) = (run(true), run(false));
    assert_eq!(cached, plain);
    assert!(few <= 10, "at most one call for each of ten holes, not {few}");
    assert!(many > 2 * few, "{many} calls without a cache");
}

/// Finished rows leave the batch: the denoiser sees fewer and fewer.
#[test]
fn the_denoiser_is_asked_about_unfinished_rows_only() {
    for number in 0..SAMPLERS {
        let canvas = Canvas::new(&[[0; 5], [MASK; 5], [0, 0, MASK, 0, 0]], MASK).unwrap();
        let denoiser = |query: &Query| {
            assert!(!query.items.contains(&0) && !query.masked.is_empty());
            let ids = query.ids.to_vec::<i64>()?;
            assert!(ids.chunks(5).all(|row| row.contains(&MASK)), "sampler {number}");
            at_masks(query)
        };
        sample(number, canvas, (0..3).map(generator).collect(), denoiser);
    }
}
