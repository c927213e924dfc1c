//! Functions of tensors that are recorded and repeated.

use std::cell::{Cell, RefCell};

use kernels::adamw;
use tensor::cuda::Repeat;
use tensor::{DType, Device, Tensor};

use super::{gpu, numbers, scaled};

/// What a graph does, the queue does bit for bit; and what it gave stays what it was.
#[test]
fn a_graph_repeats_what_was_recorded() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    let mut weight = numbers(70).to_device(&there).unwrap();
    let function = |x: &[Tensor], weight: &Tensor| {
        let mut y = Tensor::uninit_on(Some(&gpu), [70], DType::F32);
        let kernel = gpu.kernel("scaled", scaled)?.input(&x[0]).output(&mut y);
        kernel.float(2.5).number(70).run([70, 1, 1])?;
        // Something that was there before, something that is uploaded each time, and an input.
        let uploaded = numbers(70).to_device(&there)?;
        let all = Tensor::cat(&[&y, weight, &uploaded, &x[0]], 0)?;
        Ok(vec![all.reshape([4, 70])?.transpose(0, 1)?, y])
    };
    let (first, graph) = gpu.record(&[&weight], |x| function(x, &weight)).unwrap();
    let graph = graph.unwrap();
    let values = |results: &[Tensor]| results.iter().map(Tensor::to_f64_vec).collect::<Vec<_>>();
    assert_eq!(values(&first), values(&graph.run(&[&weight]).unwrap()));
    let (mut results, mut wanted) = (Vec::new(), Vec::new());
    for seed in [3, 1, 2] {
        let x = Tensor::from_vec((0..70).map(|i| (i * seed) as f32 * 0.3).collect(), [70]).unwrap();
        wanted.push(values(&function(&[x.to_device(&there).unwrap()], &weight).unwrap()));
        // Wherever it lies.
        let x = if seed == 1 { x.to_device(&there).unwrap() } else { x };
        results.push(graph.run(&[&x]).unwrap());
    }
    for (result, want) in results.iter().zip(&wanted) {
        assert_eq!(&values(result), want);
        assert_eq!(*result[0].shape(), [70, 4]);
    }
    // What it reaches besides is a value, and stays while the graph is there.
    let zeros = Tensor::zeros_on(Some(&gpu), [70], DType::F32);
    let kernel = gpu.kernel("scaled", scaled).unwrap().input(&zeros).output(&mut weight);
    kernel.float(1.0).number(70).run([70, 1, 1]).unwrap();
    drop(weight);
    let x = Tensor::from_vec((0..70).map(|i| (i * 3) as f32 * 0.3).collect(), [70]).unwrap();
    assert_eq!(values(&graph.run(&[&x]).unwrap()), wanted[0]);
    let error = graph.run(&[&numbers(3)]).unwrap_err().to_string();
    assert!(error.contains("recorded with other inputs"), "{error}");
}

