//! Threads that look for work, awake for a while and then asleep.
//!
//! A call with many tasks is a [region](super::region). Its tasks are dealt to the threads in
//! ranges, so that a thread meets the rows it had in the region before, whose lines are still in
//! its caches; a thread that has no more takes others' from behind. The caller works too, and while
//! it waits for the last tasks it helps with what they have opened: calls may nest. (So nobody may
//! hold a lock in a call that a task takes.) Threads that call from outside share a pool's own
//! threads, but never run each other's tasks: what a thread keeps for itself stays its own.
//!
//! Waking a thread takes tens of microseconds on a virtual machine, as long as many a region does,
//! and a training step opens a thousand. So a thread without work looks for it for [`AWAKE`], and
//! lets other programs run meanwhile, before it sleeps (docs/speed.md has the measurements).

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use super::region::{self, Region, Task};

/// How long a thread without work stays awake: the longest stretch of one thread's work between two
/// regions that costs no waking. Where there are more threads than can run at once, no time.
const AWAKE: Duration = Duration::from_millis(1);

/// How often it looks before other programs may run: for about a microsecond.
const LOOKS: usize = 32;

/// Threads that share regions: a pool's own, and whoever has [entered](Pool::enter).
struct Team {
    threads: usize,
    /// How long they stay awake.
    awake: Duration,
    regions: Mutex<Regions>,
    /// Goes up when there is something new to see among the regions.
    news: AtomicUsize,
    bell: Condvar,
}

#[derive(Default)]
struct Regions {
    /// Those whose callers still work on them, oldest first.
    open: Vec<Arc<Region>>,
    /// Threads of the pool that wait for the bell,
    asleep: usize,
    /// and callers who sleep until their region ends.
    parked: Vec<Thread>,
    is_closing: bool,
}

/// Where a thread is: its team, its place there, and whose call it works for.
#[derive(Clone)]
struct Here {
    team: Arc<Team>,
    place: usize,
    root: ThreadId,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// The team of threads that have entered none: as many as the processor runs at once.
static EVERYBODY: LazyLock<Pool> = LazyLock::new(|| Pool::new(parallelism()));

fn parallelism() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Threads of the team that the caller is in.
pub fn threads() -> usize {
    let here = HERE.with_borrow(|here| here.as_ref().map(|here| here.team.threads));
    here.unwrap_or_else(|| EVERYBODY.team.threads)
}

/// Calls `task` with ranges that make up 0..n, by the threads of the caller's team: each of `most`
/// (not 0) as long as there are many left, then of fewer.
///
/// A panic of a task is passed on when all have ended.
pub fn run(n: usize, most: usize, task: &Task) {
    let Here { team, place, root } =
        HERE.with_borrow(Option::clone).unwrap_or_else(|| EVERYBODY.first_place());
    region::with([n, most], task, (team.threads, root), |region| {
        team.open(region);
        while region.step(place) {}
        team.close(region);
        team.help(region, place);
    });
}

/// A team and its own threads, which end with it.
pub struct Pool {
    team: Arc<Team>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A team of so many threads, whoever enters counted as one.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let awake = if threads > parallelism() { Duration::ZERO } else { AWAKE };
        let (regions, bell) = (Mutex::new(Regions::default()), Condvar::new());
        let team = Team { threads, awake, regions, news: AtomicUsize::new(0), bell };
        let mut pool = Pool { team: Arc::new(team), workers: Vec::new() };
        for place in 1..threads {
            let team = Arc::clone(&pool.team);
            let worker = thread::Builder::new().name(format!("worker {place}"));
            let worker = worker.spawn(move || {
                while let Some(region) = team.wait_for_work() {
                    HERE.set(Some(Here { team: Arc::clone(&team), place, root: region.root }));
                    while region.step(place) {}
                }
            });
            pool.workers.push(worker.expect("the operating system gives us threads"));
        }
        pool
    }

