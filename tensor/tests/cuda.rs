//! Tensors in a GPU's memory, on the virtual machine behind the stand-in for the driver.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernels::elementwise::ptx::{self, Identity, Layout};
use kernels::ptx::{F32, Kernel, Storage};
use kernels::reduce;
use tensor::{Cuda, DType, Device, ErrorKind, Tensor, bf16};

#[path = "cuda/graphs.rs"]
mod graphs;

/// The GPU, for one test at a time: they count its memory, and everything that is left behind.
fn gpu() -> (MutexGuard<'static, ()>, Cuda) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    cuda::unless_gpu();
    (turn, Cuda::open(0).expect("the stand-in has a GPU"))
}

fn numbers(n: usize) -> Tensor {
    Tensor::from_vec((0..n).map(|i| i as f32 * 0.37 - 3.0).collect(), [n]).unwrap()
}

#[test]
fn elements_go_there_and_come_back() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    for dtype in DType::ALL {
        let x = numbers(30).to_dtype(dtype).reshape([5, 6]).unwrap().transpose(0, 1).unwrap();
        let y = x.to_device(&there).unwrap();
        assert_eq!((y.device(), y.dtype(), *y.shape()), (there.clone(), dtype, [6, 5].into()));
        assert_eq!(y.to_f64_vec(), x.to_f64_vec(), "{dtype}");
        assert_eq!(y.to_device(&Device::Cpu).unwrap().to_f64_vec(), x.to_f64_vec());
    }
    let nothing = Tensor::zeros([0, 3], DType::F32).to_device(&there).unwrap();
    assert!(nothing.contiguous().to_vec::<f32>().unwrap().is_empty());
    assert_eq!(Tensor::scalar(2.5, DType::F32).to_device(&there).unwrap().item().unwrap(), 2.5);
    assert_eq!(Tensor::zeros_on(Some(&gpu), [3], DType::I64).to_f64_vec(), [0.0; 3]);
    assert_eq!("cuda:0".parse::<Device>().unwrap(), there);
    assert!("cuda:7".parse::<Device>().unwrap_err().to_string().contains("GPU 7 does not open"));
    assert_eq!(format!("{gpu}"), "cuda:0");
}

#[test]
fn views_are_packed_joined_and_converted_as_on_the_cpu() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu);
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64, DType::I64, DType::I32] {
        let x = numbers(3 * 4 * 5).to_dtype(dtype).reshape([3, 4, 5]).unwrap();
        let y = x.to_device(&there).unwrap();
        let views: [fn(&Tensor) -> tensor::Result<Tensor>; 5] = [
            |x| x.permute(&[2, 0, 1]),
            |x| x.narrow(1, 1, 2)?.transpose(0, 2),
            |x| x.select(0, 1)?.broadcast_to([2, 4, 5]),
            |x| x.transpose(0, 1)?.reshape([12, 5]),
            |x| Tensor::cat(&[&x.narrow(1, 2, 2)?, x, &x.transpose(1, 1)?], 1),
        ];
        for view in views {
            let [here, there] = [view(&x).unwrap(), view(&y).unwrap()];
            assert_eq!(there.shape(), here.shape());
            assert_eq!(there.contiguous().to_f64_vec(), here.to_f64_vec(), "{dtype}");
        }
    }
    let x = numbers(2 * 9).reshape([2, 9]).unwrap();
    let y = x.to_device(&there).unwrap().transpose(0, 1).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let [here, there] = [x.transpose(0, 1).unwrap(), y.clone()].map(|x| x.to_dtype(dtype));
        assert_eq!(there.to_f64_vec(), here.to_f64_vec(), "{dtype}");
        assert_eq!(there.to_dtype(DType::F32).to_f64_vec(), here.to_f64_vec(), "{dtype}");
    }
}

