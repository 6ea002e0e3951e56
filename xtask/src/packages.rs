// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Debian packages of each lane: looked up, installed when we may, and named when we may not.

use std::process::Command;
use std::time::Duration;

use crate::process::{command, run, succeed};
use crate::report::{Result, ensure};

/// Clients of the NBD lane.
pub(crate) const NBD: &[&str] = &[
    "libnbd-bin",
    "python3-minimal",
    "python3-libnbd",
    "fio",
    "qemu-utils",
    "qemu-system-x86",
    "coreutils",
    "e2fsprogs",
];

/// The emulator, and what goes into the guest or judges its file systems.
pub(crate) const GUEST: &[&str] = &[
    "qemu-system-x86",
    "busybox-static",
    "ndctl",
    "daxctl",
    "kmod",
    "e2fsprogs",
    "libnbd-bin",
    "nbd-client",
    "coreutils",
    "diffutils",
    "libc-bin",
];

/// The peers that benchmarks measure beside us, and what builds libpmemblk's side.
pub(crate) const BENCH: &[&str] = &["libpmemblk-dev", "gcc", "libc6-dev", "nbdkit", "qemu-utils"];

/// A few hundred megabytes on a slow mirror.
const APT_LIMIT: Duration = Duration::from_secs(600);

/// The package manager, and what was already done with it.
pub(crate) struct Packages {
    install: bool,
    root: bool,
    updated: bool,
}

impl Packages {
    /// `install`: whether packages may be installed at all.
    pub(crate) fn new(install: bool) -> Packages {
        Packages { install, root: rustix::process::geteuid().is_root(), updated: false }
    }

    /// Whether this run may change what is installed.
    pub(crate) fn may_install(&self) -> bool {
        self.install
    }

    /// Makes sure that all of `wanted` is installed. Says so when it installs; fails with the command to run when it may not.
    pub(crate) fn provide(&mut self, wanted: &[&str]) -> Result<()> {
        // Where one comes from another release, as from backports, apt takes it away for one that does not go with it. It
        // comes again from the same release as the other then.
        for _ in 0..3 {
            let missing: Vec<&str> = wanted.iter().copied().filter(|name| !installed(name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            self.install(&missing)?;
        }
        let missing: Vec<&str> = wanted.iter().copied().filter(|name| !installed(name)).collect();
        ensure(missing.is_empty(), || {
            format!("packages that take one another's place: {} is gone again", missing.join(" "))
        })
    }

    fn install(&mut self, missing: &[&str]) -> Result<()> {
        let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
        if !self.install || !self.root {
            let why = if self.install { "not root" } else { "--no-install" };
            return Err(format!("packages are missing ({why}). As root: apt-get update && {install}").into());
        }
        println!("      installing: {install}");
        self.update()?;
        succeed(apt().args(["install", "-y", "--no-install-recommends"]).args(missing), APT_LIMIT)?;
        Ok(())
    }

    /// Brings the package lists up to date, once a run. Does nothing without root: the lists are then used as they are.
    pub(crate) fn update(&mut self) -> Result<()> {
        if self.root && self.install && !self.updated {
            succeed(apt().arg("update"), APT_LIMIT)?;
            self.updated = true;
        }
        Ok(())
    }
}

/// `apt-get` as a script may call it: no questions, patient with a busy lock and a mirror that stutters.
pub(crate) fn apt() -> Command {
    let mut apt = command("apt-get", ["-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn installed(package: &str) -> bool {
    run(&mut command("dpkg-query", ["-W", "-f", "${db:Status-Status}\n", package]), Duration::from_secs(60))
        .is_ok_and(|ran| ran.status.success() && ran.stdout.lines().any(|line| line == "installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_leave_to_install_the_command_is_named() {
        let mut packages = Packages { install: false, root: true, updated: false };
        packages.provide(&[]).expect("nothing is wanted");
        let error = packages.provide(&["no-such-package-of-nvstack"]).expect_err("it does not exist");
        assert!(
            error
                .to_string()
                .contains("apt-get install -y --no-install-recommends no-such-package-of-nvstack")
        );
    }
}
