// SPDX-License-Identifier: MIT OR Apache-2.0
//! `crash-test`: the explorers, for whoever wants to see for himself.

mod part;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nvstack_explore::{self as btt, Model, Scope, labels, pages as pfn};
use nvstack_media::{Error, Kind, Result};
use serde::Serialize;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::args::CrashTestArgs;
use crate::end::{note, warn};
use crate::json::write_stdout;
use crate::output::Output;
pub(crate) use part::{Case, Mutant, Part};
use part::{Config, Found, Summary, Totals, Workloads};

const COMMAND: &str = "crash-test";
/// What the summary ends with when something was violated.
const VIOLATED: u8 = 1;
/// What a shell's `$?` is after SIGINT.
const INTERRUPTED: u8 = 130;
/// How often the power is cut again, unless something else is asked for.
const DEPTH: u32 = 1;
/// After this nothing is begun of what is to be quick: a workload that was begun may take some seconds.
const QUICK: Duration = Duration::from_secs(45);

/// What goes to stdout.
#[derive(Serialize)]
struct Report {
    seed: u64,
    depth: u32,
    pruned: bool,
    mutant: Option<&'static str>,
    #[serde(flatten)]
    totals: Totals,
    /// What each part came to.
    parts: Vec<OfPart>,
    /// Each run of an explorer.
    runs: Vec<OfRun>,
}

#[derive(Serialize)]
struct OfPart {
    part: Part,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize)]
struct OfRun {
    part: Part,
    models: Vec<&'static str>,
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
    for mutant in Mutant::all() {
        let _ = writeln!(text, "{:<20} {:<8} {}", mutant.name(), mutant.part().name(), mutant.what());
    }
    write_stdout(text.as_bytes())?;
    Ok(0)
}

/// The workloads of a file, one a line.
fn workloads(path: &Path) -> Result<Workloads> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::os("read workloads", e).path(path))?;
    let mut all = Workloads::default();
    for (number, line) in (1..).zip(text.lines()) {
        let words = line.split('#').next().unwrap_or_default();
        let column = words.len() - words.trim_start().len() + 1;
        if words.trim().is_empty() {
            continue;
        }
        let place = format!("{}:{number}:{column}", path.display());
        all.add(words.trim()).map_err(|e| e.path(place))?;
    }
    if !Part::ALL.iter().any(|part| all.has(*part)) {
        return Err(Error::new(Kind::Invalid, "read workloads")
            .path(path)
            .found("no workload")
            .accepted("one a line, such as 2.near.fresh:w0,w1/r0"));
    }
    Ok(all)
}

/// Everything that is to be run, in turn.
fn configs(args: &CrashTestArgs, stop: &Arc<AtomicBool>) -> Result<Vec<Config>> {
    let workloads = args.workload.as_deref().map(workloads).transpose()?;
    let asked = |part: &Part| {
        (args.part.is_empty() || args.part.contains(part))
            && args.mutant.is_none_or(|mutant| mutant.part() == *part)
            && workloads.as_ref().is_none_or(|workloads| workloads.has(*part))
    };
    let parts: Vec<Part> = Part::ALL.into_iter().filter(asked).collect();
    if parts.is_empty() {
        return Err(Error::new(Kind::Invalid, "crash-test")
            .found("nothing to explore")
            .accepted("workloads and a --mutant of the --part that is asked for"));
    }
    let mut configs = Vec::new();
    for part in parts {
        match part {
            Part::Btt => configs.extend(of_btt(args, workloads.as_ref(), stop).into_iter().map(Config::Btt)),
            Part::Pfn => configs.push(Config::Pfn(of_pfn(args, workloads.as_ref(), stop))),
            Part::Labels => {
                configs.extend(of_labels(args, workloads.as_ref(), stop).into_iter().map(Config::Labels));
            }
        }
    }
    Ok(configs)
}

/// What lacks a part of the protocol is to fail in the shortest way that there is, so that is looked for with few requests first,
/// under all models. Each model has a run of its own.
fn of_btt(args: &CrashTestArgs, these: Option<&Workloads>, stop: &Arc<AtomicBool>) -> Vec<btt::Config> {
    let mut config = btt::Config { time: None, stop: Arc::clone(stop), ..btt::Config::quick() };
    if !args.model.is_empty() {
        config.models.clone_from(&args.model);
    }
    if let Some(Mutant::Btt(mutant)) = args.mutant {
        config.mutant = Some(mutant);
    }
    config.depth = args.depth.unwrap_or(DEPTH);
    config.prune = !args.no_prune;
    config.seed = args.seed;
    config.threads = args.threads.map_or(config.threads, usize::from);
    let mut stages = Vec::new();
    if let Some(these) = these {
        config.scopes = vec![Scope::These(these.btt.clone())];
    } else if config.mutant.is_some() {
        for scope in [
            Scope::Bounded { operations: 1 },
            Scope::Bounded { operations: 2 },
            Scope::Creation,
            Scope::Lost { operations: 2 },
            Scope::Faults { operations: 1 },
        ] {
            stages.push(btt::Config { scopes: vec![scope], ..config.clone() });
        }
    }
    stages.push(config.clone());
    if config.mutant.is_some() {
        // The two that differ most come first.
        let order = |model: &Model| !matches!(model, Model::X86 | Model::Pages);
        stages.iter_mut().for_each(|stage| stage.models.sort_by_key(order));
    }
    let each = |stage: btt::Config| {
        let models = stage.models.clone();
        models.into_iter().map(move |model| btt::Config { models: vec![model], ..stage.clone() })
    };
    stages.into_iter().flat_map(each).collect()
}

