// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unit lane: the workspace's own tests, its formatting, its lints, its documentation; and the same of the examples, which
//! are workspaces of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::apart::Apart;
use crate::packages::Packages;
use crate::process::{self, command, succeed};
use crate::report::{Lane, Result, ensure};
use crate::trust;

/// A cold build on a small machine.
const LIMIT: Duration = Duration::from_secs(900);
/// Tests that try all that they can.
const LONG: Duration = Duration::from_secs(3600);

/// How long tests may take with their build.
pub(crate) fn limit() -> Duration {
    if nvstack_tally::long() { LONG } else { LIMIT }
}

/// Runs the lane.
pub(crate) fn run(lane: &mut Lane, packages: &Packages) -> Result<()> {
    provide_components(packages)?;
    lane.case("cargo fmt --check", || {
        succeed(cargo(["fmt", "--all", "--check"]).env_remove("CARGO_TARGET_DIR"), LIMIT)?;
        Ok("every file is formatted")
    });
    lane.case("cargo test --workspace", || {
        let mut test = cargo(["test", "--workspace", "--no-fail-fast"]);
        for apart in [Apart::Explore, Apart::Concurrency, Apart::Fuzz] {
            for package in apart.packages()? {
                test.args(["--exclude", package]);
            }
        }
        tests(&mut test)
    });
    lane.case("TESTING.md", || {
        trust::check()?;
        Ok("it is what is kept of the last runs")
    });
    lane.case("cargo clippy", || {
        succeed(
            &mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            LIMIT,
        )?;
        Ok("no lint fires in any target")
    });
    lane.case("cargo doc", || {
        let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps"]);
        succeed(doc.env("RUSTDOCFLAGS", "-D warnings"), LIMIT)?;
        Ok("the documentation builds without a warning")
    });
    lane.case("examples/checksum", || example("examples/checksum/Cargo.toml"));
    Ok(())
}

/// An example: built, tested and judged as the workspace is. What both depend on is built once.
fn example(manifest: &str) -> Result<String> {
    let run = |args: &[&str]| {
        let mut command = cargo([]);
        let (action, options) = args.split_first().ok_or("nothing to run")?;
        command.args([*action, "--manifest-path", manifest]).args(options);
        command.env("CARGO_TARGET_DIR", target()).env("RUSTDOCFLAGS", "-D warnings");
        Ok::<Command, crate::report::Failure>(command)
    };
    succeed(&mut run(&["fmt", "--check"])?, LIMIT)?;
    let told = tests(&mut run(&["test", "--no-fail-fast"])?)?;
    succeed(&mut run(&["run", "--quiet"])?, LIMIT)?;
    succeed(&mut run(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"])?, LIMIT)?;
    succeed(&mut run(&["doc", "--quiet", "--no-deps"])?, LIMIT)?;
    Ok(told)
}

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Cargo sets it for what it runs; a binary that is started by hand knows where it was built.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The folder that builds go to.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Cargo in the workspace, as the one that started us.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args);
    cargo.current_dir(workspace());
    cargo
}

/// Runs tests, all of which must pass.
pub(crate) fn tests(command: &mut Command) -> Result<String> {
    let started = Instant::now();
    let ran = process::run(command, limit())?;
    let (passed, failed, ignored) = tally(&ran.stdout);
    ensure(ran.status.success(), || {
        let failures: Vec<&str> = ran
            .stdout
            .lines()
            .filter(|line| {
                line.ends_with("... FAILED") || line.starts_with("thread '") || line.contains("panicked")
            })
            .collect();
        format!("{passed} tests passed, {failed} failed\n{}\n{}", failures.join("\n"), ran.words())
    })?;
    ensure(passed > 0 && failed == 0, || format!("{passed} tests passed, {failed} failed"))?;
    ensure(ignored == 0, || format!("{ignored} tests are ignored; a test runs or is not there"))?;
    Ok(format!("{passed} tests passed ({:.0} s with the build)", started.elapsed().as_secs_f64()))
}

/// Sums the `test result:` lines: passed, failed, ignored.
fn tally(output: &str) -> (u64, u64, u64) {
    let mut sums = (0, 0, 0);
    for line in output.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            let count = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => sums.0 += count,
                Some("failed") => sums.1 += count,
                Some("ignored") => sums.2 += count,
                _ => {}
            }
        }
    }
    sums
}

/// rustfmt and clippy are components that a minimal installation lacks.
fn provide_components(packages: &Packages) -> Result<()> {
    let works = |args| process::run(&mut cargo(args), LIMIT).is_ok_and(|ran| ran.status.success());
    if works(["fmt", "--version"]) && works(["clippy", "--version"]) {
        return Ok(());
    }
    let mut add = command("rustup", ["component", "add", "rustfmt", "clippy"]);
    if packages.may_install() && run_quietly(&mut add) {
        return Ok(());
    }
    Err("rustfmt or clippy is missing: rustup component add rustfmt clippy".into())
}

fn run_quietly(command: &mut Command) -> bool {
    process::run(command.current_dir(workspace()), LIMIT).is_ok_and(|ran| ran.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let output = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
            test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 1.25s\n";
        assert_eq!(tally(output), (13, 2, 1));
        assert_eq!(tally("nothing"), (0, 0, 0));
    }
}
