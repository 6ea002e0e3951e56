// SPDX-License-Identifier: MIT OR Apache-2.0
//! The long run, what is kept of it, and `TESTING.md`, which is made of that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nvstack_tally::Count;
use serde::{Deserialize, Serialize};

use crate::LaneName;
use crate::breaks::{self, Outcome};
use crate::counts::{LANES, PARTS, counted, grouped};
use crate::process::{command, succeed};
use crate::report::{Context, Result, ensure};
use crate::unit::workspace;

/// What the text of `TESTING.md` is made of.
const TEMPLATE: &str = include_str!("../trust/TESTING.md");

/// The last long run of a lane.
#[derive(Clone, Serialize, Deserialize)]
struct Ran {
    lane: String,
    /// Day, in UTC.
    date: String,
    commit: String,
    machine: Machine,
    seconds: u64,
    /// Cases of the lane itself; each may be many tests.
    cases: u64,
    counts: Vec<Count>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
}

/// Runs lanes (all, if none is named) for as long as they can be, and keeps what they counted. Of a lane that fails, what was
/// known stays, with its day; that is a failure of the run.
pub(crate) fn run(wanted: &[String]) -> Result<()> {
    let lanes = LaneName::ALL.map(LaneName::name);
    for name in wanted {
        ensure(lanes.contains(&name.as_str()), || {
            format!("there is no lane {name}; there are {}", lanes.join(", "))
        })?;
    }
    let mut kept = kept()?;
    kept.retain(|ran| lanes.contains(&ran.lane.as_str()));
    // What this run itself writes is no change.
    let commit = first_line(&mut command("git", ["describe", "--always", "--dirty", "--abbrev=12"]))?;
    write()?;
    let mut failed = Vec::new();
    for name in lanes.iter().filter(|name| wanted.is_empty() || wanted.iter().any(|w| w == *name)) {
        let old = kept.iter().position(|ran| ran.lane == *name);
        match lane(name, &commit) {
            Ok(Some(ran)) => match old.and_then(|old| kept.get_mut(old)) {
                Some(old) => *old = ran,
                None => kept.push(ran),
            },
            Ok(None) => {
                println!("{name:<12} is not here");
                kept.retain(|ran| ran.lane != *name);
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                failed.push(*name);
            }
        }
        kept.sort_by_key(|ran| lanes.iter().position(|name| *name == ran.lane));
        // After each: all of them take an hour and more.
        keep(&kept)?;
        write()?;
    }
    ensure(failed.is_empty(), || format!("not as it should be: {}", failed.join(", ")))
}

/// Runs a lane. None if there is no such lane in this workspace.
fn lane(name: &str, commit: &str) -> Result<Option<Ran>> {
    let begun = Instant::now();
    let (status, mut counts) = counted(&["test", "--long", "--lane", name], true)?;
    ensure(status.success(), || format!("{status}; what is known of it stays"))?;
    if counts.is_empty() {
        return Ok(None);
    }
    let cases = counts.iter().filter(|count| count.part == LANES).map(|count| count.count).sum();
    counts.retain(|count| count.part != LANES);
    Ok(Some(Ran {
        lane: name.to_owned(),
        date: first_line(&mut command("date", ["-u", "+%F"]))?,
        commit: commit.to_owned(),
        machine: machine()?,
        seconds: begun.elapsed().as_secs(),
        cases,
        counts,
    }))
}

/// Writes `TESTING.md`.
pub(crate) fn write() -> Result<()> {
    let path = workspace().join("TESTING.md");
    fs::write(&path, render(&kept()?)?).context(path.display())
}

/// Fails unless `TESTING.md` is what it is made of.
pub(crate) fn check() -> Result<()> {
    let path = workspace().join("TESTING.md");
    let text = fs::read_to_string(&path).context(path.display())?;
    ensure(text == render(&kept()?)?, || {
        "TESTING.md is not what is kept of the last runs: cargo xtask trust --render".to_owned()
    })
}

fn path() -> PathBuf {
    workspace().join("trust/last.json")
}

fn kept() -> Result<Vec<Ran>> {
    if !path().is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path()).context(path().display())?;
    serde_json::from_str(&text).context(path().display())
}

fn keep(kept: &[Ran]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(kept).context("JSON")?;
    text.push('\n');
    fs::create_dir_all(workspace().join("trust")).context("trust")?;
    fs::write(path(), text).context(path().display())
}

/// `TESTING.md` as the template and what is kept make it.
fn render(kept: &[Ran]) -> Result<String> {
    let mut text = TEMPLATE.to_owned();
    let blocks = [
        ("{lanes}", lanes(kept)),
        ("{parts}", parts(kept)),
        ("{counts}", counts(kept)),
        ("{breaks}", broken()?),
    ];
    for (mark, words) in blocks {
        ensure(text.matches(mark).count() == 1, || format!("the template has no {mark}, or several"))?;
        text = text.replace(mark, words.trim_end());
    }
    Ok(text)
}

/// A table, of which the first row is the head.
fn table<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = String::new();
    for (number, row) in rows.into_iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(N));
        }
    }
    text
}

