// SPDX-License-Identifier: MIT OR Apache-2.0
//! One boot of the guest: its DIMMs, its script, its console, its time limit. Software emulation only: a guest inside a guest
//! is not to be relied on.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::acpi::{self, Table};
use super::cpio::Archive;
use super::kernel::Kernel;
use crate::process::{Ran, command, run_and_kill, run_or_stop, succeed};
use crate::report::{Context, Result, ensure};
use crate::verdict::{Verdict, parse};

/// Guest memory; the console says so when a boot needs more.
pub(crate) const MEMORY_GIB: u64 = 2;
const GIB: u64 = 1 << 30;

/// The number of processors of the guest, and so of the lanes that its kernel writes with.
pub(crate) const CPUS: u64 = 2;

/// What the script's `check` is to expect of ndctl's checker: it refuses BTTs with blocks that are longer than their sectors.
pub(crate) fn ndctl_says(sector_size: u64) -> &'static str {
    if sector_size.is_multiple_of(64) { "sound" } else { "refused" }
}

/// How often Linux has run a script to its end.
static BOOTS: AtomicU64 = AtomicU64::new(0);

/// How often Linux has run a script to its end in this process.
pub(super) fn boots() -> u64 {
    BOOTS.load(Ordering::Relaxed)
}

/// How often a boot is begun at most.
const TRIES: u32 = 3;

/// What every boot shares.
pub(crate) struct Machine {
    pub(crate) kernel: Kernel,
    pub(crate) initramfs: PathBuf,
    /// Where logs and images of this run are.
    pub(crate) folder: PathBuf,
}

/// One boot.
#[derive(Default)]
pub(crate) struct Boot {
    dimms: BTreeMap<usize, Dimm>,
    tables: Vec<Table>,
    out: Option<PathBuf>,
    script: String,
    files: Archive,
}

struct Dimm {
    image: PathBuf,
    label_size: u64,
    /// Where QEMU puts it; without, where it finds room.
    address: Option<u64>,
}

impl Boot {
    /// Plugs in an image, whose last `label_size` bytes are its label area, as the `n`-th DIMM. The number gives the DIMM its
    /// serial, which labels know by their interleave-set cookie.
    pub(crate) fn dimm(&mut self, n: usize, image: &Path, label_size: u64) {
        self.dimms.insert(n, Dimm { image: image.to_path_buf(), label_size, address: None });
    }

    /// As [`Boot::dimm`], at this guest-physical address.
    pub(crate) fn dimm_at(&mut self, n: usize, image: &Path, label_size: u64, address: u64) {
        self.dimms.insert(n, Dimm { image: image.to_path_buf(), label_size, address: Some(address) });
    }

    /// Gives the guest ACPI tables in place of QEMU's of the same kind.
    pub(crate) fn tables(&mut self, tables: Vec<Table>) {
        self.tables = tables;
    }

    /// Unpacks into this folder what the script's `save` sends.
    pub(crate) fn out(&mut self, folder: &Path) {
        self.out = Some(folder.to_path_buf());
    }

    /// Plugs in an image that has no labels, in the next place that is free; gives its number for the script.
    pub(crate) fn unlabelled(&mut self, image: &Path) -> usize {
        let n = self.dimms.last_key_value().map_or(1, |(last, _)| last + 1);
        self.dimm(n, image, 0);
        n
    }

    /// Adds lines to the script.
    pub(crate) fn script(&mut self, lines: impl AsRef<str>) {
        self.script.push_str(lines.as_ref().trim_end());
        self.script.push('\n');
    }

