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

use std::sync::Arc;

use tensor::Result;

use crate::Var;
use crate::backward::Walk;
use crate::node::{Edge, Node, Record};
use crate::scope::{is_recording, no_grad, with_recording};

/// Runs `f` without saving anything for its backward pass, which will run `f` again.
///
/// `f` must compute the same result each time. It may use parameters and other variables besides
/// `x`, by capturing their (cheap) clones.
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
pub fn checkpoint<const N: usize, const M: usize>(
    x: [&Var; N],
    f: impl Fn([Var; N]) -> Result<[Var; M]> + Send + Sync + 'static,
) -> Result<[Var; M]> {
    let x = x.map(Var::clone);
    if !is_recording() {
        return f(x);
    }
    let y = no_grad(|| f(x.clone()))?;
    // What f captured cannot be seen, so the outputs count as tracked. The edges to the inputs are
    // not used: gradients leave through the nodes that the second run makes.
    let node = Node::operation("checkpoint", Vec::new(), M, Box::new(Checkpoint { f, x }));
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
