//! Attention against its reference, and the same bits however it is run.

use super::*;
use crate::lane::on_every_isa;
use crate::par::with_threads;
use crate::random::philox4x32;
use crate::scratch;

/// Uniform in [-1, 1).
fn uniform(seed: u32, len: usize) -> Vec<f64> {
    let word = |i: usize| philox4x32([seed, 0], [i as u32, 0, 0, 0])[0];
    (0..len).map(|i| f64::from(word(i)) / f64::from(1u32 << 31) - 1.0).collect()
}

/// A random problem, its operands in one fused QKV buffer for each segment.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    width: usize,
    /// Tokens of each segment, and whether it has queries.
    segments: Vec<(usize, bool)>,
    /// Key lengths of the last segment.
    key_len: Option<Vec<usize>>,
    bias: bool,
    /// A factor of all numbers.
    size: f64,
    /// Whether the first segment's answers have a gradient.
    first_has_gradient: bool,
}

impl Case {
    fn new(width: usize, segments: &[(usize, bool)]) -> Case {
        Case {
            batch: 2,
            heads: 3,
            width,
            segments: segments.to_vec(),
            key_len: None,
            bias: false,
            size: 2.0,
            first_has_gradient: true,
        }
    }

    /// Everything attention answers, flat, and the same by the reference.
    fn run<T: Real>(&self) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let Case { batch, heads, width, .. } = *self;
        let channels = heads * width;
        let numbers = |seed: usize, len: usize| -> Vec<T> {
            uniform(seed as u32, len).into_iter().map(|x| T::from_f64(self.size * x)).collect()
        };
        let qkv: Vec<_> = (self.segments.iter().enumerate())
            .map(|(i, s)| numbers(i, batch * s.0 * 3 * channels))
            .collect();
        let last = self.segments.len() - 1;
        let segments: Vec<_> = (self.segments.iter().zip(&qkv).enumerate())
            .map(|(i, (&(tokens, queries), qkv))| {
                let part = |part: usize| View {
                    data: qkv.get(part * channels..).unwrap_or(&[]),
                    batch_stride: tokens * 3 * channels,
                    row_stride: 3 * channels,
                };
                let key_len = self.key_len.as_deref().filter(|_| i == last);
                Segment { tokens, q: queries.then(|| part(0)), k: part(1), v: part(2), key_len }
            })
            .collect();
        let scale = 1.0 / (width as f64).sqrt();
        let mut problem = Problem { batch, heads, width, scale, segments: &segments, bias: None };
        let bias = numbers(77, heads * problem.queries() * problem.keys());
        problem.bias = self.bias.then_some(&bias[..]);
        let d_o: Vec<Vec<T>> = (segments.iter().enumerate())
            .map(|(i, s)| {
                let some = s.q.is_some() && (i > 0 || self.first_has_gradient);
                numbers(50 + i, if some { batch * s.tokens * channels } else { 0 })
            })
            .collect();
        let fast = run(&problem, &d_o);
        let d_o: Vec<_> = d_o.iter().map(|d| d.iter().map(|x| x.to_f64()).collect()).collect();
        let mut r = reference(&problem, &d_o);
        r.lse.iter_mut().flatten().for_each(|lse| *lse *= BITS);
        let slow = [r.o, r.lse, r.dq, r.dk, r.dv, vec![r.dbias]].concat();
        (fast, slow)
    }

    /// The largest difference from the reference, relative to the largest number of each result,
    /// and to the size of the scores, since an exponential's error is that of its argument.
    fn error<T: Real>(&self) -> f64 {
        let (fast, slow) = self.run::<T>();
        assert_eq!(fast.len(), slow.len());
        let mut worst = 0.0f64;
        for (fast, slow) in fast.iter().zip(&slow) {
            assert_eq!(fast.len(), slow.len());
            let finite = slow.iter().filter(|x| x.is_finite());
            let size = finite.fold(1e-3f64, |m, x| m.max(x.abs()));
            for (f, s) in fast.iter().zip(slow).filter(|(f, s)| f != s) {
                let error = (f - s).abs() / size;
                assert!(!error.is_nan(), "{f} instead of {s}");
                worst = worst.max(error);
            }
        }
        worst / (self.size / 2.0).powi(2)
    }
}

