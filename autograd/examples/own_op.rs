//! An operation of your own: rotary position embedding, with its gradient checked.
//!
//! ```sh
//! cargo run --release -p autograd --example own_op
//! ```
//!
//! Channels 2i and 2i + 1 of the token at place p are turned by the angle p·10000^(−2i/C). A query
//! and a key that were both turned have a product that knows how far apart they stand, and nothing
//! else of where. Source: Su et al. 2021, §3.2.

use autograd::gradcheck::GradReport;
use autograd::{Keep, Kept, Op, Var, apply, gradcheck};
use tensor::rng::Rng;
use tensor::{DType, Error, Result, Tensor};

/// Turns tokens \[S, C\] by their places, forwards (1) or back (−1).
#[derive(Debug)]
struct Rotary {
    direction: f64,
}

impl Op<1> for Rotary {
    const NAME: &'static str = "rotary";
    // The map is linear: its gradient needs neither input nor output, so nothing is kept.
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        let [_, width] = x.dims()?;
        if width % 2 == 1 {
            return Err(Error::shape("rotary", "channels must come in pairs").operand("x", x));
        }
        let mut y = x.to_f64_vec();
        for (place, token) in y.chunks_exact_mut(width.max(1)).enumerate() {
            for (i, pair) in token.chunks_exact_mut(2).enumerate() {
                let speed = 1e4_f64.powf(-2.0 * i as f64 / width as f64);
                let (sin, cos) = (self.direction * place as f64 * speed).sin_cos();
                let [a, b] = [pair[0], pair[1]];
                (pair[0], pair[1]) = (cos * a - sin * b, sin * a + cos * b);
            }
        }
        Ok((Tensor::from_vec(y, x.shape())?.to_dtype(x.dtype()), ()))
    }

    fn vjp(&self, _: Kept<()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        // The transpose of a turn is the turn back: an operation too, so that the gradient can be
        // differentiated again.
        let dx = apply(Rotary { direction: -self.direction }, [dy])?;
        Ok([Some(dx)])
    }
}

/// Tokens \[S, C\] turned by their places.
#[track_caller]
pub fn rotary(x: &Var) -> Result<Var> {
    apply(Rotary { direction: 1.0 }, [x])
}

/// The gradient of attention's weights under turned queries and keys, against finite differences.
pub fn check() -> Result<GradReport> {
    let mut rng = Rng::new(0);
    let queries = rng.normal([5, 8], DType::F64)?;
    let keys = rng.normal([5, 8], DType::F64)?;
    let weights = |x: &[Var]| {
        let [queries, keys] = [rotary(&x[0])?, rotary(&x[1])?];
        queries.matmul(&keys.transpose(0, 1)?)?.softmax(1)
    };
    gradcheck(weights, &[queries, keys])
}

/// Prints how the gradients compare.
pub fn main() -> Result<()> {
    print!("{}", check()?);
    Ok(())
}
