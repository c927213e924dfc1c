//! Decoding large latents tile by tile, in memory that depends on the tile and no longer on the
//! picture, but for the picture itself.
//!
//! Tiles overlap, and where they do the picture goes over from one to the next linearly. The result
//! is near what decoding at once gives, but not equal: a group norm takes its statistics of the
//! tile, attention sees the tile alone, and convolutions see zeros beyond its border. With one tile
//! it is equal to the last bit.

use std::ops::Range;

use autograd::{Var, no_grad};
use tensor::{Error, Result, Tensor};

/// How latents are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    side: usize,
    overlap: usize,
}

impl Tiling {
    /// Tiles of `side` by `side` latents, or what there is, of which neighbours share at least
    /// `overlap`.
    ///
    /// Errors: an overlap that leaves nothing of a tile.
    pub fn new(side: usize, overlap: usize) -> Result<Self> {
        if overlap >= side {
            let message = format!("tiles of {side} latents cannot share {overlap}");
            return Err(Error::value("tiling", message));
        }
        Ok(Self { side, overlap })
    }

    /// Tiles of `pixels` by `pixels`, or a little more, for a decoder that enlarges by `factor`;
    /// neighbours share a quarter.
    ///
    /// Errors: no pixels.
    pub fn of_pixels(pixels: usize, factor: usize) -> Result<Self> {
        let side = pixels.div_ceil(factor);
        Self::new(side, side / 4)
    }

    /// The picture of latents, each tile of them by `decode`; nothing is recorded for gradients.
    ///
    /// Shapes: `latents` \[B, C_z, height, width\] → \[B, 3, height·f, width·f\], where `decode`
    /// enlarges by f. Cost: (side/(side − overlap))² times that of decoding at once; memory: that
    /// of decoding a tile, and twice the picture. Errors: those of `decode`.
    pub fn decode(
        self,
        latents: &Tensor,
        mut decode: impl FnMut(&Var) -> Result<Var>,
    ) -> Result<Tensor> {
        let [_, _, height, width] = latents.dims()?;
        no_grad(|| {
            join(2, self.along(height), |rows| {
                let rows = latents.narrow(2, rows.start, rows.len())?;
                join(3, self.along(width), |columns| {
                    let tile = rows.narrow(3, columns.start, columns.len())?.contiguous();
                    decode(&Var::constant(tile))
                })
            })
        })
        .map(|picture| picture.value())
    }

    /// The tiles along an axis: of one length, a fixed step apart, and the last flush with the end.
    fn along(self, length: usize) -> Vec<Range<usize>> {
        let side = self.side.min(length);
        let count = (length - side).div_ceil(self.side - self.overlap) + 1;
        let start = |i: usize| (i * (self.side - self.overlap)).min(length - side);
        (0..count).map(start).map(|start| start..start + side).collect()
    }
}

/// What `part` makes of neighbouring ranges, joined along an axis.
fn join(
    axis: usize,
    ranges: Vec<Range<usize>>,
    mut part: impl FnMut(&Range<usize>) -> Result<Var>,
) -> Result<Var> {
    let (mut joined, mut end): (Option<Var>, usize) = (None, 0);
    for range in ranges {
        let next = part(&range)?;
        let factor = next.shape()[axis].checked_div(range.len()).unwrap_or(0);
        joined = Some(match joined {
            None => next,
            Some(joined) => append(axis, &joined, &next, (end - range.start) * factor)?,
        });
        end = range.end;
    }
    Ok(joined.expect("there is one range at least"))
}

