//! A profile for people and for Chrome's tracing page.

use std::fmt::Write;

use autograd::{Profile, ProfileEvent};
use serde_json::{Value, json};

use super::peak::Ceilings;

/// The operands' shapes in a few words.
fn shapes(shapes: &[tensor::Shape]) -> String {
    const MOST: usize = 3;
    let mut text: Vec<String> = shapes.iter().take(MOST).map(ToString::to_string).collect();
    if shapes.len() > MOST {
        text.push(format!("+{}", shapes.len() - MOST));
    }
    text.join(" ")
}

/// A table: operations by time, those that took less than a thousandth of it in one line.
pub fn table(profile: &Profile, ceilings: Ceilings) -> String {
    let all = profile.time.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut text = format!(
        "{:<22} {:<8} {:>9} {:>10} {:>6} {:>8} {:>7} {:>6}  shapes\n",
        "operation", "pass", "calls", "time", "share", "GFLOP/s", "GB/s", "roof"
    );
    let (mut calls, mut rest, mut seen) = (0, 0.0, 0.0);
    for row in &profile.rows {
        let seconds = row.time.as_secs_f64();
        seen += seconds;
        if seconds < all / 1000.0 {
            (calls, rest) = (calls + row.calls, rest + seconds);
            continue;
        }
        let rate = |amount: u64| amount as f64 / seconds / 1e9;
        let _ = writeln!(
            text,
            "{:<22} {:<8} {:>9} {:>8.4} s {:>5.1}% {:>8.1} {:>7.1} {:>5.0}%  {}",
            row.op,
            row.pass.name(),
            row.calls,
            seconds,
            100.0 * seconds / all,
            rate(row.flops),
            rate(row.bytes),
            100.0 * ceilings.share(row.flops as f64, row.bytes as f64, seconds),
            shapes(&row.shapes)
        );
    }
    for (what, calls, seconds) in
        [("others", calls.to_string(), rest), ("between operations", String::new(), all - seen)]
    {
        let share = 100.0 * seconds / all;
        let _ = writeln!(text, "{what:<31} {calls:>9} {seconds:>8.4} s {share:>5.1}%");
    }
    let _ = write!(
        text,
        "{:<31} {:>9} {all:>8.4} s         of {:.0} GFLOP/s and {:.1} GB/s",
        "all", "", ceilings.gflops, ceilings.gbs
    );
    text
}

/// The runs as Chrome's tracing page (chrome://tracing, or <https://ui.perfetto.dev>) reads them.
///
/// Format: "Trace Event Format", complete events; times in microseconds.
pub fn trace(profile: &Profile) -> Value {
    let event = |event: &ProfileEvent| {
        json!({
            "name": event.op, "cat": event.pass.name(), "ph": "X", "pid": 1, "tid": 1,
            "ts": event.begun.as_secs_f64() * 1e6, "dur": event.time.as_secs_f64() * 1e6,
            "args": { "module": event.module.as_deref(), "shapes": shapes(&event.shapes) },
        })
    };
    let mut events: Vec<&ProfileEvent> = profile.events.iter().collect();
    events.sort_by_key(|event| event.begun);
    json!({
        "displayTimeUnit": "ms",
        "traceEvents": events.into_iter().map(event).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use autograd::{Pass, ProfileRow};
    use tensor::Shape;

    use super::*;

    fn row(flops: u64, bytes: u64, time: Duration) -> ProfileRow {
        let shapes = [[4, 2], [3, 2]].map(|shape| Shape::from(&shape[..])).to_vec();
        ProfileRow { op: "linear", pass: Pass::Forward, shapes, calls: 2, time, flops, bytes }
    }

    #[test]
    fn a_table_accounts_for_all_time() {
        let second = Duration::from_secs(1);
        let little = row(0, 8, Duration::from_micros(10));
        let rows = vec![row(1_000_000_000, 8, second / 2), little];
        let profile = Profile { rows, events: Vec::new(), time: second };
        let text = table(&profile, Ceilings { gflops: 4.0, gbs: 1.0 });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        for part in ["linear", "forward", "0.5000 s", "50.0%", "2.0", "50%", "[4, 2] [3, 2]"] {
            assert!(lines[1].contains(part), "{part}: {text}");
        }
        assert!(lines[2].starts_with("others") && lines[3].contains("0.5000 s"), "{text}");
    }

    #[test]
    fn events_are_in_order_and_in_microseconds() {
        let event = |op, begun, time| ProfileEvent {
            op,
            pass: Pass::Vjp,
            module: None,
            shapes: Vec::new(),
            begun: Duration::from_millis(begun),
            time: Duration::from_millis(time),
        };
        let events = vec![event("matmul", 2, 1), event("linear", 1, 4)];
        let profile = Profile { events, ..Profile::default() };
        let trace = trace(&profile);
        let first = &trace["traceEvents"][0];
        assert_eq!((&first["name"], &first["ph"]), (&json!("linear"), &json!("X")));
        assert_eq!((&first["ts"], &first["dur"]), (&json!(1000.0), &json!(4000.0)));
    }
}
