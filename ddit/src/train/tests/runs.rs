//! What becomes of a run's folder: by mistakes, by being stopped at odd moments, by a second program.

use super::*;
use crate::pipeline::Progress;

/// A run of four steps that samples and scores after the second and the fourth.
fn scored() -> RunConfig {
    config(&["run.steps=4", "run.sample_every=2", "run.validate_every=2", "run.checkpoint_every=3"])
}

/// A run with a validation of its own, stopped when `stops` says so of an event; the events, in
/// short, and how it ended.
fn watched(
    begin: impl FnOnce(&mut Watch) -> tensor::Result<Outcome>,
    stops: impl Fn(&Event) -> bool,
) -> (Vec<String>, tensor::Result<Outcome>) {
    let (stop, mut told) = (AtomicBool::new(false), Vec::new());
    let mut observe = |event: Event| {
        stop.fetch_or(stops(&event), Ordering::Relaxed);
        told.push(match event {
            Event::Step(report) => format!("step {}", report.step),
            Event::Scored { step, .. } => format!("scored {step}"),
            Event::Read { done, .. } => format!("read {done}"),
            Event::Encoded { done, .. } => format!("encoded {done}"),
            Event::Measured { done, .. } => format!("measured {done}"),
            Event::Wrote(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
            Event::NotDrawn(_) => "no curves".to_owned(),
            Event::Moved { from, to } => format!("{from}, then {to}"),
            Event::Begin { .. } | Event::Cut { .. } | Event::Unrecorded(_) => String::new(),
        });
    };
    let mut validate = |candidate: &Candidate, progress: Progress| {
        let is_model = matches!(candidate, Candidate::Model(_));
        progress(1, 2)?;
        Ok(vec![("model".to_owned(), f64::from(u8::from(is_model)))])
    };
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: Some(&mut validate) };
    let outcome = begin(&mut watch);
    told.retain(|event| !event.is_empty());
    (told, outcome)
}

#[test]
fn what_a_stopped_run_left_out_is_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, out) = (folder.path().join("straight"), folder.path().join("stopped"));
    let (told, _) = watched(|watch| start(scored(), &straight, &Device::Cpu, watch), |_| false);
    assert_eq!(
        told.join(", "),
        "step 1, step 2, step-00000002.png, scored 2, step 3, step-00000003, step 4, \
         step-00000004.png, scored 4, step-00000004, curves.svg, model"
    );
    // Between the second step's samples and its scores; then right after a checkpoint, which is not
    // written again.
    let sampled =
        |event: &Event| matches!(event, Event::Wrote(path) if path.ends_with("step-00000002.png"));
    let (told, _) = watched(|watch| start(scored(), &out, &Device::Cpu, watch), sampled);
    assert_eq!(told.join(", "), "step 1, step 2, step-00000002.png, step-00000002");
    let saved =
        |event: &Event| matches!(event, Event::Wrote(path) if path.ends_with("step-00000003"));
    let (told, outcome) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), saved);
    assert_eq!(told.join(", "), "scored 2, step 3, step-00000003");
    let stopped = Outcome::Stopped { reason: Stop::Asked, step: 3, run: out.clone() };
    assert_eq!(outcome.unwrap(), stopped);
    let (told, _) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), |_| false);
    assert_eq!(
        told.join(", "),
        "step 4, step-00000004.png, scored 4, step-00000004, curves.svg, model"
    );
    assert_eq!(log(&out), log(&straight));
    let scores = log(&out)[2]["scores"].clone();
    assert_eq!(scores, serde_json::json!({ "model": 1.0 }));
}