/// Forward and backward into memory full of NaN, scratch included, as float64: o, lse, dq, dk, dv
/// of each segment, and dbias.
fn run<T: Real>(problem: &Problem<T>, d_o: &[Vec<T>]) -> Vec<Vec<f64>> {
    scratch::with([1 << 18], |[room]: [&mut [T]; 1]| room.fill(T::from_f64(f64::NAN)));
    let channels = problem.heads * problem.width;
    let unwritten = |queries: bool, per_token: usize| -> Vec<Vec<T>> {
        let tokens = |s: &Segment<T>| if queries && s.q.is_none() { 0 } else { s.tokens };
        let len = |s| problem.batch * tokens(s) * per_token;
        problem.segments.iter().map(|s| vec![T::from_f64(f64::NAN); len(s)]).collect()
    };
    let (mut o, mut lse) = (unwritten(true, channels), unwritten(true, problem.heads));
    let mut outputs: Vec<_> =
        o.iter_mut().zip(&mut lse).map(|(o, lse)| Output { o, lse }).collect();
    forward(problem, &mut outputs);
    let saved: Vec<_> = (o.iter().zip(&lse).zip(d_o))
        .map(|((o, lse), d_o)| Saved { o, lse, d_o: (!d_o.is_empty()).then_some(&d_o[..]) })
        .collect();
    let [mut dq, mut dk, mut dv] = [true, false, false].map(|queries| unwritten(queries, channels));
    let mut gradients: Vec<_> = (dq.iter_mut().zip(&mut dk).zip(&mut dv))
        .map(|((dq, dk), dv)| Gradient { dq, dk, dv })
        .collect();
    let mut dbias = vec![T::from_f64(f64::NAN); problem.heads * problem.queries() * problem.keys()];
    backward(problem, &saved, &mut gradients, Some(&mut dbias));

    // Without a bias, samples are tasks of their own; the gradients must be the same.
    let [mut q2, mut k2, mut v2] = [true, false, false].map(|queries| unwritten(queries, channels));
    let mut gradients: Vec<_> = (q2.iter_mut().zip(&mut k2).zip(&mut v2))
        .map(|((dq, dk), dv)| Gradient { dq, dk, dv })
        .collect();
    backward(problem, &saved, &mut gradients, None);
    assert!((&dq, &dk, &dv) == (&q2, &k2, &v2), "the bias changes the others' gradients");

    let all = [o, lse, dq, dk, dv, vec![dbias]].concat();
    all.into_iter().map(|x| x.into_iter().map(T::to_f64).collect()).collect()
}

/// Shapes with every kind of edge: tiles, sixteens, chunks, empty segments, padding.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        (1, &[(1, true)][..]),
        (8, &[(5, true), (3, true)]),
        (16, &[(16, true), (16, true)]),
        (24, &[(17, true), (0, true), (30, true)]),
        (32, &[(33, false), (7, true)]),
        (40, &[(70, true), (200, false)]),
        (64, &[(64, true), (24, true)]),
        (48, &[(0, true), (3, false)]),
    ]
    .into_iter()
    .map(|(width, segments)| Case::new(width, segments))
    .collect();
    for lens in [[0, 0], [9, 4], [3, 0]] {
        let segments = [(130, true), (9, true)];
        cases.push(Case { key_len: Some(lens.to_vec()), bias: true, ..Case::new(12, &segments) });
        cases.push(Case { key_len: Some(lens.to_vec()), ..Case::new(5, &[(9, true)]) });
    }
    let long = Case::new(20, &[(530, true), (5, true)]);
    cases.push(Case { batch: 1, heads: 1, ..long.clone() });
    cases.push(Case { batch: 1, heads: 24, ..long });
    cases.push(Case { heads: 1, bias: true, ..Case::new(7, &[(90, true), (200, true)]) });
    cases.push(Case { first_has_gradient: false, ..Case::new(16, &[(20, true), (10, true)]) });
    cases.push(Case { first_has_gradient: false, bias: true, ..Case::new(16, &[(20, true)]) });
    // Scores of up to sixty, which grow by more than SLACK from one tile of keys to the next.
    cases.push(Case { size: 8.0, heads: 1, ..Case::new(16, &[(30, true), (800, false)]) });
    cases.push(Case { batch: 0, ..Case::new(16, &[(20, true)]) });
    cases.push(Case { heads: 0, ..Case::new(16, &[(20, true)]) });
    cases
}

