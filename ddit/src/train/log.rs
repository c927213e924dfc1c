//! The run's log: JSON, one object a line, every few steps.
//!
//! ```text
//! {"step":10,"loss":1.31,"image_loss":0.98,"text_loss":1.66,"lr":1e-4,"grad_norm":0.7,
//!  "clipped":0.0,"seconds":4.1,"pairs":1280,"text_tokens":10240,
//!  "pairs_per_s":312.2,"gflops":92.4,"left_s":1841}
//! ```
//!
//! Losses and norms are means over the steps since the last line, `clipped` is the share of them
//! whose gradient was scaled down. Seconds are time spent in steps, over all resumptions; pairs
//! and tokens are counts since the start. Then the speed since the last line, in pairs and in 10⁹
//! floating-point operations a second, those of products and attentions that were really done, and
//! the seconds left at that speed. Nothing but seconds and speed ([`TIMES`]) differs between two
//! runs of the same settings.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tensor::{DType, Error, Result, Tensor};

/// The keys of a line whose values depend on the machine.
pub const TIMES: [&str; 4] = ["seconds", "pairs_per_s", "gflops", "left_s"];

/// The log file, open at its end.
pub struct Log {
    file: File,
    path: PathBuf,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The steps done so far, this one included.
    pub step: u64,
    /// Losses by name, the minimised one first, as `loss`.
    pub losses: Vec<(&'static str, f64)>,
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
    grad_norm: f64,
    clipped: f64,
}

impl Window {
    /// Adds a step.
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.losses.resize(report.losses.len(), 0.0);
        for (sum, (_, loss)) in self.losses.iter_mut().zip(&report.losses) {
            *sum += loss;
        }
        self.grad_norm += report.grad_norm;
        self.clipped += f64::from(u8::from(report.clipped));
    }

    /// The line that ends the window with its last step, and an empty window.
    pub fn finish(&mut self, last: &StepReport) -> Map<String, Value> {
        let Self { steps, losses, grad_norm, clipped } = std::mem::take(self);
        let mean = |sum: f64| json!(sum / steps as f64);
        let mut line = Map::from_iter([("step".to_owned(), json!(last.step))]);
        for ((name, _), sum) in last.losses.iter().zip(losses) {
            line.insert((*name).to_owned(), mean(sum));
        }
        line.insert("lr".to_owned(), json!(last.learning_rate));
        line.insert("grad_norm".to_owned(), mean(grad_norm));
        line.insert("clipped".to_owned(), mean(clipped));
        line
    }

    /// The sums to the last bit, for a checkpoint.
    pub fn to_tensor(&self) -> Tensor {
        let mut values = vec![self.steps as f64, self.grad_norm, self.clipped];
        values.extend(&self.losses);
        Tensor::build([values.len()], |y: &mut [f64]| y.copy_from_slice(&values))
    }

    /// The window that [`to_tensor`](Self::to_tensor) was made of.
    pub fn from_tensor(tensor: &Tensor) -> Self {
        match tensor.to_dtype(DType::F64).to_f64_vec()[..] {
            [steps, grad_norm, clipped, ref losses @ ..] => {
                Self { steps: steps as u64, losses: losses.to_vec(), grad_norm, clipped }
            }
            _ => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64, loss: f64) -> StepReport {
        StepReport {
            step,
            losses: vec![("loss", loss), ("text_loss", 2.0 * loss)],
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
        let mut resumed = Window::from_tensor(&window.to_tensor());
        assert_eq!(resumed, window);
        resumed.add(&report(2, 0.3));
        let line = Value::Object(resumed.finish(&report(2, 0.3)));
        let expected = json!({
            "step": 2, "loss": 0.2, "text_loss": 0.4, "lr": 0.5,
            "grad_norm": (3.0 * 0.1 + 3.0 * 0.3) / 2.0, "clipped": 0.5,
        });
        assert_eq!(line, expected);
        assert_eq!(resumed, Window::default());
    }

    #[test]
    fn a_reopened_log_forgets_what_came_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
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
