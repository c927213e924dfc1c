//! Parameters by name: the store that models are built from, optimised and saved through.
//!
//! Names are the checkpoint's own, their parts joined by dots. A model's constructor takes the
//! store, narrowed to where it stands ([`Params::scope`]), and picks its variables by what is left
//! of their names. The order of the store is the one order in which an optimiser, a saver and a
//! summary go through it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tensor::spelling::nearest;
use tensor::{Device, Error, Result, Tensor};

use crate::Var;

/// Variables by name, seen from one place of a model.
///
/// ```
/// use autograd::Params;
/// use tensor::{DType, Tensor};
/// # fn main() -> tensor::Result<()> {
/// let weight = ("attn.proj.weight".to_owned(), Tensor::ones([2, 3], DType::F32));
/// let params = Params::from_tensors([weight], |name| name.starts_with("attn"))?;
/// assert!(params.scope("attn").scope("proj").get("weight")?.is_parameter());
/// assert!(params.get("attn.proj.wieght").unwrap_err().to_string().contains("attn.proj.weight"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Params {
    store: Arc<Store>,
    path: String,
}

#[derive(Debug)]
struct Store {
    vars: Vec<(String, Var)>,
    places: HashMap<String, usize>,
}

impl Params {
    /// A store of variables: parameters are trained, constants are not.
    ///
    /// Errors: a name that occurs twice.
    #[track_caller]
    pub fn from_vars(vars: impl IntoIterator<Item = (String, Var)>) -> Result<Self> {
        let mut store = Store { vars: Vec::new(), places: HashMap::new() };
        for (name, var) in vars {
            if store.places.insert(name.clone(), store.vars.len()).is_some() {
                return Err(
                    Error::value("params", format!("two are named {name}")).operand("second", &var)
                );
            }
            store.vars.push((name, var));
        }
        Ok(Self { store: Arc::new(store), path: String::new() })
    }

    /// A store of tensors, of which those that `trains` names are parameters.
    ///
    /// Errors: a name that occurs twice.
    #[track_caller]
    pub fn from_tensors(
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        trains: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut vars = Vec::new();
        for (name, tensor) in tensors {
            let trains = trains(&name);
            vars.push((name, if trains { Var::parameter(tensor) } else { Var::constant(tensor) }));
        }
        Self::from_vars(vars)
    }

    /// The same store, seen from the module `name` of this place.
    pub fn scope(&self, name: &str) -> Self {
        Self { store: self.store.clone(), path: self.full_name(name) }
    }

