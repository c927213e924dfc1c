//! Where time goes: by operation and shapes, forward and backward apart.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::count;
use tensor::{Shape, Tensor};

use crate::scope;

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Which way an operation is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// From operands to results.
    Forward,
    /// From the results' gradients to the operands'.
    Vjp,
    /// What is neither: sums of gradients, the optimiser.
    Other,
}

impl Pass {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Vjp => "vjp",
            Self::Other => "other",
        }
    }
}

/// What was measured of operations of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRow {
    /// The operation.
    pub op: &'static str,
    /// Forward or backward.
    pub pass: Pass,
    /// The shapes of its operands.
    pub shapes: Vec<Shape>,
    /// How often it ran.
    pub calls: u64,
    /// How long, all calls together.
    pub time: Duration,
    /// Arithmetic of matrix products and attention, as executed ([`kernels::count::flops`]).
    pub flops: u64,
    /// Bytes of what it was given and what it gave, each once.
    pub bytes: u64,
}

/// One run of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileEvent {
    /// The operation.
    pub op: &'static str,
    /// Forward or backward.
    pub pass: Pass,
    /// The modules around it, joined by dots.
    pub module: Option<Arc<str>>,
    /// The shapes of its operands.
    pub shapes: Vec<Shape>,
    /// When it began, counted from the beginning of the profile.
    pub begun: Duration,
    /// How long it took, operations inside it included.
    pub time: Duration,
}

/// What [`profile`] saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// By operation, pass and shapes; what took longest first. An operation that a vjp is made of
    /// counts for that vjp, and not by itself.
    pub rows: Vec<ProfileRow>,
    /// Every run in the order in which they ended, those inside of others included; empty unless
    /// asked for.
    pub events: Vec<ProfileEvent>,
    /// From beginning to end.
    pub time: Duration,
}

/// Runs `f` and measures every operation that this thread applies meanwhile, forward and backward;
/// with `events` also lists each of them.
///
/// Costs two readings of the clock and an entry in a table for each operation; without a profile,
/// operations ask one flag. Profiles do not nest: one begun inside another ends it, and the outer
/// one comes out empty.
///
/// ```
/// use autograd::{Var, profile};
/// use tensor::{DType, Tensor};
/// # fn main() -> tensor::Result<()> {
/// let w = Var::parameter(Tensor::ones([64, 32], DType::F32));
/// let x = Var::constant(Tensor::ones([128, 32], DType::F32));
/// let (grads, profile) = profile(false, || x.linear(&w, None)?.mean_all()?.backward());
/// assert!(grads?.get(&w).is_some());
/// let linear = profile.rows.iter().find(|row| row.op == "linear").expect("it ran");
/// assert_eq!(linear.shapes.len(), 2);
/// assert!(linear.flops >= 2 * 128 * 64 * 32 && linear.calls == 1);
/// # Ok(())
/// # }
/// ```
pub fn profile<R>(events: bool, f: impl FnOnce() -> R) -> (R, Profile) {
    let recorder = Recorder {
        begun: Instant::now(),
        depth: 0,
        rows: HashMap::new(),
        events: events.then(Vec::new),
    };
    RECORDER.set(Some(recorder));
    let result = f();
    let profile = RECORDER.take().map(Recorder::finish).unwrap_or_default();
    (result, profile)
}

/// A profile under way.
struct Recorder {
    begun: Instant,
    /// Operations that have begun and not ended.
    depth: usize,
    rows: HashMap<(&'static str, Pass, Vec<Shape>), ProfileRow>,
    events: Option<Vec<ProfileEvent>>,
}

impl Recorder {
    fn finish(self) -> Profile {
        let mut rows: Vec<ProfileRow> = self.rows.into_values().collect();
        rows.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| (a.op, a.pass).cmp(&(b.op, b.pass))));
        let events = self.events.unwrap_or_default();
        Profile { rows, events, time: self.begun.elapsed() }
    }
}

/// What is said about a run once it is over.
pub(crate) struct Run {
    pub op: &'static str,
    pub pass: Pass,
    pub shapes: Vec<Shape>,
    /// Bytes of operands and results.
    pub bytes: usize,
}

/// Whether this thread lists every operation, those inside of others included.
pub(crate) fn lists_events() -> bool {
    RECORDER.with_borrow(|recorder| recorder.as_ref().is_some_and(|it| it.events.is_some()))
}

