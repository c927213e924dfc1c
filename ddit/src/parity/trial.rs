//! A case being run: what it gives, and what has been compared so far.

use std::collections::BTreeMap;

use autograd::{Grads, Params};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tensor::io::safetensors::{Info, SafeTensors};
use tensor::{DType, Device, Error, Result, Shape, Tensor};

use super::Report;
use super::compare::{Comparison, Deviation, Tolerance};
use super::manifest::{FixtureSet, read_json};
use crate::folder::Geometry;

/// A case being run.
pub struct Trial<'a> {
    set: &'a FixtureSet,
    id: &'a str,
    entry: &'a Map<String, Value>,
    /// The tensors of the case; those of its file that the manifest describes.
    tensors: BTreeMap<String, Tensor>,
    comparisons: Vec<Comparison>,
    /// Expected results, and other things stored, that are not computed here.
    unsupported: Vec<String>,
    not_compared: Vec<String>,
}

impl<'a> Trial<'a> {
    /// Opens the files of a case.
    ///
    /// Errors: they cannot be read; tensors are not as the manifest describes them.
    pub(super) fn open(set: &'a FixtureSet, entry: &'a Value, id: &'a str) -> Result<Self> {
        let Some(entry) = entry.as_object() else {
            return Err(set.malformed(id, "expected an object"));
        };
        let mut trial = Self {
            set,
            id,
            entry,
            tensors: BTreeMap::new(),
            comparisons: Vec::new(),
            unsupported: Vec::new(),
            not_compared: Vec::new(),
        };
        if entry.contains_key("tensors") {
            let file = SafeTensors::open(set.file(entry, id)?)?;
            for (name, description) in trial.descriptions()? {
                let told = trial.told(name, description)?;
                let found = file.info(name)?;
                if found != told {
                    let message = format!(
                        "found {} {}, the manifest says {} {}",
                        found.shape, found.dtype, told.shape, told.dtype
                    );
                    return Err(Error::file("fixtures", file.path(), message).key(name));
                }
                trial.tensors.insert(name.clone(), file.get(name)?);
            }
        }
        Ok(trial)
    }

    /// What was compared, and everything stored that was not.
    ///
    /// Errors: nothing was compared.
    pub(super) fn finish(self, kind: &str) -> Result<Report> {
        if self.comparisons.is_empty() && self.unsupported.is_empty() {
            return Err(self.malformed("tensors", "nothing of this case can be compared"));
        }
        let compared = |name: &str| self.comparisons.iter().any(|c| c.tensor == name);
        let left = self.tensors.keys().filter(|name| !name.starts_with("in.") && !compared(name));
        let (results, others): (Vec<_>, Vec<_>) = left.partition(|name| is_result(name));
        let told = |name: &String| format!("{name} of {kind}");
        Ok(Report {
            unsupported: self.unsupported.iter().chain(results).map(told).collect(),
            not_compared: self.not_compared.iter().chain(others).map(told).collect(),
            comparisons: self.comparisons,
        })
    }

    fn descriptions(&self) -> Result<&'a Map<String, Value>> {
        let descriptions = self.entry.get("tensors").and_then(Value::as_object);
        descriptions.ok_or_else(|| self.malformed("tensors", "expected an object"))
    }

    /// What the manifest says of a tensor.
    fn told(&self, name: &str, description: &Value) -> Result<Info> {
        let fail = |key: &str, message: &str| {
            Err(self.malformed(&format!("tensors.{name}.{key}"), message))
        };
        let lengths: Option<Vec<usize>> = description.get("shape").and_then(|shape| {
            shape.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
        });
        let Some(lengths) = lengths else { return fail("shape", "expected lengths of axes") };
        let shape = Shape::new(&lengths)?;
        let dtype = description.get("dtype").and_then(Value::as_str);
        match dtype.and_then(|name| DTYPES.iter().find(|(known, _)| *known == name)) {
            Some(&(_, dtype)) => Ok(Info { dtype, shape }),
            None => fail("dtype", "expected the name of an element type"),
        }
    }

    /// The error of a manifest whose entry for this case is wrong at `key`.
    pub fn malformed(&self, key: &str, message: impl Into<String>) -> Error {
        self.set.malformed(format!("{}.{key}", self.id), message)
    }
}

/// The manifest's names of element types.
const DTYPES: [(&str, DType); 8] = [
    ("float64", DType::F64),
    ("float32", DType::F32),
    ("bfloat16", DType::BF16),
    ("float16", DType::F16),
    ("int64", DType::I64),
    ("int32", DType::I32),
    ("uint8", DType::U8),
    ("bool", DType::Bool),
];

/// Whether a tensor is what a case is about: not given, not on the way, not an extra.
fn is_result(name: &str) -> bool {
    ["out.", "grad."].iter().any(|prefix| name.starts_with(prefix))
}

