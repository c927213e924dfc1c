//! Repeated runs by the clock.

use std::time::{Duration, Instant};

/// Runs before the clock counts: they fill caches, the memory pool, and the branch predictors.
const WARM_UP: usize = 2;

/// Runs of something short: enough for a median.
const LEAST: usize = 5;

/// Seconds that runs took, least first; there is at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    /// Durations in any order.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(mut seconds: Vec<f64>) -> Self {
        assert!(!seconds.is_empty(), "nothing was timed");
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }

    /// The shortest.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let Self(seconds) = self;
        let (below, above) = ((seconds.len() - 1) / 2, seconds.len() / 2);
        (seconds[below] + seconds[above]) / 2.0
    }
}

/// Times `runs` runs of `f`, after two that do not count.
///
/// Errors: those of `f`.
pub fn time<E>(runs: usize, mut f: impl FnMut() -> Result<(), E>) -> Result<Times, E> {
    for _ in 0..WARM_UP {
        f()?;
    }
    let timed = (0..runs.max(1)).map(|_| once(&mut f));
    Ok(Times::new(timed.collect::<Result<_, E>>()?))
}

/// Times as many runs of `f` as fit into about `budget`, and at least five, after two that do not
/// count.
///
/// Errors: those of `f`.
pub fn time_for<E>(budget: Duration, mut f: impl FnMut() -> Result<(), E>) -> Result<Times, E> {
    for _ in 0..WARM_UP {
        f()?;
    }
    let begun = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < LEAST || begun.elapsed() < budget {
        seconds.push(once(&mut f)?);
    }
    Ok(Times::new(seconds))
}

fn once<E>(f: &mut impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let begun = Instant::now();
    f()?;
    Ok(begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Times::new(vec![3.0, 1.0, 2.0]).median(), 2.0);
        let even = Times::new(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median(), even.min()), (2.5, 1.0));
    }

    #[test]
    fn warm_up_does_not_count() {
        let mut calls = 0;
        let mut count = || {
            calls += 1;
            Ok::<_, Infallible>(())
        };
        assert_eq!(time(3, &mut count).unwrap().0.len(), 3);
        assert_eq!(time_for(Duration::ZERO, &mut count).unwrap().0.len(), LEAST);
        assert_eq!(calls, 3 + LEAST + 2 * WARM_UP);
        assert_eq!(time(3, || Err("no")), Err("no"));
    }
}
