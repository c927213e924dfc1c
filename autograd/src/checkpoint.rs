//! Checkpointing: a stretch of the forward pass that saves nothing and is run again when its
//! gradient is wanted.
//!
//! Source: Chen, Xu, Zhang & Guestrin 2016, §3.
//!
//! The backward pass needs no special case for it. A checkpoint is a node like others; its
//! turn comes when the gradients of its outputs are complete. It runs its function again, with
//! recording, and sends those gradients to the new outputs. The nodes just made are the youngest
//! there are, so that the pass goes through them next, frees them as it goes, and leaves on their
//! oldest edges for whatever the function had used: inputs, parameters, or other checkpoints. Sums
//! are formed in the order of the plain graph: gradients are equal to the last bit.

use std::panic::Location;
use std::sync::Arc;

use tensor::Result;

use crate::Var;
use crate::backward::Walk;
use crate::node::{Edge, Node, Origin, Record};
use crate::saved::{Held, Role};
use crate::scope::{is_recording, no_grad, with_recording};

/// Runs `f` without saving anything for its backward pass, which will run `f` again.
///
/// `f` must compute the same result each time: random numbers come from a
/// [`Rng`](tensor::rng::Rng) that it captures and clones. It may use parameters and other variables
/// besides `x`, by capturing their (cheap) clones; such a parameter is to keep its value until the
/// backward pass has been.
///
/// ```
/// use autograd::{Var, checkpoint};
/// use tensor::{DType, Tensor};
/// # fn main() -> tensor::Result<()> {
/// let x = Var::parameter(Tensor::full([2], 0.5, DType::F64));
/// let w = Var::parameter(Tensor::full([2], 2.0, DType::F64));
/// let captured = w.clone();
/// let [y] = checkpoint([&x], move |[x]| Ok([x.mul(&captured)?.tanh()?]))?;
/// let grads = y.sum_all()?.backward()?;
/// assert!(grads.get(&x).is_some() && grads.get(&w).is_some());
/// # Ok(())
/// # }
/// ```
///
/// Errors: those of `f`.
#[track_caller]
pub fn checkpoint<const N: usize, const M: usize>(
    x: [&Var; N],
    f: impl Fn([Var; N]) -> Result<[Var; M]> + Send + Sync + 'static,
) -> Result<[Var; M]> {
    let x = x.map(Var::snapshot);
    if !is_recording() {
        return f(x);
    }
    let y = no_grad(|| f(x.clone()))?;
    // What f captured cannot be seen, so the outputs count as tracked. The edges to the inputs are
    // not used: gradients leave through the nodes that the second run makes.
    let origin = Origin::new("checkpoint", Location::caller());
    let node = Node::operation(origin, Vec::new(), M, Box::new(Checkpoint { f, x }));
    let mut output = 0..;
    Ok(y.map(|y| {
        let output = output.next().expect("the range has no end");
        Var::with_edge(y.into_value(), Some(Edge { node: node.clone(), output }))
    }))
}

struct Checkpoint<F, const N: usize> {
    f: F,
    x: [Var; N],
}

