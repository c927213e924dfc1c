//! Formulas.

use half::{bf16, f16};
use kernels::elementwise::exprs::{
    Abs, Add, AddScalar, Clamp, Div, Exp, GeluTanh, Ln, Maximum, Minimum, Mul, MulScalar, Neg,
    Recip, Relu, Sigmoid, Silu, Softplus, Sqrt, Square, Sub, Tanh,
};
use kernels::elementwise::ptx::{self, Identity, Layout};
use kernels::elementwise::{
    Binary, Chain, ChainSlope, Partial, PartialSlope, Pointwise, Unary, add_region, map,
};
use kernels::gemm::Gated;
use kernels::ptx::Storage;
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, numbers, run};

const SINGLE: [Storage; 2] = [Storage::F32; 2];

/// Ordinary numbers, then those where formulas break.
fn awkward(n: usize, seed: u32) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        -1e-40,
        f32::MAX,
        f32::MIN_POSITIVE,
        88.7,
        -103.5,
        1.0,
    ];
    let mut x = numbers(n, 4.0, seed);
    // Operands meet each other's special values in different places.
    for (i, value) in special.into_iter().enumerate() {
        x[(i * (7 + seed as usize) + 3) % n] = value;
    }
    x
}

/// The kernel's answer for operands of any strides.
fn on_gpu<const K: usize, F: Pointwise<K>>(
    f: &F,
    shape: &[usize],
    x: [(&[f32], &[usize]); K],
) -> Vec<f32> {
    let mut gpu = Machine::new();
    let launch = ptx::Launch::new(shape, x.map(|(_, strides)| strides), true).expect("small");
    let kernel = ptx::kernel("f", f, SINGLE, launch.layout);
    let mut args: Vec<Arg> = x.map(|(x, _)| gpu.upload(x).into()).to_vec();
    let y: Buffer<f32> = gpu.alloc(launch.len);
    args.push(y.into());
    args.extend(launch.numbers.iter().map(|&n| Arg::from(n)));
    args.extend(ptx::parameters(f).into_iter().map(Arg::from));
    run(&mut gpu, &kernel, [launch.len, 1, 1], &args);
    gpu.download(y).expect("a buffer")
}

/// Dense operands, and ones that are transposed, broadcast and skipped through.
fn check<const K: usize, F: Pointwise<K>>(name: &str, f: &F) {
    let n = 1027;
    let x: [Vec<f32>; K] = std::array::from_fn(|k| awkward(n, k as u32));
    let layouts: [(&[usize], [&[usize]; 4]); 3] = [
        (&[n], [&[1]; 4]),
        (&[5, 3, 7], [&[1, 5, 15], &[0, 0, 1], &[21, 7, 1], &[2, 10, 30]]),
        (&[9], [&[3], &[0], &[1], &[2]]),
    ];
    for (shape, strides) in layouts {
        let operands: [(&[f32], &[usize]); K] = std::array::from_fn(|k| (&x[k][..], strides[k]));
        let mut want = vec![0.0; shape.iter().product()];
        map(f, shape, operands, &mut want);
        assert_bits(&format!("{name} {shape:?}"), &on_gpu(f, shape, operands), &want);
    }
}

fn unary<U: Unary>(f: U) {
    assert!(ptx::parameters(&f).len() * size_of::<f64>() >= size_of::<U>(), "{f:?}");
    check(U::NAME, &f);
    check(&format!("slope of {}", U::NAME), &Chain(f));
    check(&format!("curvature of {}", U::NAME), &ChainSlope(f));
}

fn binary<B: Binary>(f: B) {
    check(B::NAME, &f);
    check(B::NAME, &Partial::<B, 0>(f));
    check(B::NAME, &Partial::<B, 1>(f));
    check(B::NAME, &PartialSlope::<B, 0, 0>(f));
    check(B::NAME, &PartialSlope::<B, 0, 1>(f));
    check(B::NAME, &PartialSlope::<B, 1, 0>(f));
    check(B::NAME, &PartialSlope::<B, 1, 1>(f));
}

#[test]
fn formulas_of_one_operand_have_the_bits_of_the_cpu() {
    unary(Neg);
    unary(MulScalar(-1.7));
    unary(AddScalar(0.3));
    unary(Clamp { low: -1.0, high: 0.5 });
    unary(Exp);
    unary(Ln);
    unary(Sqrt);
    unary(Square);
    unary(Recip);
    unary(Abs);
    unary(Relu);
    unary(Tanh);
    unary(Sigmoid);
    unary(Silu);
    unary(GeluTanh);
    unary(Softplus);
}

#[test]
fn formulas_of_two_operands_have_the_bits_of_the_cpu() {
    binary(Add);
    binary(Sub);
    binary(Mul);
    binary(Div);
    binary(Maximum);
    binary(Minimum);
}

#[test]
fn a_gated_residual_has_the_bits_of_the_cpu() {
    check("gated", &Gated);
}

/// A formula with other numbers is the same kernels, which are told all the numbers it holds.
fn takes_its_numbers<U: Unary>(one: U, other: U) {
    fn same<const K: usize, F: Pointwise<K>>(one: &F, other: &F, held: usize) {
        for layout in [Layout::Dense, Layout::Strided(2)] {
            let [one, other] = [one, other].map(|f| ptx::kernel("f", f, SINGLE, layout).ptx());
            assert_eq!(one, other);
        }
        assert!(ptx::parameters(one).len() >= held);
    }
    let held = size_of::<U>() / size_of::<f64>();
    same(&one, &other, held);
    same(&Chain(one), &Chain(other), held);
    same(&ChainSlope(one), &ChainSlope(other), held);
}

