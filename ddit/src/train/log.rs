//! The run's log: JSON, one object a line, every few steps.
//!
//! ```text
//! {"step":10,"loss":1.31,"image_loss":0.98,"text_loss":1.66,
//!  "image_loss_by_noise":[1.4,0.9,0.8,1.1],"image_count_by_noise":[85,231,240,84],
//!  "text_loss_by_noise":[0.6,1.2,1.9,2.9],"text_count_by_noise":[160,160,160,160],
//!  "lr":1e-4,"grad_norm":0.7,"clipped":0.0,"seconds":4.1,"pairs":1280,"text_tokens":10240,
//!  "pairs_per_s":312.2,"gflops":92.4,"left_s":1841}
//! ```
//!
//! Losses and norms are means over the steps since the last line, `clipped` is the share of them
//! whose gradient was scaled down. `.._by_noise` are the same losses apart by the level of noise
//! that the samples had, σ of a picture and t of a text (the share of its tokens that is masked):
//! means over the samples in \[0, ¼), \[¼, ½), \[½, ¾) and \[¾, 1\], `null` where there were none,
//! and how many there were. All of them together have the loss as their mean.
//!
//! Seconds are time spent in steps, over all resumptions; pairs and tokens are counts since the
//! start. Then the speed since the last line, in pairs and in 10⁹ floating-point operations a
//! second, those of products and attentions that were really done, and the seconds left at that
//! speed. Nothing but seconds and speed ([`TIMES`]) differs between two runs of the same settings.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tensor::{DType, Error, Result, Tensor};

use super::checkpoint::Named;
use crate::objective::{ByNoise, QUARTERS};

/// The keys of a line whose values depend on the machine.
pub const TIMES: [&str; 4] = ["seconds", "pairs_per_s", "gflops", "left_s"];

/// The log's name in a run's folder.
pub const FILE: &str = "log.jsonl";

/// The names under which a checkpoint keeps the open window.
const SUMS: &str = "log.window";
const SUMS_BY_NOISE: &str = "log.window.by_noise";

/// The log file, open at its end.
pub struct Log {
    file: File,
    path: PathBuf,
}

