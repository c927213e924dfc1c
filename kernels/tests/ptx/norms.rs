//! Row norms and group norm.

use kernels::norm::ptx::{self, Gain, RowNorm};
use kernels::norm::{
    Affine, Group, Rows, Slopes, group_norm, group_norm_backward, normalize, normalize_backward,
};
use kernels::ptx::Team;
use ptx_vm::{Arg, Buffer, Machine, Statistics};

use crate::{assert_bits, launch, numbers, run};

const EPS: f64 = 1e-6;

fn sizes<const N: usize>(sizes: [usize; N]) -> [Arg; N] {
    sizes.map(|n| Arg::from(n as u32))
}

/// Forward and backward, by both teams, of `samples` of `per_sample` rows.
fn check_rows(centered: bool, gain: Gain, [samples, per_sample, width]: [usize; 3]) {
    let rows = samples * per_sample;
    let [x, dy] = [1, 2].map(|seed| numbers(rows * width, 2.0, seed));
    // Scale and shift are parts of one modulation.
    let modulation = numbers(samples * 3 * width, 1.0, 3);
    let (scale, shift) = (&modulation[..], &modulation[width..]);
    let affine = match gain {
        Gain::Identity => Affine::Identity,
        Gain::Modulation => Affine::Modulation { scale, shift, stride: 3 * width },
        Gain::Weight => Affine::Weight(&scale[..width]),
    };
    let norm = Rows { width, rows_per_sample: per_sample, eps: EPS, centered, affine };
    let [mut y, mut dx] = [vec![0.0; x.len()], vec![0.0; x.len()]];
    let [mut mean, mut rstd] = [vec![0.0; rows], vec![0.0; rows]];
    normalize(&norm, &x, &mut y, &mut mean, &mut rstd);
    let (groups, group) = if gain == Gain::Modulation { (samples, per_sample) } else { (1, rows) };
    let [mut dgain, mut dshift] = [vec![0.0; groups * width], vec![0.0; groups * width]];
    let slopes = Slopes { gain: &mut dgain, shift: &mut dshift };
    normalize_backward(&norm, &x, [&mean, &rstd], &dy, (&mut dx, false), Some(slopes));

    let kernels = RowNorm { centered, gain };
    let mut gpu = Machine::new();
    let [x_in, dy_in, scale_in, shift_in] = [&x[..], &dy, scale, shift].map(|x| gpu.upload(x));
    let [y_out, dx_out]: [Buffer<f32>; 2] = [gpu.alloc(x.len()), gpu.alloc(x.len())];
    let [mean_out, rstd_out]: [Buffer<f32>; 2] = [gpu.alloc(rows), gpu.alloc(rows)];
    let strides = sizes([3 * width, per_sample]);
    for team in Team::ALL {
        let mut args = vec![x_in.into(), y_out.into(), mean_out.into(), rstd_out.into()];
        match gain {
            Gain::Identity => {}
            Gain::Modulation => {
                args.extend([scale_in, shift_in].map(Arg::from));
                args.extend(strides);
            }
            Gain::Weight => args.push(scale_in.into()),
        }
        args.extend(sizes([rows, width]));
        args.push(EPS.into());
        no_conflicts(run(&mut gpu, &kernels.forward(team), [rows, 1, 1], &args));
        assert_bits("y", &gpu.download(y_out).expect("a buffer"), &y);
        assert_bits("mean", &gpu.download(mean_out).expect("a buffer"), &mean);
        assert_bits("rstd", &gpu.download(rstd_out).expect("a buffer"), &rstd);

        let arrays = [x_in, dy_in, dx_out, mean_out, rstd_out];
        let mut args = arrays.map(Arg::from).to_vec();
        match gain {
            Gain::Identity => {}
            Gain::Modulation => {
                args.push(scale_in.into());
                args.extend(strides);
            }
            Gain::Weight => args.push(scale_in.into()),
        }
        args.extend(sizes([rows, width]));
        no_conflicts(run(&mut gpu, &kernels.backward(team), [rows, 1, 1], &args));
        assert_bits("dx", &gpu.download(dx_out).expect("a buffer"), &dx);
    }

    let chunks = group.div_ceil(64);
    let parts: Buffer<f32> = gpu.alloc(groups * chunks * 2 * width);
    let arrays = [x_in.into(), dy_in.into(), mean_out.into(), rstd_out.into(), parts.into()];
    let args = [&arrays[..], &sizes([width, group, chunks])].concat();
    let extent = [groups * chunks, width, 1];
    run(&mut gpu, &RowNorm::slope_parts(), extent, &args);
    let outs: [Buffer<f32>; 2] = [gpu.alloc(groups * width), gpu.alloc(groups * width)];
    let args = [parts.into(), outs[0].into(), outs[1].into()];
    let args = [&args[..], &sizes([width, chunks])].concat();
    run(&mut gpu, &RowNorm::add_slope_parts(), [groups, width, 1], &args);
    for (out, want) in outs.into_iter().zip([&dgain, &dshift]) {
        assert_bits("slopes", &gpu.download(out).expect("a buffer"), want);
    }
}

/// Asserts that no access to shared memory waits for a bank.
fn no_conflicts(counts: Statistics) {
    let total = counts.total();
    assert_eq!(total.wavefronts, total.ideal_wavefronts, "no bank conflicts");
}

#[test]
fn row_norms_have_the_bits_of_the_cpu_both_ways() {
    check_rows(true, Gain::Identity, [1, 3, 5]);
    check_rows(true, Gain::Modulation, [2, 72, 40]);
    check_rows(false, Gain::Weight, [2, 4, 48]);
    // A batch of a half-warp, a chunk of a block, and more than that.
    check_rows(true, Gain::Modulation, [1, 1, 128]);
    check_rows(false, Gain::Weight, [1, 2, 2048]);
    check_rows(true, Gain::Identity, [1, 1, 4095]);
}

