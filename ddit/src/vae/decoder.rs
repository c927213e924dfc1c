//! From latents back to pictures.

use autograd::{Params, Var};
use tensor::Result;

use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm, UpsampleConv2d};
use crate::weights::Inventory;

use super::resnet::{Middle, Resnet, SAME};

/// Residual blocks at one resolution, one more than the encoder's, then the way up to the next.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    up: Option<UpsampleConv2d>,
}

/// The decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Level, its incoming and its own channels, for every level from the latents' resolution up.
fn levels(config: &VaeConfig) -> impl Iterator<Item = (usize, usize, usize)> {
    let channels = &config.block_out_channels;
    let last = channels.len() - 1;
    (0..=last).map(move |i| (i, channels[(last + 1 - i).min(last)], channels[last - i]))
}

impl Decoder {
    pub(super) fn list(list: &mut Inventory, config: &VaeConfig) {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        list.conv("decoder.conv_in", config.latent_channels, channels[last], 3);
        let attends = config.mid_block_add_attention;
        Middle::list(list, "decoder.mid_block", channels[last], attends);
        for (i, inputs, outputs) in levels(config) {
            for j in 0..=config.layers_per_block {
                let name = format!("decoder.up_blocks.{i}.resnets.{j}");
                Resnet::list(list, &name, if j == 0 { inputs } else { outputs }, outputs);
            }
            if i < last {
                let name = format!("decoder.up_blocks.{i}.upsamplers.0.conv");
                list.conv(&name, outputs, outputs, 3);
            }
        }
        list.norm("decoder.conv_norm_out", channels[0]);
        list.conv("decoder.conv_out", channels[0], config.out_channels, 3);
    }

    pub(super) fn new(config: &VaeConfig, params: &Params) -> Result<Self> {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let last = channels.len() - 1;
        let level = |(i, inputs, outputs): (usize, usize, usize)| {
            let params = params.scope("up_blocks").scope(&i.to_string());
            let resnet = |j: usize| {
                let params = params.scope("resnets").scope(&j.to_string());
                Resnet::new(&params, groups, if j == 0 { inputs } else { outputs }, outputs)
            };
            let up = || UpsampleConv2d::new(&params.scope("upsamplers.0.conv"));
            Ok(Level {
                resnets: (0..=config.layers_per_block).map(resnet).collect::<Result<_>>()?,
                up: (i < last).then(up).transpose()?,
            })
        };
        let middle = params.scope("mid_block");
        Ok(Self {
            conv_in: Conv2d::new(&params.scope("conv_in"), SAME)?,
            middle: Middle::new(&middle, groups, channels[last], config.mid_block_add_attention)?,
            levels: levels(config).map(level).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(&params.scope("conv_norm_out"), groups)?,
            conv_out: Conv2d::new(&params.scope("conv_out"), SAME)?,
        })
    }

    /// Latents \[B, C_z, height, width\] → pictures \[B, 3, height', width'\].
    pub(super) fn forward(&self, latents: &Var) -> Result<Var> {
        let latents = latents.to_device(&self.conv_in.device())?;
        let mut x = self.middle.forward(&self.conv_in.forward(&latents)?)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(up) = &level.up {
                x = up.forward(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?)
    }
}