    /// Adds a file to the guest's file system.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.files.file(path, false, content)
    }

    /// Adds a program or a library.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.files.file(path, true, content)
    }

    /// Boots, runs the script to its end, powers off; gives what the script said, in its order.
    pub(crate) fn run(mut self, machine: &Machine, name: &str, limit: Duration) -> Result<Vec<Verdict>> {
        let initrd = self.initrd(machine, name)?;
        let saved = self.out.as_ref().map(|_| machine.folder.join(format!("{name}.saved")));
        let ran = boot(&mut self.command(machine, &initrd, saved.as_deref())?, name, limit);
        let _ = fs::remove_file(&initrd);
        let (ran, console, ended) = ran?;
        let log = log(machine, name, &console)?;
        let ended = ensure(ended, || format!("not done after {} s", limit.as_secs()))
            .and_then(|()| ensure(ran.status.success(), || format!("QEMU: {}{}", ran.status, ran.stderr)));
        let verdicts = ended.and_then(|()| verdicts(&console)).context(log)?;
        BOOTS.fetch_add(1, Ordering::Relaxed);
        if let (Some(folder), Some(saved)) = (&self.out, saved) {
            fs::create_dir_all(folder).context(folder.display())?;
            let tar = ["xf".as_ref(), saved.as_os_str(), "-C".as_ref(), folder.as_os_str()];
            succeed(&mut command("tar", tar), limit)?;
            let _ = fs::remove_file(saved);
        }
        Ok(verdicts)
    }

    /// Boots, waits for a line of the console that begins with `mark`, does `then` with the emulator's process group, and kills
    /// the emulator. What the script said until then must be good.
    pub(crate) fn kill(
        mut self,
        machine: &Machine,
        name: &str,
        mark: &str,
        limit: Duration,
        mut then: impl FnMut(Pid) -> Result<()>,
    ) -> Result<()> {
        let initrd = self.initrd(machine, name)?;
        let mut qemu = self.command(machine, &initrd, None)?;
        let mut tries = TRIES;
        let ran = loop {
            tries -= 1;
            let ran = run_and_kill(&mut qemu, mark, limit, &mut then);
            match &ran {
                // A signal that is not ours, as in `boot`.
                Ok((ran, false))
                    if tries > 0
                        && ran.status.signal().is_some_and(|signal| signal != Signal::KILL.as_raw())
                        && !is_ready(&ran.stdout) => {}
                _ => break ran,
            }
        };
        let _ = fs::remove_file(&initrd);
        let (ran, lived) = ran?;
        let log = log(machine, name, &ran.stdout)?;
        ensure(lived, || format!("QEMU was not there to be killed: {}{}", ran.status, ran.stderr))
            .and_then(|()| parse(&ran.stdout))
            .and_then(|verdicts| match verdicts.into_iter().find(|verdict| !verdict.ok) {
                Some(Verdict { case, words, .. }) => Err(format!("{case}: {words}").into()),
                None => Ok(()),
            })
            .context(log)
    }

    /// The file system of this boot: what all have, and its own script and files.
    fn initrd(&mut self, machine: &Machine, name: &str) -> Result<PathBuf> {
        let script = format!(". /helpers.sh\n{}", self.script);
        self.files.file("script.sh", false, script.as_bytes())?;
        let initrd = machine.folder.join(format!("{name}.initrd"));
        let mut whole = fs::File::create(&initrd).context(initrd.display())?;
        if !self.tables.is_empty() {
            whole.write_all(&acpi::archive(&self.tables)?).context(initrd.display())?;
        }
        let mut base = fs::File::open(&machine.initramfs).context(machine.initramfs.display())?;
        std::io::copy(&mut base, &mut whole).context(initrd.display())?;
        whole.write_all(&std::mem::take(&mut self.files).finish()?).context(initrd.display())?;
        Ok(initrd)
    }

    fn command(&self, machine: &Machine, initrd: &Path, saved: Option<&Path>) -> Result<Command> {
        let mut sizes = Vec::new();
        for Dimm { image, .. } in self.dimms.values() {
            sizes.push(fs::metadata(image).context(image.display())?.len());
        }
        // Each DIMM is placed at a gibibyte of its own.
        let room: u64 = sizes.iter().map(|size| size.div_ceil(GIB) + 1).sum();
        let slots = self.dimms.last_key_value().map_or(1, |(last, _)| *last);
        let memory = format!("{MEMORY_GIB}G,slots={slots},maxmem={}G", MEMORY_GIB + room);
        let mut qemu =
            command("qemu-system-x86_64", ["-accel", "tcg,thread=multi", "-cpu", "max", "-nographic"]);
        qemu.args(["-no-reboot", "-net", "none", "-machine", "pc,nvdimm=on", "-m", &memory]);
        // On a busy machine the guest's timer may stand still for as long as the kernel waits for it, which then gives up.
        let kernel = "console=ttyS0 quiet panic=-1 no_timer_check";
        qemu.args(["-smp", &CPUS.to_string(), "-append", kernel]);
        qemu.arg("-kernel").arg(machine.kernel.image()).arg("-initrd").arg(initrd);
        if let Some(saved) = saved {
            qemu.args(["-serial", "mon:stdio", "-serial"]).arg(format!("file:{}", saved.display()));
        }
        for ((n, Dimm { image, label_size, address }), size) in self.dimms.iter().zip(sizes) {
            let path = image.to_string_lossy();
            ensure(!path.contains(','), || format!("QEMU takes no path with a comma: {path}"))?;
            qemu.arg("-object")
                .arg(format!("memory-backend-file,id=m{n},share=on,mem-path={path},size={size}"));
            let label = if *label_size == 0 { String::new() } else { format!(",label-size={label_size}") };
            let place = address.map_or_else(String::new, |address| format!(",addr={address:#x}"));
            qemu.arg("-device").arg(format!("nvdimm,id=n{n},memdev=m{n},slot={}{label}{place}", n - 1));
        }
        qemu.stdin(Stdio::null());
        Ok(qemu)
    }
}