/// What is given.
impl Trial<'_> {
    /// A tensor.
    ///
    /// Errors: the case has none of this name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let missing = || self.malformed(&format!("tensors.{name}"), "is missing");
        self.tensors.get(name).cloned().ok_or_else(missing)
    }

    /// A tensor, if the case has it.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).cloned()
    }

    /// The device that networks compute on.
    pub fn device(&self) -> &Device {
        self.set.device()
    }

    /// A tensor, where networks compute.
    pub fn moved(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(self.device())
    }

    /// A tensor that is given, where networks compute.
    ///
    /// Errors: the case has none of this name.
    pub fn there(&self, name: &str) -> Result<Tensor> {
        self.moved(&self.get(name)?)
    }

    /// The same, if the case has it.
    pub fn find_there(&self, name: &str) -> Result<Option<Tensor>> {
        self.find(name).map(|tensor| self.moved(&tensor)).transpose()
    }

    /// Names of tensors that begin with `prefix`, and what follows it.
    pub fn names(&self, prefix: &str) -> Vec<(String, String)> {
        let names = self.tensors.keys();
        let rest = |name: &String| Some((name.clone(), name.strip_prefix(prefix)?.to_owned()));
        names.filter_map(rest).collect()
    }

    /// Numbers as `f32`.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        self.get(name)?.to_dtype(DType::F32).to_vec()
    }

    /// Whole numbers that are not negative: token ids, rows, columns.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let ids = self.get(name)?.to_dtype(DType::I64).to_vec::<i64>()?;
        let id = |&id: &i64| {
            let message = format!("{id} is no index");
            u32::try_from(id).map_err(|_| self.malformed(&format!("tensors.{name}"), message))
        };
        ids.iter().map(id).collect()
    }

    /// Numbers that are 0 or not.
    pub fn marks(&self, name: &str) -> Result<Vec<bool>> {
        Ok(self.get(name)?.to_f64_vec().into_iter().map(|mark| mark != 0.0).collect())
    }

    /// An entry of the case's configuration.
    ///
    /// Errors: there is none.
    pub fn config<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        match self.find_config(key)? {
            Some(value) => Ok(value),
            None => Err(self.malformed(&format!("config.{key}"), "is missing")),
        }
    }

    /// An entry of the case's configuration, if it has it.
    ///
    /// Errors: it is of another type.
    pub fn find_config<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.entry.get("config").and_then(|config| config.get(key));
        let parse = |value: &Value| {
            let error = |error: serde_json::Error| {
                self.malformed(&format!("config.{key}"), error.to_string())
            };
            serde_json::from_value(value.clone()).map_err(error)
        };
        value.map(parse).transpose()
    }

    /// What the case says under `key`, beside its configuration and its tensors.
    ///
    /// Errors: nothing, or something of another type.
    pub fn said<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.entry.get(key).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|error| self.malformed(key, error.to_string()))
    }

    /// The set of the case, for the files and folders around it.
    pub fn set(&self) -> &FixtureSet {
        self.set
    }

    /// That an entry of the configuration, where there is one, has the only value that the engine
    /// implements.
    ///
    /// Errors: it has another.
    pub fn expect(&self, key: &str, only: impl Into<Value>) -> Result<()> {
        let only = only.into();
        let same = |value: &Value| match (value.as_f64(), only.as_f64()) {
            (Some(value), Some(only)) => value == only,
            _ => *value == only,
        };
        match self.find_config::<Value>(key)? {
            Some(value) if !same(&value) => {
                let message = format!("{value} is not supported, only {only}");
                Err(self.malformed(&format!("config.{key}"), message))
            }
            _ => Ok(()),
        }
    }

    /// Names of parameters that the case says have no gradient.
    pub fn without_gradient(&self) -> Result<Vec<String>> {
        let names = self.entry.get("parameters_without_gradient").cloned().unwrap_or_default();
        let names = serde_json::from_value::<Option<Vec<String>>>(names);
        let error = |error: serde_json::Error| {
            self.malformed("parameters_without_gradient", error.to_string())
        };
        Ok(names.map_err(error)?.unwrap_or_default())
    }

    /// The JSON document of a case that has one in place of tensors.
    pub fn document<T: DeserializeOwned>(&self) -> Result<T> {
        read_json(&self.set.file(self.entry, self.id)?)
    }

    /// What the manifest says of the `place`-th weights that the case names, where it says it, and
    /// the file.
    ///
    /// Errors: no such weights; a file that cannot be read.
    pub fn weights(&self, place: usize) -> Result<(&Map<String, Value>, String, SafeTensors)> {
        let names = match self.entry.get("weights") {
            Some(Value::Array(names)) => names.as_slice(),
            Some(name) => std::slice::from_ref(name),
            None => &[],
        };
        let Some(name) = names.get(place).and_then(Value::as_str) else {
            return Err(self.malformed("weights", "expected the name of weights"));
        };
        let (entry, key) = (self.set.weights(name)?, format!("weights.{name}"));
        let file = SafeTensors::open(self.set.file(entry, &key)?)?;
        Ok((entry, key, file))
    }

    /// The configuration and the parameters of the `place`-th weights that the case names.
    ///
    /// Inference takes weights as they are stored. Where gradients are expected they are widened,
    /// as training does it, and all but buffers are trained.
    ///
    /// Errors: no such weights; a configuration that cannot be; tensors missing, surplus or of
    /// another shape, all of them at once.
    pub fn network<C: Geometry>(&self, place: usize) -> Result<(C, Params)> {
        let (entry, key, file) = self.weights(place)?;
        let config = entry.get("config").cloned().unwrap_or_default();
        let config: C = serde_json::from_value(config)
            .map_err(|error| self.set.malformed(format!("{key}.config"), error.to_string()))?;
        let inventory = config
            .inventory()
            .map_err(|error| self.set.malformed(format!("{key}.config"), error.message()))?;
        let train = !self.names("grad.").is_empty();
        let widen = |(name, stored): (String, Tensor)| {
            (name, if train { stored.to_dtype(DType::F32) } else { stored })
        };
        let weights = inventory.take_from(&file)?.into_iter().map(widen);
        let buffers: Vec<&str> =
            inventory.iter().filter(|w| w.buffer).map(|w| w.name.as_str()).collect();
        let params = Params::from_tensors(weights, |name| train && !buffers.contains(&name))?;
        Ok((config, params.to_device(self.device())?))
    }
}