    /// The same store on a device. Where values move, variables are new: to learn and to be used they
    /// are asked for after this.
    ///
    /// Errors: the device's.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |(name, var): &(String, Var)| {
            let there = match var.is_parameter() && var.device() != *device {
                true => Var::parameter(var.value().to_device(device)?),
                false => var.to_device(device)?,
            };
            Ok((name.clone(), there))
        };
        let vars = self.store.vars.iter().map(moved).collect::<Result<Vec<_>>>()?;
        Ok(Self { path: self.path.clone(), ..Self::from_vars(vars)? })
    }

    /// The dotted path of this place.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The variable `name` of this place.
    ///
    /// Errors: there is none; the most similar name is offered.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<Var> {
        let name = self.full_name(name);
        match self.store.places.get(&name) {
            Some(&place) => Ok(self.store.vars[place].1.clone()),
            None => {
                let error = Error::value("params", "there is no such parameter").key(&*name);
                let names = self.store.vars.iter().map(|(name, _)| name.as_str());
                Err(match nearest(&name, names) {
                    Some(near) => error.note(format!("did you mean {near}?")),
                    None => error,
                })
            }
        }
    }

    /// Whether this place has a variable `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.store.places.contains_key(&self.full_name(name))
    }

    /// All variables at or below this place with their full names, in the store's order.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Var)> {
        let below = |name: &str| match name.strip_prefix(&self.path) {
            Some(rest) => self.path.is_empty() || rest.starts_with('.'),
            None => false,
        };
        let vars = self.store.vars.iter().map(|(name, var)| (name.as_str(), var));
        vars.filter(move |(name, _)| below(name))
    }

    /// The variables of [`named`](Self::named) that are trained.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.named().filter(|(_, var)| var.is_parameter())
    }

    /// The values of [`named`](Self::named).
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.named().map(|(name, var)| (name.to_owned(), var.value())).collect()
    }

    /// Gives back the memory of values that are a file's; see [`Tensor::unload`].
    pub fn unload(&self) {
        self.named().for_each(|(_, var)| var.value().unload());
    }

    /// Gives every parameter the value of its name, on the device where it is.
    ///
    /// Errors, and changes nothing: parameters without a value, values without a parameter,
    /// shapes or types that differ; all of them at once.
    #[track_caller]
    pub fn set(&self, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
        let mut tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let (mut pairs, mut wrong) = (Vec::new(), Vec::new());
        let (mut missing, mut trained) = (Vec::new(), Vec::new());
        for (name, var) in self.trained() {
            trained.push(name);
            match tensors.remove(name) {
                None => missing.push(name),
                Some(new) if new.shape() == var.shape() && new.dtype() == var.dtype() => {
                    pairs.push((var, new));
                }
                Some(new) => wrong.push(format!(
                    "{name} is {} {}, not {} {}",
                    var.shape(),
                    var.dtype(),
                    new.shape(),
                    new.dtype()
                )),
            }
        }
        for name in missing {
            let near = nearest(name, tensors.keys().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!(" (there is {near})"));
            wrong.push(format!("{name} is missing{near}"));
        }
        for name in tensors.keys() {
            let near = nearest(name, trained.iter().copied());
            let near = near.map_or(String::new(), |near| format!(" (there is {near})"));
            wrong.push(format!("{name} is no parameter{near}"));
        }
        if !wrong.is_empty() {
            let error = Error::value("params", "values and parameters do not match");
            return Err(error.wrong(wrong));
        }
        pairs.into_iter().try_for_each(|(var, new)| var.set_value(new.to_device(&var.device())?))
    }

    fn full_name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    fn store() -> Params {
        let named = |name: &str, n| (name.to_owned(), Tensor::zeros([n], DType::F32));
        let tensors = [named("a.weight", 2), named("ab.weight", 3), named("a.b.bias", 4)];
        Params::from_tensors(tensors, |name| name != "ab.weight").unwrap()
    }

    #[test]
    fn places_see_what_is_below_them() {
        let params = store();
        let names = |params: &Params| params.named().map(|n| n.0.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&params), ["a.weight", "ab.weight", "a.b.bias"]);
        assert_eq!(names(&params.scope("a")), ["a.weight", "a.b.bias"]);
        assert_eq!(params.trained().count(), 2);
        assert_eq!(*params.scope("a").scope("b").get("bias").unwrap().shape(), [4]);
        assert!(params.scope("a").contains("weight") && !params.contains("weight"));
        assert_eq!(
            params.scope("a").get("weight").unwrap().id(),
            params.get("a.weight").unwrap().id()
        );
    }

    #[test]
    fn a_typing_mistake_is_answered() {
        let error = store().scope("a").get("wieght").unwrap_err().to_string();
        assert!(error.contains("a.wieght") && error.contains("did you mean a.weight?"), "{error}");
        assert!(!store().get("nothing_like_it").unwrap_err().to_string().contains("mean"));
        let twice = ["x", "x"].map(|n| (n.to_owned(), Tensor::zeros([1], DType::F32)));
        assert!(Params::from_tensors(twice, |_| true).is_err());
    }

    #[test]
    fn setting_reports_everything_at_once_or_sets_everything() {
        let params = store();
        let named = |name: &str, n| (name.to_owned(), Tensor::ones([n], DType::F32));
        let error =
            params.set([named("a.weight", 5), named("a.b.bia", 4)]).unwrap_err().to_string();
        for part in [
            "a.weight is [2] f32, not [5]",
            "a.b.bias is missing (there is a.b.bia)",
            "a.b.bia is no",
        ] {
            assert!(error.contains(part), "{error}");
        }
        params.set([named("a.weight", 2), named("a.b.bias", 4)]).unwrap();
        assert_eq!(params.get("a.weight").unwrap().value().to_f64_vec(), [1.0, 1.0]);
        assert_eq!(params.tensors()[1].1.to_f64_vec(), [0.0; 3]);
    }
}
