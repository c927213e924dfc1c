//! The report as one page of Markdown.

use std::fmt::Write;

use autograd::spec::Agreement;
use kernels::ptx;
use tensor::cuda::Card;

use super::Report;
use super::times::Row;

/// The page. `commit` is what the program was built from, `driver` what the operating system says of
/// the driver, if it does.
pub fn page(report: &Report, commit: &str, driver: Option<&str>) -> String {
    let mut page = "# GPU report\n\n".to_owned();
    page += &about(report.gpu.card(), commit, driver);
    if report.is_stand_in() {
        page += "\n**This is the virtual machine behind the stand-in for NVIDIA's driver. Times are those \
                 of a processor that takes kernels apart, and say nothing of any card's speed.**\n";
    }
    page += &conformance(&report.agreements);
    page += &times(&report.rows);
    page
}

fn about(card: &Card, commit: &str, driver: Option<&str>) -> String {
    let Card { name, capability: (major, minor), memory, driver: (cuda, point) } = card;
    let gib = *memory as f64 / (1u64 << 30) as f64;
    let rows = [
        ("card", format!("{name}, compute capability {major}.{minor}, {gib:.1} GiB")),
        ("driver", format!("CUDA {cuda}.{point}; {}", driver.unwrap_or("version unknown"))),
        ("kernels", format!("PTX {} for {}", ptx::VERSION, ptx::TARGET)),
        ("program", format!("ddit {}, {commit}", env!("CARGO_PKG_VERSION"))),
        ("machine", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
    ];
    let mut text = "| | |\n|---|---|\n".to_owned();
    for (name, value) in rows {
        writeln!(text, "| {name} | {} |", value.replace('|', "/")).expect("a string");
    }
    text
}

fn conformance(agreements: &[Agreement]) -> String {
    let passed = agreements.iter().filter(|agreement| agreement.wrong.is_empty()).count();
    let equal: Vec<&str> = agreements.iter().filter(|a| a.worst.equal).map(|a| a.name).collect();
    let mut text = format!(
        "\n## Conformance\n\n**{passed} of {} pass**: results and gradients of every operation, in random \
         instances in float32 and from bf16, and of attention and products in cases made for each \
         family of kernels, which were seen to be launched; all beside the CPU. Bits are equal of {}: \
         {}.\n\n| what | instances | largest difference | allowed | |\n|---|---|---|---|---|\n",
        agreements.len(),
        equal.len(),
        equal.join(", ")
    );
    for Agreement { name, cases, allowed, worst, wrong } in
        agreements.iter().filter(|a| a.allowed > 0.0 || !a.wrong.is_empty())
    {
        let verdict = if wrong.is_empty() { "passes" } else { "**FAILS**" };
        writeln!(text, "| {name} | {cases} | {:.1e} | {allowed:.0e} | {verdict} |", worst.apart)
            .expect("a string");
    }
    let wrong: Vec<&String> = agreements.iter().flat_map(|agreement| &agreement.wrong).collect();
    if !wrong.is_empty() {
        text += "\n```text\n";
        wrong.iter().for_each(|wrong| writeln!(text, "{wrong}").expect("a string"));
        text += "```\n";
    }
    text
}

fn times(rows: &[Row]) -> String {
    let mut text = "\n## Times\n\nSeconds of a run, the quickest of several batches, with what it takes \
                    to ask for it; operands take turns, so that none is still in a cache. The bound is what the card cannot beat at its published clocks: \
                    its published rates, on tensor cores the share of them that \
                    `kernels/perf/bounds.md` predicts, and memory read and written once; there is none \
                    for cards whose rates the program does not know.\n\n\
                    | what | time | TFLOP/s | GB/s | bound | reached |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for Row { what, seconds, flops, bytes, bound } in rows {
        let rate = |amount: f64, unit: f64| match amount > 0.0 {
            true => format!("{:.1}", amount / seconds / unit),
            false => "–".to_owned(),
        };
        let (flops, bytes) = (rate(*flops, 1e12), rate(*bytes, 1e9));
        let bound = match bound {
            Some(bound) => format!("{} | {:.0} %", time(*bound), 100.0 * bound / seconds),
            None => "– | –".to_owned(),
        };
        writeln!(text, "| {what} | {} | {flops} | {bytes} | {bound} |", time(*seconds))
            .expect("a string");
    }
    text
}

/// Seconds for people.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
