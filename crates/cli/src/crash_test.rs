// SPDX-License-Identifier: MIT OR Apache-2.0
//! `crash-test`: the explorer, for whoever wants to see for himself.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nvstack_explore::{
    Case, Config, Model, Mutant, Progress, Scope, Summary, Violation, Workload, replay, run as explore,
};
use nvstack_media::{Error, Kind, Result};
use serde::Serialize;

use crate::args::CrashTestArgs;
use crate::end::note;
use crate::json::write_stdout;
use crate::output::Output;

const COMMAND: &str = "crash-test";
/// What the summary ends with when something was violated.
const VIOLATED: u8 = 1;

/// What goes to stdout.
#[derive(Serialize)]
struct Report {
    seed: u64,
    depth: u32,
    pruned: bool,
    mutant: Option<&'static str>,
    workloads: usize,
    states: u64,
    images: u64,
    recoveries: u64,
    violations: usize,
    out_of_time: bool,
    seconds: f64,
    models: Vec<OfModel>,
}

#[derive(Serialize)]
struct OfModel {
    model: &'static str,
    #[serde(flatten)]
    summary: Summary,
}

/// `nvstack crash-test`.
pub(crate) fn run(args: &CrashTestArgs) -> Result<u8> {
    if args.list_mutants {
        return list_mutants();
    }
    // Before anything is run, so that nothing is run for nothing.
    let image = args.image.as_deref().map(|path| Output::open(Some(path))).transpose()?;
    match &args.replay {
        Some(case) => again(case, image, args.image.as_deref()),
        None => all(args, image),
    }
}

fn list_mutants() -> Result<u8> {
    let mut text = String::new();
    for mutant in Mutant::ALL {
        let _ = writeln!(text, "{:<20} {}", mutant.name(), mutant.what());
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

fn config(args: &CrashTestArgs) -> Result<Config> {
    let mut config = Config::quick();
    if !args.quick {
        config.time = None;
    }
    if let Some(path) = &args.workload {
        config.scopes = vec![Scope::These(workloads(path)?)];
    }
    if !args.model.is_empty() {
        config.models.clone_from(&args.model);
    }
    config.mutant = args.mutant;
    config.depth = args.depth;
    config.prune = !args.no_prune;
    config.seed = args.seed;
    if let Some(threads) = args.threads {
        config.threads = threads.into();
    }
    if let Some(seconds) = args.time {
        config.time = Some(Duration::from_secs(seconds));
    }
    Ok(config)
}

/// The workloads of a file, one a line.
fn workloads(path: &Path) -> Result<Vec<Workload>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::os("read workloads", e).path(path))?;
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let words = line.split('#').next().unwrap_or_default();
        let column = words.len() - words.trim_start().len() + 1;
        if words.trim().is_empty() {
            continue;
        }
        let place = format!("{}:{number}:{column}", path.display());
        all.push(Workload::from_str(words.trim()).map_err(|e| e.path(place))?);
    }
    if all.is_empty() {
        return Err(Error::new(Kind::Invalid, "read workloads")
            .path(path)
            .found("no workload")
            .accepted("one a line, such as 2.near.fresh:w0,w1/r0"));
    }
    Ok(all)
}

/// What is explored, in turn. What lacks a part of the protocol is to fail in the shortest way that there is, so that is looked for
/// with few requests first, under all models.
fn stages(config: &Config) -> Vec<Config> {
    let mut stages = Vec::new();
    if config.mutant.is_some() && !matches!(config.scopes[..], [Scope::These(_)]) {
        for scope in [
            Scope::Bounded { operations: 1 },
            Scope::Bounded { operations: 2 },
            Scope::Creation,
            Scope::Lost { operations: 2 },
            Scope::Faults { operations: 1 },
        ] {
            stages.push(Config { scopes: vec![scope], ..config.clone() });
        }
    }
    stages.push(config.clone());
    stages
}

