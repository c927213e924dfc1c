//! Matrix products.

use half::bf16;
use kernels::elementwise::{exprs::GeluTanh, map};
use kernels::gemm::ptx::{Gemm, Squares, Tiles, Writing};
use kernels::gemm::{
    Bias, GateResidual, KC, Reader, RowBias, Size, Store, Strided, Writer, gemm_keeping,
};
use kernels::ptx::{Kernel, Storage};
use ptx_vm::{Arg, Buffer, Fault, Machine, Statistics};

use crate::{assert_bits, launch, numbers, truncated};

/// Operands of a product and whatever a writer may want.
pub struct Case {
    size: Size,
    transposed: [bool; 2],
    a: Vec<f32>,
    b: Vec<f32>,
    /// What `out` holds before.
    out: Vec<f32>,
    bias: Vec<f32>,
    gate: Vec<f32>,
    residual: Vec<f32>,
    rows_per_sample: usize,
    /// How far behind a vector's place operands begin.
    behind: usize,
}

impl Case {
    pub fn new(size: Size, transposed: [bool; 2]) -> Case {
        let Size { batch, m, n, k } = size;
        Case {
            size,
            transposed,
            a: numbers(batch * m * k, 1.0, 1),
            b: numbers(batch * k * n, 1.0, 2),
            out: numbers(batch * m * n, 1.0, 3),
            bias: numbers(m.max(n), 1.0, 4),
            gate: numbers(m * n, 1.0, 5),
            residual: numbers(batch * m * n, 1.0, 6),
            rows_per_sample: 3,
            behind: 0,
        }
    }

    /// Elements from row to row of a and of b.
    fn strides(&self) -> [usize; 2] {
        let Size { m, n, k, .. } = self.size;
        [if self.transposed[0] { m } else { k }, if self.transposed[1] { k } else { n }]
    }

    /// The CPU's answer: out, and what is kept.
    pub fn want(&self, writing: Writing) -> [Vec<f32>; 2] {
        let Size { batch, m, n, k } = self.size;
        let [stride_a, stride_b] = self.strides();
        let mut out = self.out.clone();
        let mut kept = vec![0.0; out.len()];
        for i in 0..batch {
            let a = Strided::rows(&self.a[i * m * k..][..m * k], stride_a);
            let b = Strided::rows(&self.b[i * k * n..][..k * n], stride_b);
            let a = if self.transposed[0] { a.transposed() } else { a.plain() };
            let b = if self.transposed[1] { b.transposed() } else { b.plain() };
            let bias = Some(&self.bias[..n]);
            let gate = GateResidual {
                bias,
                gate: &self.gate,
                gate_stride: n,
                rows_per_sample: self.rows_per_sample,
                residual: &self.residual[i * m * n..],
                cols: n,
            };
            let writer: &dyn Writer<f32> = match writing {
                Writing::Store => &Store,
                Writing::Bias | Writing::BiasGelu => &Bias(bias),
                Writing::RowBias => &RowBias(&self.bias),
                Writing::GateResidual => &gate,
            };
            let part = i * m * n..(i + 1) * m * n;
            let (out, kept) = (&mut out[part.clone()], &mut kept[part]);
            gemm_keeping(Size::new(m, n, k), a, b, writer, out, kept);
        }
        if writing == Writing::BiasGelu {
            kept.clone_from(&out);
            map(&GeluTanh, &[kept.len()], [(&kept, &[1])], &mut out);
        }
        [out, kept]
    }

    /// The GPU's answer, from operands of the kernel's storage.
    pub fn got(
        &self,
        kernel: &Kernel,
        writing: Writing,
    ) -> Result<([Vec<f32>; 2], Statistics), Fault> {
        self.got_by(kernel, self.size.k, writing)
    }

