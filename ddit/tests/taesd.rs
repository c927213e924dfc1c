//! A tiny autoencoder with published weights against stored results of the official code.
//!
//! The weights are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository. Without them the tests say `SKIPPED` and pass, unless
//! `DDIT_REQUIRE_SHARED=1`.

use std::io::Write as _;
use std::path::PathBuf;

use autograd::Var;
use ddit::taesd::Taesd;
use tensor::Tensor;
use tensor::io::safetensors::SafeTensors;

/// Rounding of some forty convolutions in f32, in an order of its own, of values up to about 10.
const TOLERANCE: f64 = 2e-5;

fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let folder = PathBuf::from(shared).join("data/taef2");
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "no weights at {}", folder.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED: no weights at {}", folder.display());
    None
}

#[track_caller]
fn assert_near(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let differences = got.to_f64_vec().into_iter().zip(want.to_f64_vec());
    let worst = differences.map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    eprintln!("{what}: off by {worst:.2e} at most");
    assert!(worst <= TOLERANCE, "{what} is off by {worst}");
}

/// Decibels of values in [0, 1], clamped to them.
fn psnr(got: &Tensor, want: &Tensor) -> f64 {
    let pairs = got.to_f64_vec().into_iter().zip(want.to_f64_vec());
    let squares = pairs.map(|(got, want)| (got.clamp(0.0, 1.0) - want).powi(2));
    -10.0 * (squares.sum::<f64>() / want.numel() as f64).log10()
}

#[test]
fn latents_and_pictures_are_those_of_the_official_code() {
    let Some(folder) = folder() else { return };
    let reference = SafeTensors::open(folder.join("reference.safetensors")).unwrap();
    let reference = |name| reference.get(name).unwrap();
    let vae = Taesd::open(&folder).unwrap();
    assert_eq!((vae.config().latent_channels, vae.config().spatial_factor()), (32, 8));

    let image = reference("image");
    let pictures = Var::constant(image.clone()).mul_scalar(2.0).unwrap().add_scalar(-1.0).unwrap();
    let latents = vae.encode(&pictures).unwrap();
    assert_near("latents", &latents.value(), &reference("latent"));
    // The stored pictures have values in [0, 1].
    let unit = |x: Var| x.add_scalar(1.0).unwrap().mul_scalar(0.5).unwrap().value();
    let decoded = unit(vae.decode(&Var::constant(reference("latent"))).unwrap());
    assert_near("pictures", &decoded, &reference("decoded_unclamped"));

    let round_trip = unit(vae.decode(&latents).unwrap());
    for i in 0..2 {
        let one = |x: &Tensor| x.select(0, i).unwrap();
        let ours = psnr(&one(&round_trip), &one(&image));
        let theirs = psnr(&one(&reference("decoded_unclamped")), &one(&image));
        eprintln!("picture {i}: {ours:.3} dB, theirs {theirs:.3} dB");
        assert!((ours - theirs).abs() < 0.1, "{ours} dB, theirs {theirs} dB");
    }
}
