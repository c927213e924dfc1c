//! The fused pass: every array is read once and written once, sixteen elements at a time.

use super::{Constants, State, Update};
use crate::lane::LANES;
use crate::{Real, Simd, Task, par};

/// Elements of a task.
const CHUNK: usize = 1 << 14;

/// One update of `state` by the gradient `g`.
///
/// # Panics
/// If the arrays differ in length.
pub fn update<T: Real>(u: &Update, g: &[T], state: State<'_, T>) {
    let n = g.len();
    let State { p, m, v, ema } = state;
    assert_eq!([p.len(), m.len(), v.len()], [n; 3], "a moment for each parameter");
    let mut averages = ema.map(|e| {
        assert_eq!(e.len(), n, "an average for each parameter");
        e.chunks_mut(CHUNK)
    });
    let parts = g.chunks(CHUNK).zip(p.chunks_mut(CHUNK)).zip(m.chunks_mut(CHUNK));
    let mut tasks: Vec<_> = parts
        .zip(v.chunks_mut(CHUNK))
        .map(|(((g, p), m), v)| {
            let ema = averages.as_mut().and_then(Iterator::next);
            Some((g, State { p, m, v, ema }))
        })
        .collect();
    par::chunks_mut(&mut tasks, 1, 2 * n, |_, task| {
        let (g, state) = task[0].take().expect("each task runs once");
        T::dispatch(Step { u, g, state });
    });
}

/// `e ← d·e + (1 − d)·p` alone, for parameters that got no gradient.
///
/// # Panics
/// If the arrays differ in length.
pub fn ema<T: Real>(decay: f64, p: &[T], e: &mut [T]) {
    assert_eq!(p.len(), e.len(), "an average for each parameter");
    par::chunks_mut(e, CHUNK, p.len(), |i, e| {
        T::dispatch(Ema { decay, p: &p[i * CHUNK..][..e.len()], e });
    });
}

struct Step<'a, 'u, T> {
    u: &'u Update,
    g: &'u [T],
    state: State<'a, T>,
}

impl<T: Real> Task<T> for Step<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Step { u, g, state: State { p, m, v, mut ema } } = self;
        let c = Constants::new(u.scalars().map(|c| isa.splat(T::from_f64(c))));
        let clip = isa.splat(T::from_f64(u.clip));
        let mut start = 0;
        while start < g.len() {
            let part = start..start + LANES.min(g.len() - start);
            let load = [&g[part.clone()], &p[part.clone()], &m[part.clone()], &v[part.clone()]];
            let mut x = [clip; 4];
            for k in 0..4 {
                x[k] = isa.load_head(load[k], T::ZERO);
            }
            x[0] = x[0] * clip;
            let [new_p, new_m, new_v] = c.step(x);
            isa.store_head(new_p, &mut p[part.clone()]);
            isa.store_head(new_m, &mut m[part.clone()]);
            isa.store_head(new_v, &mut v[part.clone()]);
            if let Some(e) = &mut ema {
                let e = &mut e[part.clone()];
                isa.store_head(c.average(isa.load_head(e, T::ZERO), new_p), e);
            }
            start = part.end;
        }
    }
}

struct Ema<'a, T> {
    decay: f64,
    p: &'a [T],
    e: &'a mut [T],
}

impl<T: Real> Task<T> for Ema<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let decay = isa.splat(T::from_f64(self.decay));
        let rest = isa.splat(T::from_f64(1.0 - self.decay));
        for (e, p) in self.e.chunks_mut(LANES).zip(self.p.chunks(LANES)) {
            let mean = isa.load_head(e, T::ZERO) * decay + isa.load_head(p, T::ZERO) * rest;
            isa.store_head(mean, e);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::reference;

    fn values(n: usize, salt: u32) -> Vec<f64> {
        let word = |i: u32| crate::random::philox4x32([salt, 0], [i, 0, 0, 0])[0];
        (0..n as u32).map(|i| f64::from(word(i)) / f64::from(u32::MAX) - 0.5).collect()
    }

    /// Five updates of p, m, v and e by the kernel in `T`, from float64 inputs.
    fn run<T: Real>(n: usize, clip: f64, threads: usize) -> [Vec<T>; 4] {
        let cast = |x: Vec<f64>| x.into_iter().map(T::from_f64).collect::<Vec<_>>();
        let mut p = cast(values(n, 0));
        let (mut m, mut v, mut e) = (vec![T::ZERO; n], vec![T::ZERO; n], p.clone());
        for number in 1..=5 {
            let g = cast(values(n, number as u32));
            let state = State { p: &mut p, m: &mut m, v: &mut v, ema: Some(&mut e) };
            par::with_threads(threads, || update(&numbers(number, clip), &g, state));
        }
        [p, m, v, e]
    }

    fn numbers(number: u64, clip: f64) -> Update {
        Update {
            lr: 1e-2,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 0.1,
            clip,
            number,
            ema_decay: 0.8,
        }
    }

    #[test]
    fn agrees_with_the_reference() {
        let n = CHUNK + 37;
        let mut p = values(n, 0);
        let (mut m, mut v, mut e) = (vec![0.0; n], vec![0.0; n], p.clone());
        for number in 1..=5 {
            let state = State { p: &mut p, m: &mut m, v: &mut v, ema: Some(&mut e) };
            reference(&numbers(number, 0.3), &values(n, number as u32), state);
        }
        let want = [p, m, v, e];
        for (got, want) in run::<f64>(n, 0.3, 1).iter().zip(&want) {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15));
        }
        let single = run::<f32>(n, 0.3, 1);
        for (got, want) in single.iter().zip(&want) {
            // m/√v is at most about 1, so that five steps of rounding stay below 1e-6.
            assert!(got.iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6));
        }
        assert_eq!(run::<f32>(n, 0.3, 2), single, "threads change no bit");
    }

    #[test]
    fn the_average_alone_is_the_average_in_the_pass() {
        let u = Update { lr: 0.0, ..numbers(1, 1.0) };
        let (mut p, mut e) = (vec![1.0f32; 19], vec![3.0f32; 19]);
        let mut alone = e.clone();
        ema(u.ema_decay, &p, &mut alone);
        let (mut m, mut v) = (vec![0.0; 19], vec![0.0; 19]);
        let state = State { p: &mut p, m: &mut m, v: &mut v, ema: Some(&mut e) };
        update(&u, &[1.0; 19], state);
        assert_eq!((alone[18], &p), (e[18], &vec![1.0; 19]));
    }
}