#[test]
fn elements_on_a_gpu_are_not_read_as_if_they_were_here() {
    let (_turn, gpu) = gpu();
    let mut x = numbers(4).to_device(&Device::Cuda(gpu)).unwrap();
    let other = numbers(4);
    for error in [
        x.slice::<f32>().unwrap_err(),
        x.raw_slice::<f32>().unwrap_err(),
        x.bytes().unwrap_err(),
        x.index_rows(&[0]).unwrap_err(),
        Tensor::cat(&[&x, &other], 0).unwrap_err(),
        x.slice_mut::<f32>().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        assert!(error.to_string().contains("cuda:0"), "{error}");
    }
}

/// y[i] = a·x[i], with an argument of every type.
fn scaled() -> Kernel {
    Kernel::new("scaled", 64, [64, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let (a, n) = (k.f32("a"), k.u32("n"));
        let i = k.block(0).mad(64, k.thread());
        k.if_(i.lt(n), || y.at(i).store(a * x.at(i).load()));
    })
}

/// y[i] = 2·x[i] for 64 of them, by loads of four.
fn scaled_by_fours() -> Kernel {
    Kernel::new("scaled_by_fours", 16, [64, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let i = k.thread() * 4;
        for (j, x) in x.at(i).load_n(4).into_iter().enumerate() {
            y.at(i).plus(j).store(x * 2.0);
        }
    })
}

#[test]
fn launches_are_checked() {
    let (_turn, gpu) = gpu();
    let x = numbers(100).to_device(&Device::Cuda(gpu.clone())).unwrap();
    let mut y = Tensor::uninit_on(Some(&gpu), [100], DType::F32);
    let kernel = || gpu.kernel("scaled", scaled).unwrap();
    kernel().input(&x).output(&mut y).float(2.0).number(100).run([100, 1, 1]).unwrap();
    let want: Vec<f64> = x.to_f64_vec().iter().map(|x| 2.0 * x).collect();
    assert_eq!(y.to_f64_vec(), want);

    let refused = |what: &str, error: tensor::Error| {
        assert_eq!(error.op(), "scaled");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(y.to_f64_vec(), want, "{what}: nothing was launched");
    };
    let mut z = Tensor::zeros_on(Some(&gpu), [100], DType::F32);
    let half = x.to_dtype(DType::BF16);
    let here = numbers(100);
    let rows = x.reshape([10, 10]).unwrap().transpose(0, 1).unwrap();
    let e = kernel().input(&x).output(&mut z).float(2.0).run([100, 1, 1]);
    refused("4 parameters, not 3\n  help   they are x, y, a, n", e.unwrap_err());
    let e = kernel().input(&half).output(&mut z).float(2.0).number(100).run([100, 1, 1]);
    refused("parameter x: expected a tensor of f32", e.unwrap_err());
    let e = kernel().input(&here).output(&mut z).float(2.0).number(100).run([100, 1, 1]);
    refused("parameter x: it is not in the memory of cuda:0", e.unwrap_err());
    let e = kernel().input(&rows).output(&mut z).float(2.0).number(100).run([100, 1, 1]);
    refused("parameter x: it is not contiguous", e.unwrap_err());
    let e = kernel().input(&x).output(&mut z).double(2.0).number(100).run([100, 1, 1]);
    refused("parameter a: expected a float32, not a float64", e.unwrap_err());
    let e = kernel().input(&x).output(&mut z).float(2.0).input(&x).run([100, 1, 1]);
    refused("parameter n: expected a whole number", e.unwrap_err());
    let e = kernel().input(&x).output(&mut z).float(2.0).number(1 << 32).run([100, 1, 1]);
    refused("4294967296 does not fit 32 bits", e.unwrap_err());
    let e = kernel().input(&x).output(&mut z).float(2.0).number(100).run([100, 70_000, 1]);
    refused("more than 65535", e.unwrap_err());
    let e = kernel().input(&x).output(&mut z).float(2.0).number(100).run([1 << 32, 1, 1]);
    refused("[4294967296, 1, 1] does not fit 32 bits", e.unwrap_err());
    let odd = x.narrow(0, 2, 64).unwrap();
    let e = gpu.kernel("scaled_by_fours", scaled_by_fours).unwrap();
    let e = e.input(&odd).output(&mut z).run([64, 1, 1]).unwrap_err();
    assert!(e.to_string().contains("parameter x: it begins 8 bytes behind a multiple"), "{e}");
    // A text that is none the driver refuses.
    let e = gpu.kernel("nonsense", || Kernel::new("no name", 32, [32, 1, 1], |_| {})).err();
    assert!(e.expect("it is refused").to_string().contains("INVALID_PTX"));
    assert_eq!(gpu.launches("scaled"), 1);
    // What the kernel itself does wrong the machine sees: memory has 100 elements. It is the end.
    let Some(stand_in) = cuda::unless_gpu() else { return };
    let e = kernel().input(&x).output(&mut z).float(2.0).number(101).run([101, 1, 1]);
    assert!(e.unwrap_err().to_string().contains("OutOfBounds"));
    let e = y.to_device(&Device::Cpu).map(drop).unwrap_err();
    assert!(e.to_string().contains("OutOfBounds"), "{e}");
    stand_in.reset_device();
}

