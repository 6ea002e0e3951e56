// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest lane: a real Linux kernel, under QEMU, as the judge of what we write, and we of what it writes.

mod acpi;
mod arenas;
mod combo;
mod compare;
mod cpio;
mod describe;
mod ext4;
mod golden;
mod initramfs;
mod judge;
mod kernel;
mod lab;
mod model;
mod ours;
mod qemu;
pub(crate) mod record;
mod within;

use std::fs;
use std::time::Duration;

use crate::packages::{GUEST, Packages};
use crate::report::{Context, Lane, Result};
use crate::server::build;
use crate::unit::target;

use kernel::Kernel;
use qemu::{Machine, boots};

/// A boot takes seconds; a machine that is busy with other things is given more.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Runs the lane.
pub(crate) fn run(lane: &mut Lane, packages: &mut Packages) -> Result<()> {
    let machine = machine(packages, "guest")?;
    lane.say(format_args!("Linux {}, logs in {}", machine.kernel.release, machine.folder.display()));
    golden::run(lane, &machine)?;
    judge::run(lane, &machine)?;
    let bin = build()?;
    model::run(lane, &machine, &bin)?;
    ours::run(lane, &machine, &bin)?;
    arenas::run(lane, &machine, &bin)?;
    within::run(lane, &machine, &bin)?;
    nvstack_tally::tally(
        "guest",
        "Linux reads, lists and changes what we make, and the reverse",
        "kernel boots",
        boots(),
    );
    Ok(())
}

/// All that a boot needs, with an empty folder of this name for its logs.
fn machine(packages: &mut Packages, folder: &str) -> Result<Machine> {
    packages.provide(GUEST)?;
    let kernel = Kernel::provide(packages)?;
    let initramfs = initramfs::base(&kernel)?;
    let folder = target().join(folder);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).context(folder.display())?;
    let folder = folder.canonicalize().context(folder.display())?;
    Ok(Machine { kernel, initramfs, folder })
}