/// The line of the scores of a step.
pub fn scored(step: u64, scores: &[(String, f64)]) -> Map<String, Value> {
    let scores = scores.iter().map(|(name, score)| (name.clone(), json!(score)));
    let scores = Value::Object(scores.collect());
    [("step".to_owned(), json!(step)), ("scores".to_owned(), scores)].into_iter().collect()
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The steps done so far, this one included.
    pub step: u64,
    /// Losses by name, the minimised one first, as `loss`.
    pub losses: Vec<(&'static str, f64)>,
    /// Losses of pictures and of texts by noise level, where there is any.
    pub by_noise: Vec<(&'static str, ByNoise)>,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Whether the gradient was scaled down.
    pub clipped: bool,
    /// Pictures and texts in it.
    pub pairs: u64,
    /// Floating-point operations that were [executed](kernels::count) for it.
    pub flops: u64,
    /// The line of the log that ends with this step, if one does.
    pub line: Option<Map<String, Value>>,
}

impl Log {
    /// The log at `path`, cut down to its first `length` bytes: what a checkpoint knows of it.
    ///
    /// Errors: the operating system's.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let open = || {
            let mut file =
                OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            if file.metadata()?.len() > length {
                file.set_len(length)?;
            }
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    /// Appends an object as a line, in one write: a kill leaves whole lines or, at the end, none.
    ///
    /// Errors: the operating system's.
    pub fn write(&mut self, line: &Map<String, Value>) -> Result<()> {
        let line = serde_json::to_string(line).expect("a map of JSON values can be written") + "\n";
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Brings what was written to disk; the length of the file.
    ///
    /// Errors: the operating system's.
    pub fn sync(&mut self) -> Result<u64> {
        let sync = |file: &mut File| {
            file.sync_data()?;
            file.stream_position()
        };
        sync(&mut self.file).map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Sums over the steps since the last line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    steps: u64,
    losses: Vec<f64>,
    by_noise: Vec<ByNoise>,
    grad_norm: f64,
    clipped: f64,
}

impl Window {
    /// Adds a step.
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.by_noise.resize(report.by_noise.len(), ByNoise::default());
        for (sum, (_, losses)) in self.by_noise.iter_mut().zip(&report.by_noise) {
            sum.add(losses);
        }
        self.losses.resize(report.losses.len(), 0.0);
        for (sum, (_, loss)) in self.losses.iter_mut().zip(&report.losses) {
            *sum += loss;
        }
        self.grad_norm += report.grad_norm;
        self.clipped += f64::from(u8::from(report.clipped));
    }

    /// The line that ends the window with its last step, and an empty window.
    pub fn finish(&mut self, last: &StepReport) -> Map<String, Value> {
        let Self { steps, losses, by_noise, grad_norm, clipped } = std::mem::take(self);
        let mean = |sum: f64| json!(sum / steps as f64);
        let mut line = Map::from_iter([("step".to_owned(), json!(last.step))]);
        for ((name, _), sum) in last.losses.iter().zip(losses) {
            line.insert((*name).to_owned(), mean(sum));
        }
        for ((name, _), sums) in last.by_noise.iter().zip(by_noise) {
            line.insert(format!("{name}_loss_by_noise"), json!(sums.means()));
            line.insert(format!("{name}_count_by_noise"), json!(sums.counts));
        }
        line.insert("lr".to_owned(), json!(last.learning_rate));
        line.insert("grad_norm".to_owned(), mean(grad_norm));
        line.insert("clipped".to_owned(), mean(clipped));
        line
    }

    /// The sums to the last bit, for a checkpoint.
    pub fn to_tensors(&self) -> Named {
        let mut sums = vec![self.steps as f64, self.grad_norm, self.clipped];
        sums.extend(&self.losses);
        let each = |quarters: &ByNoise| [quarters.sums, quarters.counts.map(|n| n as f64)].concat();
        let by_noise: Vec<f64> = self.by_noise.iter().flat_map(each).collect();
        let tensor = |values: Vec<f64>| {
            Tensor::build([values.len()], |y: &mut [f64]| y.copy_from_slice(&values))
        };
        let mut tensors = vec![(SUMS.to_owned(), tensor(sums))];
        if !by_noise.is_empty() {
            tensors.push((SUMS_BY_NOISE.to_owned(), tensor(by_noise)));
        }
        tensors
    }

    /// The window that [`to_tensors`](Self::to_tensors) was made of, among other tensors; an empty
    /// one if it is not there.
    pub fn from_tensors(tensors: &[(String, Tensor)]) -> Self {
        let values = |wanted: &str| {
            let found = tensors.iter().find(|(name, _)| name == wanted);
            found.map_or(Vec::new(), |(_, tensor)| tensor.to_dtype(DType::F64).to_f64_vec())
        };
        let sums = values(SUMS);
        let [steps, grad_norm, clipped, ref losses @ ..] = sums[..] else {
            return Self::default();
        };
        let quarters = |values: &[f64]| {
            let (sums, counts) = values.split_at(QUARTERS);
            ByNoise {
                sums: std::array::from_fn(|i| sums[i]),
                counts: std::array::from_fn(|i| counts[i] as u64),
            }
        };
        let by_noise = values(SUMS_BY_NOISE).chunks_exact(2 * QUARTERS).map(quarters).collect();
        Self { steps: steps as u64, losses: losses.to_vec(), by_noise, grad_norm, clipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64, loss: f64) -> StepReport {
        StepReport {
            step,
            losses: vec![("loss", loss), ("text_loss", 2.0 * loss)],
            by_noise: vec![("text", ByNoise { sums: [loss, 0.0, 0.0, 1.0], counts: [2, 1, 0, 1] })],
            learning_rate: 0.5,
            grad_norm: 3.0 * loss,
            clipped: step == 2,
            pairs: 4,
            flops: 9,
            line: None,
        }
    }

    #[test]
    fn a_line_is_the_mean_of_its_steps() {
        let mut window = Window::default();
        window.add(&report(1, 0.1));
        let mut resumed = Window::from_tensors(&window.to_tensors());
        assert_eq!(resumed, window);
        resumed.add(&report(2, 0.3));
        let line = Value::Object(resumed.finish(&report(2, 0.3)));
        let expected = json!({
            "step": 2, "loss": 0.2, "text_loss": 0.4,
            "text_loss_by_noise": [0.1, 0.0, null, 1.0], "text_count_by_noise": [4, 2, 0, 2],
            "lr": 0.5,
            "grad_norm": (3.0 * 0.1 + 3.0 * 0.3) / 2.0, "clipped": 0.5,
        });
        assert_eq!(line, expected);
        assert_eq!(resumed, Window::default());
    }

    #[test]
    fn a_reopened_log_forgets_what_came_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let line = |n: u64| Map::from_iter([("step".to_owned(), json!(n))]);
        let mut log = Log::open(&path, 0).unwrap();
        log.write(&line(1)).unwrap();
        let length = log.sync().unwrap();
        log.write(&line(2)).unwrap();
        let mut log = Log::open(&path, length).unwrap();
        log.write(&line(3)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n");
    }
}
