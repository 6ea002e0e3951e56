// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: libFuzzer over the targets of `fuzz/`, for a time. Stable Rust, no sanitizer: nothing below a target's own
//! promises is `unsafe`, and those it checks itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nvstack_tally::{long, tally};

use crate::apart::Apart;
use crate::process::{Ran, run_or_stop, succeed};
use crate::report::{Context, Lane, Result, ensure};
use crate::unit::{cargo, target, workspace};

/// A cold build of all targets on a small machine.
const BUILD: Duration = Duration::from_secs(1800);
/// What is over the time that a target was given before it counts as hanging: its last input, and the end.
const MORE: Duration = Duration::from_secs(90);
/// Seconds of a single input.
const INPUT: u64 = 30;
/// Megabytes of a target: an input that makes it larger is a finding.
const MEMORY: u64 = 2048;
/// Targets at one time.
const JOBS: usize = 2;

/// What to run.
pub(crate) struct Options {
    /// Minutes of all targets together, two at a time.
    pub(crate) minutes: Option<f64>,
    /// These alone.
    pub(crate) targets: Vec<String>,
}

impl Options {
    /// Ten minutes; thirty where much is to be tried.
    fn time(&self) -> Duration {
        let minutes = self.minutes.unwrap_or(if long() { 30.0 } else { 10.0 });
        Duration::from_secs_f64((minutes * 60.0).max(1.0))
    }
}

/// The lane: the targets under their own mutator, and every input that was kept; in the long form libFuzzer as well.
pub(crate) fn lane(lane: &mut Lane) -> Result<()> {
    Apart::Fuzz.run(lane)?;
    lane.case("fuzz/ is formatted", || {
        let mut format = cargo(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]);
        succeed(format.env_remove("CARGO_TARGET_DIR"), Duration::from_secs(60))?;
        Ok("every file")
    });
    if long() {
        lane.case("libFuzzer", || {
            run(&Options { minutes: None, targets: Vec::new() })?;
            Ok("nothing was found")
        });
    }
    Ok(())
}

/// Runs libFuzzer. Fails if anything is found.
pub(crate) fn run(options: &Options) -> Result<()> {
    let names = names(&options.targets)?;
    provide()?;
    let folder = target().join("fuzz");
    println!("building {} targets ...", names.len());
    let mut build = fuzz("build", &folder);
    if let [one] = &names[..] {
        build.arg(one);
    }
    succeed(&mut build, BUILD)?;

    let jobs = JOBS.min(names.len());
    let share = options.time().mul_f64(jobs as f64).div_f64(names.len() as f64);
    println!("{} targets, {jobs} at a time, {:.0} s each", names.len(), share.as_secs_f64());
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match one(name, share, &folder) {
                        Ok(executions) => {
                            tally("fuzz", &format!("{name}, by coverage"), "executions", executions);
                        }
                        Err(why) => {
                            println!("{name}: {why}");
                            found
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .push(name.as_str());
                        }
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure(found.is_empty(), || format!("found something: {}", found.join(", ")))
}

/// The targets, by the files that they have.
fn names(wanted: &[String]) -> Result<Vec<String>> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context(folder.display())? {
        let path = entry.context(folder.display())?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    for name in wanted {
        ensure(names.contains(name), || {
            format!("there is no target {name}; there are {}", names.join(", "))
        })?;
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(names)
}

/// Makes sure that there is a cargo-fuzz.
fn provide() -> Result<()> {
    let works = || succeed(&mut cargo(["fuzz", "--version"]), Duration::from_secs(60)).is_ok();
    if works() {
        return Ok(());
    }
    println!("installing cargo-fuzz: cargo install --locked cargo-fuzz");
    // With this workspace's target folder its build would be in the way of ours.
    succeed(cargo(["install", "--locked", "cargo-fuzz"]).env_remove("CARGO_TARGET_DIR"), BUILD)?;
    ensure(works(), || "cargo-fuzz is installed and does not run: is cargo's bin folder in PATH?".to_owned())
}

/// `cargo fuzz`, on the toolchain that there is.
fn fuzz(what: &str, folder: &Path) -> std::process::Command {
    let mut fuzz = cargo(["fuzz", what, "--sanitizer=none", "--target-dir"]);
    // Cargo tells those that it runs where its own target folder is.
    fuzz.arg(folder).env_remove("CARGO_TARGET_DIR");
    fuzz
}

/// Runs one target for its time; gives how many inputs that were.
fn one(name: &str, time: Duration, folder: &Path) -> Result<u64> {
    let begun = Instant::now();
    let fuzz_folder = workspace().join("fuzz");
    // What this run finds new is kept with the build, for the next; the committed corpus is only read.
    let scratch = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    for folder in [&scratch, &artifacts] {
        fs::create_dir_all(folder).context(folder.display())?;
    }
    let committed: Vec<PathBuf> =
        ["corpus", "regressions"].map(|kind| fuzz_folder.join(kind).join(name)).into();
    let dictionary = fuzz_folder.join("dictionaries").join(name).with_extension("dict");
    let mut run = fuzz("run", folder);
    run.arg(name).arg(&scratch).args(committed.iter().filter(|folder| folder.is_dir())).arg("--");
    run.arg(format!("-artifact_prefix={}/", artifacts.display()));
    run.args([
        format!("-max_total_time={}", time.as_secs().max(1)),
        format!("-timeout={INPUT}"),
        format!("-rss_limit_mb={MEMORY}"),
        "-print_final_stats=1".to_owned(),
    ]);
    if dictionary.is_file() {
        run.arg(format!("-dict={}", dictionary.display()));
    }
    let (ran, ended) = run_or_stop(&mut run, time + MORE)?;
    let executions = stat(&ran, "stat::number_of_executed_units:");
    if ended && ran.status.success() {
        let executions = executions.ok_or("it did not say how often it ran")?;
        println!("{name:<20} {executions:>12} executions, {:.0} s", begun.elapsed().as_secs_f64());
        return Ok(executions);
    }
    let how = if ended { ran.status.to_string() } else { "it did not end".to_owned() };
    let file = finding(&ran).map_or_else(|| artifacts.display().to_string(), str::to_owned);
    Err(format!(
        "{how}\n{}\nthe input: {file}\nagain: cargo run -p nvstack-hostile --example one -- {name} {file}",
        ran.words()
    )
    .into())
}

/// A number that libFuzzer prints at its end.
fn stat(ran: &Ran, name: &str) -> Option<u64> {
    ran.stderr.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
}

/// The file of an input that was found.
fn finding(ran: &Ran) -> Option<&str> {
    ran.stderr.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let stderr = "#12\tDONE\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 60\n\
            artifact_prefix='a/'; Test unit written to a/crash-12ab\n";
        let ran = Ran {
            status: std::process::ExitStatus::from_raw(0),
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(stat(&ran, "stat::number_of_executed_units:"), Some(4711));
        assert_eq!(finding(&ran), Some("a/crash-12ab"));
    }

    #[test]
    fn a_target_that_is_not_there_is_named() {
        let all = names(&[]).expect("targets");
        assert!(all.contains(&"btt_tables".to_owned()) && all.len() > 10);
        assert_eq!(names(&["info_block".to_owned()]).expect("a target"), ["info_block"]);
        let error = names(&["nothing".to_owned()]).expect_err("no such target").to_string();
        assert!(error.contains("nothing") && error.contains("info_block"), "{error}");
    }
}
