//! `ddit inspect`: what is in a model's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ddit::embedded;
use ddit::identify::{Found, Kind, identify};
use ddit::train::setup::MODEL;
use serde_json::{Value, json};
use tensor::io::safetensors::{Described, SafeTensors};

use super::Outcome;
use super::output::Output;

/// Tell what is in a model's files: tensors, modules, and which model it is
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .safetensors file, an index of shards, a component's folder, or a whole pipeline's
    /// [default: the shapes model inside this program]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Leave the list of tensors out
    #[arg(long)]
    summary: bool,
}

/// A set of tensors: a file, or a component of a pipeline.
struct Part {
    /// The component's name; empty for a file on its own.
    name: String,
    tensors: SafeTensors,
    /// What `config.json` beside the tensors says, or null.
    config: Value,
}

/// Tensors, numbers in them, and bytes.
#[derive(Clone, Copy, Default)]
struct Count {
    tensors: usize,
    numbers: usize,
    bytes: usize,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let parts = match &args.path {
        Some(path) => parts(path)?,
        None => embedded_parts()?,
    };
    let mut total = Count::default();
    for part in &parts {
        total.add(part.print(args.summary, output)?);
    }
    if parts.len() > 1 {
        output.text(format_args!("all together: {total}"))?;
    }
    if args.path.is_none() {
        output.text(format_args!("\n{}", embedded::PROVENANCE.trim_end()))?;
    }
    Ok(Outcome::Done)
}

/// The tensors at `path`, or in the components below it.
fn parts(path: &Path) -> Result<Vec<Part>> {
    if !path.exists() {
        bail!("{} does not exist\n  name a .safetensors file or a model's folder", path.display());
    }
    // A training run holds its finished model in a folder of its own.
    let within = [path.to_owned(), path.join(MODEL)];
    let Some(folder) = within.iter().find(|folder| folder.join("model_index.json").is_file())
    else {
        return Ok(vec![Part::open("", path)?]);
    };
    let index = read_json(&folder.join("model_index.json"))?;
    let components = index.as_object().into_iter().flat_map(|index| index.keys());
    // Samplers, tokenizers and absent components have no tensors.
    let folders = components.filter(|name| holds_tensors(&folder.join(name)));
    let parts = folders.map(|name| Part::open(name, &folder.join(name)));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    if parts.is_empty() {
        bail!("{}: no component of this pipeline has tensors", folder.display());
    }
    Ok(parts)
}

/// The components of the model inside this program.
fn embedded_parts() -> Result<Vec<Part>> {
    let file = |path: String| embedded::FILES.iter().find(|(name, _)| *name == path);
    let mut parts = Vec::new();
    for (name, bytes) in &embedded::FILES {
        let Some((component, file_name)) = name.split_once('/') else { continue };
        if !file_name.ends_with(".safetensors") {
            continue;
        }
        let config = file(format!("{component}/config.json"));
        let config = config.map_or(Ok(Value::Null), |(_, json)| serde_json::from_slice(json))?;
        let tensors = SafeTensors::from_bytes(bytes)?;
        parts.push(Part { name: component.to_owned(), tensors, config });
    }
    Ok(parts)
}

fn holds_tensors(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| path.extension().is_some_and(|e| e == "safetensors"))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

impl Part {
    fn open(name: &str, path: &Path) -> Result<Self> {
        let tensors = SafeTensors::open(path)?;
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let config = folder.join("config.json");
        let config = if config.is_file() { read_json(&config)? } else { Value::Null };
        Ok(Self { name: name.to_owned(), tensors, config })
    }

    /// Prints tensors, modules and the whole.
    fn print(&self, summary: bool, output: &Output) -> Result<Count> {
        let mut modules: BTreeMap<&str, Count> = BTreeMap::new();
        let mut total = Count::default();
        let width = self.tensors.names().map(str::len).max().unwrap_or(0);
        for name in self.tensors.names() {
            let Described { dtype, shape, bytes } = self.tensors.describe(name)?;
            // Of types that are not ours nobody compared shape and bytes.
            let numbers = shape.iter().fold(1_usize, |n, &length| n.saturating_mul(length));
            let count = Count { tensors: 1, numbers, bytes };
            modules.entry(module(name)).or_default().add(count);
            total.add(count);
            if summary {
                continue;
            }
            let object = || {
                json!({
                    "part": self.name, "tensor": name, "dtype": dtype, "shape": shape,
                    "bytes": bytes,
                })
            };
            let row = format!("{name:<width$}  {dtype:<4}  {:>9}  {shape:?}", size(bytes));
            output.result(object, row)?;
        }
        if !summary {
            output.text("")?;
        }
        self.print_modules(&modules, total, output)?;
        Ok(total)
    }

