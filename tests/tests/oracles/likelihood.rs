//! The likelihood bound: by enumeration, by quadrature over time, by all orders, by chance.

use samplers::masked::{Likelihood, LogLinear};
use tensor::rng::Rng;
use tests::table::{MASK, probabilities, same_for_all};

const TOKENS: [i64; 10] = [3, 0, 2, 2, 0, 3, 0, 2, 3, 3];
/// Two tokens are given, one in front and one in the middle.
const SCORED: [usize; 8] = [1, 2, 3, 5, 6, 7, 8, 9];
/// How many of the scored ones most tests score.
pub const LENGTH: usize = 6;

fn likelihood(length: usize) -> Likelihood<'static> {
    Likelihood { tokens: &TOKENS, scored: &SCORED[..length], mask: MASK, batch: 10 }
}

/// `ℓ(S)` straight from the table, for the row in which S is masked.
fn cross_entropy(row: &[i64]) -> f64 {
    let masked = (0..row.len()).filter(|&i| row[i] == MASK);
    masked.map(|i| -probabilities(row, i, 0)[TOKENS[i] as usize].ln()).sum()
}

fn masked_by(bits: usize) -> Vec<i64> {
    let mut row = TOKENS.to_vec();
    let hidden = SCORED.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
    hidden.for_each(|(_, &position)| row[position] = MASK);
    row
}

/// The mean of the training loss at time t, or of its square: the loss is the weight times ℓ(S),
/// and S is what masking happens to hide of the first `length` scored tokens.
pub fn loss_moment(length: usize, t: f64, power: i32) -> f64 {
    let noise = LogLinear::PAPER;
    let (p, keep) = (noise.mask_probability(t), noise.alpha(t));
    let of_set = |bits: usize| {
        let masked = bits.count_ones() as i32;
        let loss = noise.loss_weight(t) * cross_entropy(&masked_by(bits));
        p.powi(masked) * keep.powi(length as i32 - masked) * loss.powi(power)
    };
    (1..1 << length).map(of_set).sum()
}

/// The loss is a polynomial of degree L − 1 in t, at most 7, which four Gauss–Legendre points
/// integrate exactly.
fn quadrature(length: usize) -> f64 {
    let points = [
        (0.339_981_043_584_856_3, 0.652_145_154_862_546_1),
        (0.861_136_311_594_052_6, 0.347_854_845_137_453_8),
    ];
    let both = points.iter().flat_map(|&(x, weight)| [(x, weight), (-x, weight)]);
    both.map(|(x, weight)| 0.5 * weight * loss_moment(length, 0.5 + 0.5 * x, 1)).sum()
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
    for length in 1..=SCORED.len() {
        let enumerated = likelihood(length).nelbo(same_for_all).unwrap();
        let integral = quadrature(length);
        assert!((enumerated - integral).abs() < 1e-10, "{length}: {enumerated} and {integral}");
        // 5040 orders of seven; eight would be 40,320.
        if length < SCORED.len() {
            let orders = permutations(&SCORED[..length]);
            let chain =
                |order: &Vec<usize>| likelihood(length).chain_rule(order, same_for_all).unwrap();
            let mean = orders.iter().map(chain).sum::<f64>() / orders.len() as f64;
            assert!((enumerated - mean).abs() < 1e-10, "{length}: {enumerated} and {mean}");
        }
    }
}

#[test]
fn batch_size_changes_nothing() {
    let whole = likelihood(LENGTH).nelbo(same_for_all).unwrap();
    for batch in [1, 7, 1000] {
        let parts = Likelihood { batch, ..likelihood(LENGTH) };
        assert_eq!(parts.nelbo(same_for_all).unwrap().to_bits(), whole.to_bits());
    }
}

#[test]
fn equation_7_estimate_is_unbiased_and_its_error_honest() {
    let exact = likelihood(LENGTH).nelbo(same_for_all).unwrap();
    let many = likelihood(LENGTH).estimate(20_000, &mut Rng::new(61), same_for_all).unwrap();
    assert!((many.mean - exact).abs() < 4.0 * many.standard_error, "{many:?} of {exact}");
    assert!(many.standard_error < 0.01 * exact);

    // Over repetitions, (mean − exact)/error is nearly standard normal: its square has mean 1.
    let repeats = 200;
    let score = |i: u64| {
        let few =
            likelihood(LENGTH).estimate(50, &mut Rng::new(62).stream(i), same_for_all).unwrap();
        ((few.mean - exact) / few.standard_error).powi(2)
    };
    let mean_square = (0..repeats).map(score).sum::<f64>() / repeats as f64;
    assert!((0.6..1.5).contains(&mean_square), "mean square {mean_square}");
}
