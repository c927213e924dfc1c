//! Attention, backward.

use kernels::attention::Reference;
use kernels::attention::ptx::{Backward, Exact};
use kernels::ptx::{Kernel, Storage};
use ptx_vm::{Arg, Buffer, Fault, Machine};

use super::{BATCH, Case, HEADS, SCALE, assert_no_conflicts, exact_cases, rounded};
use crate::{launch, perturbed};

/// The backward pass: every segment asks.
impl Case {
    fn backward(&self) -> Backward {
        let (width, segments) = (self.width as u32, self.segments.len());
        Backward { width, segments, bias: self.bias }
    }

    fn exact(&self) -> Exact {
        let Backward { width, segments, bias } = self.backward();
        Exact { operands: Storage::F32, width, segments, bias }
    }

    pub fn queries_kernel(&self) -> Kernel {
        if self.exact { self.exact().queries() } else { self.backward().queries() }
    }

    pub fn keys_kernel(&self) -> Kernel {
        if self.exact { self.exact().keys() } else { self.backward().keys() }
    }

    fn bias_kernel(&self) -> Kernel {
        match self.exact {
            true => Exact::bias_gradient(Storage::F32, self.width as u32),
            false => Backward::bias_gradient(self.width as u32),
        }
    }

    /// The elements of the bias from head to head and from row to row.
    fn strides_of_bias(&self) -> [Arg; 2] {
        let all = self.tokens(self.segments.len());
        [all * all, all].map(|n| Arg::from(n as u32))
    }

    /// The arguments of the bias, where there is one, for the queries or the keys of a segment.
    fn bias_args(&self, gpu: &mut Machine, [queries, keys]: [usize; 2]) -> Vec<Arg> {
        if !self.bias {
            return Vec::new();
        }
        let all = self.segments.len();
        let first = self.tokens(queries) * self.tokens(all) + self.tokens(keys);
        let mut args = vec![Arg::from(gpu.upload(&self.bias(all)).address + 4 * first as u64)];
        args.extend(self.strides_of_bias());
        args.extend((0..all).map(|i| Arg::from(self.tokens(i) as u32)));
        args
    }

    /// The gradient of a segment's answer.
    fn d_o(&self, segment: usize) -> Vec<f32> {
        rounded(BATCH * self.segments[segment].0 * self.channels(), 1.0, 20 + segment as u32)
    }

    fn gradients(&self) -> Reference {
        let d_o: Vec<Vec<f64>> = (0..self.segments.len())
            .map(|i| self.d_o(i).into_iter().map(f64::from).collect())
            .collect();
        self.reference(self.segments.len(), &d_o)
    }

    /// Operands of one segment on a machine.
    fn upload(&self, gpu: &mut Machine, segment: usize, r: &Reference) -> Uploaded {
        let (tokens, channels) = (self.segments[segment].0, self.channels());
        let (fused, bytes) = self.upload_operand(gpu, &self.qkv(segment));
        let view = |which: usize| {
            let first = Arg::from(fused + (bytes * which * channels) as u64);
            [first, Arg::from((tokens * 3 * channels) as u32), Arg::from((3 * channels) as u32)]
        };
        let single = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
        let d_o = self.d_o(segment);
        let delta: Buffer<f32> = gpu.alloc(BATCH * HEADS * tokens);
        let rows = BATCH * tokens * HEADS;
        let args = [gpu.upload(&single(&r.o[segment])).into(), gpu.upload(&d_o).into()];
        let sizes = [rows, tokens, HEADS, self.width].map(|n| Arg::from(n as u32));
        let args = [&args[..], &[delta.into()], &sizes].concat();
        launch(gpu, &Backward::delta(), [rows, 1, 1], &args).expect("no fault");
        let d_o_view = [
            Arg::from(self.upload_operand(gpu, &d_o).0),
            Arg::from((tokens * channels) as u32),
            Arg::from(channels as u32),
        ];
        Uploaded {
            q: view(0),
            k: view(1),
            v: view(2),
            d_o: d_o_view,
            lse: gpu.upload(&single(&r.lse[segment])).into(),
            delta: delta.into(),
            keys: Arg::from(tokens as u32),
            padding: gpu.upload(&self.padding(segment)).into(),
        }
    }

    pub fn query_gradients(&self, kernel: &Kernel, segment: usize) -> Result<Vec<f32>, Fault> {
        let (mut gpu, r) = (Machine::new(), self.gradients());
        let all: Vec<Uploaded> =
            (0..self.segments.len()).map(|i| self.upload(&mut gpu, i, &r)).collect();
        let own = &all[segment];
        let mut args = [&own.q[..], &own.d_o, &[own.lse, own.delta]].concat();
        for other in &all {
            args.extend([&other.k[..], &other.v, &[other.keys, other.padding]].concat());
        }
        args.extend(self.bias_args(&mut gpu, [segment, 0]));
        let tokens = self.segments[segment].0;
        let dq: Buffer<f32> = gpu.alloc(BATCH * tokens * self.channels());
        args.extend([dq.into(), Arg::from(tokens as u32), Arg::from(HEADS as u32), SCALE.into()]);
        let statistics = launch(&mut gpu, kernel, self.extent(tokens), &args)?;
        if !self.exact {
            assert_no_conflicts(&statistics);
        }
        Ok(gpu.download(dq).expect("a buffer"))
    }

