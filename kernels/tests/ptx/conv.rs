//! Convolution, and its gradients.

use kernels::conv::ptx::{
    Convolution, Transposed, WeightGradient, WeightLaunch, fold_filters, map_numbers, phases,
    sum_filters,
};
use kernels::conv::{
    Conv, Upsample, forward, reference_weight_gradient, transposed, weight_gradient,
};
use kernels::reduce;
use ptx_vm::{Arg, Buffer, Machine, Statistics};

use crate::{assert_bits, numbers, run};

const PLAIN: Conv = Conv {
    batch: 2,
    channels: 3,
    input: [5, 7],
    filters: 4,
    kernel: [3, 3],
    stride: 1,
    pad: [1; 4],
};

/// Strides, filters that are not square, padding that is not even, a stride beyond the filter.
fn cases() -> [Conv; 5] {
    [
        PLAIN,
        Conv { kernel: [4, 3], stride: 2, pad: [0, 1, 1, 2], input: [8, 9], ..PLAIN },
        Conv { kernel: [1, 1], pad: [0; 4], ..PLAIN },
        Conv { kernel: [1, 2], stride: 2, pad: [0; 4], ..PLAIN },
        Conv { stride: 3, pad: [0, 2, 1, 0], ..PLAIN },
    ]
}

/// A machine, and the convolution's kernels run on it.
struct Gpu(Machine);

impl Gpu {
    fn upload(&mut self, x: &[f32]) -> Arg {
        self.0.upload(x).into()
    }

    fn forward(&mut self, conv: Conv, x: Arg, w: Arg, bias: Option<Arg>) -> Vec<f32> {
        let taps = conv.kernel.map(|length| length as u32);
        let family = Convolution { taps, bias: bias.is_some() };
        let [x_len, w_len, y_len] = conv.lens();
        let out: Buffer<f32> = self.0.alloc(y_len);
        let mut args = vec![w, x, out.into()];
        args.extend(bias);
        let pixels = y_len / conv.batch / conv.filters;
        let depth = w_len / conv.filters;
        let sizes = [conv.filters, pixels, depth, depth, 0, 0, x_len / conv.batch, 1, depth];
        args.extend(sizes.map(|n| Arg::from(n as u32)));
        args.extend(map_numbers(&conv).map(Arg::from));
        run(&mut self.0, &family.exact(), [pixels, conv.filters, conv.batch], &args);
        self.0.download(out).expect("a buffer")
    }

    fn transposed(&mut self, conv: Conv, w: Arg, bias: Option<Arg>, dy: Arg) -> Vec<f32> {
        let out: Buffer<f32> = self.0.alloc(conv.lens()[0]);
        for phase in phases(&conv) {
            let (taps, strided) = (phase.taps, conv.stride > 1);
            let family = Transposed { taps, strided, bias: bias.is_some() };
            let mut args = vec![w, dy, out.into()];
            args.extend(bias);
            args.extend(phase.numbers.iter().map(|&n| Arg::from(n)));
            run(&mut self.0, &family.kernel(), phase.extent, &args);
        }
        self.0.download(out).expect("a buffer")
    }

    /// The gradient of the weights from so many blocks, the number of its parts, and what the
    /// kernel did.
    fn weights(
        &mut self,
        conv: Conv,
        x: Arg,
        dy: Arg,
        blocks: usize,
    ) -> (Buffer<f32>, usize, Statistics) {
        let launch = WeightLaunch::new(&conv, blocks);
        let (parts, len) = (launch.parts, conv.lens()[1]);
        let out: Buffer<f32> = self.0.alloc(parts * len);
        let mut args = vec![x, dy, out.into()];
        args.extend(launch.numbers.iter().map(|&n| Arg::from(n)));
        let family = WeightGradient { taps: conv.kernel.map(|length| length as u32) };
        let counts = run(&mut self.0, &family.kernel(), launch.extent, &args);
        if parts == 1 {
            return (out, 1, counts);
        }
        assert!(parts <= 64, "one pass adds them");
        let sum: Buffer<f32> = self.0.alloc(len);
        let sizes = [len, parts, len, 1].map(|n| Arg::from(n as u32));
        let args = [&[out.into(), sum.into()][..], &sizes].concat();
        run(&mut self.0, &reduce::ptx::columns(), [len, 1, 1], &args);
        (sum, parts, counts)
    }
}

#[test]
fn convolutions_have_the_bits_of_the_cpu() {
    for conv in cases() {
        let [x, w, y] = conv.lens();
        let (x, w) = (numbers(x, 1.0, 1), numbers(w, 1.0, 2));
        let bias = numbers(conv.filters, 1.0, 3);
        for bias in [None, Some(&bias[..])] {
            let mut want = vec![0.0; y];
            forward(conv, &x, &w, bias, &mut want);
            let mut gpu = Gpu(Machine::new());
            let (x, w) = (gpu.upload(&x), gpu.upload(&w));
            let bias = bias.map(|bias| gpu.upload(bias));
            assert_bits("conv", &gpu.forward(conv, x, w, bias), &want);
        }
    }
}