fn of_pfn(args: &CrashTestArgs, these: Option<&Workloads>, stop: &Arc<AtomicBool>) -> pfn::Config {
    let mut config = pfn::Config { stop: Arc::clone(stop), ..pfn::Config::quick() };
    if let Some(Mutant::Pfn(mutant)) = args.mutant {
        config.mutant = Some(mutant);
    }
    if !args.model.is_empty() {
        config.models.clone_from(&args.model);
    }
    if let Some(these) = these {
        config.workloads.clone_from(&these.pfn);
    }
    config.threads = args.threads.map_or(config.threads, usize::from);
    config
}

/// All models in one run. What lacks a part of the protocol is looked for scope by scope, so that the first failure does not depend
/// on the number of threads.
fn of_labels(args: &CrashTestArgs, these: Option<&Workloads>, stop: &Arc<AtomicBool>) -> Vec<labels::Config> {
    let mut config = match args.mutant {
        Some(Mutant::Labels(mutant)) => labels::Config::without(mutant),
        _ => labels::Config { images: 512, inner: 32, ..labels::Config::quick() },
    };
    config.stop = Arc::clone(stop);
    if !args.model.is_empty() {
        config.models.clone_from(&args.model);
    }
    config.depth = args.depth.unwrap_or(config.depth);
    config.prune = !args.no_prune;
    config.seed = args.seed;
    config.threads = args.threads.map_or(config.threads, usize::from);
    if let Some(these) = these {
        config.scopes = vec![labels::Scope::These(these.labels.clone())];
    }
    if config.mutant.is_none() {
        return vec![config];
    }
    let scopes = config.scopes.clone();
    scopes.into_iter().map(|scope| labels::Config { scopes: vec![scope], ..config.clone() }).collect()
}

fn all(args: &CrashTestArgs, image: Option<Output>) -> Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    // The second SIGINT ends the command at once.
    flag::register_conditional_default(SIGINT, Arc::clone(&stop))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&stop)))
        .map_err(|e| Error::os("catch signals", e))?;
    let mut configs = configs(args, &stop)?;
    let time = args.time.map(Duration::from_secs).or(args.quick.then_some(QUICK));
    let begun = Instant::now();
    let mut report = Report {
        seed: args.seed,
        depth: args.depth.unwrap_or(DEPTH),
        pruned: !args.no_prune,
        mutant: args.mutant.map(Mutant::name),
        totals: Totals::default(),
        parts: Vec::new(),
        runs: Vec::new(),
    };
    let mut first = None;
    let count = configs.len();
    for (n, config) in configs.iter_mut().enumerate() {
        // Each run has its share of what is left of the time.
        let left = u32::try_from(count.saturating_sub(n)).unwrap_or(1);
        config.set_time(time.map(|time| time.saturating_sub(begun.elapsed()) / left));
        let summary = explore_shown(config)?;
        let (part, totals) = (config.part(), summary.totals());
        report.totals.add(&totals);
        match report.parts.iter_mut().find(|of| of.part == part) {
            Some(of) => of.totals.add(&totals),
            None => report.parts.push(OfPart { part, totals }),
        }
        first = summary.found();
        let models = config.models().iter().map(|model| model.name()).collect();
        report.runs.push(OfRun { part, models, summary });
        if first.is_some() || totals.interrupted {
            break;
        }
    }
    report.totals.seconds = begun.elapsed().as_secs_f64();
    let mut text = serde_json::to_string_pretty(&report)
        .map_err(|e| Error::new(Kind::Invalid, "write summary").because(e))?;
    text.push('\n');
    write_stdout(text.as_bytes())?;
    if report.totals.interrupted {
        warn(COMMAND, "interrupted: this is what was found until then");
    }
    match first {
        Some(found) => {
            tell(&found);
            if let Some(output) = image {
                finish_image(&found.case.replay()?.images, output, args.image.as_deref())?;
            }
            Ok(VIOLATED)
        }
        None => Ok(if report.totals.interrupted { INTERRUPTED } else { 0 }),
    }
}

/// Explores, and shows how far it is where somebody looks on.
fn explore_shown(config: &Config) -> Result<Summary> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style =
        ProgressStyle::with_template("{prefix:<16} {bar:32} {pos}/{len} workloads, {msg} images, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(match config.models() {
        [model] => format!("{} {}", config.part().name(), model.name()),
        _ => config.part().name().to_owned(),
    });
    let summary = config.run(&|done, of, images| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(images.to_string());
    });
    bar.finish_and_clear();
    summary
}

fn tell(found: &Found) {
    for line in found.words.lines() {
        note(COMMAND, line);
    }
    note(COMMAND, format_args!("again: nvstack crash-test --replay '{}'", found.case));
}

fn again(case: &Case, image: Option<Output>, path: Option<&Path>) -> Result<u8> {
    let seen = case.replay()?;
    let mut text = String::new();
    for step in &seen.steps {
        let _ = writeln!(text, "{step}");
    }
    write_stdout(text.as_bytes())?;
    if let Some(output) = image {
        finish_image(&seen.images, output, path)?;
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

/// Writes what a cut left: of several DIMMs one behind the other.
fn finish_image(images: &[Vec<u8>], mut output: Output, path: Option<&Path>) -> Result<()> {
    let bytes = images.concat();
    output.write(&bytes)?;
    output.finish();
    let path = path.map(|path| path.display().to_string()).unwrap_or_default();
    let of = match images.len() {
        1 => String::new(),
        several => format!(": {several} DIMMs, one behind the other"),
    };
    note(COMMAND, format_args!("{path}: the {} bytes that the cut left{of}", bytes.len()));
    Ok(())
}