#[test]
fn a_block_needs_its_barriers() {
    let width = 2100;
    let norm = RowNorm { centered: true, gain: Gain::Identity };
    let mut gpu = Machine::new();
    let x = gpu.upload(&numbers(width, 1.0, 1));
    let [y, mean, rstd]: [Buffer<f32>; 3] = [width, 1, 1].map(|n| gpu.alloc(n));
    let args = [x, y, mean, rstd].map(Arg::from);
    let args = [&args[..], &sizes([1, width]), &[EPS.into()]].concat();
    let broken = norm.forward(Team::Block).weakened();
    assert_eq!(broken.len(), 4, "two barriers for each of two sums");
    for broken in broken {
        launch(&mut gpu, &broken, [1, 1, 1], &args).expect_err("a race");
    }
}

#[test]
fn group_norm_has_the_bits_of_the_cpu_both_ways() {
    let [batch, channels, groups, pixels] = [2, 6, 3, 2100];
    let (len, each) = (channels / groups * pixels, channels / groups);
    let [x, dy] = [1, 2].map(|seed| numbers(batch * channels * pixels, 2.0, seed));
    let [weight, bias] = [3, 4].map(|seed| numbers(channels, 1.0, seed));
    for silu in [false, true] {
        let norm = Group { channels, groups, pixels, eps: EPS, weight: &weight, bias: &bias, silu };
        let [mut y, mut dx] = [vec![0.0; x.len()], vec![0.0; x.len()]];
        let [mut mean, mut rstd] = [vec![0.0; batch * groups], vec![0.0; batch * groups]];
        group_norm(&norm, &x, &mut y, &mut mean, &mut rstd);
        let [mut dweight, mut dbias] = [vec![0.0; channels], vec![0.0; channels]];
        let slopes = [&mut dweight[..], &mut dbias[..]];
        group_norm_backward(&norm, &x, [&mean, &rstd], &dy, &mut dx, slopes);

        let mut gpu = Machine::new();
        let [x_in, dy_in, weight_in, bias_in] =
            [&x, &dy, &weight, &bias].map(|x| gpu.upload(&x[..]));
        let alloc = |gpu: &mut Machine, n: usize| -> Buffer<f32> { gpu.alloc(n) };
        let (all, blocks) = (batch * groups, len.div_ceil(4096));
        let [mean_out, rstd_out] = [alloc(&mut gpu, all), alloc(&mut gpu, all)];
        let parts: Buffer<f64> = gpu.alloc(all * blocks);
        for squares in [false, true] {
            let counts = sizes([len, blocks]);
            let mean_in = squares.then(|| Arg::from(mean_out));
            let mut args = vec![x_in.into()];
            args.extend(mean_in);
            args.push(parts.into());
            args.extend(counts);
            run(&mut gpu, &ptx::group_parts(squares), [all * blocks, 1, 1], &args);
            let out = if squares { rstd_out } else { mean_out };
            let mut args = [&[parts.into(), out.into()][..], &counts].concat();
            args.extend(squares.then(|| Arg::from(EPS)));
            run(&mut gpu, &ptx::group_statistics(squares), [all, 1, 1], &args);
        }
        assert_bits("mean", &gpu.download(mean_out).expect("a buffer"), &mean);
        assert_bits("rstd", &gpu.download(rstd_out).expect("a buffer"), &rstd);

        let arrays = [mean_out.into(), rstd_out.into(), weight_in.into(), bias_in.into()];
        let arrays = [&arrays[..], &sizes([channels, each, pixels])].concat();
        let rows = batch * channels;
        let y_out = alloc(&mut gpu, x.len());
        let args = [&[x_in.into(), y_out.into()][..], &arrays].concat();
        run(&mut gpu, &ptx::group_apply(silu), [rows, pixels, 1], &args);
        assert_bits("y", &gpu.download(y_out).expect("a buffer"), &y);

        let sums = alloc(&mut gpu, 2 * batch * channels);
        let args = [&[x_in.into(), dy_in.into(), sums.into()][..], &arrays].concat();
        run(&mut gpu, &ptx::group_channel_sums(silu), [rows, 1, 1], &args);
        let means = alloc(&mut gpu, 2 * all);
        let args = [sums.into(), means.into(), weight_in.into()];
        let args = [&args[..], &sizes([all, channels, each, pixels])].concat();
        run(&mut gpu, &ptx::group_backward_sums(), [all, 1, 1], &args);
        let dx_out = alloc(&mut gpu, x.len());
        let args = [x_in.into(), dy_in.into(), dx_out.into(), means.into()];
        let args = [&args[..], &arrays].concat();
        run(&mut gpu, &ptx::group_backward(silu), [rows, pixels, 1], &args);
        assert_bits("dx", &gpu.download(dx_out).expect("a buffer"), &dx);
        let [dweight_out, dbias_out] = [alloc(&mut gpu, channels), alloc(&mut gpu, channels)];
        let args = [sums.into(), dweight_out.into(), dbias_out.into()];
        let args = [&args[..], &sizes([batch, channels])].concat();
        run(&mut gpu, &ptx::group_slopes(), [channels, 1, 1], &args);
        assert_bits("dweight", &gpu.download(dweight_out).expect("a buffer"), &dweight);
        assert_bits("dbias", &gpu.download(dbias_out).expect("a buffer"), &dbias);
    }
}
