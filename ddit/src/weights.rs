//! What a model is made of: the names, shapes and beginnings of its tensors.
//!
//! Each model lists its tensors once, in an [`Inventory`]. From the list follow fresh weights to
//! train from, and the check of a file's tensors before the model is built from them.

use std::collections::BTreeMap;

use tensor::io::safetensors::{SafeTensors, Source};
use tensor::rng::Rng;
use tensor::spelling::nearest;
use tensor::{DType, Device, Error, Result, Shape, Tensor};

/// The tensors of a model, in the order of its parts.
#[derive(Default)]
pub struct Inventory {
    weights: Vec<Weight>,
    /// Other names, and the tensors they mean.
    aliases: Vec<(String, String)>,
}

/// One tensor of a model.
pub struct Weight {
    /// The checkpoint's name for it.
    pub name: String,
    /// The lengths of its axes.
    pub shape: Shape,
    /// Whether it is a constant of the model: not trained, and computed where a file lacks it.
    pub buffer: bool,
    /// How it begins.
    pub start: Start,
}

/// How a tensor begins before training.
pub enum Start {
    /// All elements 0.
    Zeros,
    /// All elements 1.
    Ones,
    /// Uniform in ±bound.
    Uniform {
        /// The largest magnitude.
        bound: f64,
    },
    /// Normal around 0.
    Normal {
        /// The standard deviation.
        deviation: f64,
    },
    /// What a formula says.
    Formula(Box<dyn Fn() -> Tensor + Send + Sync>),
}

impl Start {
    /// Uniform in ±1/√fan_in, which keeps the size of what a linear map or a convolution makes of
    /// its inputs independent of how many there are. Source: LeCun et al. 1998, §4.6.
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / (fan_in as f64).sqrt() }
    }

    fn tensor(&self, rng: &mut Rng, shape: &Shape, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Zeros => Ok(Tensor::zeros(shape, dtype)),
            Self::Ones => Ok(Tensor::ones(shape, dtype)),
            Self::Uniform { bound } => {
                map(rng.uniform(shape, DType::F64)?, dtype, |u| bound * (2.0 * u - 1.0))
            }
            Self::Normal { deviation } => {
                map(rng.normal(shape, DType::F64)?, dtype, |z| deviation * z)
            }
            Self::Formula(formula) => Ok(formula().to_dtype(dtype)),
        }
    }
}

impl Inventory {
    /// Adds a tensor.
    pub fn tensor(&mut self, name: impl Into<String>, shape: impl Into<Shape>, start: Start) {
        self.weights.push(Weight { name: name.into(), shape: shape.into(), buffer: false, start });
    }

    /// Adds a tensor that is not trained, and that a file need not hold.
    pub fn buffer(&mut self, name: impl Into<String>, shape: impl Into<Shape>, start: Start) {
        self.weights.push(Weight { name: name.into(), shape: shape.into(), buffer: true, start });
    }

    /// Adds a second name of a tensor, under which a file may hold it instead or as well.
    pub fn alias(&mut self, other: impl Into<String>, name: impl Into<String>) {
        self.aliases.push((other.into(), name.into()));
    }