fn all(args: &CrashTestArgs, image: Option<Output>) -> Result<u8> {
    let config = config(args)?;
    let begun = Instant::now();
    let mut report = Report {
        seed: config.seed,
        depth: config.depth,
        pruned: config.prune,
        mutant: config.mutant.map(Mutant::name),
        workloads: 0,
        states: 0,
        images: 0,
        recoveries: 0,
        violations: 0,
        out_of_time: false,
        seconds: 0.0,
        models: Vec::new(),
    };
    let mut first = None;
    let mut stages = stages(&config);
    // The two that differ most come first.
    let order = |model: &Model| !matches!(model, Model::X86 | Model::Pages);
    if config.mutant.is_some() {
        stages.iter_mut().for_each(|stage| stage.models.sort_by_key(order));
    }
    let runs: Vec<(&Config, Model)> =
        stages.iter().flat_map(|stage| stage.models.iter().map(move |model| (stage, *model))).collect();
    for (n, (stage, model)) in runs.iter().enumerate() {
        // Each run has its share of what is left of the time.
        let left = u32::try_from(runs.len().saturating_sub(n)).unwrap_or(1);
        let time = config.time.map(|time| time.saturating_sub(begun.elapsed()) / left);
        let summary = explore_shown(*model, &Config { models: vec![*model], time, ..(*stage).clone() })?;
        report.workloads += summary.workloads;
        report.states += summary.states;
        report.images += summary.images;
        report.recoveries += summary.recoveries;
        report.violations += summary.violations.len();
        report.out_of_time |= summary.out_of_time;
        let found = summary.first.clone();
        report.models.push(OfModel { model: model.name(), summary });
        if let Some(found) = found {
            first = Some(found);
            break;
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    let mut text = serde_json::to_string_pretty(&report)
        .map_err(|e| Error::new(Kind::Invalid, "write summary").because(e))?;
    text.push('\n');
    write_stdout(text.as_bytes())?;
    let Some(violation) = first else { return Ok(0) };
    tell(&violation);
    if let Some(output) = image {
        write_image(&violation.case, output, args.image.as_deref())?;
    }
    Ok(VIOLATED)
}

/// Explores under one model, and shows how far it is where somebody looks on.
fn explore_shown(model: Model, config: &Config) -> Result<Summary> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style =
        ProgressStyle::with_template("{prefix:<12} {bar:32} {pos}/{len} workloads, {msg} images, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(model.name());
    let shown = |at: &Progress| {
        bar.set_length(at.of as u64);
        bar.set_position(at.done as u64);
        bar.set_message((at.counts.images + at.counts.inner).to_string());
    };
    let summary = explore(config, &shown);
    bar.finish_and_clear();
    summary
}

fn tell(violation: &Violation) {
    for line in violation.to_string().lines() {
        note(COMMAND, line);
    }
    note(COMMAND, format_args!("again: nvstack crash-test --replay '{}'", violation.case));
}

fn again(case: &Case, image: Option<Output>, path: Option<&Path>) -> Result<u8> {
    let seen = replay(case)?;
    let mut text = String::new();
    for step in &seen.steps {
        let _ = writeln!(text, "{step}");
    }
    write_stdout(text.as_bytes())?;
    if let Some(output) = image {
        finish_image(&seen.image.to_bytes(), output, path)?;
    }
    match seen.what {
        Some(what) => {
            note(COMMAND, format_args!("then the power is cut: {what}"));
            Ok(VIOLATED)
        }
        None => {
            note(COMMAND, "then the power is cut, and nothing is wrong");
            Ok(0)
        }
    }
}

fn write_image(case: &Case, output: Output, path: Option<&Path>) -> Result<()> {
    finish_image(&replay(case)?.image.to_bytes(), output, path)
}

fn finish_image(bytes: &[u8], mut output: Output, path: Option<&Path>) -> Result<()> {
    output.write(bytes)?;
    output.finish();
    let path = path.map(|path| path.display().to_string()).unwrap_or_default();
    note(COMMAND, format_args!("{path}: the {} bytes that the cut left", bytes.len()));
    Ok(())
}