/// A tensor that others share is a value: what is written is a copy.
#[test]
fn writing_never_shows_elsewhere() {
    let (_turn, gpu) = gpu();
    let x = numbers(70).to_device(&Device::Cuda(gpu.clone())).unwrap();
    let mut y = x.clone();
    let kernel = gpu.kernel("scaled", scaled).unwrap();
    kernel.input(&x).output(&mut y).float(0.0).number(70).run([70, 1, 1]).unwrap();
    assert_eq!((x.to_f64_vec(), y.to_f64_vec()), (numbers(70).to_f64_vec(), vec![0.0; 70]));
}

#[test]
fn kernels_of_the_registry_run_on_tensors() {
    let (_turn, gpu) = gpu();
    let x = numbers(5 * 130).reshape([5, 130]).unwrap();
    let mut want = vec![0.0; 5];
    reduce::sum(x.slice::<f32>().unwrap(), [5, 130, 1], &mut want);
    let x = x.to_device(&Device::Cuda(gpu.clone())).unwrap();
    let mut y = Tensor::uninit_on(Some(&gpu), [5], DType::F32);
    let launch = gpu.kernel("sum_rows", reduce::ptx::rows).unwrap();
    launch.input(&x).output(&mut y).numbers([5, 130]).run([5, 1, 1]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), want);
    // A part of a buffer is where it is in the buffer.
    let (row, mut y) = (x.select(0, 3).unwrap(), Tensor::uninit_on(Some(&gpu), [130], DType::BF16));
    let copy = || ptx::kernel("copy", &Identity, [Storage::F32, Storage::Bf16], Layout::Dense);
    let launch = gpu.kernel("rounded", copy).unwrap();
    let error = launch.input(&row).output(&mut y).number(130).run([130, 1, 1]).unwrap_err();
    assert!(error.to_string().contains("begins 8 bytes behind a multiple"), "{error}");
    let launch = gpu.kernel("rounded", copy).unwrap();
    let row = x.select(0, 2).unwrap();
    launch.input(&row).output(&mut y).number(130).run([130, 1, 1]).unwrap();
    assert_eq!(y.to_vec::<bf16>().unwrap(), row.to_dtype(DType::BF16).to_vec::<bf16>().unwrap());
}

/// What cannot be had or made is lost, and whoever wants to see it is told why.
#[test]
fn what_is_lost_says_why() {
    let (_turn, gpu) = gpu();
    let huge = Tensor::uninit_on(Some(&gpu), [1 << 40], DType::F64);
    assert_eq!(gpu.live_bytes(), 0);
    let error = huge.to_device(&Device::Cpu).map(drop);
    assert!(error.unwrap_err().to_string().contains("OUT_OF_MEMORY"));
    let bytes = Tensor::zeros([2, 3], DType::U8).to_device(&Device::Cuda(gpu.clone())).unwrap();
    let turned = bytes.transpose(0, 1).unwrap().contiguous();
    let error = turned.to_vec::<u8>().unwrap_err().to_string();
    assert!(error.contains("no GPU kernel copies u8 elements"), "{error}");
    let mut y = Tensor::uninit_on(Some(&gpu), [6], DType::F32);
    let lost = bytes.to_dtype(DType::F32);
    let launch = gpu.kernel("scaled", scaled).unwrap();
    let error = launch.input(&lost).output(&mut y).float(1.0).number(6).run([6, 1, 1]);
    assert!(error.unwrap_err().to_string().contains("it is lost: no GPU kernel copies u8"));
}

