//! The pool's bookkeeping, exactly. One test in a process of its own: the pool is the process's.

use tensor::pool::{self, Stats};
use tensor::{DType, Tensor};

const MIB: usize = 1 << 20;

fn take(mebibytes: usize) -> Tensor {
    Tensor::uninit([mebibytes * MIB], DType::U8)
}

/// Bytes of the process that are in memory, where the system says.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<usize>().ok()? << 10)
}

#[test]
fn memory_is_reused_counted_and_given_back() {
    let mut x = take(4);
    let y = take(3);
    x.slice_mut::<u8>().unwrap().fill(0xAB);
    let address = x.slice::<u8>().unwrap().as_ptr();
    assert_eq!(pool::stats(), Stats { live: 7 * MIB, cached: 0, peak: 7 * MIB });
    let view = x.narrow(0, 0, 1).unwrap();
    drop(x);
    assert_eq!(pool::stats().cached, 0, "a view holds its whole buffer");
    drop(view);
    drop(y);
    assert_eq!(pool::stats(), Stats { live: 0, cached: 7 * MIB, peak: 7 * MIB });

    // Any size of the same class takes the block that is there.
    let x = Tensor::zeros([4 * MIB - 100], DType::U8);
    assert_eq!(x.slice::<u8>().unwrap().as_ptr(), address);
    assert!(x.slice::<u8>().unwrap().iter().all(|&byte| byte == 0), "stale memory is cleared");
    assert_eq!(pool::stats(), Stats { live: 4 * MIB, cached: 3 * MIB, peak: 7 * MIB });
    pool::reset_peak();
    assert_eq!(pool::stats().peak, 4 * MIB);

    // Of 4 + 3 MiB free, a fresh 5 MiB leave room for 3 under one and a half times the peak of
    // 7 MiB ever live: the largest goes.
    drop(x);
    let z = take(5);
    assert_eq!(pool::stats(), Stats { live: 5 * MIB, cached: 3 * MIB, peak: 5 * MIB });
    drop(z);
    pool::trim();
    assert_eq!(pool::stats(), Stats { live: 0, cached: 0, peak: 5 * MIB });

    // Blocks that share huge pages: what is cut once more is stale, whatever class it was of.
    let neighbour = Tensor::zeros([64 << 10], DType::U8);
    let mut x = take(1);
    x.slice_mut::<u8>().unwrap().fill(0xAB);
    let address = x.slice::<u8>().unwrap().as_ptr();
    drop(x);
    pool::trim();
    let x = Tensor::zeros([768 << 10], DType::U8);
    assert_eq!(x.slice::<u8>().unwrap().as_ptr(), address);
    assert!(x.slice::<u8>().unwrap().iter().all(|&byte| byte == 0), "stale memory is cleared");
    drop(x);

    // The system gets them back, but for the pages of the neighbour.
    let many =
        || (0..96_u8).map(|i| Tensor::full([MIB], f64::from(i), DType::U8)).collect::<Vec<_>>();
    if let Some(before) = resident() {
        let all = many();
        assert!(resident().unwrap() >= before + 90 * MIB);
        drop(all);
        pool::trim();
        assert!(resident().unwrap() < before + 24 * MIB);
    }
    drop(neighbour);
    pool::trim();

    // Steady state: the second of two equal steps asks the system for nothing.
    let step = || {
        let kept: Vec<Tensor> = (1..4).map(take).collect();
        drop((take(2), kept));
        pool::stats().cached
    };
    assert_eq!(step(), step());

    // No block is ever lent twice at once.
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for round in 0..200_usize {
                    let fill = |y: &mut [u8]| y.fill(thread);
                    let [x, y] = [7 * round, 1000].map(|bytes| Tensor::build([bytes], fill));
                    std::thread::yield_now();
                    for x in [x, y] {
                        assert!(x.slice::<u8>().unwrap().iter().all(|&byte| byte == thread));
                    }
                }
            });
        }
    });
    assert_eq!(pool::stats().live, 0);
}