    /// The place of a caller from outside.
    fn first_place(&self) -> Here {
        Here { team: Arc::clone(&self.team), place: 0, root: thread::current().id() }
    }

    /// Runs `f` on this thread as the first of the team.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Goes back to the team it was in, even if `f` panics.
        struct Back(Option<Here>);
        impl Drop for Back {
            fn drop(&mut self) {
                HERE.set(self.0.take());
            }
        }
        let _back = Back(HERE.replace(Some(self.first_place())));
        f()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut regions = self.team.lock();
        regions.is_closing = true;
        self.team.news.fetch_add(1, Ordering::Release);
        drop(regions);
        self.team.bell.notify_all();
        for worker in self.workers.drain(..) {
            worker.join().expect("panics of tasks are passed on to their callers");
        }
    }
}

impl Team {
    fn lock(&self) -> MutexGuard<'_, Regions> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, region: &Arc<Region>) {
        let mut regions = self.lock();
        regions.open.push(Arc::clone(region));
        self.news.fetch_add(1, Ordering::Release);
        // The caller has work for itself.
        let wanted = regions.asleep.min(region.untaken().saturating_sub(1));
        let parked = std::mem::take(&mut regions.parked);
        drop(regions);
        (0..wanted).for_each(|_| self.bell.notify_one());
        parked.iter().for_each(Thread::unpark);
    }

    fn close(&self, region: &Arc<Region>) {
        self.lock().open.retain(|open| !Arc::ptr_eq(open, region));
    }

    /// Works on what tasks of this region, or of the one it is part of, have opened while they run
    /// elsewhere, until this one has ended.
    fn help(&self, region: &Region, place: usize) {
        while !region.has_ended() {
            let regions = self.lock();
            let other = regions.find(|other| other.root == region.root);
            let has_news = self.notices();
            drop(regions);
            if let Some(other) = other {
                while !region.has_ended() && other.step(place) {}
            } else if !self.awake_until(|| region.has_ended() || has_news()) {
                self.park_until(has_news);
            }
        }
    }

    /// Sleeps until there is news, or the thread's region has ended, or sometimes less long.
    fn park_until(&self, has_news: impl Fn() -> bool) {
        let this = thread::current();
        let mut regions = self.lock();
        if has_news() {
            return;
        }
        regions.parked.push(this.clone());
        drop(regions);
        thread::park();
        self.lock().parked.retain(|parked| parked.id() != this.id());
    }

    /// A region with tasks that nobody has taken; none when the pool closes.
    fn wait_for_work(&self) -> Option<Arc<Region>> {
        let mut regions = self.lock();
        loop {
            if regions.is_closing {
                return None;
            }
            if let Some(region) = regions.find(|_| true) {
                return Some(region);
            }
            let has_news = self.notices();
            drop(regions);
            self.awake_until(&has_news);
            regions = self.lock();
            while !has_news() {
                regions.asleep += 1;
                regions = self.bell.wait(regions).unwrap_or_else(PoisonError::into_inner);
                regions.asleep -= 1;
            }
        }
    }

    /// Whether `condition` held before the thread had been awake for long enough.
    fn awake_until(&self, condition: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if condition() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if begun.elapsed() >= self.awake {
                return false;
            }
            thread::yield_now();
        }
    }

    /// Whether there is something new from now on; taken under the lock, it misses nothing.
    fn notices(&self) -> impl Fn() -> bool {
        let seen = self.news.load(Ordering::Acquire);
        move || self.news.load(Ordering::Acquire) != seen
    }
}

impl Regions {
    /// The youngest such region with tasks that nobody has taken: older ones may wait for it.
    fn find(&self, is_good: impl Fn(&Region) -> bool) -> Option<Arc<Region>> {
        let mut youngest_first = self.open.iter().rev();
        youngest_first.find(|region| is_good(region) && region.untaken() > 0).cloned()
    }
}

#[cfg(test)]
mod tests;
