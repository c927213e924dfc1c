//! The geometry of a tiny autoencoder, told by its tensors.

use std::collections::BTreeMap;

use tensor::{Error, Result, Tensor};

use super::chain::Kind;

/// More halvings leave nothing of any picture.
const MOST_LEVELS: usize = 16;

/// The geometry of a tiny autoencoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaesdConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of everything between pictures and latents.
    pub width: usize,
    /// Residual blocks of the encoder's levels, from the picture's resolution to the latents'; the
    /// decoder has as many.
    pub blocks: Vec<usize>,
    /// Whether blocks at the latents' resolution see the whole picture, through a group norm.
    pub pools: bool,
}

impl TaesdConfig {
    /// What tensors of these names and shapes are made for, read off the encoder's chain.
    ///
    /// Errors: there is no such chain.
    pub fn detect(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let find = |module: usize, name: &str| tensors.get(&format!("encoder.{module}.{name}"));
        let fail = |what: &str| {
            let message = format!("this is no tiny autoencoder: {what}");
            Err(Error::value("open", message)
                .note("encoder.0.weight, encoder.1.conv.0.weight, ..."))
        };
        let Some(first) = find(0, "weight") else { return fail("it has no encoder.0.weight") };
        let mut config = Self {
            latent_channels: 0,
            width: first.shape().first().copied().unwrap_or(0),
            blocks: vec![0],
            pools: tensors.keys().any(|name| name.contains(".pool.")),
        };
        for module in 1.. {
            match (find(module, "weight"), find(module, "bias")) {
                (Some(last), Some(_)) => {
                    config.latent_channels = last.shape().first().copied().unwrap_or(0);
                    break;
                }
                (Some(_), None) if config.blocks.len() == MOST_LEVELS => return fail("it is deep"),
                // The way down has no bias.
                (Some(_), None) => config.blocks.push(0),
                _ if find(module, "conv.0.weight").is_some() => {
                    *config.blocks.last_mut().expect("one level at least") += 1;
                }
                _ => return fail(&format!("its encoder ends at module {module}")),
            }
        }
        Ok(config)
    }

    /// Pixels per latent along each axis: one halving between neighbouring levels.
    pub fn spatial_factor(&self) -> usize {
        1 << (self.blocks.len() - 1)
    }

    /// The modules from pictures to latents.
    pub(super) fn encoder(&self) -> Vec<Kind> {
        let mut chain = vec![Kind::Conv { inputs: 3, outputs: self.width }];
        for (level, &blocks) in self.blocks.iter().enumerate() {
            if level > 0 {
                chain.push(Kind::Halve { width: self.width });
            }
            chain.extend(vec![self.block(level); blocks]);
        }
        chain.push(Kind::Conv { inputs: self.width, outputs: self.latent_channels });
        chain
    }

    /// The modules from latents to pictures.
    pub(super) fn decoder(&self) -> Vec<Kind> {
        let first = Kind::Conv { inputs: self.latent_channels, outputs: self.width };
        let mut chain = vec![Kind::Squash, first, Kind::Relu];
        for (level, &blocks) in self.blocks.iter().enumerate().rev() {
            chain.extend(vec![self.block(level); blocks]);
            if level > 0 {
                chain.extend([Kind::Repeat, Kind::Double { width: self.width }]);
            }
        }
        chain.push(Kind::Conv { inputs: self.width, outputs: 3 });
        chain
    }

    fn block(&self, level: usize) -> Kind {
        Kind::Block { width: self.width, pools: self.pools && level + 1 == self.blocks.len() }
    }
}