    pub fn key_gradients(&self, kernel: &Kernel, segment: usize) -> Result<[Vec<f32>; 2], Fault> {
        let (mut gpu, r) = (Machine::new(), self.gradients());
        let all: Vec<Uploaded> =
            (0..self.segments.len()).map(|i| self.upload(&mut gpu, i, &r)).collect();
        let own = &all[segment];
        let mut args = [&own.k[..], &own.v, &[own.padding]].concat();
        for (other, (queries, _)) in all.iter().zip(&self.segments) {
            let queries = Arg::from(*queries as u32);
            args.extend([&other.q[..], &other.d_o, &[other.lse, other.delta, queries]].concat());
        }
        args.extend(self.bias_args(&mut gpu, [0, segment]));
        let tokens = self.segments[segment].0;
        let len = BATCH * tokens * self.channels();
        let [dk, dv]: [Buffer<f32>; 2] = [gpu.alloc(len), gpu.alloc(len)];
        let sizes = [tokens, HEADS].map(|n| Arg::from(n as u32));
        args.extend([&[dk.into(), dv.into()][..], &sizes, &[SCALE.into()]].concat());
        let statistics = launch(&mut gpu, kernel, self.extent(tokens), &args)?;
        if !self.exact {
            assert_no_conflicts(&statistics);
        }
        Ok([dk, dv].map(|buffer| gpu.download(buffer).expect("a buffer")))
    }
}

/// The gradient of the bias, segment by segment.
impl Case {
    fn bias_gradient(&self, kernel: &Kernel) -> Result<Vec<f32>, Fault> {
        let (mut gpu, r) = (Machine::new(), self.gradients());
        let all = self.segments.len();
        let operands: Vec<Uploaded> = (0..all).map(|i| self.upload(&mut gpu, i, &r)).collect();
        let (bias, dbias) = (gpu.upload(&self.bias(all)), gpu.alloc::<f32>(r.dbias.len()));
        for (asking, asked) in (0..all).flat_map(|i| (0..all).map(move |j| (i, j))) {
            let (q, k) = (&operands[asking], &operands[asked]);
            let mut args = [q.q, q.d_o, k.k, k.v].concat();
            args.extend([q.lse, q.delta, k.padding, bias.into(), dbias.into()]);
            args.extend(self.strides_of_bias());
            args.extend([asking, asked].map(|i| Arg::from(self.tokens(i) as u32)));
            let [queries, keys] = [asking, asked].map(|i| self.segments[i].0);
            args.extend([queries, keys, HEADS, BATCH].map(|n| Arg::from(n as u32)));
            args.push(SCALE.into());
            let statistics = launch(&mut gpu, kernel, [keys, queries, HEADS], &args)?;
            if !self.exact {
                assert_no_conflicts(&statistics);
            }
        }
        Ok(gpu.download(dbias).expect("a buffer"))
    }
}

#[test]
fn the_gradient_of_the_bias_is_that_of_the_reference() {
    let cases = [
        Case { width: 64, segments: vec![(70, [70, 33])], bias: true, exact: false },
        Case { width: 32, segments: vec![(9, [9, 0]), (101, [97, 0])], bias: true, exact: false },
        Case { width: 33, segments: vec![(9, [9, 0]), (131, [97, 0])], bias: true, exact: true },
    ];
    for case in cases {
        let kernel = case.bias_kernel();
        let want = case.gradients().dbias;
        let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let shown = perturbed(|| {
            let dbias = case.bias_gradient(&kernel).unwrap_or_else(|fault| panic!("{fault}"));
            // dP is a sum of products of float32 that were stored in bf16, P is not rounded at all.
            for (i, (got, want)) in dbias.iter().zip(&want).enumerate() {
                assert!((f64::from(*got) - want).abs() < 1e-5 * largest, "{i}: {got} {want}");
            }
            dbias
        });
        assert!(shown, "exponentials are approximate");
        for (i, broken) in kernel.weakened().iter().enumerate() {
            assert!(case.bias_gradient(broken).is_err(), "weakened in way {i} it passes");
        }
    }
}

/// One segment's operands, as arguments.
struct Uploaded {
    q: [Arg; 3],
    k: [Arg; 3],
    v: [Arg; 3],
    d_o: [Arg; 3],
    lse: Arg,
    delta: Arg,
    keys: Arg,
    padding: Arg,
}

#[test]
fn gradients_are_those_of_the_reference() {
    let exact = false;
    let cases = [
        Case { width: 32, segments: vec![(70, [70, 33])], bias: false, exact },
        Case { width: 64, segments: vec![(9, [9, 0]), (101, [97, 0])], bias: false, exact },
        Case { width: 64, segments: vec![(70, [70, 33])], bias: true, exact },
        Case { width: 32, segments: vec![(9, [9, 0]), (101, [97, 0])], bias: true, exact },
    ];
    // Not in every case: few of the last bits survive the rounding to bf16.
    let mut shown = false;
    for case in cases.into_iter().chain(exact_cases()) {
        // P and dS are rounded to bf16, each by 2⁻⁹ at most, for sums of them. In float32, what is
        // rounded are scores of a few units and sums of a hundred products.
        let tolerance = if case.exact { 4e-6 } else { 1.0 / 128.0 };
        let close = |what: &str, got: &[f32], want: &[f64]| {
            let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(error < largest * tolerance, "{what} {i}: {got} {want}");
            }
        };
        let want = case.gradients();
        for segment in 0..case.segments.len() {
            shown |= perturbed(|| {
                let dq = case.query_gradients(&case.queries_kernel(), segment);
                let dq = dq.unwrap_or_else(|fault| panic!("{fault}"));
                close("dq", &dq, &want.dq[segment]);
                let gradients = case.key_gradients(&case.keys_kernel(), segment);
                let [dk, dv] = gradients.unwrap_or_else(|fault| panic!("{fault}"));
                close("dk", &dk, &want.dk[segment]);
                close("dv", &dv, &want.dv[segment]);
                [dq, dk, dv].concat()
            });
        }
    }
    assert!(shown, "exponentials are approximate");
}
