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
mod killed;
mod lab;
mod model;
mod ours;
mod qemu;
pub(crate) mod record;
mod within;
pub(crate) mod writers;

use std::fs;
use std::time::Duration;

use clap::ValueEnum;

use crate::packages::{GUEST, Packages};
use crate::report::{Context, Lane, Result};
use crate::server::build;
use crate::unit::target;

use kernel::Kernel;
use qemu::{Machine, boots};

/// A boot takes seconds; a machine that is busy with other things is given more.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// A part of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The harness reads what Linux wrote, and notices a flipped bit
    Golden,
    /// Recorded scenes are listed as they were
    Judge,
    /// The device model's verbs beside ndctl's
    Model,
    /// Images of ours in the hands of Linux
    Ours,
    /// Devices of two arenas
    Arenas,
    /// nvstack itself inside the guest
    Within,
    /// The emulator is killed while Linux writes
    Killed,
}

/// Runs the lane, or these parts of it.
pub(crate) fn run(lane: &mut Lane, packages: &mut Packages, parts: &[Part]) -> Result<()> {
    let machine = machine(packages, "guest")?;
    lane.say(format_args!("Linux {}, logs in {}", machine.kernel.release, machine.folder.display()));
    let bin = build()?;
    for part in Part::value_variants().iter().filter(|part| parts.is_empty() || parts.contains(part)) {
        match part {
            Part::Golden => golden::run(lane, &machine),
            Part::Judge => judge::run(lane, &machine),
            Part::Model => model::run(lane, &machine, &bin),
            Part::Ours => ours::run(lane, &machine, &bin),
            Part::Arenas => arenas::run(lane, &machine, &bin),
            Part::Within => within::run(lane, &machine, &bin),
            Part::Killed => killed::run(lane, &machine, &bin),
        }?;
    }
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