#[test]
fn samples_and_scores_under_way_are_cut_short_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (stop, mut observe) = (AtomicBool::new(false), |_: Event| {});
    let mut validate = |_: &Candidate, progress: Progress| {
        stop.store(true, Ordering::Relaxed);
        progress(1, 2)?;
        Ok(vec![("model".to_owned(), 0.5)])
    };
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: Some(&mut validate) };
    let outcome = start(scored(), &out, &Device::Cpu, &mut watch).unwrap();
    assert_eq!(outcome, Outcome::Stopped { reason: Stop::Asked, step: 2, run: out.clone() });
    assert!(log(&out).iter().all(|line| line.get("scores").is_none()));
    let (told, _) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), |_| false);
    assert!(told.join(", ").starts_with("scored 2, step 3"), "{told:?}");

    let mut trainer = open(&scored(), &folder.path().join("other"));
    steps(&mut trainer, 2);
    for calls in [1, 3] {
        let mut left = calls;
        let error = trainer.write_samples(&mut |_, _| {
            left -= 1;
            if left > 0 { Ok(()) } else { Err(tensor::Error::value("test", "enough")) }
        });
        assert_eq!((left, error.unwrap_err().message()), (0, "enough"));
        assert_eq!(trainer.state.sampled, 0);
    }
    assert!(trainer.write_samples(&mut |_, _| Ok(())).unwrap().exists());
}

#[test]
fn measuring_and_encoding_can_be_stopped_and_autoencoders_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let vae = one_step_of_an_autoencoder(folder.path());
    let config = preset("tiny", &[&vae, "run.steps=1", "model.blocks=1"]);
    let out = folder.path().join("run");
    let first = |event: &Event| matches!(event, Event::Measured { done: 32, .. });
    let (told, outcome) = watched(|watch| start(config, &out, &Device::Cpu, watch), first);
    assert_eq!(told.join(", "), "step 1, scored 1, step-00000001, measured 32");
    let stopped = Outcome::Stopped { reason: Stop::Asked, step: 1, run: out.clone() };
    assert_eq!(outcome.unwrap(), stopped);
    let first = |event: &Event| matches!(event, Event::Encoded { done: 32, .. });
    let (told, outcome) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), first);
    assert_eq!(told.join(", "), "measured 32, measured 64, curves.svg, model, encoded 32");
    assert_eq!(log(&out.join("vae-run"))[1]["scores"]["model"], 0.0);
    let stopped = Outcome::Stopped { reason: Stop::Asked, step: 0, run: out.clone() };
    assert_eq!(outcome.unwrap(), stopped);
    let (told, _) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), |_| false);
    assert_eq!(told.join(", "), "encoded 32, encoded 64, step 1, step-00000001, curves.svg, model");

    // No autoencoder is trained for patterns that match nothing of the model to begin with.
    let init = format!("init={}", out.display());
    let config = preset("tiny", &[&vae, &init, "trainable=[\"transformer.no_such.*\"]"]);
    let next = folder.path().join("next");
    let (told, outcome) = watched(|watch| start(config, &next, &Device::Cpu, watch), |_| false);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("no_such") && told.is_empty(), "{told:?} {error}");
}

#[test]
fn curves_come_with_checkpoints_and_their_failure_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (out, seen) = (folder.path().join("run"), std::cell::Cell::new(false));
    let curves = out.join("curves.svg");
    let see = |event: &Event| {
        seen.set(
            seen.get()
                || matches!(event, Event::Step(report) if report.step == 2 && curves.exists()),
        );
        false
    };
    let config = config(&["run.steps=2", "run.checkpoint_every=1"]);
    watched(|watch| start(config, &out, &Device::Cpu, watch), see).1.unwrap();
    assert!(seen.get(), "the first checkpoint came without");
    fs::remove_file(&curves).unwrap();
    fs::create_dir(&curves).unwrap();
    let more = ["run.steps=3".to_owned()];
    let (told, outcome) = watched(|watch| resume(&out, &more, &Device::Cpu, watch), |_| false);
    assert_eq!(told.join(", "), "step 3, step-00000003, no curves, no curves, model");
    outcome.unwrap();
}