#[test]
fn memory_is_counted_and_nothing_is_left() {
    let (turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    gpu.reset_peak();
    assert_eq!(gpu.live_bytes(), 0);
    let x = numbers(250).to_device(&there).unwrap();
    let y = x.clone();
    assert_eq!(gpu.live_bytes(), 1000);
    drop(x.broadcast_to([2, 250]).unwrap().contiguous());
    assert_eq!((gpu.live_bytes(), gpu.peak_bytes()), (1000, 3000));
    drop((x, there));
    assert_eq!(y.to_f64_vec(), numbers(250).to_f64_vec());
    let leaks = || cuda::unless_gpu().map(|stand_in| stand_in.leaks());
    let is_empty = leaks().map(|leaks| leaks.is_empty());
    assert_ne!(is_empty, Some(true), "there is a stream, a module and a buffer");
    drop(gpu);
    assert_eq!(y.cuda().expect("a GPU").live_bytes(), 1000, "a tensor keeps its GPU open");
    drop(y);
    assert_eq!(leaks().unwrap_or_default(), [""; 0]);
    drop(turn);
}

/// A thread that never asked the driver for anything has no context of its own.
#[test]
fn memory_is_given_back_by_any_thread() {
    let (_turn, gpu) = gpu();
    let x = numbers(250).to_device(&Device::Cuda(gpu.clone())).unwrap();
    std::thread::spawn(move || drop(x)).join().unwrap();
    gpu.synchronize().unwrap();
    assert_eq!(gpu.live_bytes(), 0);
    let left = cuda::unless_gpu().map_or_else(Vec::new, |stand_in| stand_in.leaks());
    assert!(!left.iter().any(|line| line.starts_with("device memory")), "{left:?}");
}

/// A card may read what it is sent when it comes to the copy.
#[test]
fn what_is_sent_stays_until_it_was_waited_for() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    let set_late = |late| cuda::unless_gpu().map(|stand_in| stand_in.set_late(late));
    set_late(true);
    let sent: Vec<Tensor> = (0..8)
        .map(|i| Tensor::full([1000], f64::from(i), DType::F32).to_device(&there).unwrap())
        .collect();
    gpu.synchronize().unwrap();
    set_late(false);
    for (i, x) in sent.iter().enumerate() {
        assert!(x.to_f64_vec().iter().all(|x| *x == i as f64), "tensor {i} is another one's");
    }
}

/// In a process of its own, where the stand-in is not to be found either.
#[test]
fn without_a_driver_there_is_an_error() {
    if std::env::var_os("TENSOR_TEST_WITHOUT_DRIVER").is_some() {
        match Device::cuda(0) {
            Err(error) => println!("refused: {error}"),
            Ok(gpu) => println!("opened: {gpu:?}"),
        }
        return;
    }
    let program = std::env::current_exe().unwrap();
    let child = Command::new(program)
        .args(["--exact", "without_a_driver_there_is_an_error", "--nocapture"])
        .env("TENSOR_TEST_WITHOUT_DRIVER", "1")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}");
    if text.contains("opened: ") {
        eprintln!("SKIPPED without_a_driver_there_is_an_error: this machine has a driver");
        return;
    }
    let line = text.lines().find(|line| line.contains("no CUDA driver on this machine"));
    assert!(line.is_some_and(|line| line.contains("use the device cpu")), "{text}");
}
