//! A run's log to look at: its losses, scores and learning rate as curves, `OUT/curves.svg`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tensor::{Error, Result};

use super::log;
use crate::objective::QUARTERS;
use crate::plot::{Plot, sheet};

/// Points of a curve at most: means of more than fit beside each other.
const POINTS: usize = 200;

/// Share of the steps, the last ones, that [`Curves::by_noise`] is of.
const LAST: f64 = 0.1;

/// Losses that a log may have, by their keys, and what they are.
const LOSSES: [(&str, &str); 5] = [
    ("image_loss", "image loss"),
    ("text_loss", "text loss"),
    ("absolute_error", "absolute error"),
    ("squared_error", "squared error"),
    ("divergence", "divergence of latents"),
];

/// Names and colours of the quarters of the noise level.
const NOISE: [(&str, &str); QUARTERS] = [
    ("noise 0 to ¼", "#fdd0a2"),
    ("¼ to ½", "#fdae6b"),
    ("½ to ¾", "#f16913"),
    ("¾ to 1", "#a63603"),
];

/// Colours of other curves.
const COLOURS: [&str; 7] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"];

/// Step and value.
type Points = Vec<[f64; 2]>;

/// The numbers of a log over the steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// By key; of what is a list or an object by key and place: `scores.geneval`,
    /// `image_loss_by_noise.0`.
    curves: BTreeMap<String, Points>,
}

impl Curves {
    /// What the log of the run in a folder holds.
    ///
    /// Errors: the operating system's.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join(log::FILE);
        let text = fs::read_to_string(&path).map_err(|error| Error::io("open", &path, error))?;
        let mut curves = Self::default();
        // A line that was being written when the machine went down is none.
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            curves.add_line(&line);
        }
        Ok(curves)
    }

    fn add_line(&mut self, line: &Map<String, Value>) {
        if let Some(step) = line.get("step").and_then(Value::as_f64) {
            line.iter().for_each(|(key, value)| self.add(key, step, value));
        }
    }

    fn add(&mut self, key: &str, step: f64, value: &Value) {
        match value {
            Value::Number(number) => {
                let point = [step, number.as_f64().unwrap_or(f64::NAN)];
                self.curves.entry(key.to_owned()).or_default().push(point);
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(i, item)| self.add(&format!("{key}.{i}"), step, item));
            }
            Value::Object(items) => {
                let items = items.iter();
                items.for_each(|(name, item)| self.add(&format!("{key}.{name}"), step, item));
            }
            _ => {}
        }
    }

    fn curve(&self, key: &str) -> &[[f64; 2]] {
        self.curves.get(key).map_or(&[], Vec::as_slice)
    }

    /// The last step of the log.
    fn last_step(&self) -> f64 {
        self.curve("step").last().map_or(0.0, |[step, _]| *step)
    }

    /// The losses `image` and `text`, as far as the log has them, in the quarters of the noise
    /// level: means over the samples of the last tenth of the steps, `None` where there were none.
    pub fn by_noise(&self) -> Vec<(&'static str, [Option<f64>; QUARTERS])> {
        let begin = (1.0 - LAST) * self.last_step();
        let mean = |name: &str, quarter: usize| {
            let counts = self.curve(&format!("{name}_count_by_noise.{quarter}"));
            let losses = self.curve(&format!("{name}_loss_by_noise.{quarter}"));
            let (mut sum, mut samples) = (0.0, 0.0);
            for [step, loss] in losses.iter().filter(|[step, _]| *step > begin) {
                let place = counts.binary_search_by(|[counted, _]| counted.total_cmp(step));
                let count = place.map_or(0.0, |place| counts[place][1]);
                (sum, samples) = (sum + count * loss, samples + count);
            }
            (samples > 0.0).then(|| sum / samples)
        };
        let of = |name| (name, std::array::from_fn(|quarter| mean(name, quarter)));
        let found = ["image", "text"].map(of).into_iter();
        found.filter(|(_, means)| means.iter().any(Option::is_some)).collect()
    }

    /// The curves as a picture: each loss, with its quarters of the noise level; the scores, the
    /// learning rate and the gradient's norm.
    pub fn to_svg(&self) -> String {
        let losses = LOSSES.iter().filter_map(|(key, title)| self.loss(key, title));
        let others = [self.scores(), self.learning_rate(), self.norm()];
        sheet(losses.chain(others.into_iter().flatten()).collect(), 2)
    }

    /// One loss, if the log has it.
    fn loss(&self, key: &str, title: &str) -> Option<Plot> {
        let all = positive(self.curve(key))?;
        let quarter = |i: usize| positive(self.curve(&format!("{key}_by_noise.{i}")));
        let quarters: [Option<Points>; QUARTERS] = std::array::from_fn(quarter);
        let values = quarters.iter().flatten().chain([&all]).flatten().map(|[_, value]| *value);
        let mut plot =
            Plot::logarithmic(title, ["step", ""], [0.0, self.last_step()], around(values));
        for ((name, colour), points) in NOISE.into_iter().zip(&quarters) {
            if let Some(points) = points {
                plot = plot.line(colour, name, points);
            }
        }
        let name = if quarters.iter().any(Option::is_some) { "all" } else { "" };
        Some(plot.line(COLOURS[0], name, &all))
    }

    /// All scores, which are shares.
    fn scores(&self) -> Option<Plot> {
        let curves = self.curves.iter();
        let scores =
            curves.filter_map(|(key, scores)| Some((key.strip_prefix("scores.")?, scores)));
        let mut scores = scores.zip(COLOURS.iter().cycle()).peekable();
        scores.peek()?;
        let plot = Plot::new("scores", ["step", ""], [0.0, self.last_step()], [0.0, 1.0]);
        let draw = |plot: Plot, ((name, scores), colour): ((&str, &Points), &&str)| {
            plot.line(colour, name, scores).dots(colour, "", scores)
        };
        Some(scores.fold(plot.labels_at_foot(), draw))
    }

    fn learning_rate(&self) -> Option<Plot> {
        let rates = thin(self.curve("lr"));
        let highest = rates.iter().map(|[_, rate]| *rate).fold(0.0, f64::max);
        let steps = [0.0, self.last_step()];
        let plot = || Plot::new("learning rate", ["step", ""], steps, [0.0, highest]);
        (highest > 0.0).then(|| plot().line(COLOURS[0], "", &rates))
    }

    fn norm(&self) -> Option<Plot> {
        let norms = positive(self.curve("grad_norm"))?;
        let (steps, range) = ([0.0, self.last_step()], around(norms.iter().map(|[_, norm]| *norm)));
        let plot = Plot::logarithmic("norm of the gradient", ["step", ""], steps, range);
        Some(plot.line(COLOURS[0], "", &norms))
    }
}