/// `a`, then `b`, along axis 2 or 3; over the `shared` pixels that both have, one goes over into the other.
fn append(axis: usize, a: &Var, b: &Var, shared: usize) -> Result<Var> {
    let kept = a.shape()[axis] - shared;
    let (before, after) = (a.narrow(axis, kept, shared)?, b.narrow(axis, 0, shared)?);
    let weight = |i| (i as f32 + 0.5) / shared as f32;
    let shape = if axis == 2 { [shared, 1] } else { [1, shared] };
    let weights = Tensor::from_vec((0..shared).map(weight).collect::<Vec<f32>>(), shape)?;
    let blended = before.add(&after.sub(&before)?.mul(&Var::constant(weights))?)?;
    let rest = b.narrow(axis, shared, b.shape()[axis] - shared)?;
    Var::cat(&[&a.narrow(axis, 0, kept)?, &blended, &rest], axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VaeConfig;
    use crate::vae::{AutoencoderKl, inventory};
    use autograd::Params;
    use serde_json::json;
    use tensor::DType;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for (side, overlap, length) in [(8, 2, 30), (8, 2, 8), (8, 2, 3), (8, 0, 16), (4, 3, 9)] {
            let tiles = Tiling::new(side, overlap).unwrap().along(length);
            assert_eq!((tiles[0].start, tiles.last().unwrap().end), (0, length));
            for pair in tiles.windows(2) {
                assert!(pair[0].start < pair[1].start && pair[0].end >= pair[1].start + overlap);
                assert_eq!(pair[1].len(), side);
            }
        }
        assert_eq!(Tiling::new(8, 2).unwrap().along(14).len(), 2);
        assert!(Tiling::new(8, 8).is_err() && Tiling::new(0, 0).is_err());
        assert_eq!(Tiling::of_pixels(60, 8).unwrap(), Tiling::new(8, 2).unwrap());
        assert!(Tiling::of_pixels(1, 8).is_ok() && Tiling::of_pixels(0, 8).is_err());
    }

    /// What looks at single places is the same by tiles, to the last bit.
    #[test]
    fn tiles_are_put_where_they_belong() {
        let latents = Tensor::arange(2 * 3 * 11 * 13, DType::F32).reshape([2, 3, 11, 13]).unwrap();
        let weight = Tensor::from_vec(vec![0.5_f32, 1.5, -1.0], [1, 3, 1, 1]).unwrap();
        let decode = |z: &Var| z.upsample_conv2d(&Var::constant(weight.clone()), None);
        let whole = decode(&Var::constant(latents.clone())).unwrap().value();
        for (side, overlap) in [(4, 0), (5, 2), (5, 4), (12, 3), (20, 5)] {
            let tiled = Tiling::new(side, overlap).unwrap().decode(&latents, decode).unwrap();
            assert_eq!(tiled.shape(), whole.shape());
            assert_eq!(tiled.to_f64_vec(), whole.to_f64_vec(), "{side}, {overlap}");
        }
    }

    #[test]
    fn one_tile_goes_over_into_the_next() {
        let mut number = 0.0;
        let decode = |z: &Var| {
            number += 1.0;
            z.mul_scalar(0.0)?.add_scalar(number)
        };
        let latents = Tensor::zeros([1, 1, 1, 8], DType::F32);
        let picture = Tiling::new(6, 4).unwrap().decode(&latents, decode).unwrap();
        let expected = [1.0, 1.0, 1.125, 1.375, 1.625, 1.875, 2.0, 2.0];
        assert_eq!(picture.to_f64_vec(), expected);
    }

    fn autoencoder() -> AutoencoderKl {
        let config: VaeConfig = serde_json::from_value(json!({
            "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16],
            "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
            "scaling_factor": 1.0,
        }))
        .unwrap();
        let weights = inventory(&config).fresh(3, DType::F32).unwrap();
        AutoencoderKl::new(config, &Params::from_tensors(weights, |_| false).unwrap()).unwrap()
    }

    /// Latents that change slowly.
    fn smooth(side: usize) -> Tensor {
        let value = |i: usize| {
            let (channel, y, x) = (i / side / side, i / side % side, i % side);
            let phase = (x + 2 * y) as f32 / side as f32 + channel as f32;
            phase.sin()
        };
        Tensor::from_vec((0..4 * side * side).map(value).collect::<Vec<_>>(), [1, 4, side, side])
            .unwrap()
    }

    #[test]
    fn one_tile_is_decoding_at_once() {
        let (vae, latents) = (autoencoder(), smooth(8));
        let whole = vae.decode(&Var::constant(latents.clone())).unwrap().value();
        let tiled = vae.decode_tiled(&latents, Tiling::new(8, 2).unwrap()).unwrap();
        assert_eq!(tiled.to_f64_vec(), whole.to_f64_vec());
    }

    /// The largest step from a pixel to its neighbour, away from the picture's border.
    fn steepest(picture: &Tensor) -> f64 {
        let [_, _, height, width] = picture.dims().unwrap();
        let inner = picture.narrow(2, 4, height - 8).unwrap().narrow(3, 4, width - 8).unwrap();
        let (values, width) = (inner.to_f64_vec(), width - 8);
        let step = |lag: usize| {
            let places = (lag..values.len()).filter(|i| lag == width || i % width != 0);
            let places =
                places.filter(|i| i / (width * (height - 8)) == (i - lag) / (width * (height - 8)));
            places.map(|i| (values[i] - values[i - lag]).abs()).fold(0.0, f64::max)
        };
        step(1).max(step(width))
    }

    /// On smooth latents, blended tiles show no seam; tiles laid edge to edge do.
    #[test]
    fn smooth_latents_show_no_seams() {
        let (vae, latents) = (autoencoder(), smooth(32));
        let whole = vae.decode(&Var::constant(latents.clone())).unwrap().value();
        let tiled = |overlap| {
            let tiling = Tiling::new(16, overlap).unwrap();
            steepest(&vae.decode_tiled(&latents, tiling).unwrap()) / steepest(&whole)
        };
        let (blended, abutted) = (tiled(8), tiled(0));
        assert!(blended < 1.1 && abutted > 1.5, "{blended} and {abutted} times as steep");
    }
}