impl<F, const N: usize, const M: usize> Record for Checkpoint<F, N>
where
    F: Fn([Var; N]) -> Result<[Var; M]> + Send,
{
    fn backward(&self, _: &Arc<Node>, dy: &[Option<Var>], walk: &mut Walk) -> Result<()> {
        let y = with_recording(true, || (self.f)(self.x.clone()))?;
        for (y, dy) in y.iter().zip(dy) {
            if let (Some(edge), Some(dy)) = (y.edge(), dy) {
                walk.send(edge, dy.clone().into())?;
            }
        }
        Ok(())
    }

    fn saved(&self, see: &mut dyn FnMut(Role, Held<'_>)) {
        self.x.iter().enumerate().for_each(|(i, x)| see(Role::Input(i), Held::Var(x)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backward, Grads};
    use tensor::rng::Rng;
    use tensor::{DType, Tensor};

    fn block(x: &Var, w: &Var) -> Result<Var> {
        x.mul(w)?.gelu_tanh()?.mul(x)?.add(w)
    }

    fn parameters() -> [Var; 3] {
        [1, 2, 3].map(|i| Var::parameter(Rng::new(i).normal([50], DType::F32).unwrap()))
    }

    fn bits(grads: &Grads, vars: &[Var]) -> Vec<Vec<u32>> {
        let gradient = |var| grads.get(var).unwrap().to_vec::<f32>().unwrap();
        vars.iter().map(|var| gradient(var).into_iter().map(f32::to_bits).collect()).collect()
    }

    /// Two blocks that share a captured parameter, plain, checkpointed, and nested.
    #[test]
    fn gradients_are_equal_to_the_last_bit() {
        let vars = parameters();
        let [x, w, c] = vars.clone();
        let plain = block(&block(&x, &w).unwrap(), &c).unwrap().mul(&w).unwrap();
        let want = bits(&plain.sum_all().unwrap().backward().unwrap(), &vars);

        let captured = w.clone();
        let [y] = checkpoint([&x], move |[x]| Ok([block(&x, &captured)?])).unwrap();
        let captured = c.clone();
        let [y] = checkpoint([&y], move |[y]| Ok([block(&y, &captured)?])).unwrap();
        let loss = y.mul(&w).unwrap().sum_all().unwrap();
        assert_eq!(bits(&loss.backward().unwrap(), &vars), want);

        let (w2, c2) = (w.clone(), c.clone());
        let [y] = checkpoint([&x], move |[x]| {
            let w = w2.clone();
            let [y] = checkpoint([&x], move |[x]| Ok([block(&x, &w)?]))?;
            Ok([block(&y, &c2)?])
        })
        .unwrap();
        let loss = y.mul(&w).unwrap().sum_all().unwrap();
        assert_eq!(bits(&loss.backward().unwrap(), &vars), want);
    }

    #[test]
    fn a_captured_intermediate_gets_all_of_its_gradient() {
        let [x, w, _] = parameters();
        let run = |checkpointed: bool| {
            let hidden = x.exp().unwrap();
            let (captured, w) = (hidden.clone(), w.clone());
            let f = move |[w]: [Var; 1]| Ok([captured.mul(&w)?, captured.tanh()?]);
            let [a, b] =
                if checkpointed { checkpoint([&w], f).unwrap() } else { f([w.clone()]).unwrap() };
            let loss = a.add(&b).unwrap().mul(&hidden).unwrap().sum_all().unwrap();
            bits(&loss.backward().unwrap(), &[x.clone(), w])
        };
        assert_eq!(run(true), run(false));
    }

    /// x with some elements put to zero and the others scaled up, by numbers from `rng`.
    fn dropout(x: &Var, rng: &mut Rng) -> Result<Var> {
        let uniform = rng.uniform(x.shape(), DType::F32)?.to_vec::<f32>()?;
        let mask = uniform.into_iter().map(|u| if u < 0.3 { 0.0 } else { 1.0 / 0.7_f32 });
        x.mul(&Var::constant(Tensor::from_vec(mask.collect(), x.shape())?))
    }

    /// Random numbers are a function of seed, stream and element, so a generator that is captured
    /// by value draws the same ones again: both in one block, and block after block.
    #[test]
    fn randomness_is_replayed() {
        let vars = parameters();
        let run = |checkpointed: bool| {
            let mut y = vars[0].clone();
            for (i, w) in vars.iter().enumerate() {
                let (rng, w) = (Rng::new(7).stream(i as u64), w.clone());
                let f = move |[y]: [Var; 1]| {
                    let mut rng = rng.clone();
                    Ok([dropout(&block(&dropout(&y, &mut rng)?, &w)?, &mut rng)?])
                };
                [y] = if checkpointed { checkpoint([&y], f) } else { f([y]) }.unwrap();
            }
            let loss = y.square().unwrap().sum_all().unwrap();
            (loss.item().unwrap().to_bits(), bits(&loss.backward().unwrap(), &vars))
        };
        assert_eq!(run(true), run(false));
        let dropped = dropout(&vars[0], &mut Rng::new(7)).unwrap().value().to_f64_vec();
        let zeros = dropped.iter().filter(|&&x| x == 0.0).count();
        assert!((5..25).contains(&zeros), "{zeros} of 50 are dropped");
    }

    #[test]
    fn second_derivatives_go_through() {
        let x = Var::parameter(Tensor::full([1], 0.7, DType::F64));
        let [y] = checkpoint([&x], |[x]| Ok([x.square()?.square()?])).unwrap();
        let one = Tensor::ones([1], DType::F64);
        let grads = Backward::new().root(&y, one.clone()).create_graph().run().unwrap();
        let slope = grads.get_var(&x).unwrap();
        let second = Backward::new().root(slope, one).run().unwrap();
        let want = 12.0 * 0.7 * 0.7;
        assert!((second.get(&x).unwrap().to_f64_vec()[0] - want).abs() < 1e-12);
    }

    #[test]
    fn unused_outputs_and_constants_are_fine() {
        let [x, ..] = parameters();
        let [a, _unused] = checkpoint([&x], |[x]| Ok([x.exp()?, x.neg()?])).unwrap();
        assert!(a.sum_all().unwrap().backward().unwrap().get(&x).is_some());
        let constant = x.detach();
        let [y] = checkpoint([&constant], |[x]| Ok([x.exp()?])).unwrap();
        assert!(y.sum_all().unwrap().backward().unwrap().get(&x).is_none());
    }
}
