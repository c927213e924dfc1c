use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

use super::*;

/// How often each of 0..n comes in ranges.
fn counts(n: usize, most: usize) -> Vec<usize> {
    let counts: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
    run(n, most, &|range| {
        assert!(!range.is_empty() && range.len() <= most);
        counts[range].iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 7] {
        Pool::new(threads).enter(|| {
            for n in [0, 1, 2, 5, 64, 1000] {
                for most in [1, 4, 2000] {
                    assert_eq!(counts(n, most), vec![1; n], "{n} {most} by {threads}");
                }
            }
        });
    }
}

/// One thread takes its tasks in order, ever fewer, and then the others' from behind.
#[test]
fn ranges_become_shorter_at_the_end() {
    let ranges = Mutex::new(Vec::new());
    let take = |range| ranges.lock().unwrap().push(range);
    region::with([22, 4], &take, (2, thread::current().id()), |region| while region.step(0) {});
    let own = [0..4, 4..8, 8..10, 10..11];
    let others = [18..22, 14..18, 12..14, 11..12];
    assert_eq!(ranges.into_inner().unwrap(), [own, others].concat());
}

/// Tasks that wait for each other have a thread each, awake or asleep.
#[test]
fn as_many_threads_as_there_are_take_part() {
    let pool = Pool::new(3);
    for pause in [Duration::ZERO, 5 * AWAKE, Duration::ZERO] {
        thread::sleep(pause);
        let (barrier, names) = (Barrier::new(3), Mutex::new(BTreeSet::new()));
        pool.enter(|| {
            run(3, 1, &|_| {
                barrier.wait();
                names.lock().unwrap().insert(format!("{:?}", thread::current().id()));
            });
        });
        assert_eq!(names.into_inner().unwrap().len(), 3);
    }
}

/// The caller sleeps while another thread's task is long, and is woken.
#[test]
fn a_long_task_is_waited_for() {
    let barrier = Barrier::new(2);
    Pool::new(2).enter(|| {
        let ended = AtomicUsize::new(0);
        let caller = thread::current().id();
        run(2, 1, &|_| {
            barrier.wait();
            if thread::current().id() != caller {
                thread::sleep(5 * AWAKE);
            }
            ended.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ended.into_inner(), 2);
    });
}

#[test]
fn calls_nest() {
    for threads in [1, 2, 3] {
        let leaves = AtomicUsize::new(0);
        Pool::new(threads).enter(|| {
            run(5, 1, &|outer| {
                run(7, 2, &|middle| {
                    let more = counts(3, 1).len() * outer.len() * middle.len();
                    leaves.fetch_add(more, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(leaves.into_inner(), 5 * 7 * 3);
    }
}

/// A thread that waits for its own region helps with the one inside the other's task, awake or
/// asleep.
#[test]
fn a_waiting_caller_helps() {
    let pool = Pool::new(2);
    let (begun, met) = (Barrier::new(2), Barrier::new(2));
    let caller = thread::current().id();
    for pause in [Duration::ZERO, 5 * AWAKE] {
        pool.enter(|| {
            run(2, 1, &|_| {
                begun.wait();
                if thread::current().id() != caller {
                    thread::sleep(pause);
                    // Both threads are needed, and the caller has nothing left of its own.
                    run(2, 1, &|_| _ = met.wait());
                }
            });
        });
    }
}

/// A thread that waits does nothing for others, as a pool's own threads do.
#[test]
fn a_caller_runs_no_tasks_of_another() {
    let pool = Pool::new(2);
    let is_waiting = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            is_waiting.wait();
            pool.enter(|| {
                let ids = Mutex::new(BTreeSet::new());
                run(6, 1, &|_| {
                    thread::sleep(AWAKE);
                    ids.lock().unwrap().insert(format!("{:?}", thread::current().id()));
                });
                ids.into_inner().unwrap()
            })
        });
        let (caller, begun) = (thread::current().id(), Barrier::new(2));
        pool.enter(|| {
            run(2, 1, &|_| {
                begun.wait();
                if thread::current().id() != caller {
                    is_waiting.wait();
                    thread::sleep(9 * AWAKE);
                }
            });
        });
        assert!(!other.join().unwrap().contains(&format!("{caller:?}")));
    });
}

#[test]
fn a_task_may_enter_another_team() {
    Pool::new(2).enter(|| {
        run(4, 1, &|_| {
            Pool::new(3).enter(|| assert_eq!((threads(), counts(5, 1)), (3, vec![1; 5])));
            assert_eq!(threads(), 2);
        });
    });
    assert_eq!((threads(), counts(5, 1)), (parallelism(), vec![1; 5]));
}

#[test]
fn threads_of_several_callers_share_a_team() {
    let pool = Pool::new(2);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                pool.enter(|| (0..50).for_each(|n| assert_eq!(counts(n, 3), vec![1; n])));
            });
        }
    });
}

#[test]
fn a_panic_is_passed_on_when_all_tasks_have_ended() {
    let pool = Pool::new(2);
    pool.enter(|| {
        let ended = AtomicUsize::new(0);
        let call = || {
            run(9, 1, &|range| {
                assert!(range.start != 4, "the fifth");
                ended.fetch_add(1, Ordering::Relaxed);
            });
        };
        let payload = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"the fifth"));
        assert_eq!(ended.into_inner(), 8);
        assert_eq!(counts(9, 1), [1; 9]);
    });
}

#[test]
fn a_team_is_left_by_a_panic_and_ends_with_its_pool() {
    let (outer, inner) = (Pool::new(2), Pool::new(3));
    let team = Arc::downgrade(&inner.team);
    outer.enter(|| {
        let enter = || inner.enter(|| panic!("with {} threads", threads()));
        let payload = catch_unwind(AssertUnwindSafe(enter)).unwrap_err();
        assert_eq!(payload.downcast_ref::<String>().unwrap(), "with 3 threads");
        assert_eq!(threads(), 2);
    });
    drop(inner);
    assert!(team.upgrade().is_none());
}
