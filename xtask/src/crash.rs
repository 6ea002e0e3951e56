// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crash lane: `nvstack crash-test`, as its users run it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nvstack_tally::{long, tally};

use crate::process::{run, succeed};
use crate::report::{Failure, Lane, Result, ensure};
use crate::server::{build, nvstack};

/// What `--quick` promises.
const QUICK: Duration = Duration::from_secs(60);
const IMAGES: u64 = 1_000_000;
/// Of so many mutants one is tried in a normal run.
const SHARE: usize = 8;
/// A mutant is to be found in seconds.
const MUTANT: Duration = Duration::from_secs(120);

/// Whether the command has the verb.
pub(crate) fn present() -> Result<bool> {
    Ok(run(&mut nvstack(&build()?, ["crash-test", "--help"]), QUICK)?.status.success())
}

/// Runs the lane.
pub(crate) fn lane(lane: &mut Lane) -> Result<()> {
    let bin = build()?;
    lane.case("crash-test --quick", || quick(&bin));
    let listed = succeed(&mut nvstack(&bin, ["crash-test", "--list-mutants"]), QUICK)?.stdout;
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    ensure(!names.is_empty(), || "--list-mutants lists nothing".to_owned())?;
    // The explorers' own tests kill all of them in every run; here it is the command that is tried.
    let share = if long() { 1 } else { SHARE };
    let mut killed = 0;
    for name in names.into_iter().step_by(share) {
        let outcome = mutant(&bin, name);
        killed += u64::from(outcome.is_ok());
        lane.note(format_args!("crash-test --mutant {name}"), outcome);
    }
    tally("mutants", "nvstack crash-test --mutant", "mutants killed by the command", killed);
    Ok(())
}

fn quick(bin: &Path) -> Result<String> {
    let begun = Instant::now();
    let ran = succeed(&mut nvstack(bin, ["crash-test", "--quick"]), QUICK * 2)?;
    let took = begun.elapsed();
    let summary = summary(&ran.stdout)?;
    let images = summary["images"].as_u64().ok_or_else(|| format!("no images in {summary}"))?;
    ensure(images > IMAGES, || format!("{images} images, promised are more than {IMAGES}"))?;
    ensure(took < QUICK, || format!("it took {} s, promised are {}", took.as_secs(), QUICK.as_secs()))?;
    let mut words = format!("{images} images in {:.1} s", took.as_secs_f64());
    for part in ["btt", "pfn", "labels"] {
        let of_part = summary["parts"].as_array().into_iter().flatten().find(|of| of["part"] == part);
        let images = of_part.and_then(|of| of["images"].as_u64()).unwrap_or_default();
        ensure(images > 0, || format!("nothing of {part} in {summary}"))?;
        let _ = write!(words, ", {part} {images}");
        tally("explore", &format!("nvstack crash-test --quick, {part}"), "crash images", images);
    }
    Ok(words)
}

/// The JSON object that ends an output.
fn summary(output: &str) -> Result<serde_json::Value> {
    let starts = output.match_indices('{').map(|(at, _)| at).filter(|at| {
        // It begins a line.
        output.get(..*at).is_none_or(|before| before.is_empty() || before.ends_with('\n'))
    });
    starts
        .filter_map(|at| serde_json::from_str(output.get(at..)?).ok())
        .next_back()
        .ok_or_else(|| Failure::from(format!("no JSON summary in: {output}")))
}

fn mutant(bin: &Path, name: &str) -> Result<String> {
    let begun = Instant::now();
    let ran = run(&mut nvstack(bin, ["crash-test", "--mutant", name]), MUTANT)?;
    ensure(ran.status.code() == Some(1), || format!("{}, expected 1{}", ran.status, ran.words()))?;
    let words = format!("{}{}", ran.stdout, ran.stderr);
    let shown = words.lines().filter(|line| !line.trim().is_empty()).count();
    ensure(shown > 1, || format!("it shows no case: {words}"))?;
    Ok(format!("found in {:.1} s", begun.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_behind_other_lines() {
        let found = summary("2 of 3 {\n{\n  \"images\": 7,\n  \"models\": {\"x86\": 7}\n}\n").expect("one");
        assert_eq!(found["images"].as_u64(), Some(7));
        assert_eq!(summary("{\"images\":8}\n").expect("one")["images"].as_u64(), Some(8));
        assert!(summary("none").is_err());
    }
}
