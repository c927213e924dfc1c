//! A call of many tasks, which threads take from each other.
//!
//! # Safety invariant
//!
//! A region borrows its closure by a pointer without a lifetime. The pointer is followed only by
//! who has taken a task, each task is taken once, and [`with`] returns, or panics, only after all
//! tasks have ended.
#![allow(unsafe_code)]

use std::any::Any;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread, ThreadId};

/// What a region calls with ranges of its tasks.
pub type Task<'a> = dyn Fn(Range<usize>) + Sync + 'a;

/// A call of n tasks.
pub struct Region {
    task: *const Task<'static>,
    /// How many are taken at once at most.
    most: usize,
    /// The tasks dealt to each thread that nobody has taken.
    dealt: Box<[Tasks]>,
    /// How many have not ended.
    left: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Who is woken when none is left.
    caller: Thread,
    /// The thread in whose call the region was opened: its caller, or that of a region whose task
    /// opened it.
    pub root: ThreadId,
}

// SAFETY: by the module's invariant the closure, which is `Sync`, outlives every use of it, by
// whatever thread; everything else is `Send`.
unsafe impl Send for Region {}
// SAFETY: as above; everything else is `Sync`.
unsafe impl Sync for Region {}

/// Calls `f` with a region of n tasks, dealt to so many threads; `f` has them run, by whatever
/// threads it likes. Then waits for those that have not ended, and passes on a task's panic.
pub fn with(
    [n, most]: [usize; 2],
    task: &Task,
    (threads, root): (usize, ThreadId),
    f: impl FnOnce(&Arc<Region>),
) {
    /// Waits even if `f` panics.
    struct Wait(Arc<Region>);
    impl Drop for Wait {
        fn drop(&mut self) {
            while !self.0.has_ended() {
                thread::park();
            }
        }
    }
    let region = Arc::new(Region::new([n, most], task, threads, root));
    let wait = Wait(Arc::clone(&region));
    f(&region);
    drop(wait);
    let panic = region.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(panic) = panic {
        panic::resume_unwind(panic);
    }
}

impl Region {
    fn new<'a>([n, most]: [usize; 2], task: &'a Task<'a>, threads: usize, root: ThreadId) -> Self {
        let from = |place: usize| place * n / threads;
        let task: *const Task<'a> = task;
        Region {
            // SAFETY: the same pointer without its lifetime; see the module's invariant.
            task: unsafe { std::mem::transmute::<*const Task<'a>, *const Task<'static>>(task) },
            most,
            dealt: (0..threads).map(|i| Tasks::new(from(i)..from(i + 1))).collect(),
            left: AtomicUsize::new(n),
            panic: Mutex::new(None),
            caller: thread::current(),
            root,
        }
    }

    /// How many tasks nobody has taken.
    pub fn untaken(&self) -> usize {
        self.dealt.iter().map(Tasks::len).sum()
    }

    /// Whether all tasks have ended.
    pub fn has_ended(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Takes some tasks and runs them: the first of those dealt to `place`, or the last of another
    /// one's. Whether there were any.
    pub fn step(&self, place: usize) -> bool {
        let (before, from) = self.dealt.split_at(place);
        let others = || from[1..].iter().chain(before).find_map(|tasks| tasks.last(self.most));
        let Some(taken) = from[0].first(self.most).or_else(others) else {
            return false;
        };
        let number = taken.len();
        // SAFETY: a task has been taken and has not ended, so the closure is still there.
        let task = unsafe { &*self.task };
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| task(taken))) {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match *first {
                None => *first = Some(payload),
                // What it does when it is dropped must not keep the task from ending.
                Some(_) => std::mem::forget(payload),
            }
        }
        if self.left.fetch_sub(number, Ordering::AcqRel) == number {
            self.caller.unpark();
        }
        true
    }
}

/// A range of tasks, taken from either end: two numbers of 32 bits.
struct Tasks(AtomicU64);

impl Tasks {
    fn new(range: Range<usize>) -> Self {
        Tasks(AtomicU64::new(Self::packed(range)))
    }

    fn packed(Range { start, end }: Range<usize>) -> u64 {
        let number = |i: usize| u64::from(u32::try_from(i).expect("fewer than 2^32 tasks"));
        (number(start) << 32) | number(end)
    }

    fn range(packed: u64) -> Range<usize> {
        (packed >> 32) as usize..(packed & u64::from(u32::MAX)) as usize
    }

    fn len(&self) -> usize {
        Self::range(self.0.load(Ordering::Relaxed)).len()
    }

    /// Takes half of the tasks, from in front, `most` at most.
    fn first(&self, most: usize) -> Option<Range<usize>> {
        self.take(|Range { start, end }| {
            let middle = start + most.min((end - start).div_ceil(2));
            [start..middle, middle..end]
        })
    }

    /// The same from behind.
    fn last(&self, most: usize) -> Option<Range<usize>> {
        self.take(|Range { start, end }| {
            let middle = end - most.min((end - start).div_ceil(2));
            [middle..end, start..middle]
        })
    }

    /// Divides the range, unless it is empty, into what is taken and what stays.
    fn take(&self, divide: impl Fn(Range<usize>) -> [Range<usize>; 2]) -> Option<Range<usize>> {
        let parts = |packed| {
            let range = Self::range(packed);
            (!range.is_empty()).then(|| divide(range))
        };
        let stays = |packed| parts(packed).map(|[_, stays]| Self::packed(stays));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stays).ok()?;
        parts(before).map(|[taken, _]| taken)
    }
}
