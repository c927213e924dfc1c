//! The likelihood bound: by enumeration, by quadrature over time, by all orders, by chance.

use samplers::masked::{Likelihood, LogLinear};
use tensor::rng::Rng;
use tests::table::{MASK, probabilities, same_for_all};

const LENGTH: usize = 6;
const TOKENS: [i64; LENGTH + 2] = [3, 0, 2, 2, 0, 3, 0, 2];
/// Two tokens are given, one in front and one in the middle.
const SCORED: [usize; LENGTH] = [1, 2, 3, 5, 6, 7];

fn likelihood() -> Likelihood<'static> {
    Likelihood { tokens: &TOKENS, scored: &SCORED, mask: MASK, batch: 10 }
}

/// `ℓ(S)` straight from the table, for the row in which S is masked.
fn cross_entropy(row: &[i64]) -> f64 {
    let masked = (0..row.len()).filter(|&i| row[i] == MASK);
    masked.map(|i| -probabilities(row, i, 0)[TOKENS[i] as usize].ln()).sum()
}

fn masked_by(bits: usize) -> Vec<i64> {
    let mut row = TOKENS.to_vec();
    (0..LENGTH).filter(|i| bits >> i & 1 == 1).for_each(|i| row[SCORED[i]] = MASK);
    row
}

/// The mean of the training loss at time t, or of its square: the loss is the weight times ℓ(S),
/// and S is what masking happens to hide.
pub fn loss_moment(t: f64, power: i32) -> f64 {
    let noise = LogLinear::PAPER;
    let (p, keep) = (noise.mask_probability(t), noise.alpha(t));
    let of_set = |bits: usize| {
        let masked = bits.count_ones() as i32;
        let loss = noise.loss_weight(t) * cross_entropy(&masked_by(bits));
        p.powi(masked) * keep.powi(LENGTH as i32 - masked) * loss.powi(power)
    };
    (1..1 << LENGTH).map(of_set).sum()
}

/// The loss is a polynomial of degree L − 1 = 5 in t, which three Gauss–Legendre points integrate
/// exactly.
fn quadrature() -> f64 {
    let root = 0.6_f64.sqrt();
    let points = [(-root, 5.0), (0.0, 8.0), (root, 5.0)];
    points.iter().map(|&(x, weight)| weight / 18.0 * loss_moment(0.5 + 0.5 * x, 1)).sum()
}

pub fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |&first: &usize| {
        let rest: Vec<usize> = items.iter().copied().filter(|&item| item != first).collect();
        let tails = permutations(&rest).into_iter();
        tails.map(move |tail| [&[first][..], &tail].concat()).collect::<Vec<_>>()
    };
    items.iter().flat_map(with_first).collect()
}

#[test]
fn equation_7_nelbo_equals_enumeration_quadrature_and_all_orders() {
    let enumerated = likelihood().nelbo(same_for_all).unwrap();
    let orders = permutations(&SCORED);
    assert_eq!(orders.len(), 720);
    let chain = |order: &Vec<usize>| likelihood().chain_rule(order, same_for_all).unwrap();
    let over_orders = orders.iter().map(chain).sum::<f64>() / 720.0;
    assert!((enumerated - quadrature()).abs() < 1e-10, "{enumerated} and {}", quadrature());
    assert!((enumerated - over_orders).abs() < 1e-10, "{enumerated} and {over_orders}");
}

#[test]
fn batch_size_changes_nothing() {
    let whole = likelihood().nelbo(same_for_all).unwrap();
    for batch in [1, 7, 1000] {
        let parts = Likelihood { batch, ..likelihood() };
        assert_eq!(parts.nelbo(same_for_all).unwrap().to_bits(), whole.to_bits());
    }
}

#[test]
fn equation_7_estimate_is_unbiased_and_its_error_honest() {
    let exact = likelihood().nelbo(same_for_all).unwrap();
    let many = likelihood().estimate(20_000, &mut Rng::new(61), same_for_all).unwrap();
    assert!((many.mean - exact).abs() < 4.0 * many.standard_error, "{many:?} of {exact}");
    assert!(many.standard_error < 0.01 * exact);

    // Over repetitions, (mean − exact)/error is nearly standard normal: its square has mean 1.
    let repeats = 200;
    let score = |i: u64| {
        let few = likelihood().estimate(50, &mut Rng::new(62).stream(i), same_for_all).unwrap();
        ((few.mean - exact) / few.standard_error).powi(2)
    };
    let mean_square = (0..repeats).map(score).sum::<f64>() / repeats as f64;
    assert!((0.6..1.5).contains(&mean_square), "mean square {mean_square}");
}
