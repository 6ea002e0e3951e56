// SPDX-License-Identifier: MIT OR Apache-2.0
//! The NBD lane: real clients against `nvstack serve`, kill -9 under load, and the commands of the README.

pub(crate) mod client;
mod clients;
mod kill;
mod load;
pub(crate) mod readme;
pub(crate) mod stamp;

use crate::packages::{NBD, Packages};
use crate::report::{Context, Lane, Result};
use crate::server::build;
use crate::unit::target;

/// Runs the lane.
pub(crate) fn run(lane: &mut Lane, packages: &mut Packages) -> Result<()> {
    packages.provide(NBD)?;
    let bin = build()?;
    // Not /tmp, which may be memory: these images are to be plain files on a disk.
    let folder = tempfile::Builder::new().prefix("nbd-").tempdir_in(target()).context(target().display())?;
    clients::run(lane, &bin, folder.path())?;
    kill::run(lane, &bin, folder.path());
    readme::run(lane, &bin)
}