    /// The same, of a product that is cut into parts of `part` along k if that is less than k: the
    /// kernel stores sums, and another finishes them.
    pub fn got_by(
        &self,
        kernel: &Kernel,
        part: usize,
        writing: Writing,
    ) -> Result<([Vec<f32>; 2], Statistics), Fault> {
        let Size { batch, m, n, k } = self.size;
        let mut gpu = Machine::new();
        let halves = kernel.spec().parameters[0].kind == kernels::ptx::Kind::Pointer("bf16");
        let mut upload = |x: &[f32]| -> Arg {
            let x = [&vec![f32::NAN; self.behind], x].concat();
            let behind = self.behind as u64;
            if halves {
                let x: Vec<u16> = x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
                (gpu.upload(&x).address + 2 * behind).into()
            } else {
                (gpu.upload(&x).address + 4 * behind).into()
            }
        };
        let operands = [upload(&self.a), upload(&self.b)];
        let [out, kept]: [Buffer<f32>; 2] = [gpu.upload(&self.out), gpu.alloc(self.out.len())];
        let mut args = vec![out.into()];
        match writing {
            Writing::Store => {}
            Writing::Bias | Writing::RowBias => args.push(gpu.upload(&self.bias).into()),
            Writing::BiasGelu | Writing::GateResidual => {
                args.extend([Arg::from(gpu.upload(&self.bias)), kept.into()]);
            }
        }
        if writing == Writing::GateResidual {
            args.extend([&self.gate, &self.residual].map(|x| Arg::from(gpu.upload(x))));
            args.extend([n, self.rows_per_sample].map(|n| Arg::from(n as u32)));
        }
        let [stride_a, stride_b] = self.strides();
        let parts = k.div_ceil(part);
        let sizes = [m, n, k, stride_a, stride_b, m * k, k * n, parts, part];
        let sizes = sizes.map(|n| Arg::from(n as u32));
        let product = |gpu: &mut Machine, args: &[Arg]| {
            let args = [&operands, args, &sizes].concat();
            launch(gpu, kernel, [n, m, batch * parts], &args)
        };
        let statistics = if parts == 1 {
            product(&mut gpu, &args)?
        } else {
            let sums: Buffer<f32> = gpu.alloc(batch * parts * m * n);
            let statistics = product(&mut gpu, &[sums.into()])?;
            let numbers = [m, n, parts].map(|n| Arg::from(n as u32));
            let args = [&[sums.into()], &args[..], &numbers].concat();
            launch(&mut gpu, &writing.finish(), [n, m, batch], &args)?;
            statistics
        };
        let keeps = matches!(writing, Writing::BiasGelu | Writing::GateResidual);
        let kept = if keeps { gpu.download(kept).expect("a buffer") } else { Vec::new() };
        Ok(([gpu.download(out).expect("a buffer"), kept], statistics))
    }
}

const TILES: [Tiles; 2] = [Tiles::LARGE, Tiles::SMALL];
pub const SQUARES: [Squares; 2] = [Squares::LARGE, Squares::SMALL];

pub const SIDES: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

pub fn family(operands: Storage, transposed: [bool; 2], writing: Writing) -> Gemm {
    Gemm { operands, transposed, writing }
}

#[test]
fn exact_products_have_the_bits_of_the_cpu() {
    let store = |what: &str, operands, case: &Case| {
        let want = &case.want(Writing::Store)[0];
        for tiles in TILES {
            let kernel = family(operands, case.transposed, Writing::Store).exact(tiles);
            let ([out, _], _) = case.got(&kernel, Writing::Store).expect("no fault");
            let what = format!("{what} {:?} {:?} {tiles:?}", case.size, case.transposed);
            assert_bits(&what, &out, want);
        }
    };
    // Read one by one; as vectors, in whole panels or not; several blocks of the sum.
    let sizes = [
        Size::new(3, 5, 401),
        Size::new(131, 70, 37).batched(2),
        Size::new(132, 68, 44).batched(2),
        Size::new(4, 4, 4),
        Size::new(1, 1, 1),
        Size::new(8, 12, 2 * KC + 8),
        Size::new(7, 9, KC + 3),
    ];
    for (size, transposed) in sizes.into_iter().flat_map(|size| SIDES.map(|t| (size, t))) {
        let case = Case::new(size, transposed);
        store("", Storage::F32, &case);
        store("halves", Storage::Bf16, &rounded(case, to_bf16));
    }
    for transposed in SIDES {
        let case = Case { behind: 1, ..Case::new(Size::new(12, 8, 20), transposed) };
        store("not aligned", Storage::F32, &case);
        store("not aligned, halves", Storage::Bf16, &rounded(case, to_bf16));
    }
    for (writing, tiles) in Writing::ALL.into_iter().flat_map(|w| TILES.map(|t| (w, t))) {
        // With an odd number of columns results are written one by one, else by four.
        for size in [Size::new(7, 6, 9), Size::new(7, 8, 9)] {
            let case = Case::new(size, [false, true]);
            let kernel = family(Storage::F32, [false, true], writing).exact(tiles);
            let ([out, kept], _) = case.got(&kernel, writing).expect("no fault");
            let [want, want_kept] = case.want(writing);
            assert_bits(&format!("{writing:?}"), &out, &want);
            if !kept.is_empty() {
                assert_bits(&format!("kept by {writing:?}"), &kept, &want_kept);
            }
        }
    }
}