/// Runs `f`; if there is a profile, measures it and asks `about` what it was.
#[inline]
pub(crate) fn measured<R>(f: impl FnOnce() -> R, about: impl FnOnce(&R) -> Run) -> R {
    let is_on = RECORDER.with_borrow_mut(|recorder| match recorder {
        Some(recorder) => {
            recorder.depth += 1;
            true
        }
        None => false,
    });
    if is_on { measure(f, about) } else { f() }
}

fn measure<R>(f: impl FnOnce() -> R, about: impl FnOnce(&R) -> Run) -> R {
    let (begun, before) = (Instant::now(), count::flops());
    let result = f();
    let (time, flops) = (begun.elapsed(), count::flops() - before);
    let Run { op, pass, shapes, bytes } = about(&result);
    let module = scope::path();
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        recorder.depth = recorder.depth.saturating_sub(1);
        if let Some(events) = &mut recorder.events {
            let begun = begun.saturating_duration_since(recorder.begun);
            let shapes = shapes.clone();
            events.push(ProfileEvent { op, pass, module, shapes, begun, time });
        }
        if recorder.depth == 0 {
            let row = recorder.rows.entry((op, pass, shapes.clone())).or_insert_with(|| {
                ProfileRow { op, pass, shapes, calls: 0, time: Duration::ZERO, flops: 0, bytes: 0 }
            });
            row.calls += 1;
            row.time += time;
            row.flops += flops;
            row.bytes += bytes as u64;
        }
    });
    result
}

/// Bytes of the elements of tensors.
pub(crate) fn bytes_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> usize {
    tensors.into_iter().map(|x| x.numel() * x.dtype().size()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Var, checkpoint};
    use tensor::DType;

    fn step(w: &Var) -> tensor::Result<Var> {
        let x = Var::constant(Tensor::ones([8, 4], DType::F32));
        let y = scope("block", || x.linear(w, None)?.square())?;
        y.linear(&Var::constant(Tensor::ones([2, 6], DType::F32)), None)?.mean_all()
    }

    fn find<'a>(profile: &'a Profile, op: &str, pass: Pass) -> Vec<&'a ProfileRow> {
        profile.rows.iter().filter(|row| row.op == op && row.pass == pass).collect()
    }

    #[test]
    fn rows_are_by_operation_shapes_and_pass() {
        let w = Var::parameter(Tensor::ones([6, 4], DType::F32));
        let run = || -> tensor::Result<()> {
            for _ in 0..3 {
                step(&w)?.backward()?;
            }
            Ok(())
        };
        let (result, seen) = profile(true, run);
        result.unwrap();
        let forward = find(&seen, "linear", Pass::Forward);
        assert_eq!(forward.iter().map(|row| row.calls).collect::<Vec<_>>(), [3, 3]);
        let first = forward.iter().find(|row| row.shapes[1][..] == [6, 4]).unwrap();
        assert_eq!(first.bytes, 3 * 4 * (8 * 4 + 6 * 4 + 8 * 6));
        // Products of other tests are counted at the same time.
        assert!(first.flops >= 3 * 2 * 8 * 6 * 4);
        assert_eq!(find(&seen, "linear", Pass::Vjp).len(), 2);
        // The products of a vjp are the vjp's.
        assert!(find(&seen, "matmul", Pass::Forward).is_empty());
        let inner: Vec<_> = seen.events.iter().filter(|event| event.op == "matmul").collect();
        assert_eq!(inner.len(), 6);
        assert!(seen.rows.iter().map(|row| row.time).sum::<Duration>() <= seen.time);
        let modules = seen.events.iter().filter(|event| event.module.as_deref() == Some("block"));
        assert!(modules.count() > 0);
    }

    #[test]
    fn checkpointed_operations_run_forward_twice() {
        let x = Var::parameter(Tensor::ones([5], DType::F32));
        let run = || checkpoint([&x], |[x]| Ok([x.exp()?]))?[0].sum_all()?.backward();
        let (grads, seen) = profile(false, run);
        grads.unwrap();
        assert_eq!(find(&seen, "exp", Pass::Forward)[0].calls, 2);
        assert_eq!(find(&seen, "exp", Pass::Vjp)[0].calls, 1);
    }

    #[test]
    fn nothing_is_recorded_outside() {
        let (_, seen) = profile(true, || ());
        Var::constant(Tensor::ones([2], DType::F32)).exp().unwrap();
        assert!(seen.rows.is_empty() && seen.events.is_empty());
        let (failed, seen) = profile(true, || Var::constant(Tensor::ones([2], DType::F32)).item());
        assert!(failed.is_err() && seen.rows.is_empty());
    }
}