/// A step of what training is made of: a weight that moves in place, and a table of addresses.
#[test]
fn a_graph_moves_what_is_there() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    let [lens, firsts] = [[140, 0], [0, 1]].map(|x: [i32; 2]| Tensor::from_slice(&x, [2]).unwrap());
    // state ← 2.5·x; the result is Σ x² + Σ state², of what both were before.
    let step = |state: &mut Tensor, x: &Tensor| {
        let all = Tensor::cat(&[&*state, x], 0)?;
        let mut squares = Tensor::uninit_on(Some(&gpu), [1], DType::F64);
        gpu.kernel("gradient_squares", adamw::ptx::squares)?
            .table(std::slice::from_ref(&all))
            .input(&lens.narrow(0, 0, 1)?.to_device(&there)?)
            .input(&firsts.to_device(&there)?)
            .output(&mut squares)
            .number(1)
            .run([1, 1, 1])?;
        let kernel = gpu.kernel("scaled", scaled)?.input(x).output(state);
        kernel.float(2.5).number(70).run([70, 1, 1])?;
        Ok(vec![squares])
    };
    let given = |i: usize| (numbers(70 + i).narrow(0, i, 70).unwrap()).contiguous();
    let start = || numbers(70).to_device(&there).unwrap();
    let (mut want, mut state) = (Vec::new(), start());
    for i in 0..4 {
        let squares = step(&mut state, &given(i).to_device(&there).unwrap()).unwrap();
        want.push((squares[0].to_f64_vec(), state.to_f64_vec()));
    }
    let (state, mut repeat) = (RefCell::new(start()), Repeat::default());
    for (i, want) in want.iter().enumerate() {
        let f = |x: &[Tensor]| step(&mut state.borrow_mut(), &x[0]);
        let squares = repeat.run(&gpu, &[&given(i)], f).unwrap()[0].to_f64_vec();
        assert_eq!((squares, state.borrow().to_f64_vec()), *want, "{i}");
        assert!(repeat.is_recorded());
        if i == 1 {
            // Whoever shares it keeps what it was: the weight moves elsewhere, and is recorded
            // anew.
            let kept = state.borrow().clone();
            let f = |x: &[Tensor]| step(&mut state.borrow_mut(), &x[0]);
            repeat.run(&gpu, &[&given(9)], f).unwrap();
            assert_eq!(kept.to_f64_vec(), want.1);
            *state.borrow_mut() = kept;
        }
    }
    let graph = gpu.record(&[&given(0)], |x| step(&mut state.borrow_mut(), &x[0])).unwrap().1;
    let (graph, kept) = (graph.unwrap(), state.borrow().clone());
    let error = graph.run(&[&given(0)]).unwrap_err().to_string();
    assert!(error.contains("others share what it writes in place"), "{error}");
    assert_eq!(kept.to_f64_vec(), state.borrow().to_f64_vec());

    // One that shares it while it is recorded would be written over.
    let mut repeat = Repeat::default();
    for _ in 0..2 {
        let f = |x: &[Tensor]| {
            let mut state = state.borrow_mut();
            let _shared = state.clone();
            step(&mut state, &x[0])
        };
        let results = repeat.run(&gpu, &[&given(3)], f).unwrap();
        assert_eq!(results.len(), 1);
        assert!(!repeat.is_recorded());
    }
    assert_eq!(state.borrow().to_f64_vec(), want[3].1);
    let why = repeat.refusal().expect("it is told once").to_string();
    assert!(why.contains("others share it") && repeat.refusal().is_none(), "{why}");
}

#[test]
fn what_cannot_be_recorded_says_why() {
    let (_turn, gpu) = gpu();
    let there = Device::Cuda(gpu.clone());
    let x = numbers(8);
    let refused = |what: &str, f: &dyn Fn(&[Tensor]) -> tensor::Result<Vec<Tensor>>| {
        let graph = gpu.record(&[&x], f).and_then(|(_, graph)| graph);
        let error = graph.map(drop).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(x.to_device(&there).unwrap().to_f64_vec(), x.to_f64_vec(), "the queue goes on");
    };
    refused("nothing is known of it while a graph is recorded", &|x| {
        let first = x[0].to_vec::<f32>()?[0];
        Ok(vec![Tensor::full([2], f64::from(first), DType::F32).to_device(&there)?])
    });
    refused("nothing is known of it while a graph is recorded", &|x| {
        gpu.synchronize()?;
        Ok(x.to_vec())
    });
    let count = Cell::new(0.0);
    refused("uploads something else the second time", &|_| {
        count.set(count.get() + 1.0);
        Ok(vec![Tensor::full([2], count.get(), DType::F32).to_device(&there)?])
    });
    let kept = RefCell::new(Vec::new());
    refused("1 tensors that it made are still there", &|x| {
        *kept.borrow_mut() = vec![x[0].reshape([2, 4])?.transpose(0, 1)?.contiguous()];
        Ok(Vec::new())
    });
    let error = kept.borrow()[0].to_vec::<f32>().unwrap_err().to_string();
    assert!(error.contains("it was made while a graph was recorded"), "{error}");
    refused("a result is not in the memory of cuda:0", &|_| Ok(vec![numbers(2)]));
    refused("a graph is being recorded already", &|x| {
        gpu.record(&[&x[0]], |x| Ok(x.to_vec()))?.1.map(|_| Vec::new())
    });
    let f = |x: &[Tensor]| Ok(vec![x[0].reshape([2, 4])?.transpose(0, 1)?]);
    let graph = gpu.record(&[&x], f).unwrap().1.unwrap();
    refused("a graph cannot be part of another one", &|x| graph.run(&[&x[0]]));
    refused("another thread records a graph", &|_| {
        let elsewhere = || numbers(2).to_device(&there);
        let there = std::thread::scope(|scope| scope.spawn(elsewhere).join().expect("no panic"))?;
        Ok(vec![there.reshape([2, 1])?])
    });
}
