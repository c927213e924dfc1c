//! Where results, notes and progress go.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Standard output for results, standard error for everything else.
pub struct Output {
    json: bool,
}

/// Work under way, as a bar on a terminal; nothing is shown elsewhere.
pub struct Progress {
    bar: ProgressBar,
}

impl Output {
    /// Results as JSON, one object a line, or as text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A result: as an object, or as text where people read it.
    ///
    /// Errors: standard output takes no more.
    pub fn result(&self, object: impl FnOnce() -> Value, text: impl Display) -> Result<()> {
        match self.json {
            true => print(object()),
            false => print(text),
        }
    }

    /// A result that has no other form than a line.
    ///
    /// Errors: standard output takes no more.
    pub fn line(&self, line: impl Display) -> Result<()> {
        print(line)
    }

    /// What only people read: headings, tables, blank lines.
    ///
    /// Errors: standard output takes no more.
    pub fn text(&self, text: impl Display) -> Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Something worth knowing that is no result.
    pub fn note(&self, text: impl Display) {
        // A closed standard error must not keep results from being made.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Something that is probably not what was meant.
    pub fn warn(&self, text: impl Display) {
        self.note(format_args!("warning: {text}"));
    }

    /// Begins to show progress of `what`.
    pub fn progress(&self, what: &str) -> Progress {
        let bar = ProgressBar::new(0);
        let style = "{msg}  {bar:30}  {percent:>3} %  {elapsed}, {eta} to go";
        let style = ProgressStyle::with_template(style).expect("the template is a constant");
        bar.set_style(style.progress_chars("━━╌"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress { bar }
    }
}

impl Progress {
    /// Says what is being worked on now.
    pub fn stage(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.reset();
    }

    /// `done` of `total` steps are done.
    ///
    /// Errors: none, as no error here ends the work.
    pub fn set(&self, done: usize, total: usize) -> tensor::Result<()> {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        Ok(())
    }

    /// Prints something while the bar stands aside.
    pub fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line on standard output. Unlike `println!` it does not panic when nobody reads it.
fn print(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
