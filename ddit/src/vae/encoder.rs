//! From pictures to the distribution of their latents.

use autograd::{Conv, Params, Var};
use tensor::Result;

use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm};
use crate::weights::Inventory;

use super::resnet::{Middle, Resnet, SAME};

/// Halves the sides: a zero column on the right and a zero row below, then stride 2.
const HALVE: Conv = Conv { stride: 2, pad: [0, 1, 0, 1] };

/// Residual blocks at one resolution, then the way down to the next.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    down: Option<Conv2d>,
}

/// The encoder.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Level, its incoming and its own channels, for every level from the picture's resolution down.
fn levels(config: &VaeConfig) -> impl Iterator<Item = (usize, usize, usize)> {
    let channels = &config.block_out_channels;
    (0..channels.len()).map(|i| (i, channels[i.saturating_sub(1)], channels[i]))
}

impl Encoder {
    pub(super) fn list(list: &mut Inventory, config: &VaeConfig) {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        list.conv("encoder.conv_in", config.in_channels, channels[0], 3);
        for (i, inputs, outputs) in levels(config) {
            for j in 0..config.layers_per_block {
                let name = format!("encoder.down_blocks.{i}.resnets.{j}");
                Resnet::list(list, &name, if j == 0 { inputs } else { outputs }, outputs);
            }
            if i < last {
                let name = format!("encoder.down_blocks.{i}.downsamplers.0.conv");
                list.conv(&name, outputs, outputs, 3);
            }
        }
        let attends = config.mid_block_add_attention;
        Middle::list(list, "encoder.mid_block", channels[last], attends);
        list.norm("encoder.conv_norm_out", channels[last]);
        list.conv("encoder.conv_out", channels[last], 2 * config.latent_channels, 3);
    }

    pub(super) fn new(config: &VaeConfig, params: &Params) -> Result<Self> {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let last = channels.len() - 1;
        let level = |(i, inputs, outputs): (usize, usize, usize)| {
            let params = params.scope("down_blocks").scope(&i.to_string());
            let resnet = |j: usize| {
                let params = params.scope("resnets").scope(&j.to_string());
                Resnet::new(&params, groups, if j == 0 { inputs } else { outputs }, outputs)
            };
            let down = || Conv2d::new(&params.scope("downsamplers.0.conv"), HALVE);
            Ok(Level {
                resnets: (0..config.layers_per_block).map(resnet).collect::<Result<_>>()?,
                down: (i < last).then(down).transpose()?,
            })
        };
        let middle = params.scope("mid_block");
        Ok(Self {
            conv_in: Conv2d::new(&params.scope("conv_in"), SAME)?,
            levels: levels(config).map(level).collect::<Result<_>>()?,
            middle: Middle::new(&middle, groups, channels[last], config.mid_block_add_attention)?,
            norm_out: GroupNorm::new(&params.scope("conv_norm_out"), groups)?,
            conv_out: Conv2d::new(&params.scope("conv_out"), SAME)?,
        })
    }

    /// Pictures \[B, 3, height, width\] → mean and log-variance \[B, 2·C_z, height', width'\].
    /// `observer` sees what every level, and then the middle, gives.
    pub(super) fn forward(&self, pictures: &Var, observer: &mut dyn FnMut(&Var)) -> Result<Var> {
        let pictures = pictures.to_device(&self.conv_in.device())?;
        let mut x = self.conv_in.forward(&pictures)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(down) = &level.down {
                x = down.forward(&x)?;
            }
            observer(&x);
        }
        let x = self.middle.forward(&x)?;
        observer(&x);
        self.conv_out.forward(&self.norm_out.silu(&x)?)
    }
}
