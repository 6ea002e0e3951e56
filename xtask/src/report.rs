// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was proved: a line for each case as it ends, a table of the lanes at the end.

use std::fmt::{self, Display};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::counts::LANES;

/// Result of a chore.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a chore failed, in words for the person who runs it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Failure(words)
    }
}

impl From<&str> for Failure {
    fn from(words: &str) -> Self {
        Failure(words.to_owned())
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Context<T> {
    /// Puts `doing` in front of the error's own words.
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{doing}: {error}")))
    }
}

/// Fails with `words` unless `holds`.
pub(crate) fn ensure(holds: bool, words: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(words())) }
}

/// One lane in progress.
pub(crate) struct Lane {
    name: &'static str,
    passed: usize,
    failed: usize,
    could_not_run: bool,
    took: Duration,
}

impl Lane {
    /// Notes a case that passed, and what it showed.
    pub(crate) fn pass(&mut self, case: impl Display, shown: impl Display) {
        self.passed += 1;
        println!("{:<5} ok    {case}: {shown}", self.name);
    }

    /// Notes a case that failed, and why.
    pub(crate) fn fail(&mut self, case: impl Display, why: impl Display) {
        self.failed += 1;
        println!(
            "{:<5} FAIL  {case}: {}",
            self.name,
            why.to_string().trim_end().replace('\n', "\n            ")
        );
    }

    /// Notes what a case ended with.
    pub(crate) fn note(&mut self, case: impl Display, outcome: Result<impl Display>) {
        match outcome {
            Ok(shown) => self.pass(case, shown),
            Err(why) => self.fail(case, why),
        }
    }

    /// Runs a case and notes its outcome.
    pub(crate) fn case<T: Display>(&mut self, name: impl Display, body: impl FnOnce() -> Result<T>) {
        let outcome = body();
        self.note(name, outcome);
    }

    /// Words about the lane that are no case.
    pub(crate) fn say(&self, words: impl Display) {
        println!("{:<5}       {words}", self.name);
    }
}

/// All lanes of one run.
#[derive(Default)]
pub(crate) struct Report {
    lanes: Vec<Lane>,
}

impl Report {
    /// Runs one lane. An error out of `body` means that the lane could not run, or not to its end.
    pub(crate) fn run(&mut self, name: &'static str, body: impl FnOnce(&mut Lane) -> Result<()>) {
        let started = Instant::now();
        let mut lane = Lane { name, passed: 0, failed: 0, could_not_run: false, took: Duration::ZERO };
        if let Err(why) = body(&mut lane) {
            lane.could_not_run = true;
            lane.fail("the lane could not run to its end", why);
        }
        if lane.passed + lane.failed == 0 {
            lane.could_not_run = true;
            lane.fail("the lane could not run", "it has shown nothing");
        }
        lane.took = started.elapsed();
        self.lanes.push(lane);
    }

    /// Prints the table and the totals; the status is 0 only if every lane ran and nothing failed.
    pub(crate) fn finish(&self) -> ExitCode {
        println!("\n{:<12} {:>5}  {:<14} {:>7}", "lane", "cases", "result", "seconds");
        for lane in &self.lanes {
            let result = match lane {
                Lane { could_not_run: true, .. } => "COULD NOT RUN".to_owned(),
                Lane { failed: 0, .. } => "ok".to_owned(),
                Lane { failed, .. } => format!("{failed} FAILED"),
            };
            let cases = lane.passed + lane.failed;
            println!("{:<12} {cases:>5}  {result:<14} {:>7.1}", lane.name, lane.took.as_secs_f64());
            nvstack_tally::tally(LANES, lane.name, "cases", u64::try_from(cases).unwrap_or(u64::MAX));
        }
        let passed: usize = self.lanes.iter().map(|lane| lane.passed).sum();
        let failed: usize = self.lanes.iter().map(|lane| lane.failed).sum();
        println!("\n{passed} passed, {failed} failed");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
