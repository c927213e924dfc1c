//! AdamW, and the norm that gradients are limited to.

use kernels::{adamw, reduce};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, launch, numbers, run};

#[test]
fn adamw_has_the_bits_of_the_cpu() {
    let n = 301;
    let update = adamw::Update {
        lr: 1e-2,
        betas: [0.9, 0.99],
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 0.3,
        number: 3,
        ema_decay: 0.8,
    };
    let g = numbers(n, 1.0, 0);
    let square = |x: Vec<f32>| x.iter().map(|x| x * x).collect::<Vec<_>>();
    for average in [false, true] {
        let mut arrays = [
            numbers(n, 1.0, 1),
            numbers(n, 0.1, 2),
            square(numbers(n, 0.1, 3)),
            numbers(n, 1.0, 4),
        ];
        let mut gpu = Machine::new();
        let buffers: Vec<Buffer<f32>> = arrays.iter().map(|array| gpu.upload(array)).collect();
        let mut args: Vec<Arg> = vec![gpu.upload(&g).into()];
        args.extend(buffers[..3 + usize::from(average)].iter().map(|&buffer| Arg::from(buffer)));
        args.push(gpu.upload(&[update.clip as f32]).into());
        args.push(gpu.upload(&adamw::ptx::numbers(&update)).into());
        args.push((n as u32).into());
        // A norm that is not finite changes nothing.
        let clip = args.len() - 3;
        let finite = std::mem::replace(&mut args[clip], gpu.upload(&[f32::NAN]).into());
        run(&mut gpu, &adamw::ptx::kernel(average), [n, 1, 1], &args);
        for (array, buffer) in arrays.iter().zip(&buffers) {
            assert_bits("unchanged", &gpu.download(*buffer).expect("a buffer"), array);
        }
        args[clip] = finite;
        run(&mut gpu, &adamw::ptx::kernel(average), [n, 1, 1], &args);
        let [p, m, v, e] = &mut arrays;
        adamw::update(&update, &g, adamw::State { p, m, v, ema: average.then_some(e) });
        for (array, buffer) in arrays.iter().zip(buffers) {
            assert_bits("adamw", &gpu.download(buffer).expect("a buffer"), array);
        }
    }
}

#[test]
fn the_average_alone_has_the_bits_of_the_cpu() {
    let (p, mut e, decay) = (numbers(77, 1.0, 1), numbers(77, 1.0, 2), 0.8);
    let mut gpu = Machine::new();
    let e_out = gpu.upload(&e);
    let mut numbers = [f32::NAN; adamw::ptx::NUMBERS];
    numbers[7..].copy_from_slice(&[decay as f32, (1.0 - decay) as f32]);
    let [one, numbers] = [gpu.upload(&[1.0f32]), gpu.upload(&numbers)].map(Arg::from);
    let args = [gpu.upload(&p).into(), e_out.into(), one, numbers, Arg::from(77u32)];
    run(&mut gpu, &adamw::ptx::average(), [77, 1, 1], &args);
    adamw::ema(decay, &p, &mut e);
    assert_bits("average", &gpu.download(e_out).expect("a buffer"), &e);
}

/// Arrays of all sizes, and where they are on a machine.
struct Gradients {
    gpu: Machine,
    arrays: Vec<Vec<f32>>,
    addresses: Vec<u64>,
}

impl Gradients {
    fn new(arrays: Vec<Vec<f32>>) -> Self {
        let mut gpu = Machine::new();
        let addresses = arrays.iter().map(|x| gpu.upload(x).address).collect();
        Gradients { gpu, arrays, addresses }
    }

    /// The norms of both groups and what they are multiplied with.
    fn norm(&mut self, limited: usize, limit: f64) -> (Vec<f64>, Vec<f32>) {
        let Gradients { gpu, arrays, addresses } = self;
        let lens: Vec<u32> = arrays.iter().map(|x| x.len() as u32).collect();
        let mut firsts = vec![0];
        for len in &lens {
            firsts.push(firsts[firsts.len() - 1] + len.div_ceil(adamw::ptx::SEGMENT));
        }
        let (n, segments) = (lens.len() as u32, firsts[lens.len()]);
        let [lens, firsts] = [lens, firsts].map(|x| Arg::from(gpu.upload(&x)));
        let sums: Buffer<f64> = gpu.alloc(segments as usize);
        let args = [gpu.upload(addresses).into(), lens, firsts, sums.into(), n.into()];
        let extent = [segments as usize, 1, 1];
        let counts = run(gpu, &adamw::ptx::squares(), extent, &args);
        for (address, x) in addresses.iter().zip(arrays.iter()).filter(|(_, x)| !x.is_empty()) {
            assert_eq!(counts.traffic[address].read, 4 * x.len() as u64, "each element once");
        }
        let total = counts.total();
        assert_eq!(total.wavefronts, total.ideal_wavefronts, "no bank conflicts");
        let broken = adamw::ptx::squares().weakened();
        assert_eq!(broken.len(), 2, "two barriers");
        for broken in broken {
            launch(gpu, &broken, extent, &args).expect_err("a race");
        }

        let (norms, clip) = (gpu.alloc::<f64>(2), gpu.alloc::<f32>(2));
        let args = [sums.into(), firsts, norms.into(), clip.into(), n.into()];
        let args = [&args[..], &[Arg::from(limited as u32), limit.into()]].concat();
        run(gpu, &adamw::ptx::clip(), [1, 1, 1], &args);
        (gpu.download(norms).expect("a buffer"), gpu.download(clip).expect("a buffer"))
    }

    /// The CPU's norm of some arrays.
    fn want(&self, arrays: std::ops::Range<usize>) -> f64 {
        let squares = self.arrays[arrays].iter().map(|x| reduce::sum_squares(x));
        squares.fold(0.0, |sum, squares| sum + squares).sqrt()
    }
}

#[test]
fn the_norm_of_all_gradients_has_the_bits_of_the_cpu() {
    let segment = adamw::ptx::SEGMENT as usize;
    let mut lens = vec![1, 0, 2 * segment + 37, 16, 300, 0, segment];
    // More arrays than the last block has threads.
    lens.extend([3; 290]);
    let arrays = lens.into_iter().zip(0..).map(|(n, seed)| numbers(n, 1e-2, seed)).collect();
    let mut gradients = Gradients::new(arrays);
    let n = gradients.arrays.len();
    for (limited, limit) in [(n, 1.0), (5, 0.3), (n, f64::INFINITY), (0, 1e-9)] {
        let want = [gradients.want(0..limited), gradients.want(limited..n)];
        let (norms, clip) = gradients.norm(limited, limit);
        assert_eq!(norms, want);
        let factor = if want[0] > limit { limit / want[0] } else { 1.0 };
        assert_eq!(clip, [factor as f32, 1.0]);
    }
}

#[test]
fn a_gradient_that_is_not_finite_says_so_in_both_factors() {
    for bad in [f32::NAN, f32::INFINITY] {
        for place in 0..2 {
            let mut arrays = vec![vec![1.0; 40], vec![2.0; 3]];
            arrays[place][1] = bad;
            let (norms, clip) = Gradients::new(arrays).norm(1, 1.0);
            assert!(!norms[place].is_finite() && norms[1 - place].is_finite());
            assert!(clip.iter().all(|factor| factor.is_nan()), "{clip:?}");
        }
    }
}
