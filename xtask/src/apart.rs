// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lanes of one or more packages of the workspace, whose tests try so much that they run apart, most of them built for speed.

use crate::report::{Context, Lane, Result};
use crate::unit::{cargo, limit, tests};

/// The packages of a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    /// Every interleaving, every cut, every image; and that each part of the protocols that is left out is missed.
    Explore,
    /// Every interleaving of threads and every memory order.
    Concurrency,
    /// Hostile bytes.
    Fuzz,
}

impl Apart {
    /// As the workspace may have them.
    fn names(self) -> &'static [&'static str] {
        match self {
            Apart::Explore => &["nvstack-explore"],
            Apart::Concurrency => &["nvstack-loom", "nvstack-btt-shuttle", "nvstack-stack-shuttle"],
            Apart::Fuzz => &["nvstack-hostile"],
        }
    }

    /// Those that it has.
    pub(crate) fn packages(self) -> Result<Vec<&'static str>> {
        let mut metadata = cargo(["metadata", "--no-deps", "--format-version", "1"]);
        let ran = crate::process::succeed(&mut metadata, limit())?;
        let metadata: serde_json::Value = serde_json::from_str(&ran.stdout).context("cargo metadata")?;
        let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
        let has = |name: &str| packages.iter().any(|package| package["name"] == name);
        Ok(self.names().iter().copied().filter(|name| has(name)).collect())
    }

    /// Runs the lane.
    pub(crate) fn run(self, lane: &mut Lane) -> Result<()> {
        // Where arithmetic must not overflow the checks for it stay in.
        let profile = if self == Apart::Fuzz { "dev" } else { "release" };
        for package in self.packages()? {
            lane.case(format_args!("cargo test --profile {profile} -p {package}"), || {
                tests(&mut cargo(["test", "--profile", profile, "--package", package, "--no-fail-fast"]))
            });
        }
        Ok(())
    }
}
