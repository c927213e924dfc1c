//! The modules that tiny autoencoders are chains of. All convolutions are 3 x 3 and keep the sides
//! unless said otherwise.

use autograd::{Conv, Params, Var};
use tensor::Result;

use crate::layers::{Conv2d, UpsampleConv2d};
use crate::weights::Inventory;

const SAME: Conv = Conv { stride: 1, pad: [1; 4] };
const POINT: Conv = Conv { stride: 1, pad: [0; 4] };
const HALVE: Conv = Conv { stride: 2, pad: [1; 4] };

/// Channels of a pool for each of its block's, groups of its norm, and that norm's ε.
const POOL_WIDTH: usize = 4;
const POOL_GROUPS: usize = 4;
const POOL_EPS: f64 = 1e-5;

/// Latents beyond this are rare, and are drawn nearer.
const MAGNITUDE: f64 = 3.0;

/// What a module does. Its name is its number in the chain; those without tensors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 3·tanh(x/3).
    Squash,
    /// A convolution with bias.
    Conv { inputs: usize, outputs: usize },
    /// max(x, 0).
    Relu,
    /// See [`Block`].
    Block { width: usize, pools: bool },
    /// A convolution of stride 2 without bias.
    Halve { width: usize },
    /// Every pixel becomes a square of four: [`Kind::Double`] comes next and does it on the way.
    Repeat,
    /// A convolution without bias.
    Double { width: usize },
}

/// Adds the tensors of a chain.
pub(super) fn list(list: &mut Inventory, name: &str, chain: &[Kind]) {
    for (i, kind) in chain.iter().enumerate() {
        let name = format!("{name}.{i}");
        match *kind {
            Kind::Squash | Kind::Relu | Kind::Repeat => {}
            Kind::Conv { inputs, outputs } => list.conv(&name, inputs, outputs, 3),
            Kind::Block { width, pools } => Block::list(list, &name, width, pools),
            Kind::Halve { width } | Kind::Double { width } => {
                list.conv_without_bias(&name, width, width, 3);
            }
        }
    }
}

/// A chain of modules with their parameters.
#[derive(Debug)]
pub(super) struct Chain(Vec<Module>);

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has some dozens of these")]
enum Module {
    Squash,
    Relu,
    Conv(Conv2d),
    Block(Block),
    Double(UpsampleConv2d),
}

impl Chain {
    pub(super) fn new(chain: &[Kind], params: &Params) -> Result<Self> {
        let mut modules = Vec::with_capacity(chain.len());
        for (i, kind) in chain.iter().enumerate() {
            let params = params.scope(&i.to_string());
            modules.push(match kind {
                Kind::Squash => Module::Squash,
                Kind::Relu => Module::Relu,
                Kind::Repeat => continue,
                Kind::Conv { .. } => Module::Conv(Conv2d::new(&params, SAME)?),
                Kind::Block { pools, .. } => Module::Block(Block::new(&params, *pools)?),
                Kind::Halve { .. } => Module::Conv(Conv2d::without_bias(&params, HALVE)?),
                Kind::Double { .. } => Module::Double(UpsampleConv2d::without_bias(&params)?),
            });
        }
        Ok(Self(modules))
    }

    pub(super) fn forward(&self, x: &Var) -> Result<Var> {
        let mut x = x.clone();
        for module in &self.0 {
            x = match module {
                Module::Squash => x.mul_scalar(1.0 / MAGNITUDE)?.tanh()?.mul_scalar(MAGNITUDE)?,
                Module::Relu => x.relu()?,
                Module::Conv(conv) => conv.forward(&x)?,
                Module::Block(block) => block.forward(&x)?,
                Module::Double(double) => double.forward(&x)?,
            };
        }
        Ok(x)
    }
}

/// `relu(conv(relu(conv(relu(conv(x))))) + x)`, where blocks that pool add that to x before.
#[derive(Debug)]
struct Block {
    convs: [Conv2d; 3],
    pool: Option<Pool>,
}

impl Block {
    fn list(list: &mut Inventory, name: &str, width: usize, pools: bool) {
        for i in [0, 2, 4] {
            list.conv(&format!("{name}.conv.{i}"), width, width, 3);
        }
        if pools {
            Pool::list(list, &format!("{name}.pool"), width);
        }
    }

    fn new(params: &Params, pools: bool) -> Result<Self> {
        let conv = |name| Conv2d::new(&params.scope(name), SAME);
        Ok(Self {
            convs: [conv("conv.0")?, conv("conv.2")?, conv("conv.4")?],
            pool: pools.then(|| Pool::new(&params.scope("pool"))).transpose()?,
        })
    }

    fn forward(&self, x: &Var) -> Result<Var> {
        let x = match &self.pool {
            Some(pool) => &x.add(&pool.forward(x)?)?,
            None => x,
        };
        let [first, second, third] = &self.convs;
        let h = second.forward(&first.forward(x)?.relu()?)?.relu()?;
        third.forward(&h)?.add(x)?.relu()
    }
}

/// `conv(relu(GN(conv(x))))`, both convolutions 1 x 1 and without bias: the norm's mean and
/// deviation are all that a tiny autoencoder knows of places far away.
#[derive(Debug)]
struct Pool {
    widen: Conv2d,
    /// Weight and bias of the norm.
    norm: [Var; 2],
    narrow: Conv2d,
}

impl Pool {
    fn list(list: &mut Inventory, name: &str, width: usize) {
        list.conv_without_bias(&format!("{name}.0"), width, POOL_WIDTH * width, 1);
        list.norm(&format!("{name}.1"), POOL_WIDTH * width);
        list.conv_without_bias(&format!("{name}.3"), POOL_WIDTH * width, width, 1);
    }

    fn new(params: &Params) -> Result<Self> {
        Ok(Self {
            widen: Conv2d::without_bias(&params.scope("0"), POINT)?,
            norm: [params.get("1.weight")?, params.get("1.bias")?],
            narrow: Conv2d::without_bias(&params.scope("3"), POINT)?,
        })
    }

    fn forward(&self, x: &Var) -> Result<Var> {
        let [weight, bias] = &self.norm;
        let x = self.widen.forward(x)?.group_norm(weight, bias, POOL_GROUPS, POOL_EPS)?;
        self.narrow.forward(&x.relu()?)
    }
}
