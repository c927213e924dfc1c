//! The affine layers that the models are made of: parameters, and the op they go to.
//!
//! A layer takes its parameters from a scoped store by the checkpoint's names, `weight` and `bias`.

use autograd::{Conv, Params, Var};
use tensor::{Device, Result};

/// A linear map of the last axis, `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W \[outputs, inputs\].
    pub weight: Var,
    /// b \[outputs\].
    pub bias: Var,
}

impl Linear {
    /// The map whose parameters stand at `params`.
    pub fn new(params: &Params) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: params.get("bias")? })
    }

    /// Weight and bias, as [`Var::linears`] takes them.
    pub fn parameters(&self) -> (&Var, Option<&Var>) {
        (&self.weight, Some(&self.bias))
    }

    /// Shapes: `x` \[.., inputs\] → \[.., outputs\].
    #[track_caller]
    pub fn forward(&self, x: &Var) -> Result<Var> {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// A square convolution.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Var,
    bias: Option<Var>,
    conv: Conv,
}

impl Conv2d {
    /// The convolution whose parameters stand at `params`, weight \[outputs, inputs, k, k\].
    pub fn new(params: &Params, conv: Conv) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: Some(params.get("bias")?), conv })
    }

    /// The convolution whose weight alone stands at `params`.
    pub fn without_bias(params: &Params, conv: Conv) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: None, conv })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.weight.device()
    }

    /// Shapes: `x` \[B, inputs, height, width\] → \[B, outputs, height', width'\].
    #[track_caller]
    pub fn forward(&self, x: &Var) -> Result<Var> {
        x.conv2d(&self.weight, self.bias.as_ref(), self.conv)
    }
}

/// A square convolution of pictures doubled by repeating rows and columns.
#[derive(Clone, Debug)]
pub struct UpsampleConv2d {
    weight: Var,
    bias: Option<Var>,
}

impl UpsampleConv2d {
    /// The convolution whose parameters stand at `params`, weight \[outputs, inputs, k, k\].
    pub fn new(params: &Params) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: Some(params.get("bias")?) })
    }

    /// The convolution whose weight alone stands at `params`.
    pub fn without_bias(params: &Params) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: None })
    }

    /// Shapes: `x` \[B, inputs, height, width\] → \[B, outputs, 2·height, 2·width\].
    #[track_caller]
    pub fn forward(&self, x: &Var) -> Result<Var> {
        x.upsample_conv2d(&self.weight, self.bias.as_ref())
    }
}

/// Group normalisation with an affine map of every channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Var,
    bias: Var,
    groups: usize,
}

/// ε of every norm in these models.
pub const EPS: f64 = 1e-6;

impl GroupNorm {
    /// The norm whose parameters stand at `params`.
    pub fn new(params: &Params, groups: usize) -> Result<Self> {
        Ok(Self { weight: params.get("weight")?, bias: params.get("bias")?, groups })
    }

    /// Shapes: `x` \[B, C, height, width\] → the same.
    #[track_caller]
    pub fn forward(&self, x: &Var) -> Result<Var> {
        x.group_norm(&self.weight, &self.bias, self.groups, EPS)
    }

    /// The norm followed by SiLU, as every convolution of a residual block wants it.
    #[track_caller]
    pub fn silu(&self, x: &Var) -> Result<Var> {
        x.group_norm_silu(&self.weight, &self.bias, self.groups, EPS)
    }
}