/// What is compared.
impl Trial<'_> {
    /// Compares a result, if the case expects it.
    ///
    /// Errors: its shape is not the expected one; a rule that makes no sense.
    pub fn compare(&mut self, name: &str, got: &Tensor) -> Result<()> {
        let Some(want) = self.find(name) else { return Ok(()) };
        // One number is one number, with or without an axis.
        if got.shape() != want.shape() && [got.numel(), want.numel()] != [1, 1] {
            let message = format!("expected {}, computed {}", want.shape(), got.shape());
            return Err(self.malformed(&format!("tensors.{name}.shape"), message));
        }
        let rule = Tolerance::parse(&self.descriptions()?[name], want.dtype())
            .map_err(|error| self.malformed(&format!("tensors.{name}"), error.message()))?;
        self.record(name, rule.judge(&got.to_f64_vec(), &want.to_f64_vec()));
        Ok(())
    }

    /// Compares numbers, if the case expects them; their shape is the expected one.
    ///
    /// Errors: there are more or fewer of them; a rule that makes no sense.
    pub fn compare_numbers<T: tensor::Element>(&mut self, name: &str, got: &[T]) -> Result<()> {
        match self.find(name) {
            Some(want) if want.numel() == got.len() => {
                self.compare(name, &Tensor::from_slice(got, want.shape())?)
            }
            _ => self.compare(name, &Tensor::from_slice(got, [got.len()])?),
        }
    }

    /// Compares every expected gradient of a parameter, and the absence of those that are expected
    /// to be absent. An absent gradient is one of zeros.
    ///
    /// Errors: there is no such parameter; those of [`compare`](Self::compare).
    pub fn compare_gradients(&mut self, params: &Params, grads: &Grads) -> Result<()> {
        for (name, parameter) in self.names("grad.") {
            if parameter.starts_with("in.") {
                continue;
            }
            let parameter = params.get(&parameter)?;
            match grads.get(&parameter) {
                Some(gradient) => self.compare(&name, &gradient)?,
                None => self.compare(&name, &Tensor::zeros(parameter.shape(), DType::F32))?,
            }
        }
        for name in self.without_gradient()? {
            let absent = grads.get(&params.get(&name)?).is_none();
            self.compare_flag(&format!("grad.{name}"), absent);
        }
        Ok(())
    }

    /// Records an expected result that is not computed here.
    pub fn leave(&mut self, name: &str) {
        self.unsupported.push(name.to_owned());
    }

    /// Records something else that is stored and not computed here.
    pub fn pass_over(&mut self, name: &str) {
        self.not_compared.push(name.to_owned());
    }

    /// Records something that is right or wrong.
    pub fn compare_flag(&mut self, name: &str, right: bool) {
        let error = if right { 0.0 } else { 1.0 };
        self.record(name, Deviation { error, tolerance: 0.0 });
    }

    /// Records a deviation.
    pub fn record(&mut self, name: &str, worst: Deviation) {
        self.comparisons.push(Comparison { tensor: name.to_owned(), worst });
    }
}