    /// Adds `name.weight` \[outputs, inputs\] and `name.bias`, uniform by fan-in.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.tensor(format!("{name}.weight"), [outputs, inputs], Start::fan_in(inputs));
        self.tensor(format!("{name}.bias"), [outputs], Start::fan_in(inputs));
    }

    /// Adds a linear map that gives 0 until it is trained.
    pub fn silent_linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.tensor(format!("{name}.weight"), [outputs, inputs], Start::Zeros);
        self.tensor(format!("{name}.bias"), [outputs], Start::Zeros);
    }

    /// Adds a square convolution's `name.weight` \[outputs, inputs, kernel, kernel\] and
    /// `name.bias`, uniform by fan-in.
    pub fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.conv_without_bias(name, inputs, outputs, kernel);
        let fan_in = inputs * kernel * kernel;
        self.tensor(format!("{name}.bias"), [outputs], Start::fan_in(fan_in));
    }

    /// Adds the weight alone of such a convolution.
    pub fn conv_without_bias(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        let start = Start::fan_in(inputs * kernel * kernel);
        self.tensor(format!("{name}.weight"), [outputs, inputs, kernel, kernel], start);
    }

    /// Adds a norm's `name.weight` and `name.bias`, which change nothing until they are trained.
    pub fn norm(&mut self, name: &str, channels: usize) {
        self.tensor(format!("{name}.weight"), [channels], Start::Ones);
        self.tensor(format!("{name}.bias"), [channels], Start::Zeros);
    }

    /// The tensors, in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Weight> {
        self.weights.iter()
    }

    /// Every tensor as it begins. A tensor's values depend on `seed` and its name alone, so
    /// models that differ in depth begin alike where they agree.
    pub fn fresh(&self, seed: u64, dtype: DType) -> Result<Vec<(String, Tensor)>> {
        let start = |w: &Weight| {
            let mut rng = Rng::new(seed).stream(fnv(FNV_START, w.name.as_bytes()));
            Ok((w.name.clone(), w.start.tensor(&mut rng, &w.shape, dtype)?))
        };
        self.weights.iter().map(start).collect()
    }

    /// The tensors `found` in a file, by name, made into this model's: reshaped where only axes of
    /// length 1 differ (old autoencoders store linear maps as 1 x 1 convolutions), and completed
    /// by the buffers the file lacks. A tensor that the file holds under two names is taken once.
    ///
    /// Errors: tensors missing, tensors that are not this model's, shapes that differ, elements
    /// that are no floats; all of them at once, each missing name with the most similar name the
    /// file does have. Two tensors under the names of one.
    pub fn take(&self, found: BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
        self.take_placed(found, |_| None)
    }

    /// As [`take`](Self::take), all tensors of a file or its shards.
    ///
    /// Errors: the same, with the file and, of each tensor that does not fit, the shard it is in.
    pub fn take_from(&self, file: &SafeTensors) -> Result<Vec<(String, Tensor)>> {
        let tensor = |name: &str| Ok((name.to_owned(), file.get(name)?));
        let found = file.names().map(tensor).collect::<Result<_>>()?;
        let shard = |name: &str| {
            let holder = file.file_of(name).filter(|holder| *holder != file.path())?;
            Some(holder.file_name()?.to_string_lossy().into_owned())
        };
        self.take_placed(found, shard).map_err(|error| error.path(file.path()))
    }

    /// As [`take`](Self::take); `shard` says in which of several files a tensor is.
    fn take_placed(
        &self,
        mut found: BTreeMap<String, Tensor>,
        shard: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<(String, Tensor)>> {
        self.resolve_aliases(&mut found)?;
        let mut taken = Vec::with_capacity(self.weights.len());
        let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
        for weight in &self.weights {
            match found.remove(&weight.name) {
                Some(t) if t.dtype().is_float() && same_but_for_ones(t.shape(), &weight.shape) => {
                    taken.push((weight.name.clone(), t.reshape(weight.shape)?));
                }
                Some(t) => misshaped.push((weight, t)),
                None if weight.buffer => {
                    let mut rng = Rng::new(0);
                    let value = weight.start.tensor(&mut rng, &weight.shape, DType::F32)?;
                    taken.push((weight.name.clone(), value));
                }
                None => missing.push(&weight.name),
            }
        }
        if missing.is_empty() && misshaped.is_empty() && found.is_empty() {
            return Ok(taken);
        }
        Err(mismatch(&missing, &misshaped, &found, shard))
    }

    /// Gives tensors under a second name their first.
    fn resolve_aliases(&self, found: &mut BTreeMap<String, Tensor>) -> Result<()> {
        for (other, name) in &self.aliases {
            let Some(second) = found.remove(other) else { continue };
            match found.get(name) {
                None => drop(found.insert(name.clone(), second)),
                Some(first) if is_same(first, &second)? => {}
                Some(first) => {
                    let message = format!("{other} and {name} are one tensor, but differ here");
                    return Err(Error::value("load", message)
                        .operand(name.clone(), first)
                        .operand(other.clone(), &second));
                }
            }
        }
        Ok(())
    }
}

/// A tensor as a file takes it: wherever it lies, it is in this machine's memory when its turn comes.
pub fn source(tensor: &Tensor) -> impl Source {
    (tensor.info(), || tensor.to_device(&Device::Cpu))
}

/// Whether two tensors are equal to the last bit.
pub(crate) fn is_same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let alike = a.shape() == b.shape() && a.dtype() == b.dtype();
    Ok(alike && a.contiguous().bytes()? == b.contiguous().bytes()?)
}