#[test]
fn f64_equals_the_reference() {
    for case in cases() {
        let error = case.error::<f64>();
        assert!(error < 1e-13, "{error:e} in {case:?}");
    }
}

#[test]
fn f32_is_near_the_reference() {
    for case in cases() {
        // Sums of up to 535 terms near one, each rounded to 6e-8: sqrt(535)·6e-8 expected.
        let error = case.error::<f32>();
        assert!(error < 3e-6, "{error:e} in {case:?}");
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    let bits = |case: &Case| {
        let all = case.run::<f32>().0.concat();
        all.into_iter().map(|x| (x as f32).to_bits()).collect::<Vec<_>>()
    };
    let cases = cases().into_iter().filter(|c| c.segments[0].0 < 100);
    let cases: Vec<_> = cases.map(|case| (with_threads(1, || bits(&case)), case)).collect();
    on_every_isa("attention", |isa| {
        for (want, case) in &cases {
            assert!(with_threads(3, || bits(case)) == *want, "{isa:?} in {case:?}");
        }
    });
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let (width, heads, tokens) = (16, 2, 21);
    let channels = width * heads;
    let data = uniform(5, 3 * tokens * channels).iter().map(|&x| x as f32).collect::<Vec<_>>();
    let answer = |data: &[f32]| {
        let view = View::contiguous(data, tokens, channels);
        let segments = [Segment { tokens, q: Some(view), k: view, v: view, key_len: None }];
        let batch = data.len() / tokens / channels;
        let problem = Problem { batch, heads, width, scale: 0.25, segments: &segments, bias: None };
        let (mut o, mut lse) = (vec![0.0; data.len()], vec![0.0; batch * heads * tokens]);
        forward(&problem, &mut [Output { o: &mut o, lse: &mut lse }]);
        o
    };
    let (all, one) = (answer(&data), tokens * channels);
    assert_eq!(all[one..2 * one], answer(&data[one..2 * one]));
}

/// Answers of two queries that find these scores, by way of the bias, and their log-sum-exp in
/// bits; values count from one.
fn answers<T: Real>(scores: [&[f64]; 2]) -> [Vec<f64>; 2] {
    let keys = scores[0].len();
    let bias: Vec<_> = scores.concat().into_iter().map(T::from_f64).collect();
    let zeros = vec![T::ZERO; keys];
    let values: Vec<_> = (1..=keys).map(|i| T::from_f64(i as f64)).collect();
    let segment = |first: usize, tokens: usize, has_queries: bool| {
        let [zeros, v] =
            [&zeros, &values].map(|data| View::contiguous(&data[first..][..tokens], tokens, 1));
        Segment { tokens, q: has_queries.then_some(zeros), k: zeros, v, key_len: None }
    };
    let segments = [segment(0, 2, true), segment(2, keys - 2, false)];
    let bias = Some(&bias[..]);
    let problem = Problem { batch: 1, heads: 1, width: 1, scale: 1.0, segments: &segments, bias };
    let [mut o, mut lse] = [vec![T::ZERO; 2], vec![T::ZERO; 2]];
    let unused = Output { o: &mut [], lse: &mut [] };
    forward(&problem, &mut [Output { o: &mut o, lse: &mut lse }, unused]);
    [o, lse].map(|x| x.into_iter().map(T::to_f64).collect())
}

/// A score in bits, as a kernel rounds it.
fn in_bits<T: Real>(score: f64) -> f64 {
    (T::from_f64(score) * T::from_f64(BITS)).to_f64()
}

#[test]
fn scores_far_below_the_largest_weigh_nothing() {
    fn check<T: Real>() {
        // A gap of a hundred, in either direction and across tiles, and keys that are impossible:
        // all but one of the first tile or of the last, or all.
        let only = |key: usize, score: f64, others: f64| -> Vec<f64> {
            (0..300).map(|i| if i == key { score } else { others }).collect()
        };
        let none = f64::NEG_INFINITY;
        let rows = [
            (only(270, 100.0, 0.0), 271.0, 100.0),
            (only(3, -500.0, none), 4.0, -500.0),
            (only(270, -500.0, none), 271.0, -500.0),
            (only(0, none, none), 0.0, none),
        ];
        for (a, b) in [(0, 1), (2, 3)] {
            let [o, lse] = answers::<T>([&rows[a].0, &rows[b].0]);
            assert_eq!(o, [rows[a].1, rows[b].1]);
            assert_eq!(lse, [rows[a].2, rows[b].2].map(in_bits::<T>));
        }
    }
    on_every_isa("scores far apart", |_| {
        check::<f32>();
        check::<f64>();
    });
}

/// Maxima that grow from one tile of keys to the next, and shrink, by less than what sums are
/// scaled for and by more.
#[test]
fn growing_scores_weigh_as_exponentials_say() {
    fn check<T: Real>(tolerance: f64) {
        for step in [0.5, 5.0, 5.6, 40.0, 200.0] {
            let noise = uniform(9, 1100).into_iter().enumerate();
            let up: Vec<f64> = noise.map(|(i, x)| x + step * (i / 256) as f64).collect();
            let down: Vec<f64> = up.iter().rev().copied().collect();
            let max = up.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let p: Vec<f64> = up.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = p.iter().sum();
            let mean = p.iter().zip(1..).map(|(p, v)| p * f64::from(v)).sum::<f64>() / sum;
            let [o, lse] = answers::<T>([&up, &down]);
            let lse_want = (max + sum.ln()) * BITS;
            let wants = [mean, 1101.0 - mean, lse_want, lse_want];
            for (got, want) in o.into_iter().chain(lse).zip(wants) {
                assert!((got / want - 1.0).abs() < tolerance, "{got} for {want}, step {step}");
            }
        }
    }
    on_every_isa("growing scores", |_| {
        check::<f32>(1e-5);
        check::<f64>(1e-12);
    });
}

#[test]
fn a_score_that_is_not_a_number_spoils_its_row_alone() {
    fn check<T: Real>() {
        for at in [0, 5, 299] {
            let mut one = [0.0; 300];
            one[at] = f64::NAN;
            let [o, lse] = answers::<T>([&one, &[0.0; 300]]);
            assert!(o[0].is_nan() && lse[0].is_nan(), "key {at}: {o:?}, {lse:?}");
            assert!((o[1] - 150.5).abs() < 1e-3 && lse[1].is_finite());
        }
    }
    on_every_isa("scores that are not numbers", |_| {
        check::<f32>();
        check::<f64>();
    });
}

#[test]
fn a_row_of_impossible_scores_attends_to_nothing() {
    let q = [1.0f32; 2];
    let view = View::contiguous(&q, 2, 1);
    let segments = [Segment { tokens: 2, q: Some(view), k: view, v: view, key_len: None }];
    for least in [f32::NEG_INFINITY, f32::MIN] {
        let bias = Some(&[least; 4][..]);
        let problem =
            Problem { batch: 1, heads: 1, width: 1, scale: 1.0, segments: &segments, bias };
        let all = run(&problem, &[vec![1.0; 2]]);
        assert_eq!(all[0], [0.0; 2]);
        assert_eq!(all[1], [f64::NEG_INFINITY; 2]);
        assert!(all[2..].concat().iter().all(|&x| x == 0.0));
    }
}

/// The room behind the last key is no key, however far below it the scores are.
#[test]
fn scores_far_below_zero_weigh_alike() {
    const KEYS: usize = 9;
    let (q, bias) = ([1.0f32; KEYS], [-1e10f32; KEYS * KEYS]);
    let view = View::contiguous(&q, KEYS, 1);
    let segments = [Segment { tokens: KEYS, q: Some(view), k: view, v: view, key_len: None }];
    let bias = Some(&bias[..]);
    let problem = Problem { batch: 1, heads: 1, width: 1, scale: 1.0, segments: &segments, bias };
    on_every_isa("scores far below zero", |_| {
        let [o, lse, gradients @ ..]: [_; 6] =
            run(&problem, &[vec![1.0; KEYS]]).try_into().unwrap();
        assert!(o.iter().all(|o| (o - 1.0).abs() < 1e-6) && lse == [in_bits::<f32>(-1e10); KEYS]);
        // Beside such a score there is no room for ln 9: each key's share has become one.
        let [dq, dk, dv, dbias] = gradients;
        assert!(dv == [9.0; KEYS] && [dq, dk, dbias].concat().iter().all(|x| x.abs() < 1e-5));
    });
}
