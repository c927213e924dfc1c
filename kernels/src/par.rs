//! Work split over threads: the only door to the pool of them.
//!
//! A call is cut into tasks by the problem alone, never by the number of threads, and every task
//! writes its own part of the output. How many tasks a thread takes at once is a matter of chance,
//! and none of results': they do not depend on how many threads there are. Work too small to pay
//! for a second thread stays on the caller's.

use std::ops::Range;
use std::sync::Mutex;

mod cells;
mod pool;
mod region;

pub use cells::{Cell, Cells};
pub use pool::threads;

/// Nanoseconds of work below which a second thread costs more than it saves.
const WORTH_SPLITTING: usize = 30_000;

/// Nanoseconds of work that are taken at once where tasks are smaller.
const WORTH_TAKING: usize = 10_000;

/// Runs `f` as the first of `threads` threads, among which every kernel below is split.
///
/// They are started here and end here: a program does it once.
pub fn with_threads<R>(threads: usize, f: impl FnOnce() -> R) -> R {
    pool::Pool::new(threads).enter(f)
}

/// Whether a call of about `ns` nanoseconds should be split.
fn split(ns: usize) -> bool {
    ns > WORTH_SPLITTING && threads() > 1
}

/// `f(i)` for i in 0..n, about `ns` nanoseconds in all.
pub fn for_each(n: usize, ns: usize, f: impl Fn(usize) + Sync) {
    let most = n.saturating_mul(WORTH_TAKING) / ns.max(1);
    for_ranges(n, most, ns, |range| range.for_each(&f));
}

/// `f` for ranges that make up 0..n, about `ns` nanoseconds in all: of `most` as long as there are
/// many left, then of fewer, so that threads end at about the same time. What `f` does must not
/// depend on where it is cut.
pub fn for_ranges(n: usize, most: usize, ns: usize, f: impl Fn(Range<usize>) + Sync) {
    let most = most.clamp(1, n.max(1));
    if n > 1 && split(ns) {
        pool::run(n, most, &f);
    } else {
        (0..n).step_by(most).for_each(|start| f(start..n.min(start + most)));
    }
}

/// `f(i, chunk)` for each chunk of `len` elements of `out`, about `ns` nanoseconds in all.
pub fn chunks_mut<T: Send>(
    out: &mut [T],
    len: usize,
    ns: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let (n, out) = chunks(out, len);
    for_each(n, ns, |i| f(i, out.take(0, [0, i]).row(0)));
}

/// `f(i, a, b)` for the i-th chunks of two outputs, about `ns` nanoseconds in all.
pub fn chunks2_mut<A: Send, B: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    ns: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let ((n, a), (_, b)) = (chunks(a, a_len), chunks(b, b_len));
    for_each(n, ns, |i| f(i, a.take(0, [0, i]).row(0), b.take(0, [0, i]).row(0)));
}

/// `f(i, a, b, c)` for the i-th chunks of three outputs, about `ns` nanoseconds in all.
pub fn chunks3_mut<A: Send, B: Send, C: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    (c, c_len): (&mut [C], usize),
    ns: usize,
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
) {
    let ((n, a), (_, b), (_, c)) = (chunks(a, a_len), chunks(b, b_len), chunks(c, c_len));
    for_each(n, ns, |i| {
        f(i, a.take(0, [0, i]).row(0), b.take(0, [0, i]).row(0), c.take(0, [0, i]).row(0));
    });
}

/// Chunks of `len` elements, the cells of a matrix of one row, and how many there are.
fn chunks<T>(out: &mut [T], len: usize) -> (usize, Cells<'_, T>) {
    let size = [1, out.len()];
    (out.len().div_ceil(len), Cells::new(out, size, [1, len]))
}

/// Runs both closures, perhaps at once; `ns` is the time of the shorter one.
pub fn join<A: Send, B: Send>(
    ns: usize,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    let (a, b) = (Once::new(a), Once::new(b));
    for_each(2, ns, |i| if i == 0 { a.call() } else { b.call() });
    (a.result(), b.result())
}

/// A closure before its call, and its result afterwards.
struct Once<F, R>(Mutex<Option<F>>, Mutex<Option<R>>);

impl<R, F: FnOnce() -> R> Once<F, R> {
    fn new(f: F) -> Self {
        Once(Mutex::new(Some(f)), Mutex::new(None))
    }
    fn call(&self) {
        let f = self.0.lock().expect("nobody panics with it").take().expect("it is called once");
        let result = f();
        *self.1.lock().expect("nobody panics with it") = Some(result);
    }
    fn result(self) -> R {
        self.1.into_inner().expect("nobody panics with it").expect("it has been called")
    }
}

/// `f(i)` for i in 0..n, collected in order, about `ns` nanoseconds in all.
pub fn map<R: Send>(n: usize, ns: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = (0..n).map(|_| None).collect();
    chunks_mut(&mut results, 1, ns, |i, result| result[0] = Some(f(i)));
    results.into_iter().map(|result| result.expect("every task has run")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_in_any_pool() {
        for threads in [1, 2, 3] {
            let (mut a, mut b) = (vec![0; 103], vec![0; 21]);
            with_threads(threads, || {
                chunks2_mut((&mut a, 5), (&mut b, 1), usize::MAX, |i, a, b| {
                    a.iter_mut().for_each(|x| *x += i + 1);
                    b[0] += i;
                });
            });
            assert!(a.iter().enumerate().all(|(j, &x)| x == j / 5 + 1));
            assert!(b.iter().enumerate().all(|(j, &x)| x == j));
            assert_eq!(with_threads(threads, || map(9, usize::MAX, |i| i * i))[8], 64);
        }
    }
}