/// When each lane ran, and where.
fn lanes(kept: &[Ran]) -> String {
    let mut rows = vec![["lane", "day", "commit", "cases", "minutes"].map(str::to_owned)];
    for name in LaneName::ALL.map(LaneName::name) {
        rows.push(match kept.iter().find(|ran| ran.lane == name) {
            Some(ran) => [
                name.to_owned(),
                ran.date.clone(),
                ran.commit.clone(),
                ran.cases.to_string(),
                ran.seconds.div_ceil(60).to_string(),
            ],
            None => [name, "not run yet", "", "", ""].map(str::to_owned),
        });
    }
    let mut text = table(rows);
    let mut machines: Vec<&Machine> = Vec::new();
    for ran in kept {
        if !machines.contains(&&ran.machine) {
            machines.push(&ran.machine);
        }
    }
    for Machine { cpu, cores, kernel } in machines {
        let _ = write!(text, "\nRun on {cores} cores of {cpu}, Linux {kernel}.");
    }
    text
}

/// What each part came to.
fn parts(kept: &[Ran]) -> String {
    let mut rows = vec![["part", "what is tried", "how much"].map(str::to_owned)];
    for (part, words) in PARTS {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for count in kept.iter().flat_map(|ran| &ran.counts).filter(|count| count.part == part) {
            // A case of these is a mutant that was killed, and its count what that took.
            let (unit, more) = match part {
                "mutants" if count.unit.starts_with("states") => ("mutants killed", 1),
                _ => (count.unit.as_str(), count.count),
            };
            *sums.entry(unit).or_default() += more;
        }
        let all: Vec<String> = sums.iter().map(|(unit, sum)| format!("{} {unit}", grouped(*sum))).collect();
        let all = if all.is_empty() { "not in these runs".to_owned() } else { all.join(", ") };
        rows.push([part.to_owned(), words.to_owned(), all]);
    }
    table(rows)
}

/// Every count.
fn counts(kept: &[Ran]) -> String {
    let counts: Vec<&Count> = kept.iter().flat_map(|ran| &ran.counts).collect();
    if counts.is_empty() {
        return "Nothing was counted yet.".to_owned();
    }
    let head = ["part", "case", "count"].map(str::to_owned);
    let rows = counts.iter().map(|count| {
        [count.part.clone(), count.case.clone(), format!("{} {}", grouped(count.count), count.unit)]
    });
    table(std::iter::once(head).chain(rows))
}

/// What was broken by hand.
fn broken() -> Result<String> {
    let (known, unknown) = breaks::known()?;
    let head = ["test", "in", "broken", "the test"].map(str::to_owned);
    let rows = known.iter().map(|row| {
        let outcome = match row.outcome {
            Outcome::Failed => "failed",
            Outcome::Hung => "waited for ever, and was stopped",
            Outcome::Survived => "PASSED",
        };
        [
            format!("`{}`", row.test),
            format!("`{}`", row.file.trim_start_matches("crates/")),
            row.words.trim().to_owned(),
            outcome.to_owned(),
        ]
    });
    let mut text = table(std::iter::once(head).chain(rows));
    let tests: std::collections::BTreeSet<&str> = known.iter().map(|row| row.test.as_str()).collect();
    let _ = write!(text, "\n{} changes, {} tests.", known.len(), tests.len());
    if !unknown.is_empty() {
        let _ = write!(text, " Not yet seen to fail: {}.", unknown.join(", "));
    }
    Ok(text)
}

fn first_line(command: &mut Command) -> Result<String> {
    let ran = succeed(command.current_dir(workspace()), Duration::from_secs(60))?;
    Ok(ran.stdout.lines().next().unwrap_or_default().to_owned())
}

fn machine() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(Path::new(path)).context(path);
    let cpus = read("/proc/cpuinfo")?;
    let names: Vec<&str> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let name = names.first().map_or("an unknown CPU", |name| name.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Machine { cpu: name.to_owned(), cores, kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(lane: &str, unit: &str, counts: &[(&str, &str, u64)]) -> Ran {
        Ran {
            lane: lane.to_owned(),
            date: "2026-01-02".to_owned(),
            commit: "0123456789ab".to_owned(),
            machine: Machine { cpu: "A".to_owned(), cores: 2, kernel: "6.1".to_owned() },
            seconds: 61,
            cases: 3,
            counts: counts
                .iter()
                .map(|(part, case, count)| Count {
                    part: (*part).to_owned(),
                    case: (*case).to_owned(),
                    unit: unit.to_owned(),
                    count: *count,
                })
                .collect(),
        }
    }

    #[test]
    fn testing_md_is_what_it_is_made_of() {
        check().expect("cargo xtask trust --render");
    }

    #[test]
    fn figures_are_those_of_the_runs_and_what_did_not_run_is_told() {
        let kept = [
            ran("unit", "crash images", &[("explore", "small | cases", 1_000_000)]),
            ran("explore", "crash images", &[("explore", "b", 2_000_000)]),
            ran("crash", "states needed", &[("mutants", "one", 700), ("mutants", "two", 70)]),
        ];
        let text = render(&kept).expect("a text");
        for line in [
            "| unit | 2026-01-02 | 0123456789ab | 3 | 2 |",
            "| fuzz | not run yet |  |  |  |",
            "3,000,000 crash images |",
            "noticed | 2 mutants killed |",
            "| mutants | one | 700 states needed |",
            "| fuzz | hostile bytes | not in these runs |",
            "| explore | small \\| cases | 1,000,000 crash images |",
            "Run on 2 cores of A, Linux 6.1.",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
        assert_eq!(text.matches("Run on").count(), 1);
        assert!(render(&[]).expect("a text").contains("Nothing was counted yet."));
    }
}
