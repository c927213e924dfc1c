//! Convolution.

use kernels::conv::ptx::{Convolution, map_numbers};
use kernels::conv::{Conv, forward};
use kernels::ptx::Storage;
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, numbers, run};

#[test]
fn convolutions_have_the_bits_of_the_cpu() {
    let plain = Conv {
        batch: 2,
        channels: 3,
        input: [5, 7],
        filters: 4,
        kernel: [3, 3],
        stride: 1,
        pad: [1; 4],
    };
    let halving = Conv { kernel: [4, 3], stride: 2, pad: [0, 1, 1, 2], input: [8, 9], ..plain };
    for conv in [plain, halving, Conv { kernel: [1, 1], pad: [0; 4], ..plain }] {
        let [x, w, y] = conv.lens();
        let (x, w) = (numbers(x, 1.0, 1), numbers(w, 1.0, 2));
        let bias = numbers(conv.filters, 1.0, 3);
        for bias in [None, Some(&bias[..])] {
            let mut want = vec![0.0; y];
            forward(conv, &x, &w, bias, &mut want);

            let taps = conv.kernel.map(|length| length as u32);
            let (operands, output) = (Storage::F32, Storage::F32);
            let family = Convolution { operands, output, taps, bias: bias.is_some() };
            let mut gpu = Machine::new();
            let out: Buffer<f32> = gpu.alloc(y);
            let mut args = [&w, &x].map(|x| Arg::from(gpu.upload(&x[..]))).to_vec();
            args.push(out.into());
            args.extend(bias.map(|bias| Arg::from(gpu.upload(bias))));
            let pixels = y / conv.batch / conv.filters;
            let depth = w.len() / conv.filters;
            let sizes = [conv.filters, pixels, depth, depth, 0, 0, x.len() / conv.batch];
            args.extend(sizes.map(|n| Arg::from(n as u32)));
            args.extend(map_numbers(&conv).map(Arg::from));
            run(&mut gpu, &family.exact(), [pixels, conv.filters, conv.batch], &args);
            assert_bits("conv", &gpu.download(out).expect("a buffer"), &want);
        }
    }
}
