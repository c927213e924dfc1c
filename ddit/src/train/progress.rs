//! Progress on a terminal, or as plain lines where there is none.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::config::Task;
use super::log::StepReport;
use super::watch::Event;

/// How often a plain line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Share of the newest step in the smoothed losses and times.
const NEWEST: f64 = 0.05;

/// Shows a run on standard error: a bar on a terminal, otherwise a line every half minute.
pub struct Progress {
    bar: ProgressBar,
    last_line: Instant,
    last_step: Option<Instant>,
    step_seconds: Option<f64>,
    losses: Vec<(&'static str, f64)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Progress on standard error.
    pub fn new() -> Self {
        let bar = ProgressBar::hidden();
        if io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        Self {
            bar,
            last_line: Instant::now(),
            last_step: None,
            step_seconds: None,
            losses: Vec::new(),
        }
    }

    /// Shows an event.
    pub fn observe(&mut self, event: Event) {
        match event {
            Event::Begin { task, done, steps } => self.begin(task, done, steps),
            Event::Read { done, total } => self.pictures("reading", "read", done, total),
            Event::Encoded { done, total } => self.pictures("encoding", "encoded", done, total),
            Event::Measured { done, total } => self.pictures("measuring", "measured", done, total),
            Event::Step(report) => {
                let seconds = self.last_step.replace(Instant::now()).map(|at| at.elapsed());
                if let Some(seconds) = seconds {
                    smooth(self.step_seconds.get_or_insert(seconds.as_secs_f64()), seconds);
                }
                self.smooth_losses(&report.losses);
                let text = self.describe(report);
                self.bar.set_position(report.step);
                self.bar.set_message(text);
                self.plain_line(report.step);
            }
            Event::Unrecorded(why) => {
                self.say(format!("warning: steps are asked for kernel by kernel, slower: {why}"));
            }
            Event::Wrote(path) => {
                self.say(format!("wrote {}", path.display()));
                // Writing and sampling are not part of a step.
                self.last_step = Some(Instant::now());
            }
            Event::NotDrawn(error) => self.say(format!("warning: no curves: {error}")),
            Event::Moved { from, to } => self.say(format!(
                "warning: the steps before were made with {from}, those from here on with {to}: \
                 their rounding is another"
            )),
            Event::Cut { captions, of, length } => self.say(format!(
                "warning: {captions} of {of} captions are longer than {length} tokens; \
                 what is behind them is not learnt"
            )),
            Event::Scored { scores, .. } => {
                let scores: Vec<String> =
                    scores.iter().map(|(name, score)| format!("{name} {score:.3}")).collect();
                self.say(scores.join("  "));
                self.last_step = Some(Instant::now());
            }
        }
    }

    /// Pictures before the first step or after the last: what is done to them, and has been.
    fn pictures(&mut self, doing: &str, have: &str, done: usize, total: usize) {
        self.bar
            .set_style(style(&format!("{doing} {{pos}}/{{len}} pictures {{wide_bar}} {{eta}}")));
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && done == total {
            tell(format_args!("{have} {total} pictures"));
        }
    }

    fn begin(&mut self, task: Task, done: u64, steps: u64) {
        let what = match task {
            Task::Vae => "autoencoder",
            Task::Dual => "transformer",
        };
        let from = if done > 0 { format!(" from step {done}") } else { String::new() };
        self.say(format!("training the {what}, {steps} steps{from}"));
        self.bar.reset();
        self.bar.set_style(style("{pos}/{len} {bar:20} {msg} left {eta}"));
        self.bar.set_length(steps);
        self.bar.set_position(done);
        self.bar.reset_eta();
        (self.step_seconds, self.losses) = (None, Vec::new());
        self.last_step = Some(Instant::now());
    }

    fn smooth_losses(&mut self, newest: &[(&'static str, f64)]) {
        if self.losses.len() != newest.len() {
            self.losses = newest.to_vec();
        }
        for ((_, smoothed), (_, loss)) in self.losses.iter_mut().zip(newest) {
            *smoothed += NEWEST * (loss - *smoothed);
        }
    }

    /// `loss 0.512 image 0.410 ... lr 1.0e-3 norm 0.8 310 pairs/s 92 GFLOP/s`
    fn describe(&self, report: &StepReport) -> String {
        let losses = self.losses.iter().map(|(name, loss)| format!("{name} {loss:.4} "));
        let mut text: String = losses.collect();
        text += &format!("lr {:.1e} norm {:.2}", report.learning_rate, report.grad_norm);
        if let Some(seconds) = self.step_seconds {
            let (pairs, flops) = (report.pairs as f64, report.flops as f64);
            let (pairs, gflops) = (pairs / seconds, flops / seconds / 1e9);
            text += &format!(" {pairs:.0} pairs/s {gflops:.0} GFLOP/s");
        }
        text
    }

    fn plain_line(&mut self, step: u64) {
        let steps = self.bar.length().unwrap_or(step);
        let is_last = step == steps;
        if self.bar.is_hidden() && (is_last || self.last_line.elapsed() > LINE_EVERY) {
            self.last_line = Instant::now();
            let left = (steps - step) as f64 * self.step_seconds.unwrap_or(0.0);
            tell(format_args!("{step}/{steps} {} left {left:.0}s", self.bar.message()));
        }
    }

    /// A line above the bar.
    fn say(&self, line: String) {
        if self.bar.is_hidden() {
            tell(line);
        } else {
            self.bar.println(line);
        }
    }
}

/// A line on standard error. Nobody may be reading it any more, and training goes on.
fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn smooth(smoothed: &mut f64, newest: Duration) {
    *smoothed += NEWEST * (newest.as_secs_f64() - *smoothed);
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of those above")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