/// What is beyond the ends of a matrix is neither added, be it a zero, nor does it spread.
#[test]
fn nothing_is_added_to_exact_products() {
    // The last three are two blocks, which end with a panel, amid one, and are as long.
    let lengths = [4, 8, 13, KC + 8, KC + 5, KC + 64];
    for (k, transposed) in lengths.into_iter().flat_map(|k| SIDES.map(|t| (k, t))) {
        // Products too small for a float32: sums are −0, and would not be with a zero more.
        let [m, n] = [12, 8];
        let mut case = Case::new(Size::new(m, n, k), transposed);
        case.a.fill(-1e-30);
        case.b.fill(1e-30);
        let [row, column] = case.strides();
        let last = k - 1;
        case.a[if transposed[0] { last * row + m - 1 } else { (m - 1) * row + last }] =
            f32::INFINITY;
        case.b[if transposed[1] { (n - 1) * column + last } else { last * column + n - 1 }] =
            f32::NAN;
        let want = &case.want(Writing::Store)[0];
        assert_eq!(want[0].to_bits(), (-0.0f32).to_bits());
        for tiles in TILES {
            let kernel = family(Storage::F32, transposed, Writing::Store).exact(tiles);
            let ([out, _], _) = case.got(&kernel, Writing::Store).expect("no fault");
            assert_bits(&format!("k = {k}, {transposed:?}"), &out, want);
        }
    }
}

/// Operands of the tensor cores' precision, so that what is left to differ is the order of sums.
pub fn rounded(mut case: Case, round: impl Fn(f32) -> f32) -> Case {
    for x in case.a.iter_mut().chain(&mut case.b) {
        *x = round(*x);
    }
    case
}

pub fn to_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// 10 bits of mantissa, ties away from zero.
fn to_tf32(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + (1 << 12)) & !((1 << 13) - 1))
}

/// k products of at most 1, summed in any order in float32.
pub fn assert_close(what: &str, k: usize, got: &[f32], want: &[f32]) {
    let bound = 2.0 * (k * k) as f32 * f32::EPSILON / 8.0;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound, "{what} {i}: {got} {want}");
    }
}

/// A product on tensor cores, and what is kept: the same bits, whatever squares it is made of.
fn of_any_squares(gemm: &Gemm, case: &Case) -> [Vec<f32>; 2] {
    let got = |squares| case.got(&gemm.tensor_cores(squares), gemm.writing).expect("no fault").0;
    let [large, small] = SQUARES.map(got);
    for (large, small) in large.iter().zip(&small) {
        assert_bits(&format!("{gemm:?} {:?}", case.size), small, large);
    }
    large
}

#[test]
fn tensor_core_products_are_those_of_bf16_operands() {
    let sizes = [Size::new(136, 72, 40).batched(2), Size::new(16, 152, 200)];
    for (size, transposed) in sizes.into_iter().flat_map(|size| SIDES.map(|t| (size, t))) {
        let case = rounded(Case::new(size, transposed), to_bf16);
        let gemm = family(Storage::Bf16, transposed, Writing::Store);
        let want = &case.want(Writing::Store)[0];
        let shown = truncated(|| {
            let [out, _] = of_any_squares(&gemm, &case);
            assert_close(&format!("{size:?} {transposed:?}"), size.k, &out, want);
            out
        });
        assert!(shown, "sums of tensor cores are cut off");
    }
}