/// Runs the emulator: what it said, its console, and whether it ended by itself. An emulator that crashes (Debian 12's does
/// now and then, in the firmware, on a busy machine) before the guest is ready has touched no image and is started again.
fn boot(qemu: &mut Command, name: &str, limit: Duration) -> Result<(Ran, String, bool)> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let (ran, ended) = run_or_stop(qemu, limit)?;
        let console = ran.stdout.replace('\r', "");
        match ran.status.signal() {
            Some(signal) if ended && tries > 0 && !is_ready(&console) => {
                println!(
                    "guest       boot {name}: QEMU died of signal {signal} before the guest was ready; again"
                );
            }
            _ => return Ok((ran, console, ended)),
        }
    }
}

/// Keeps a console; gives words for what went wrong in that boot.
fn log(machine: &Machine, name: &str, console: &str) -> Result<String> {
    let log = machine.folder.join(format!("{name}.log"));
    fs::write(&log, console).context(log.display())?;
    Ok(format!("boot {name} (console: {})", log.display()))
}

fn is_ready(console: &str) -> bool {
    console.lines().any(|line| line.starts_with("@READY "))
}

/// The verdicts on a console that must show the script's beginning and its end.
fn verdicts(console: &str) -> Result<Vec<Verdict>> {
    ensure(console.lines().any(|line| line.starts_with("@READY ")), || {
        "the guest was never ready".to_owned()
    })?;
    ensure(console.lines().any(|line| line == "@DONE 0"), || {
        "the guest's script did not end with 0".to_owned()
    })?;
    parse(console)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_that_dies_is_started_again_unless_the_guest_was_ready() {
        let folder = tempfile::tempdir().expect("a folder");
        let limit = Duration::from_secs(30);
        let mut dying_once =
            command("sh", ["-c", "mkdir once && kill -9 $$; echo; echo '@READY now'; kill -9 $$"]);
        let (ran, console, ended) = boot(dying_once.current_dir(folder.path()), "test", limit).expect("runs");
        assert!(ended && is_ready(&console) && ran.status.signal() == Some(9), "not a third time");
        let mut dying = command("sh", ["-c", "echo x >>tries; kill -9 $$"]);
        let (ran, ..) = boot(dying.current_dir(folder.path()), "test", limit).expect("runs");
        assert_eq!(ran.status.signal(), Some(9));
        assert_eq!(fs::read_to_string(folder.path().join("tries")).expect("written"), "x\n".repeat(3));
    }

    #[test]
    fn a_console_is_believed_from_ready_to_done() {
        assert_eq!(verdicts("[ 0.1] noise\n@READY 6.1\n@CASE a ok all\n@DONE 0\n").expect("whole").len(), 1);
        assert!(verdicts("@READY 6.1\n@CASE a ok\n").is_err(), "cut before the end");
        assert!(verdicts("@READY 6.1\n@DONE 2\n").is_err(), "the script failed");
        assert!(verdicts("@DONE 0\n").is_err(), "never ready");
    }
}
