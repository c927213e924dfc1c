//! Softmax and cross-entropy.

use kernels::ptx::Team;
use kernels::{softmax, xent};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, launch, numbers, run};

#[test]
fn softmax_has_the_bits_of_the_cpu_both_ways() {
    for [rows, n] in [[1, 1], [9, 16], [3, 45], [3, 2100]] {
        let mut x = numbers(rows * n, 5.0, 1);
        if rows > 2 {
            // A row that attends to nothing.
            x[n..2 * n].fill(f32::NEG_INFINITY);
        }
        let dy = numbers(rows * n, 1.0, 2);
        for logarithm in [false, true] {
            let [mut y, mut dx] = [vec![0.0; x.len()], vec![0.0; x.len()]];
            if logarithm {
                softmax::log_softmax(&x, n, &mut y);
                softmax::log_softmax_backward(&y, n, &dy, &mut dx);
            } else {
                softmax::softmax(&x, n, &mut y);
                softmax::softmax_backward(&y, n, &dy, &mut dx);
            }
            let mut gpu = Machine::new();
            let [x_in, dy_in] = [&x, &dy].map(|x| gpu.upload(x));
            let [y_out, dx_out]: [Buffer<f32>; 2] = [gpu.alloc(x.len()), gpu.alloc(x.len())];
            let sizes = [rows, n].map(|n| Arg::from(n as u32));
            for team in Team::ALL {
                let args = [&[x_in.into(), y_out.into()][..], &sizes].concat();
                let forward = softmax::ptx::forward(logarithm, team);
                run(&mut gpu, &forward, [rows, 1, 1], &args);
                assert_bits("softmax", &gpu.download(y_out).expect("a buffer"), &y);
                let args = [&[y_out.into(), dy_in.into(), dx_out.into()][..], &sizes].concat();
                let backward = softmax::ptx::backward(logarithm, team);
                run(&mut gpu, &backward, [rows, 1, 1], &args);
                assert_bits("softmax backward", &gpu.download(dx_out).expect("a buffer"), &dx);
            }
        }
    }
}

/// What blocks of threads make together needs every barrier.
#[test]
fn blocks_need_their_barriers() {
    let n = 2100;
    let mut gpu = Machine::new();
    let [x, dy] = [1, 2].map(|seed| gpu.upload(&numbers(n, 1.0, seed)));
    let y: Buffer<f32> = gpu.alloc(n);
    let (ids, weights) = (gpu.upload(&[7u32]), gpu.upload(&[1.0f64]));
    let (lse, losses) = (gpu.alloc::<f32>(1), gpu.alloc::<f64>(1));
    let sizes = [1, n as u32].map(Arg::from);
    let softmax = [&[x.into(), y.into()][..], &sizes].concat();
    let softmax_backward = [&[x.into(), dy.into(), y.into()][..], &sizes].concat();
    let arrays = [x.into(), ids.into(), weights.into(), lse.into(), losses.into()];
    let entropy = [&arrays[..], &sizes, &[u32::MAX.into()]].concat();
    for (kernel, args) in [
        (softmax::ptx::forward(false, Team::Block), softmax),
        (softmax::ptx::backward(false, Team::Block), softmax_backward),
        (xent::ptx::forward(Team::Block), entropy),
    ] {
        run(&mut gpu, &kernel, [1, 1, 1], &args);
        let broken = kernel.weakened();
        assert!(broken.len() >= 2, "two barriers for each sum or maximum");
        for broken in broken {
            launch(&mut gpu, &broken, [1, 1, 1], &args).expect_err("a race");
        }
    }
}

#[test]
fn cross_entropy_has_the_bits_of_the_cpu_both_ways() {
    for (rows, words) in [(1, 2), (3, 17), (9, 46), (2, 2500)] {
        for forbidden in [None, Some(words as u32 - 1)] {
            let scores = numbers(rows * words, 9.0, 3);
            let ids: Vec<u32> =
                (0..rows as u32).map(|r| (r * 7 + 1) % (words as u32 - 1)).collect();
            let weights: Vec<f64> = numbers(rows, 1.0, 9).into_iter().map(f64::from).collect();
            let targets = xent::Targets { ids: &ids, weights: &weights, forbidden };
            let mut lse = vec![0.0; rows];
            let mut parts = vec![0.0; rows];
            xent::forward(&scores, words, targets, &mut parts, &mut lse);
            let mut slopes = scores.clone();
            xent::backward(&mut slopes, words, targets, &lse, 0.5);

            let mut gpu = Machine::new();
            let z = gpu.upload(&scores);
            let (ids, weights) = (gpu.upload(&ids), gpu.upload(&weights));
            let (lse_out, losses) = (gpu.alloc::<f32>(rows), gpu.alloc::<f64>(rows));
            let sizes = [rows as u32, words as u32, forbidden.unwrap_or(u32::MAX)].map(Arg::from);
            let arrays = [z.into(), ids.into(), weights.into(), lse_out.into(), losses.into()];
            for team in Team::ALL {
                let args = [&arrays[..], &sizes].concat();
                let counts = run(&mut gpu, &xent::ptx::forward(team), [rows, 1, 1], &args);
                let total = counts.total();
                assert_eq!(total.wavefronts, total.ideal_wavefronts, "no bank conflicts");
                assert_bits("lse", &gpu.download(lse_out).expect("a buffer"), &lse);
                assert_eq!(gpu.download(losses).expect("a buffer"), parts);
            }
            let dy = Arg::from(gpu.upload(&[0.5f32]));
            let args = [&arrays[..4], &[dy], &sizes[1..]].concat();
            run(&mut gpu, &xent::ptx::backward(), [rows, words, 1], &args);
            assert_bits("slopes", &gpu.download(z).expect("a buffer"), &slopes);
        }
    }
}
