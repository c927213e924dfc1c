//! Commands that score, check, time, train, and look into files.

use serde_json::Value;

use crate::world::{Ran, World, keys};

#[test]
fn suites_are_scored_by_kind() {
    let world = World::new();
    for (suite, kinds) in [("shapes-geneval", 6), ("shapes-caption", 4), ("shapes-vqa", 5)] {
        let base = ["eval", suite, "--model", "model", "--per-kind", "1", "--steps", "1"];
        let ran = world.run(&[&base[..], &["--json", "--out", "scores"]].concat()).succeeded();
        let lines = ran.lines();
        let seen: Vec<&Value> = lines.iter().filter(|line| line["part"] == "seen").collect();
        assert_eq!(seen.len(), kinds + 1, "{suite}");
        assert_eq!(seen[kinds]["kind"], "overall");
        for line in &lines {
            let [low, rate, high] = ["low", "rate", "high"].map(|key| line[key].as_f64().unwrap());
            assert!(low <= rate && rate <= high, "{line}");
            let is_whole = |key| line["kind"] == "overall" && suite == key;
            assert_eq!(line.get("messy").is_some(), is_whole("shapes-geneval"), "{line}");
            assert_eq!(line.get("detail").is_some(), is_whole("shapes-caption"), "{line}");
        }
        let items = std::fs::read_to_string(world.path("scores/items.jsonl")).unwrap();
        let total: u64 = lines
            .iter()
            .filter(|line| line["kind"] == "overall")
            .map(|line| line["total"].as_u64().unwrap())
            .sum();
        assert_eq!(items.lines().count() as u64, total);
        assert!(world.path("scores/wrong.png").exists(), "fresh weights get something wrong");
        let text = world.run(&base).succeeded().stdout;
        assert!(text.contains("overall") && text.contains("novel"), "{text}");
    }
}

#[test]
fn files_tell_what_they_hold() {
    let world = World::new();
    let lines = world.run(&["inspect", "model", "--json"]).succeeded().lines();
    let (whole, tensors) = lines.split_last().unwrap();
    assert_eq!(keys(&tensors[0]), ["part", "tensor", "dtype", "shape", "bytes"]);
    assert_eq!(whole["tensors"], tensors.len());
    assert!(whole["model"].as_str().unwrap().starts_with("dual diffusion transformer"));
    assert_eq!(
        (whole["account"].as_array().unwrap().len(), &whole["account"][0]["whole"]),
        (1, &true.into())
    );
    let numbers = |line: &Value| {
        let lengths = line["shape"].as_array().unwrap().iter();
        lengths.map(|length| length.as_u64().unwrap()).product::<u64>()
    };
    assert_eq!(whole["parameters"], tensors.iter().map(numbers).sum::<u64>());

    let file = "model/transformer/diffusion_pytorch_model.safetensors";
    let text = world.run(&["inspect", file, "--summary"]).succeeded().stdout;
    assert!(text.contains("transformer_blocks") && !text.contains("transformer_blocks.0"));

    // A type that this program cannot compute with is listed all the same.
    let mut bytes = std::fs::read(world.path(file)).unwrap();
    let at = bytes.windows(3).position(|word| word == b"F32").unwrap();
    bytes[at..at + 3].copy_from_slice(b"F8X");
    std::fs::write(world.path(file), bytes).unwrap();
    let text = world.run(&["inspect", file]).succeeded().stdout;
    assert!(text.contains("  F8X  ") && text.contains("F8X are not supported"), "{text}");
}

#[test]
fn operations_are_checked() {
    let world = World::new();
    let lines = world.run(&["gradcheck", "tanh", "--cases", "3", "--json"]).succeeded().lines();
    assert_eq!(
        (lines.len(), &lines[0]["op"], &lines[0]["passed"]),
        (1, &"tanh".into(), &true.into())
    );
    assert!(lines[0]["gradient_f64"].as_f64().unwrap() < 1e-6);
    let text = world.run(&["gradcheck", "tanh", "--cases", "1"]).succeeded().stdout;
    assert!(text.contains("all of 1 operations pass"), "{text}");
}

/// The keys of every line about something timed on the CPU.
const TIMED: [&str; 10] = [
    "case",
    "mode",
    "threads",
    "median_s",
    "min_s",
    "gflops",
    "gflops_done",
    "peak_gflops",
    "share_of_peak",
    "peak_rss_mb",
];

#[test]
fn speed_is_a_line_and_can_be_compared() {
    let world = World::new();
    let other = r#"echo '{"median_s": 1000}'"#;
    let base = ["bench", "forward", "--case", "nano", "--iters", "1", "--threads", "2"];
    let ran = world.run(&[&base[..], &["--vs", other, "--rounds", "2"]].concat()).succeeded();
    let line = &ran.lines()[0];
    assert_eq!(keys(line)[..TIMED.len()], TIMED);
    assert_eq!((&line["threads"], &line["mode"]), (&2.into(), &"forward".into()));
    assert_eq!(line["ratios"].as_array().unwrap().len(), 2);
    let slower = line["ratio"].as_f64().unwrap() * line["median_s"].as_f64().unwrap();
    assert!((slower / 1000.0 - 1.0).abs() < 0.5, "{line}");
    let failing = [&base[..], &["--vs", "echo nothing"]].concat();
    world.run(&failing).failed(&["median_s", "echo nothing"]);
}

