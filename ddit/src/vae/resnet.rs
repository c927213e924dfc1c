//! The residual block, and the attention of the lowest level.

use autograd::ops::attention::{Segment, attention};
use autograd::{Conv, Params, Var};
use tensor::Result;

use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::weights::Inventory;

/// A 3 x 3 convolution that keeps the sides.
pub(super) const SAME: Conv = Conv { stride: 1, pad: [1; 4] };

/// A 1 x 1 convolution.
const POINT: Conv = Conv { stride: 1, pad: [0; 4] };

/// `conv2(SiLU(GN(conv1(SiLU(GN(x))))))` plus x itself, or a 1 x 1 convolution of it where the
/// number of channels changes.
#[derive(Debug)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    pub(super) fn list(list: &mut Inventory, name: &str, inputs: usize, outputs: usize) {
        list.norm(&format!("{name}.norm1"), inputs);
        list.conv(&format!("{name}.conv1"), inputs, outputs, 3);
        list.norm(&format!("{name}.norm2"), outputs);
        list.conv(&format!("{name}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            list.conv(&format!("{name}.conv_shortcut"), inputs, outputs, 1);
        }
    }

    pub(super) fn new(
        params: &Params,
        groups: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let shortcut = || Conv2d::new(&params.scope("conv_shortcut"), POINT);
        Ok(Self {
            norm1: GroupNorm::new(&params.scope("norm1"), groups)?,
            conv1: Conv2d::new(&params.scope("conv1"), SAME)?,
            norm2: GroupNorm::new(&params.scope("norm2"), groups)?,
            conv2: Conv2d::new(&params.scope("conv2"), SAME)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Var) -> Result<Var> {
        let h = self.conv1.forward(&self.norm1.silu(x)?)?;
        let h = self.conv2.forward(&self.norm2.silu(&h)?)?;
        match &self.shortcut {
            Some(shortcut) => h.add(&shortcut.forward(x)?),
            None => h.add(x),
        }
    }
}

/// Every place attends to every other, in one head as wide as the channels; plus x itself.
#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl Attention {
    fn list(list: &mut Inventory, name: &str, channels: usize) {
        list.norm(&format!("{name}.group_norm"), channels);
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            list.linear(&format!("{name}.{part}"), channels, channels);
        }
    }

    fn new(params: &Params, groups: usize) -> Result<Self> {
        let linear = |name| Linear::new(&params.scope(name));
        Ok(Self {
            norm: GroupNorm::new(&params.scope("group_norm"), groups)?,
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            out: linear("to_out.0")?,
        })
    }

    fn forward(&self, x: &Var) -> Result<Var> {
        let [batch, channels, height, width] = x.dims()?;
        let places = self.norm.forward(x)?.reshape([batch, channels, height * width])?;
        let places = places.transpose(1, 2)?;
        let (query, key) = (self.query.forward(&places)?, self.key.forward(&places)?);
        let value = self.value.forward(&places)?;
        let segment = Segment::new(&query, &key, &value);
        let scale = (channels as f64).sqrt().recip();
        let [attended] = &attention(&[segment], 1, scale, None)?[..] else {
            unreachable!("one segment of queries gives one of results")
        };
        let change = self.out.forward(attended)?.transpose(1, 2)?;
        x.add(&change.reshape([batch, channels, height, width])?)
    }
}

/// The lowest level: a residual block, attention if there is any, and a residual block.
#[derive(Debug)]
pub(super) struct Middle {
    before: Resnet,
    attention: Option<Attention>,
    after: Resnet,
}

impl Middle {
    pub(super) fn list(list: &mut Inventory, name: &str, channels: usize, attends: bool) {
        Resnet::list(list, &format!("{name}.resnets.0"), channels, channels);
        if attends {
            Attention::list(list, &format!("{name}.attentions.0"), channels);
        }
        Resnet::list(list, &format!("{name}.resnets.1"), channels, channels);
    }

    pub(super) fn new(
        params: &Params,
        groups: usize,
        channels: usize,
        attends: bool,
    ) -> Result<Self> {
        let resnet =
            |i: &str| Resnet::new(&params.scope("resnets").scope(i), groups, channels, channels);
        let attention = || Attention::new(&params.scope("attentions.0"), groups);
        Ok(Self {
            before: resnet("0")?,
            attention: attends.then(attention).transpose()?,
            after: resnet("1")?,
        })
    }

    pub(super) fn forward(&self, x: &Var) -> Result<Var> {
        let mut x = self.before.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.after.forward(&x)
    }
}