/// The kernel rounds what it is given.
#[test]
fn tensor_core_products_of_floats_are_those_of_tf32_operands() {
    let sizes = [Size::new(136, 72, 44).batched(2), Size::new(20, 132, 100)];
    for (size, transposed) in sizes.into_iter().flat_map(|size| SIDES.map(|t| (size, t))) {
        let case = Case::new(size, transposed);
        let [out, _] = of_any_squares(&family(Storage::F32, transposed, Writing::Store), &case);
        let want = &rounded(case, to_tf32).want(Writing::Store)[0];
        assert_close(&format!("{size:?} {transposed:?}"), size.k, &out, want);
    }
}

#[test]
fn sums_of_tensor_cores_go_through_every_writer() {
    let case = rounded(Case::new(Size::new(72, 136, 16), [false, true]), to_bf16);
    for writing in Writing::ALL {
        let found = of_any_squares(&family(Storage::Bf16, [false, true], writing), &case);
        for (got, want) in found.iter().zip(case.want(writing)) {
            assert_close(&format!("{writing:?}"), case.size.k, got, &want);
        }
    }
}

/// The main loop's shared memory: no access waits for a bank.
#[test]
fn products_have_no_bank_conflicts() {
    for transposed in SIDES {
        for operands in [Storage::Bf16, Storage::F32] {
            let case = Case::new(Size::new(128, 128, 96), transposed);
            for squares in SQUARES {
                let kernel = family(operands, transposed, Writing::Store).tensor_cores(squares);
                let (_, statistics) = case.got(&kernel, Writing::Store).expect("no fault");
                let total = statistics.total();
                assert!(total.wavefronts > 0);
                assert_eq!(
                    total.wavefronts, total.ideal_wavefronts,
                    "{transposed:?}\n{statistics}"
                );
            }
        }
        let case = Case::new(Size::new(128, 64, 32), transposed);
        for tiles in TILES {
            let kernel = family(Storage::F32, transposed, Writing::Store).exact(tiles);
            let (_, statistics) = case.got(&kernel, Writing::Store).expect("no fault");
            let total = statistics.total();
            assert_eq!(total.wavefronts, total.ideal_wavefronts, "{transposed:?}\n{statistics}");
        }
    }
}

/// Whichever way operands lie, neighbours read neighbours.
#[test]
fn products_read_whole_sectors() {
    for transposed in SIDES {
        let case = Case::new(Size::new(128, 128, 64), transposed);
        let of = |operands| family(operands, transposed, Writing::Store);
        let kernels = [
            of(Storage::F32).exact(Tiles::LARGE),
            of(Storage::F32).exact(Tiles::SMALL),
            of(Storage::F32).tensor_cores(Squares::LARGE),
            of(Storage::F32).tensor_cores(Squares::SMALL),
            of(Storage::Bf16).tensor_cores(Squares::LARGE),
            of(Storage::Bf16).tensor_cores(Squares::SMALL),
        ];
        for kernel in kernels {
            let (_, statistics) = case.got(&kernel, Writing::Store).expect("no fault");
            for instructions in ["ld.global", "cp.async"] {
                let total = statistics.of(instructions);
                assert_eq!(total.sectors, total.ideal_sectors, "{transposed:?}\n{statistics}");
            }
        }
    }
}

/// Waiting for anything less a product is at fault, and the machine says so: whichever way its
/// operands lie, since that decides which threads fill what the others read.
#[test]
fn nothing_that_is_waited_for_can_be_missing() {
    for transposed in SIDES {
        let of = |operands| family(operands, transposed, Writing::Store);
        let case = Case::new(Size::new(128, 128, 160), transposed);
        for kernel in [
            of(Storage::Bf16).tensor_cores(Squares::LARGE),
            of(Storage::Bf16).tensor_cores(Squares::SMALL),
            of(Storage::F32).tensor_cores(Squares::LARGE),
            of(Storage::F32).tensor_cores(Squares::SMALL),
            of(Storage::F32).exact(Tiles::LARGE),
            of(Storage::F32).exact(Tiles::SMALL),
            of(Storage::Bf16).exact(Tiles::LARGE),
        ] {
            let weakened = kernel.weakened();
            assert!(weakened.len() >= 2, "two barriers, or a barrier and copies");
            for (i, broken) in weakened.iter().enumerate() {
                let name = &kernel.spec().name;
                let fault = case.got(broken, Writing::Store);
                assert!(fault.is_err(), "{name}, weakened in way {i}, passes");
            }
        }
    }
}