#[test]
fn models_along_an_axis_are_a_line_each() {
    let world = World::new();
    let base = ["bench", "scaling", "tiny", "--iters", "1", "--threads", "1"];
    let lines = world.run(&base).succeeded().lines();
    assert_eq!(
        lines.iter().map(|line| line["batch"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    let tensors = |line: &Value| line["peak_tensors_mb"].as_u64().unwrap();
    for line in &lines {
        assert_eq!((&line["sequence"], &line["mode"]), (&8.into(), &"train".into()));
        assert!(line["median_s"].as_f64().unwrap() > 0.0 && tensors(line) > 0, "{line}");
        let resident = line["peak_rss_mb"].as_u64();
        assert!(resident.is_none_or(|all| all >= tensors(line)), "{line}");
    }
    world.run(&["bench", "scaling", "depth"]).failed(&["depth", "sequence"]);
}

#[test]
fn parts_of_a_pipeline_and_its_files_are_timed() {
    let world = World::new();
    let run = ["--iters", "1", "--threads", "1"];
    for part in ["t5", "vae"] {
        let tiny = [&["bench", part, "--case", "tiny"][..], &run].concat();
        let line = &world.run(&tiny).succeeded().lines()[0];
        assert_eq!(keys(line), TIMED);
        assert_eq!(line["mode"], part);
        assert!(line["gflops_done"].as_f64().unwrap() > 0.0, "{line}");
    }
    let load = [&["bench", "load", "--model", "model"][..], &run].concat();
    let line = &world.run(&load).succeeded().lines()[0];
    let want = ["case", "mode", "bytes", "threads", "median_s", "min_s", "gbs", "peak_rss_mb"];
    assert_eq!(keys(line), want);
    let files = world.run(&["inspect", "model", "--json"]).succeeded().lines();
    let tensors = files.iter().filter(|line| line.get("tensor").is_some());
    assert_eq!(line["bytes"], tensors.map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>());
    world.run(&["bench", "t5", "--case", "huge"]).failed(&["huge", "xxl-layer"]);
}

#[test]
fn time_is_told_by_operation_and_traced() {
    let world = World::new();
    let base = ["gradcheck", "tanh", "--cases", "1", "--threads", "1"];
    let silent = world.run(&base).succeeded();
    assert!(!silent.stderr.contains("GFLOP/s"), "{}", silent.stderr);
    let trace = ["--profile", "--trace-file", "trace.json"];
    let ran = world.run(&[&base[..], &trace].concat()).succeeded();
    for part in ["operation", "tanh", "forward", "vjp", "between operations", "GFLOP/s"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert_eq!(ran.stdout, silent.stdout);
    let trace = std::fs::read_to_string(world.path("trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |pass: &str| events.iter().filter(|event| event["cat"] == pass).count();
    assert!(of("forward") > 0 && of("vjp") > 0);
    assert_eq!(keys(&events[0]), ["name", "cat", "ph", "pid", "tid", "ts", "dur", "args"]);
    let by_environment = |value| {
        let mut command = world.command(&base);
        command.env("DDIT_PROFILE", value);
        Ran::of(command)
    };
    assert!(by_environment("1").succeeded().stderr.contains("between operations"));
    by_environment("yes").failed(&["DDIT_PROFILE"]);
    let nowhere = [&base[..], &["--trace-file", "no/such/folder/trace.json"]].concat();
    world.run(&nowhere).failed(&["trace.json"]);
    // A command's own error is told, and what is there stays.
    let failing = ["inspect", "no/such/model", "--trace-file"];
    world.run(&[&failing[..], &["trace.json"]].concat()).failed(&["no/such/model"]);
    let stays = std::fs::read_to_string(world.path("trace.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&stays).unwrap()["traceEvents"], trace["traceEvents"]);
    world.run(&[&failing[..], &["other.json"]].concat()).failed(&["no/such/model"]);
    assert!(!world.path("other.json").exists() && world.leftovers().is_empty());
}

#[test]
fn training_tells_its_steps_and_does_not_overwrite_a_run() {
    let world = World::new();
    let set = |setting| ["--set", setting];
    let train = [
        &["train", "tiny-vae", "--out", "run", "--json"][..],
        &set("run.steps=2"),
        &set("run.log_every=1"),
        &set("run.validate_every=2"),
    ]
    .concat();
    let lines = world.run(&train).succeeded().lines();
    let told: Vec<&str> = lines.iter().map(|line| keys(line)[0]).collect();
    assert_eq!(told, ["step", "step", "step", "finished"]);
    let log = std::fs::read_to_string(world.path("run/log.jsonl")).unwrap();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(log, lines[..3]);
    assert!(log[0]["seconds"].as_f64().unwrap() > 0.0, "its own step counts");
    assert!(log[1]["left_s"] == 0.0 && log[1]["pairs_per_s"].as_f64().unwrap() > 0.0);
    assert!(log[2]["scores"]["reconstruction"].is_number());
    assert!(lines.last().unwrap()["finished"].as_str().unwrap().contains("run"));
    world.run(&train).failed(&["run", "--resume"]);
    let more = ["train", "--resume", "run", "--set", "run.steps=3", "--json"];
    let lines = world.run(&more).succeeded().lines();
    assert!(lines.iter().any(|line| line["step"] == 3) && lines.iter().all(|l| l["step"] != 2));
}
