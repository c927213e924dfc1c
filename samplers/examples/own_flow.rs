//! The samplers work with any model, as a closure. Here it is a closed form: the flow that carries
//! a standard normal to two Gaussians. What is printed is a plot of its paths:
//!
//! ```sh
//! cargo run --release -p samplers --example own_flow > flow.svg
//! ```

use std::fmt::Write;
use std::ops::ControlFlow;

use samplers::flow::{FlowStep, Schedule, Solver};
use tensor::{Result, Tensor};

/// Weight, mean and standard deviation of each part of the data.
const PARTS: [(f64, f64, f64); 2] = [(0.4, -1.5, 0.6), (0.6, 1.0, 0.8)];

/// The model: `E[ε − x₀ | x_σ = x]`. In a part of the data x_σ ~ N(aμ, a²s² + σ²), a = 1 − σ, and
/// both ε and x₀ are linear in x on the mean; the parts count by how likely x is under them.
fn velocity(x: f64, sigma: f64) -> f64 {
    let a = 1.0 - sigma;
    let (mut weight, mut sum) = (0.0, 0.0);
    for (share, mean, deviation) in PARTS {
        let variance = (a * deviation).powi(2) + sigma * sigma;
        let offset = x - a * mean;
        let likelihood = share * (-0.5 * offset * offset / variance).exp() / variance.sqrt();
        let noise = sigma / variance * offset;
        let clean = mean + a * deviation * deviation / variance * offset;
        weight += likelihood;
        sum += likelihood * (noise - clean);
    }
    sum / weight
}

/// Where 25 points of noise, from −3 to 3, are after each of `steps` equal steps.
pub fn paths(solver: Solver, steps: usize) -> Result<Vec<Vec<f64>>> {
    let noise: Vec<f64> = (-12..=12).map(|i| f64::from(i) / 4.0).collect();
    let mut states = vec![noise.clone()];
    let sigmas = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32).collect();
    solver.integrate(
        &Tensor::from_vec(noise, [25])?,
        &Schedule::from_sigmas(sigmas)?,
        |x, sigma| {
            let points = x.to_f64_vec().into_iter();
            let field = points.map(|x| velocity(x, f64::from(sigma)));
            Tensor::from_vec(field.collect::<Vec<_>>(), x.shape())
        },
        |step: &FlowStep| {
            states.push(step.state.to_f64_vec());
            ControlFlow::Continue(())
        },
    )?;
    Ok(states)
}

/// Heun's paths as lines from noise (left) to data (right), and Euler's as dots on the way.
pub fn plot() -> Result<String> {
    let place = |step: usize, x: f64| (20.0 + 440.0 * step as f64 / 32.0, 150.0 - 40.0 * x);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 480 300\">\n\
         <rect width=\"480\" height=\"300\" fill=\"#fff\"/>\n",
    );
    let (heun, euler) = (paths(Solver::Heun, 32)?, paths(Solver::Euler, 8)?);
    for point in 0..25 {
        let corners = heun.iter().enumerate().map(|(step, x)| place(step, x[point]));
        let corners: String = corners.map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let _ = writeln!(svg, "<polyline points=\"{corners}\" fill=\"none\" stroke=\"#1f77b4\"/>");
        for (step, x) in euler.iter().enumerate() {
            let (x, y) = place(4 * step, x[point]);
            let _ =
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.5\" fill=\"#d62728\"/>");
        }
    }
    Ok(svg + "</svg>\n")
}

/// Prints the plot.
pub fn main() -> Result<()> {
    print!("{}", plot()?);
    Ok(())
}
