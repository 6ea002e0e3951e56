// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts that are explored: three engines with an explorer each, as one.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use nvstack_explore::{self as btt, Model, labels, pages as pfn};
use nvstack_media::{Error, Kind, Result};
use serde::Serialize;

/// What is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Sectors: writes, reads, recovery and creation of a BTT
    Btt,
    /// Info blocks of fsdax and devdax, and descriptors of their pages
    Pfn,
    /// Label areas, on one DIMM and on sets
    Labels,
}

impl Part {
    /// In the order in which they are explored.
    pub(crate) const ALL: [Part; 3] = [Part::Btt, Part::Pfn, Part::Labels];

    /// As in `--part`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Part::Btt => "btt",
            Part::Pfn => "pfn",
            Part::Labels => "labels",
        }
    }
}

/// A part of a protocol that can be left out. No two of them have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    Btt(btt::Mutant),
    Pfn(pfn::Mutant),
    Labels(labels::Mutant),
}

impl Mutant {
    pub(crate) fn all() -> impl Iterator<Item = Mutant> {
        let btt = btt::Mutant::ALL.iter().copied().map(Mutant::Btt);
        let pages = pfn::Mutant::ALL.iter().copied().map(Mutant::Pfn);
        btt.chain(pages).chain(labels::Mutant::ALL.iter().copied().map(Mutant::Labels))
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Mutant::Btt(mutant) => mutant.name(),
            Mutant::Pfn(mutant) => mutant.name(),
            Mutant::Labels(mutant) => mutant.name(),
        }
    }

    pub(crate) const fn what(self) -> &'static str {
        match self {
            Mutant::Btt(mutant) => mutant.what(),
            Mutant::Pfn(mutant) => mutant.what(),
            Mutant::Labels(mutant) => mutant.what(),
        }
    }

    pub(crate) const fn part(self) -> Part {
        match self {
            Mutant::Btt(_) => Part::Btt,
            Mutant::Pfn(_) => Part::Pfn,
            Mutant::Labels(_) => Part::Labels,
        }
    }
}

/// Workloads of one part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workloads {
    pub(crate) btt: Vec<btt::Workload>,
    pub(crate) pfn: Vec<pfn::Workload>,
    pub(crate) labels: Vec<labels::Workload>,
}

impl Workloads {
    /// Adds one. Each part has its own way to write them.
    pub(crate) fn add(&mut self, text: &str) -> Result<()> {
        if text.contains(':') {
            self.btt.push(text.parse()?);
        } else if text.contains("/turn") {
            let workload: labels::Workload = text.parse()?;
            if !workload.is_sound() {
                return Err(Error::new(Kind::Invalid, "read workload")
                    .found(format_args!("{text:?}"))
                    .accepted("changes that fit one another and the label area"));
            }
            self.labels.push(workload);
        } else if let Ok(workload) = text.parse() {
            self.pfn.push(workload);
        } else {
            return Err(Error::new(Kind::Invalid, "read workload")
                .found(format_args!("{text:?}"))
                .accepted("2.near.fresh:w0,w1/r0, 1.2/2x2048/turn0/beside2/create or fsdax-dev/whole"));
        }
        Ok(())
    }

    pub(crate) const fn has(&self, part: Part) -> bool {
        !match part {
            Part::Btt => self.btt.is_empty(),
            Part::Pfn => self.pfn.is_empty(),
            Part::Labels => self.labels.is_empty(),
        }
    }
}

/// One failure of any part. Its text is the seed that a person types.
#[derive(Clone, Debug)]
pub(crate) enum Case {
    Btt(btt::Case),
    Pfn(pfn::Case),
    Labels(labels::Case),
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Btt(case) => case.fmt(f),
            Case::Pfn(case) => case.fmt(f),
            Case::Labels(case) => case.fmt(f),
        }
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Case> {
        match text.split(';').next() {
            Some("labels") => text.parse().map(Case::Labels),
            Some("pfn") => text.parse().map(Case::Pfn),
            _ => text.parse().map(Case::Btt),
        }
    }
}

/// A failure, seen again.
pub(crate) struct Replay {
    pub(crate) steps: Vec<String>,
    /// What the cut left: the medium, or the label area of each DIMM.
    pub(crate) images: Vec<Vec<u8>>,
    pub(crate) what: Option<String>,
}

impl Case {
    pub(crate) fn replay(&self) -> Result<Replay> {
        Ok(match self {
            Case::Btt(case) => {
                let btt::Replay { steps, image, what } = btt::replay(case)?;
                Replay { steps, images: vec![image.to_bytes()], what }
            }
            Case::Pfn(case) => {
                let pfn::Replay { steps, image, what } = pfn::replay(case)?;
                Replay { steps, images: vec![image.to_bytes()], what }
            }
            Case::Labels(case) => {
                let labels::Replay { steps, images, what } = labels::replay(case)?;
                Replay { steps, images: images.iter().map(|image| image.to_bytes()).collect(), what }
            }
        })
    }
}

