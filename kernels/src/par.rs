//! Work split over threads: the only door to the thread pool.
//!
//! A call is cut into tasks by the problem alone, never by the number of threads, and every task
//! writes its own part of the output: results do not depend on how many threads there are.
//! Work too small to pay for waking a thread stays on the caller's.

use rayon::prelude::*;

mod cells;

pub use cells::{Cell, Cells};

/// Nanoseconds of work below which a second thread costs more than it saves.
const WORTH_SPLITTING: usize = 30_000;

/// Runs `f` inside a pool of `threads` threads, so that every kernel below finds itself in it.
///
/// Entering a pool costs microseconds; a program does it once.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("the operating system gives us threads")
        .install(f)
}

/// Threads of the pool that the caller is in.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Whether a call of about `ns` nanoseconds should be split.
fn split(ns: usize) -> bool {
    ns > WORTH_SPLITTING && rayon::current_num_threads() > 1
}

/// `f(i)` for i in 0..n, about `ns` nanoseconds in all.
pub fn for_each(n: usize, ns: usize, f: impl Fn(usize) + Sync + Send) {
    if n > 1 && split(ns) {
        (0..n).into_par_iter().with_max_len(1).for_each(f);
    } else {
        (0..n).for_each(f);
    }
}

/// `f(i, chunk)` for each chunk of `len` elements of `out`, about `ns` nanoseconds in all.
pub fn chunks_mut<T: Send>(
    out: &mut [T],
    len: usize,
    ns: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if out.len() > len && split(ns) {
        out.par_chunks_mut(len).with_max_len(1).enumerate().for_each(|(i, c)| f(i, c));
    } else {
        out.chunks_mut(len).enumerate().for_each(|(i, c)| f(i, c));
    }
}

/// `f(i, a, b)` for the i-th chunks of two outputs, about `ns` nanoseconds in all.
pub fn chunks2_mut<A: Send, B: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    ns: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    if a.len() > a_len && split(ns) {
        (a.par_chunks_mut(a_len), b.par_chunks_mut(b_len))
            .into_par_iter()
            .with_max_len(1)
            .enumerate()
            .for_each(|(i, (a, b))| f(i, a, b));
    } else {
        a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

/// `f(i, a, b, c)` for the i-th chunks of three outputs, about `ns` nanoseconds in all.
pub fn chunks3_mut<A: Send, B: Send, C: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    (c, c_len): (&mut [C], usize),
    ns: usize,
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync + Send,
) {
    if a.len() > a_len && split(ns) {
        (a.par_chunks_mut(a_len), b.par_chunks_mut(b_len), c.par_chunks_mut(c_len))
            .into_par_iter()
            .with_max_len(1)
            .enumerate()
            .for_each(|(i, (a, b, c))| f(i, a, b, c));
    } else {
        let chunks = a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).zip(c.chunks_mut(c_len));
        chunks.enumerate().for_each(|(i, ((a, b), c))| f(i, a, b, c));
    }
}

/// Runs both closures, perhaps at once; `ns` is the time of the shorter one.
pub fn join<A: Send, B: Send>(
    ns: usize,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    if split(ns) { rayon::join(a, b) } else { (a(), b()) }
}

/// `f(i)` for i in 0..n, collected in order, about `ns` nanoseconds in all.
pub fn map<R: Send>(n: usize, ns: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if n > 1 && split(ns) {
        (0..n).into_par_iter().with_max_len(1).map(f).collect()
    } else {
        (0..n).map(f).collect()
    }
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