#[test]
fn numbers_of_a_formula_are_parameters_of_its_kernels() {
    takes_its_numbers(MulScalar(-1.7), MulScalar(3.0));
    takes_its_numbers(AddScalar(0.3), AddScalar(f64::NAN));
    takes_its_numbers(Clamp { low: -1.0, high: 0.5 }, Clamp { low: 2.0, high: 2.0 });
}

/// Every element is read once and written once, a dense kernel's in whole sectors.
#[test]
fn dense_kernels_read_once_by_whole_sectors() {
    let (n, mut gpu) = (4096, Machine::new());
    let x = gpu.upload(&numbers(n, 1.0, 1));
    let y: Buffer<f32> = gpu.alloc(n);
    let kernel = ptx::kernel("f", &GeluTanh, SINGLE, Layout::Dense);
    let args = [x.into(), y.into(), Arg::from(n as u32)];
    let counts = run(&mut gpu, &kernel, [n, 1, 1], &args);
    assert_eq!(counts.traffic[&x.address].read, 4 * n as u64);
    assert_eq!(counts.traffic[&y.address].written, 4 * n as u64);
    let total = counts.total();
    assert_eq!((total.sectors, total.sectors), (total.ideal_sectors, 2 * 4 * n as u64 / 32));
}

/// Casts round to the nearest, ties to even, and widening is exact; alone and by fours.
#[test]
fn casts_are_those_of_half() {
    let x = awkward(103, 3);
    let mut gpu = Machine::new();
    let from = gpu.upload(&x);
    for layout in [Layout::Dense, Layout::Strided(1)] {
        let mut numbers = vec![Arg::from(x.len() as u32)];
        if layout != Layout::Dense {
            numbers.push(Arg::from(1u32));
        }
        let cast = |gpu: &mut Machine, [from, to]: [Storage; 2], x: u64, y: u64| {
            let kernel = ptx::kernel("copy", &Identity, [from, to], layout);
            let args = [&[x.into(), y.into()][..], &numbers].concat();
            run(gpu, &kernel, [103, 1, 1], &args);
        };
        let back: Buffer<f32> = gpu.alloc(x.len());
        let small: Buffer<u16> = gpu.alloc(x.len());
        cast(&mut gpu, [Storage::F32, Storage::Bf16], from.address, small.address);
        cast(&mut gpu, [Storage::Bf16, Storage::F32], small.address, back.address);
        let want: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_bits("bf16", &gpu.download(back).expect("a buffer"), &want);
        cast(&mut gpu, [Storage::F32, Storage::F16], from.address, small.address);
        cast(&mut gpu, [Storage::F16, Storage::F32], small.address, back.address);
        let want: Vec<f32> = x.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        assert_bits("f16", &gpu.download(back).expect("a buffer"), &want);
    }
}

/// Parts of a larger array: added to, as the gradient of a slice is, and written side by side, from
/// a transposed operand.
#[test]
fn outputs_may_be_parts_of_an_array() {
    let [outer, n, inner, len, start] = [3, 7, 5, 4, 2];
    let (y, x) = (awkward(outer * n * inner, 1), awkward(outer * len * inner, 2));
    let mut want = y.clone();
    add_region(&mut want, [outer, n, inner], start, &x, len);
    let shape = [outer, len, inner];
    let (part, whole) = ([len * inner, inner, 1], [n * inner, inner, 1]);
    let mut gpu = Machine::new();
    let (y_in, x_in) = (gpu.upload(&y), gpu.upload(&x));
    let place = Arg::from(y_in.address + 4 * (start * inner) as u64);
    let launch = ptx::Launch::scattered(&shape, [&whole, &part, &whole]).expect("small");
    assert_eq!(launch.layout, Layout::Scattered(2), "adjacent axes are one");
    let numbers = launch.numbers.iter().map(|&n| Arg::from(n));
    let args: Vec<Arg> = [place, x_in.into(), place].into_iter().chain(numbers).collect();
    let counts =
        run(&mut gpu, &ptx::kernel("add", &Add, SINGLE, launch.layout), [launch.len, 1, 1], &args);
    assert_bits("sum", &gpu.download(y_in).expect("a buffer"), &want);
    let bytes = 4 * x.len() as u64;
    assert_eq!(counts.traffic[&y_in.address].written, bytes, "the rest is not touched");

    let reversed = [1, outer, outer * len];
    let launch = ptx::Launch::scattered(&shape, [&reversed, &whole]).expect("small");
    let numbers = launch.numbers.iter().map(|&n| Arg::from(n));
    let args: Vec<Arg> = [x_in.into(), place].into_iter().chain(numbers).collect();
    let kernel = ptx::kernel("copy", &Identity, SINGLE, launch.layout);
    run(&mut gpu, &kernel, [launch.len, 1, 1], &args);
    for o in 0..outer {
        for i in 0..len * inner {
            let from = o + i / inner * outer + i % inner * outer * len;
            want[(o * n + start) * inner + i] = x[from];
        }
    }
    assert_bits("copy", &gpu.download(y_in).expect("a buffer"), &want);
}