/// The first failure of a run, in words.
pub(crate) struct Found {
    pub(crate) words: String,
    pub(crate) case: Case,
}

/// What an explorer is to do.
#[derive(Clone, Debug)]
pub(crate) enum Config {
    Btt(btt::Config),
    Pfn(pfn::Config),
    Labels(labels::Config),
}

/// What one says of its run.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Summary {
    Btt(btt::Summary),
    Pfn(pfn::Summary),
    Labels(labels::Summary),
}

/// What all parts count.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) workloads: usize,
    pub(crate) states: u64,
    pub(crate) images: u64,
    pub(crate) recoveries: u64,
    pub(crate) violations: usize,
    pub(crate) out_of_time: bool,
    pub(crate) interrupted: bool,
    pub(crate) seconds: f64,
}

impl Totals {
    pub(crate) fn add(&mut self, more: &Totals) {
        self.workloads += more.workloads;
        self.states += more.states;
        self.images += more.images;
        self.recoveries += more.recoveries;
        self.violations += more.violations;
        self.out_of_time |= more.out_of_time;
        self.interrupted |= more.interrupted;
        self.seconds += more.seconds;
    }
}

impl Config {
    pub(crate) const fn part(&self) -> Part {
        match self {
            Config::Btt(_) => Part::Btt,
            Config::Pfn(_) => Part::Pfn,
            Config::Labels(_) => Part::Labels,
        }
    }

    pub(crate) fn models(&self) -> &[Model] {
        match self {
            Config::Btt(config) => &config.models,
            Config::Pfn(config) => &config.models,
            Config::Labels(config) => &config.models,
        }
    }

    pub(crate) fn set_time(&mut self, time: Option<std::time::Duration>) {
        match self {
            Config::Btt(config) => config.time = time,
            Config::Pfn(config) => config.time = time,
            Config::Labels(config) => config.time = time,
        }
    }

    /// Explores. `shown` is told workloads that are done, workloads in all, and images.
    pub(crate) fn run(&self, shown: &(dyn Fn(usize, usize, u64) + Sync)) -> Result<Summary> {
        Ok(match self {
            Config::Btt(config) => {
                let shown = |p: &btt::Progress| shown(p.done, p.of, p.counts.images + p.counts.inner);
                Summary::Btt(btt::run(config, &shown)?)
            }
            Config::Pfn(config) => {
                let shown = |p: &pfn::Progress| shown(p.done, p.of, p.counts.images);
                Summary::Pfn(pfn::run(config, &shown)?)
            }
            Config::Labels(config) => {
                let shown = |p: &labels::Progress| shown(p.done, p.of, p.counts.images + p.counts.inner);
                Summary::Labels(labels::run(config, &shown)?)
            }
        })
    }
}

impl Summary {
    pub(crate) fn totals(&self) -> Totals {
        macro_rules! of {
            ($s:expr) => {
                Totals {
                    workloads: $s.workloads,
                    states: $s.states,
                    images: $s.images,
                    recoveries: $s.recoveries,
                    violations: $s.violations.len(),
                    out_of_time: $s.out_of_time,
                    interrupted: $s.interrupted,
                    seconds: $s.elapsed,
                }
            };
        }
        match self {
            Summary::Btt(summary) => of!(summary),
            Summary::Pfn(summary) => of!(summary),
            Summary::Labels(summary) => of!(summary),
        }
    }

    pub(crate) fn found(&self) -> Option<Found> {
        match self {
            Summary::Btt(summary) => {
                summary.first.as_ref().map(|v| (v.to_string(), Case::Btt(v.case.clone())))
            }
            Summary::Pfn(summary) => {
                summary.first.as_ref().map(|v| (v.to_string(), Case::Pfn(v.case.clone())))
            }
            Summary::Labels(summary) => {
                summary.first.as_ref().map(|v| (v.to_string(), Case::Labels(v.case.clone())))
            }
        }
        .map(|(words, case)| Found { words, case })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_mutants_have_one_name() {
        let names: BTreeSet<&str> = Mutant::all().map(Mutant::name).collect();
        assert_eq!(names.len(), Mutant::all().count());
        for part in Part::ALL {
            assert!(Mutant::all().any(|mutant| mutant.part() == part), "{part:?}");
        }
    }

    #[test]
    fn workloads_are_told_apart_by_how_they_are_written() {
        let mut all = Workloads::default();
        for text in ["2.near.fresh:w0,w1/r0", "1.2/2x2048/turn0/beside2/create+rename", "fsdax-dev/whole"] {
            all.add(text).unwrap();
        }
        assert!(Part::ALL.iter().all(|part| all.has(*part)), "{all:?}");
        for text in ["2.near.stale:w0", "1.2/2x2048/turn9/beside2/create", "fsdax-dev", ""] {
            assert!(all.add(text).unwrap_err().to_string().contains("accepted"), "{text}");
        }
    }
}
