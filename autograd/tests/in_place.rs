//! Gradients that are added where the sum lies.

use autograd::{Backward, Grads, Var, detect_anomaly, profile};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

/// A norm adds its gradient to what a residual stream has been sent already, where it lies: to the
/// bits of a sum that is watched, whether or not somebody else has that, too.
#[test]
fn a_norm_adds_to_the_gradient_of_its_stream() {
    let rng = Rng::new(7);
    let numbers = |stream, shape: &[usize]| rng.stream(stream).normal(shape, DType::F32).unwrap();
    let x = Var::parameter(numbers(0, &[2, 70, 40]));
    let [shift, scale] = [1, 2].map(|stream| Var::parameter(numbers(stream, &[2, 40])));
    let weight = Var::parameter(numbers(3, &[40]));
    let streams = || -> Result<Vec<Var>> {
        let mut streams = vec![x.mul_scalar(0.5)?];
        for norm in 0..3 {
            let stream = streams.last().expect("one at least");
            let branch = match norm {
                0 => stream.layer_norm(1e-6)?,
                1 => stream.ada_layer_norm(&shift, &scale, 1e-6)?,
                _ => stream.rms_norm(&weight, 1e-6)?,
            };
            streams.push(stream.add(&branch.square()?)?);
        }
        Ok(streams)
    };
    let run = || -> Result<Vec<Tensor>> {
        let streams = streams()?;
        let seed = numbers(4, &[2, 70, 40]);
        let pass = Backward::new().root(streams.last().expect("one at least"), seed);
        let grads = pass.wrt(&streams[2]).wrt(&streams[1]).run()?;
        let of = [&x, &shift, &scale, &weight, &streams[2], &streams[1]];
        Ok(of.map(|var| grads.get(var).expect("the pass reached it")).into())
    };
    let (made, watched) = (run().unwrap(), detect_anomaly(run).unwrap());
    for (made, watched) in made.iter().zip(&watched) {
        assert_eq!(made.to_f64_vec(), watched.to_f64_vec());
    }
    // Nobody asked for a stream: all three norms add in place.
    let streams = streams().unwrap();
    let (grads, profile) =
        profile(false, || Backward::new().root(&streams[3], numbers(4, &[2, 70, 40])).run());
    assert_eq!(grads.unwrap().get(&x).unwrap().to_f64_vec(), made[0].to_f64_vec());
    let sums = profile.rows.iter().filter(|row| row.op == "sum of gradients");
    assert_eq!(sums.count(), 0);
}

/// So do the products that make gradients of weights which operations made, and norms of parameters
/// in a second pass.
#[test]
fn gradients_are_added_in_place_wherever_they_arrive() {
    for dtype in [DType::F32, DType::F64] {
        let rng = Rng::new(8);
        let numbers = |stream, shape: &[usize]| rng.stream(stream).normal(shape, dtype).unwrap();
        let [x, weight] = [[100, 40], [30, 40]].map(|shape| Var::parameter(numbers(0, &shape)));
        let run = || -> Result<Vec<Tensor>> {
            let mut grads = Grads::default();
            for _ in 0..2 {
                let halved = weight.mul_scalar(0.5)?;
                let y = x.layer_norm(1e-6)?.linear(&halved, None)?;
                let y = y.add(&x.linear(&halved, None)?.square()?)?;
                y.square()?.sum_all()?.backward_into(&mut grads)?;
            }
            Ok([&x, &weight].map(|var| grads.get(var).expect("both passes reached it")).into())
        };
        let (made, watched) = (run().unwrap(), detect_anomaly(run).unwrap());
        for (made, watched) in made.iter().zip(&watched) {
            assert_eq!(made.to_f64_vec(), watched.to_f64_vec());
        }
        // Only what the second pass's multiplication, and its layer of x, send is added apart.
        let (again, profile) = profile(false, run);
        assert!(again.unwrap().iter().zip(&made).all(|(a, b)| a.to_f64_vec() == b.to_f64_vec()));
        let sums = profile.rows.iter().filter(|row| row.op == "sum of gradients");
        assert_eq!(sums.map(|row| row.calls).sum::<u64>(), 2);
    }
}