#[test]
fn gradients_of_the_input_have_the_bits_of_the_cpu() {
    for conv in cases() {
        let [x, w, y] = conv.lens();
        let (w, dy) = (numbers(w, 1.0, 2), numbers(y, 1.0, 4));
        let bias = numbers(conv.channels, 1.0, 3);
        for bias in [None, Some(&bias[..])] {
            let mut want = vec![0.0; x];
            transposed(conv, &w, bias, &dy, &mut want);
            let mut gpu = Gpu(Machine::new());
            let (w, dy) = (gpu.upload(&w), gpu.upload(&dy));
            let bias = bias.map(|bias| gpu.upload(bias));
            assert_bits("dx", &gpu.transposed(conv, w, bias, dy), &want);
        }
    }
}

/// One part has the CPU's bits; several add the same products in another order.
#[test]
fn gradients_of_weights_are_those_of_the_cpu() {
    let large = Conv { input: [53, 31], ..PLAIN };
    let all = cases().into_iter().chain([large]);
    for (conv, blocks) in all.flat_map(|conv| [1, 40].map(|blocks| (conv, blocks))) {
        for batch in [1, 2] {
            let conv = Conv { batch, ..conv };
            let [x, w, y] = conv.lens();
            let (x, dy) = (numbers(x, 1.0, 1), numbers(y, 1.0, 4));
            let mut gpu = Gpu(Machine::new());
            let (x_in, dy_in) = (gpu.upload(&x), gpu.upload(&dy));
            let (out, parts, counts) = gpu.weights(conv, x_in, dy_in, blocks);
            let total = counts.total();
            assert_eq!(total.wavefronts, total.ideal_wavefronts, "no bank conflicts");
            let got = gpu.0.download(out).expect("a buffer");
            if parts == 1 {
                let mut want = vec![0.0; w];
                weight_gradient(conv, &x, &dy, &mut want);
                assert_bits("dw", &got, &want);
            }
            assert_eq!(parts > batch, blocks > 1 && conv == Conv { batch, ..large });
            let [x, dy] = [x, dy].map(|x| x.into_iter().map(f64::from).collect::<Vec<_>>());
            let want = reference_weight_gradient(conv, &x, &dy);
            // Sums of so many products of at most 1, each rounded by half a unit of the sum.
            let terms = (dy.len() / conv.filters) as f64;
            let bound = f64::from(f32::EPSILON) / 2.0 * terms.powf(1.5);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                assert!((f64::from(*got) - want).abs() <= bound, "{conv:?} {i}: {got} {want}");
            }
        }
    }
}

/// Forward, and all gradients, of enlarged images that are never made.
#[test]
fn enlargements_have_the_bits_of_the_cpu() {
    let sizes = Upsample { batch: 1, channels: 3, input: [4, 5], filters: 2, kernel: [3, 3] };
    let of_enlarged = sizes.of_enlarged();
    let halving = sizes.halving();
    let [x_len, w_len, y_len] = of_enlarged.lens();
    let (x, w) = (numbers(x_len / 4, 1.0, 1), numbers(w_len, 1.0, 2));
    let (bias, dy) = (numbers(sizes.filters, 1.0, 3), numbers(y_len, 1.0, 4));
    let [mut y, mut dx, mut dw] = [vec![0.0; y_len], vec![0.0; x_len / 4], vec![0.0; w_len]];
    sizes.forward(&x, &w, Some(&bias), &mut y);
    sizes.input_gradient(&w, &dy, &mut dx);
    sizes.weight_gradient(&x, &dy, &mut dw);

    let mut gpu = Gpu(Machine::new());
    let [x, w, bias, dy] = [&x, &w, &bias, &dy].map(|x| gpu.upload(x));
    let lengths = [sizes.channels, sizes.filters, sizes.kernel[0], sizes.kernel[1]];
    let lengths = |n: usize| [&lengths[..], &[n]].concat().into_iter().map(|n| Arg::from(n as u32));
    let sums: Buffer<f32> = gpu.0.alloc(halving.lens()[1]);
    let args: Vec<Arg> = [w, sums.into()].into_iter().chain(lengths(sums.len)).collect();
    run(&mut gpu.0, &sum_filters(), [sums.len, 1, 1], &args);
    assert_bits("y", &gpu.transposed(halving, sums.into(), Some(bias), x), &y);
    assert_bits("dx", &gpu.forward(halving, dy, sums.into(), None), &dx);
    let (dsums, parts, _) = gpu.weights(halving, dy, x, 1);
    assert_eq!(parts, 1);
    let out: Buffer<f32> = gpu.0.alloc(w_len);
    let args: Vec<Arg> = [dsums.into(), out.into()].into_iter().chain(lengths(w_len)).collect();
    run(&mut gpu.0, &fold_filters(), [w_len, 1, 1], &args);
    assert_bits("dw", &gpu.0.download(out).expect("a buffer"), &dw);
}
