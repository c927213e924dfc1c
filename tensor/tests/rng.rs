//! Random numbers have the distributions they claim.
//!
//! Seeds are fixed, so these tests give one answer for ever. Bounds are at least five standard
//! deviations of the statistic wide: a right generator passes under any seed, while the defects
//! they look for (a missing tail, a wrong scale, words used twice) miss them by far.

use tensor::DType;
use tensor::rng::Rng;

/// Pearson's statistic of equally likely classes, in standard deviations above its mean.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
    let n: usize = counts.iter().sum();
    let statistic: f64 = counts
        .iter()
        .zip(probabilities)
        .map(|(&count, p)| (count as f64 - n as f64 * p).powi(2) / (n as f64 * p))
        .sum();
    let freedom = (counts.len() - 1) as f64;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn uniform_numbers_are_uniform() {
    for (seed, dtype) in [(1, DType::F32), (2, DType::F64)] {
        let x = Rng::new(seed).uniform([1 << 20], dtype).unwrap().to_f64_vec();
        let mut counts = [0; 256];
        x.iter().for_each(|x| counts[(x * 256.0) as usize] += 1);
        assert!(chi_square(&counts, &[1.0 / 256.0; 256]).abs() < 5.0);
        // Neighbours, in the same block and in different ones, are independent.
        for lag in [1, 2] {
            let mut pairs = [0; 256];
            for pair in x.windows(lag + 1).step_by(lag + 1) {
                pairs[(pair[0] * 16.0) as usize * 16 + (pair[lag] * 16.0) as usize] += 1;
            }
            assert!(chi_square(&pairs, &[1.0 / 256.0; 256]).abs() < 5.0, "lag {lag}");
        }
    }
}

#[test]
fn normal_numbers_are_normal() {
    let n = 1 << 21;
    let x = Rng::new(3).stream(4).normal([n], DType::F64).unwrap().to_f64_vec();
    let moment = |power| x.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
    // E x^k and the standard deviation of x^k, √(E x^2k − (E x^k)²).
    let expected =
        [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0), (6, 15.0, 10170.0)];
    for (power, mean, variance) in expected {
        let deviation = (variance / n as f64).sqrt();
        assert!((moment(power) - mean).abs() < 5.0 * deviation, "{power}: {}", moment(power));
    }
    // The two numbers of a point of the plane are independent, squares included.
    let pair = |power| {
        let products = x.chunks(2).map(|pair| pair[0].powi(power) * pair[1].powi(power));
        products.sum::<f64>() / (n / 2) as f64
    };
    assert!(pair(1).abs() < 5.0 * (2.0 / n as f64).sqrt());
    assert!((pair(2) - 1.0).abs() < 5.0 * (2.0 * 8.0 / n as f64).sqrt());
    // P(x < z) for z = −3 … 3, from tables of the normal distribution.
    let tail = [0.001_349_898, 0.022_750_132, 0.158_655_254, 0.5];
    let cumulative =
        [0.0, tail[0], tail[1], tail[2], tail[3], 1.0 - tail[2], 1.0 - tail[1], 1.0 - tail[0], 1.0];
    let probabilities: Vec<f64> = cumulative.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut counts = [0; 8];
    x.iter().for_each(|x| counts[(x + 4.0).floor().clamp(0.0, 7.0) as usize] += 1);
    assert!(chi_square(&counts, &probabilities).abs() < 5.0);
    // Of two million, the largest lies about 5 out: the tail is there, and ends where it must.
    let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    assert!((4.5..8.6).contains(&largest), "{largest}");
}

#[test]
fn integers_are_unbiased() {
    let mut rng = Rng::new(11);
    for n in [1, 3, 7, 100] {
        let mut counts = vec![0; n];
        (0..200_000).for_each(|_| counts[rng.below(n)] += 1);
        assert!(n == 1 || chi_square(&counts, &vec![1.0 / n as f64; n]).abs() < 5.0, "{n}");
    }
    // Three quarters of the words: without drawing again, the lower half would come up twice as
    // often as the upper.
    let most = 3 << 62;
    let low = (0..100_000).filter(|_| rng.below(most) < most / 2).count();
    assert!((low as f64 - 50_000.0).abs() < 5.0 * 25_000_f64.sqrt(), "{low}");
}

#[test]
fn permutations_are_equally_likely() {
    let mut rng = Rng::new(12);
    let mut counts = [0; 256];
    for _ in 0..240_000 {
        let order = rng.permutation(4);
        counts[order.iter().fold(0, |code, i| code * 4 + i)] += 1;
    }
    let seen: Vec<usize> = counts.into_iter().filter(|&count| count > 0).collect();
    assert_eq!(seen.len(), 24);
    assert!(chi_square(&seen, &[1.0 / 24.0; 24]).abs() < 5.0);
    let mut long = rng.permutation(1000);
    assert!(!long.is_sorted());
    long.sort();
    assert!(long.into_iter().eq(0..1000));
}
