//! Random numbers.

use kernels::ptx::{Kernel, Storage};
use kernels::random::{box_muller, philox4x32, ptx};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, run};

/// Numbers of a run in which the first block's number wraps in its low half.
const N: u32 = 777;
const SEED: [u32; 2] = [7, 9];
const FIRST: [u32; 2] = [u32::MAX - 100, 4];
const STREAM: [u32; 2] = [3, 0];

fn drawn(kernel: &Kernel) -> Vec<f32> {
    let mut gpu = Machine::new();
    let y: Buffer<f32> = gpu.alloc(N as usize);
    let numbers = [[N, SEED[0]], [SEED[1], FIRST[0]], [FIRST[1], STREAM[0]]].concat();
    let mut args: Vec<Arg> = vec![y.into()];
    args.extend(numbers.into_iter().chain([STREAM[1]]).map(Arg::from));
    run(&mut gpu, kernel, [N.div_ceil(2) as usize, 1, 1], &args);
    gpu.download(y).expect("a buffer")
}

/// The two words of a block of the stream.
fn words(block: u32) -> [u64; 2] {
    let low = FIRST[0].wrapping_add(block);
    let high = FIRST[1] + u32::from(low < FIRST[0]);
    let [a, b, c, d] = philox4x32(SEED, [low, high, STREAM[0], STREAM[1]]).map(u64::from);
    [a | b << 32, c | d << 32]
}

#[test]
fn uniform_numbers_are_those_of_philox() {
    let fraction = |i: u32| (words(i / 2)[i as usize % 2] >> 40) as f32 / 2f32.powi(24);
    let want: Vec<f32> = (0..N).map(fraction).collect();
    assert_bits("uniform", &drawn(&ptx::uniform(Storage::F32)), &want);
}

#[test]
fn normal_numbers_have_the_bits_of_the_cpu() {
    let want: Vec<f32> = (0..N).map(|i| box_muller(words(i / 2))[i as usize % 2] as f32).collect();
    assert_bits("normal", &drawn(&ptx::normal()), &want);
}