    fn print_modules(
        &self,
        modules: &BTreeMap<&str, Count>,
        total: Count,
        output: &Output,
    ) -> Result<()> {
        let width = modules.keys().map(|name| name.len()).max().unwrap_or(0);
        for (name, count) in modules {
            output.text(format_args!("{name:<width$}  {count}"))?;
        }
        let found = identify(&self.tensors, &self.config);
        let models: Vec<String> = found.iter().map(describe).collect();
        let modules: serde_json::Map<String, Value> = modules
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count.numbers)))
            .collect();
        let account = |found: &Found| {
            json!({
                "model": found.kind.name(), "tensors": found.tensors,
                "whole": found.misfit.is_none(),
            })
        };
        let object = || {
            json!({
                "part": self.name, "model": models.join("; "), "tensors": total.tensors,
                "parameters": total.numbers, "bytes": total.bytes, "modules": modules,
                "account": found.iter().map(account).collect::<Vec<_>>(),
                "metadata": self.tensors.metadata(),
            })
        };
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        let lines = found
            .iter()
            .zip(&models)
            .map(|(found, model)| format!("{name}{model}\n  {}", accounted(found)));
        let lines = lines.collect::<Vec<_>>().join("\n");
        output.result(object, format_args!("{lines}\n{total}\n"))
    }
}

/// Whether a model's tensors are all there, and no others.
fn accounted(found: &Found) -> String {
    let tensors = found.tensors;
    match (&found.misfit, found.kind) {
        (Some(misfit), _) => misfit.to_string().replace('\n', "\n  "),
        (None, Kind::Unknown | Kind::Clip | Kind::Optimizer) => {
            format!("{tensors} tensors, of which this program makes no use")
        }
        (None, _) => format!("all {tensors} tensors are accounted for, and none is missing"),
    }
}

/// The module a tensor belongs to: what its name begins with.
fn module(name: &str) -> &str {
    name.split_once('.').map_or(name, |(module, _)| module)
}

/// Which model it is, with its geometry.
fn describe(found: &Found) -> String {
    let mut text = found.kind.name().to_owned();
    /// Keys of configurations worth telling, and what they are.
    const KEYS: [(&str, &str); 12] = [
        ("num_layers", "blocks"),
        ("num_attention_heads", "heads"),
        ("attention_head_dim", "head width"),
        ("num_heads", "heads"),
        ("d_model", "width"),
        ("patch_size", "patch"),
        ("in_channels", "channels in"),
        ("block_out_channels", "widths"),
        ("latent_channels", "latent channels"),
        ("vocab_size", "words"),
        ("max_text_length", "text tokens"),
        ("sample_size", "sample size"),
    ];
    for (key, what) in KEYS {
        match &found.config[key] {
            Value::Null => {}
            value => text += &format!(", {what} {value}"),
        }
    }
    text
}

impl Count {
    fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.numbers = self.numbers.saturating_add(other.numbers);
        self.bytes += other.bytes;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensors, numbers, bytes } = *self;
        write!(f, "{tensors:>5} tensors  {numbers:>13} numbers  {:>9}", size(bytes))
    }
}

/// Bytes for people: `24.9 MB`.
fn size(bytes: usize) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let sizes = [0, 999, 1000, 24_900_000, 999_960, 4_200_000_000_000_000].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "24.9 MB", "1.0 MB", "4200.0 TB"]);
    }

    #[test]
    fn models_are_told_by_names_and_configuration() {
        let config = json!({ "num_layers": 6, "vocab_size": 46, "qk_norm": null });
        let kind = Kind::of(|name| name == "text_proj_out.weight");
        let found = Found { kind, config, tensors: 1, misfit: None };
        assert_eq!(describe(&found), "dual diffusion transformer, blocks 6, words 46");
        assert_eq!(Kind::of(|_| false).name(), "no model that this program knows");
        assert_eq!((module("a.b.c"), module("bias")), ("a", "bias"));
    }
}