/// A preset for an autoencoder of one step; the setting that names it.
fn one_step_of_an_autoencoder(folder: &Path) -> String {
    let vae = folder.join("vae.toml");
    fs::write(&vae, "preset = \"tiny-vae\"\n[run]\nsteps = 1\nvalidate_every = 1\n").unwrap();
    format!("autoencoder.preset={}", vae.display())
}

#[test]
fn pictures_are_read_once_and_reading_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (vae, data) = (one_step_of_an_autoencoder(folder.path()), two_pictures(folder.path()));
    let common = ["data.source=folder", "data.size=32", "run.steps=1", "model.blocks=1"];
    let config = preset("tiny", &[&[&*vae, &data], &common[..]].concat());
    let out = folder.path().join("run");
    let second = |event: &Event| matches!(event, Event::Read { done: 1, .. });
    let (told, outcome) = watched(|watch| start(config, &out, &Device::Cpu, watch), second);
    let stopped = Outcome::Stopped { reason: Stop::Asked, step: 0, run: out.clone() };
    assert_eq!((told.join(", "), outcome.unwrap()), ("read 0, read 1".to_owned(), stopped));
    let (told, _) = watched(|watch| resume(&out, &[], &Device::Cpu, watch), |_| false);
    assert_eq!(
        told.join(", "),
        "read 0, read 1, read 2, step 1, scored 1, step-00000001, measured 2, curves.svg, \
         model, encoded 2, step 1, step-00000001, curves.svg, model"
    );
}

#[test]
fn cheap_mistakes_are_found_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (two_pictures(folder.path()), folder.path().join("run"));
    let begin = |task: &str, settings: &[&str]| {
        let common = ["data.source=folder", &data, "data.size=32", "run.steps=2"];
        let config = preset(task, &[&common, settings].concat());
        watched(|watch| start(config, &out, &Device::Cpu, watch), |_| false)
    };
    for (task, settings) in [
        ("tiny", &["autoencoder.source=/no/such"][..]),
        ("tiny", &["autoencoder.source=none", "init=/no/such"]),
        ("tiny-vae", &["init=/no/such"]),
    ] {
        let (told, outcome) = begin(task, settings);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("/no/such") && told.is_empty(), "{settings:?}: {told:?} {error}");
    }
    begin("tiny", &["autoencoder.source=none", "model.patch=16", "model.blocks=1"]).1.unwrap();
    let fewer = ["run.steps=1".to_owned()];
    let (told, outcome) = watched(|watch| resume(&out, &fewer, &Device::Cpu, watch), |_| false);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("2 steps already") && told.is_empty(), "{told:?} {error}");
}

#[test]
fn mistakes_spoil_no_run_and_leave_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let begin = |settings: &[&str]| {
        let config = config(&[&["run.steps=4"], settings].concat());
        watched(|watch| start(config, &out, &Device::Cpu, watch), |_| false).1
    };
    for mistake in
        [&["autoencoder.source=/no/such"][..], &["data.source=folder", "data.manifest=/no/such"]]
    {
        let error = begin(mistake).unwrap_err().to_string();
        assert!(error.contains("/no/such") && !out.exists(), "{error}");
    }
    // No autoencoder is trained for a start that is not there.
    let config = preset("tiny", &["init=/no/such"]);
    let (told, outcome) = watched(|watch| start(config, &out, &Device::Cpu, watch), |_| false);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("/no/such") && told.is_empty() && !out.exists(), "{told:?} {error}");

    // Somebody's folder is left alone.
    fs::create_dir_all(out.join("model")).unwrap();
    fs::write(out.join("model/weights"), "precious").unwrap();
    assert!(begin(&[]).unwrap_err().to_string().contains("not empty"));
    assert_eq!(fs::read_to_string(out.join("model/weights")).unwrap(), "precious");
    fs::remove_dir_all(&out).unwrap();

    // No interval, and a checkpoint of the last step nevertheless.
    begin(&["run.checkpoint_every=0"]).unwrap();
    assert!(out.join("checkpoints/step-00000004").is_dir());
    let settings = || fs::read_to_string(out.join("config.toml")).unwrap();
    let before = settings();
    let again = |setting: &str| {
        let overrides = [setting.to_owned()];
        watched(|watch| resume(&out, &overrides, &Device::Cpu, watch), |_| false).1
    };
    for (setting, told) in [("model.width=64", "step-00000004"), ("run.steps=3", "4 steps already")]
    {
        let error = again(setting).unwrap_err().to_string();
        assert!(error.contains(told), "{setting}: {error}");
        assert_eq!(settings(), before, "{setting}");
    }
    again("run.steps=5").unwrap();
    assert!(settings() != before && log(&out).last().unwrap()["step"] == 5);
}