/// Thinned points of positive values, if there are any.
fn positive(points: &[[f64; 2]]) -> Option<Points> {
    let positive: Points = points.iter().filter(|[_, value]| *value > 0.0).copied().collect();
    (!positive.is_empty()).then(|| thin(&positive))
}

/// No more than [`POINTS`] points: means of neighbours.
fn thin(points: &[[f64; 2]]) -> Points {
    let mean = |run: &[[f64; 2]]| {
        let sum = |i: usize| run.iter().map(|point| point[i]).sum::<f64>();
        [0, 1].map(|i| sum(i) / run.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// A range with some room around positive values.
fn around(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let [low, high] =
        values.fold([f64::INFINITY, 0.0], |[low, high], value| [value.min(low), value.max(high)]);
    [low / 1.1, high * 1.1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn curves(lines: &[Value]) -> Curves {
        let folder = tempfile::tempdir().unwrap();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // As a kill may leave it.
        fs::write(folder.path().join(log::FILE), text + "{\"step\":").unwrap();
        Curves::read(folder.path()).unwrap()
    }

    fn line(step: u64, loss: f64) -> Value {
        json!({
            "step": step, "loss": loss, "image_loss": loss, "text_loss": 2.0 * loss,
            "image_loss_by_noise": [loss, null, 1.0, 3.0], "image_count_by_noise": [step, 0, 1, 1],
            "lr": 1e-3, "grad_norm": 0.5,
        })
    }

    #[test]
    fn means_by_noise_are_of_the_samples_of_the_last_steps() {
        let curves = curves(&[line(1, 9.0), line(90, 9.0), line(91, 1.0), line(100, 2.0)]);
        let first = (91.0 * 1.0 + 100.0 * 2.0) / 191.0;
        assert_eq!(curves.by_noise(), [("image", [Some(first), None, Some(1.0), Some(3.0)])]);
        assert!(super::Curves::default().by_noise().is_empty());
    }

    #[test]
    fn every_curve_of_a_log_is_drawn_once() {
        let scores = json!({ "step": 2, "scores": { "geneval": 0.5, "caption": 0.25 } });
        let svg = curves(&[line(1, 4.0), line(2, 1.0), scores]).to_svg();
        for title in ["image loss", "text loss", "scores", "learning rate", "norm of the gradient"]
        {
            assert_eq!(svg.matches(&format!(">{title}</text>")).count(), 1, "{title}");
        }
        for absent in ["absolute error", "NaN", "inf", "¼ to ½"] {
            assert!(!svg.contains(absent), "{absent}");
        }
        // Image loss and its three quarters, text loss, two scores, rate and norm.
        assert_eq!(svg.matches("<polyline").count(), 4 + 1 + 2 + 1 + 1);
        assert_eq!(svg.matches("<circle").count(), 2);
        // The image loss falls from 4 to 1 and its axis has room for 3 times 4 / 1.1 ... 1 / 1.1.
        assert!(svg.contains(">4.4</text>") && svg.contains(">0.91</text>"), "{svg}");
    }

    #[test]
    fn long_curves_are_thinned_and_nothing_is_drawn_of_nothing() {
        let points: Points = (0..1000).map(|i| [f64::from(i), 1.0]).collect();
        let thinned = thin(&points);
        assert_eq!((thinned.len(), thinned[0]), (200, [2.0, 1.0]));
        assert!(thin(&[]).is_empty());
        assert!(!Curves::default().to_svg().contains("polyline"));
        // Text losses are 0 where nothing was masked, and an axis of factors has no 0.
        assert_eq!(positive(&[[1.0, 0.0]]), None);
    }
}