/// The error that tells everything that keeps a file's tensors from being a model's.
fn mismatch(
    missing: &[&String],
    misshaped: &[(&Weight, Tensor)],
    surplus: &BTreeMap<String, Tensor>,
    shard: impl Fn(&str) -> Option<String>,
) -> Error {
    let place = |name: &str| shard(name).map_or(String::new(), |shard| format!(", in {shard}"));
    let counts = [
        (missing.len(), "missing"),
        (misshaped.len(), "of another shape or type"),
        (surplus.len(), "not of this model"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    let message = format!("tensors do not fit: {}", counts.collect::<Vec<_>>().join(", "));
    let mut lines = Vec::new();
    lines.extend(missing.iter().map(|name| {
        match (shard(name), nearest(name, surplus.keys().map(String::as_str))) {
            (Some(shard), _) => format!("missing {name}: it is in {shard}, but not in the index"),
            (None, Some(near)) => format!("missing {name}; the file has {near}{}", place(near)),
            (None, None) => format!("missing {name}"),
        }
    }));
    lines.extend(misshaped.iter().map(|(Weight { name, shape, .. }, t)| {
        let place = place(name);
        match t.dtype().is_float() {
            true => format!("{name} is {}, needed {shape}{place}", t.shape()),
            false => format!("{name} is of type {}, needed floats{place}", t.dtype()),
        }
    }));
    lines.extend(
        surplus.iter().map(|(name, t)| format!("surplus {name} {}{}", t.shape(), place(name))),
    );
    Error::value("load", message).wrong(lines)
}

/// The elements of an `f64` tensor, mapped and rounded to `dtype`.
fn map(tensor: Tensor, dtype: DType, f: impl Fn(f64) -> f64) -> Result<Tensor> {
    let values: Vec<f64> = tensor.slice::<f64>()?.iter().map(|&x| f(x)).collect();
    Ok(Tensor::from_vec(values, tensor.shape())?.to_dtype(dtype))
}

fn same_but_for_ones(a: &Shape, b: &Shape) -> bool {
    a.iter().filter(|&&n| n != 1).eq(b.iter().filter(|&&n| n != 1))
}

/// The FNV-1a hash of nothing.
pub(crate) const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// The 64-bit FNV-1a hash of what `hash` is that of, and `bytes` after it: a stable number for a
/// name, or for what latents were computed from.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, &byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let mut list = Inventory::default();
        list.linear("proj", 4, 3);
        list.silent_linear("gate", 3, 2);
        list.norm("norm", 5);
        list.buffer("table", [2], Start::Formula(Box::new(|| Tensor::arange(2, DType::F32))));
        list
    }

    #[test]
    fn fresh_values_depend_on_seed_and_name_alone() {
        let all = |seed| inventory().fresh(seed, DType::F64).unwrap();
        let first = all(7);
        let weight = first[0].1.to_f64_vec();
        assert!(weight.iter().all(|x| x.abs() <= 0.5) && weight.iter().any(|x| x.abs() > 0.25));
        assert_eq!(first[2].1.to_f64_vec(), [0.0; 6]);
        assert_eq!(first[4].1.to_f64_vec(), [1.0; 5]);
        assert_eq!(first[6].1.to_f64_vec(), [0.0, 1.0]);
        assert_ne!(weight, all(8)[0].1.to_f64_vec());
        let mut other = Inventory::default();
        other.tensor("before", [9], Start::Normal { deviation: 1.0 });
        other.linear("proj", 4, 3);
        assert_eq!(other.fresh(7, DType::F64).unwrap()[1].1.to_f64_vec(), weight);
    }

    #[test]
    fn takes_old_layouts_and_computes_buffers() {
        let list = inventory();
        let mut found: BTreeMap<_, _> = list.fresh(1, DType::F32).unwrap().into_iter().collect();
        found.remove("table");
        let weight = found["proj.weight"].reshape([3, 4, 1, 1]).unwrap();
        found.insert("proj.weight".into(), weight);
        let taken = list.take(found).unwrap();
        assert_eq!(*taken[0].1.shape(), [3, 4]);
        assert_eq!((taken[6].0.as_str(), taken[6].1.to_f64_vec()), ("table", vec![0.0, 1.0]));
    }

    #[test]
    fn a_tensor_may_have_its_second_name_or_both() {
        let mut list = inventory();
        list.alias("proj.kernel", "proj.weight");
        let fresh: BTreeMap<_, _> = list.fresh(1, DType::F32).unwrap().into_iter().collect();
        let weight = fresh["proj.weight"].to_f64_vec();
        let mut renamed = fresh.clone();
        let second = renamed.remove("proj.weight").unwrap();
        renamed.insert("proj.kernel".into(), second.clone());
        let mut both = fresh.clone();
        both.insert("proj.kernel".into(), second);
        for found in [renamed, both.clone()] {
            let taken = list.take(found).unwrap();
            assert_eq!((taken.len(), taken[0].1.to_f64_vec()), (7, weight.clone()));
        }
        both.insert("proj.kernel".into(), Tensor::zeros([3, 4], DType::F32));
        let error = list.take(both).unwrap_err().to_string();
        assert!(error.contains("proj.kernel and proj.weight are one tensor"), "{error}");
    }

    #[test]
    fn tells_everything_that_is_wrong_at_once() {
        let list = inventory();
        let mut found: BTreeMap<_, _> = list.fresh(1, DType::F32).unwrap().into_iter().collect();
        let bias = found.remove("proj.bias").unwrap();
        found.insert("proj.biases".into(), bias);
        found.insert("norm.bias".into(), Tensor::zeros([6], DType::F32));
        found.insert("norm.weight".into(), Tensor::zeros([5], DType::I64));
        found.insert("other".into(), Tensor::zeros([1], DType::F32));
        let error = list.take(found).unwrap_err().to_string();
        for told in [
            "1 missing, 2 of another shape or type, 2 not of this model",
            "missing proj.bias; the file has proj.biases",
            "norm.bias is [6], needed [5]",
            "norm.weight is of type i64, needed floats",
            "surplus other [1]",
        ] {
            assert!(error.contains(told), "{error}");
        }
    }
}