/// Losses and gradients are those of the weights before the step: of the last step's nobody hears.
#[test]
fn weights_that_the_last_step_has_spoilt_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let spoilt = |settings: &[&str]| {
        let all = [&["run.steps=1", "optimizer.warmup=0"], settings].concat();
        config(&all)
    };
    let out = folder.path().join("run");
    for settings in [
        &["optimizer.learning_rate=1e30"][..],
        &["optimizer.learning_rate=1e30", "run.sample_every=1"],
        // float32 has such numbers, float16 has not.
        &["optimizer.learning_rate=1e6", "run.weights=f16"],
    ] {
        let begin = |watch: &mut Watch| start(spoilt(settings), &out, &Device::Cpu, watch);
        let (told, outcome) = watched(begin, |_| false);
        let error = outcome.unwrap_err().to_string();
        for told in ["transformer.", "at step 1", "begin again with a lower optimizer.learn"] {
            assert!(error.contains(told), "{settings:?}: {error}");
        }
        assert_eq!(told, ["step 1"], "{settings:?}");
        assert!(!out.join("model").exists());
        fs::remove_dir_all(&out).unwrap();
    }
    let mut trainer = open(&spoilt(&["optimizer.learning_rate=1e30"]), &out);
    steps(&mut trainer, 1);
    for error in [trainer.export().unwrap_err(), trainer.pipeline().err().unwrap()] {
        assert!(error.to_string().contains("no number"), "{error}");
    }
}

#[test]
fn a_run_that_goes_on_elsewhere_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let go_on = |steps: &str| {
        let steps = [format!("run.steps={steps}")];
        watched(|watch| resume(&out, &steps, &Device::Cpu, watch), |_| false).0
    };
    assert!(!is_resumable(&out));
    let begin = |watch: &mut Watch| start(config(&["run.steps=1"]), &out, &Device::Cpu, watch);
    watched(begin, |_| false).1.unwrap();
    assert!(is_resumable(&out));
    assert_eq!(go_on("2")[0], "step 2");
    let path = out.join("checkpoints/step-00000002/state.json");
    let text = fs::read_to_string(&path).unwrap();
    let elsewhere = text.replace("\"cpu\"", "\"cuda:0\"").replace("false", "true");
    assert_ne!(elsewhere, text);
    fs::write(&path, elsewhere).unwrap();
    let told = go_on("3");
    assert_eq!(told[..2], ["--device cuda:0 --bf16, then --device cpu", "step 3"]);
    assert_eq!(go_on("4")[0], "step 4", "it is told once");
}

#[cfg(unix)]
#[test]
fn a_folder_has_one_program_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (stop, mut second) = (AtomicBool::new(false), Vec::new());
    let mut observe = |event: Event| {
        if let Event::Step(_) = event {
            let (_, outcome) =
                watched(|watch| resume(folder.path(), &[], &Device::Cpu, watch), |_| false);
            second.push(outcome.unwrap_err().to_string());
        }
    };
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    start(config(&["run.steps=1"]), folder.path(), &Device::Cpu, &mut watch).unwrap();
    assert!(second.len() == 1 && second[0].contains("another program"), "{second:?}");
    watched(|watch| resume(folder.path(), &[], &Device::Cpu, watch), |_| false).1.unwrap();
}
