// SPDX-License-Identifier: MIT OR Apache-2.0
//! The emulator is killed while Linux writes to an image of ours with all its CPUs. The image, which is the guest's memory, then
//! holds what was stored, in the order of the stores: it is as after a crash of the kernel, not as after a power cut, which also
//! takes what caches hold. Each sector must be whole, and the one that was acknowledged or the next; we and Linux must read the
//! same, whoever recovers it.
//!
//! A kill costs a boot, and seldom comes between a record of the flog and the map entry that follows it. So each boot is also
//! stopped many times before it, by SIGSTOP, which leaves in the files what a kill would. Where the tables are half-way, and now and
//! then where they are not, the files are copied and looked at as after a kill.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nvstack_tally::{long, tally};
use rustix::process::{Pid, Signal, kill_process_group};

use super::BOOT_LIMIT;
use super::combo::{Combo, Image, Labels, SMALL};
use super::initramfs::{libraries, merged};
use super::ours::copy_out;
use super::qemu::{Boot, CPUS, Machine, ndctl_says};
use super::writers::{WRITING, acknowledged, lbas, next};
use crate::layout::audit;
use crate::nbd::stamp::{UNWRITTEN, mix, read};
use crate::process::{command, succeed};
use crate::report::{Context, Failure, Lane, Result, ensure};
use crate::unit::target;
use crate::verdict::{Verdict, note};

/// Kills in a normal run, and in a long one.
const ROUNDS: usize = 2;
const LONG_ROUNDS: usize = 10;
/// Images that Linux looks at in one boot.
const SHARE: usize = 5;
/// Stops before each kill, and in a long run.
const STOPS: u64 = 16;
const LONG_STOPS: u64 = 40;
/// Of them those that are looked at in any case: every so many-th.
const EACH: u64 = 10;
/// Others that are looked at, where tables are half-way.
const HALF_WAY: usize = 4;
/// Milliseconds of writing before each.
const LONGEST: u64 = 60;
const LIMIT: Duration = Duration::from_secs(120);

fn stops() -> u64 {
    if long() { LONG_STOPS } else { STOPS }
}

/// One boot that is killed.
#[derive(Clone, Copy)]
struct Round {
    number: usize,
    combo: Combo,
}

/// An image and the progress of its writers at one moment.
struct Cut {
    name: String,
    image: Image,
    progress: PathBuf,
    /// A block is mapped and free at once: the record of a write is in the flog, and its map entry is not written.
    half_way: bool,
}

/// An image before Linux has seen it.
struct Read {
    round: Round,
    name: String,
    image: Image,
    /// What we read.
    raw: PathBuf,
}

/// What came of a round.
struct Killed {
    last: Read,
    /// A stop between flog and map.
    half_way: Option<Read>,
    words: String,
    stops: u64,
}

/// What was found in a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Sectors that were acknowledged, again and again.
    told: u64,
    /// Sectors that hold something.
    written: usize,
    /// Sectors that are newer than was told.
    newer: usize,
}

/// Runs the rounds.
pub(super) fn run(lane: &mut Lane, machine: &Machine, bin: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let folder = folder.path();
    let program = program()?;
    let rounds: Vec<Round> = (0..if long() { LONG_ROUNDS } else { ROUNDS }).map(Round::new).collect();
    let (mut kills, mut stops) = (0, 0);
    for batch in rounds.chunks(SHARE) {
        let (mut killed, mut half_way) = (Vec::new(), Vec::new());
        for pair in batch.chunks(2) {
            let outcomes: Vec<Result<Killed>> = thread::scope(|scope| {
                let start = |round: &Round| {
                    let (round, program) = (*round, &program);
                    scope.spawn(move || round.kill(machine, bin, folder, program))
                };
                let running: Vec<_> = pair.iter().map(start).collect();
                let failed = |_| Err(Failure::from("the thread of this case failed"));
                running.into_iter().map(|job| job.join().unwrap_or_else(failed)).collect()
            });
            for (round, outcome) in pair.iter().zip(outcomes) {
                match outcome {
                    Ok(done) => {
                        lane.pass(format!("{}.killed", round.name()), &done.words);
                        stops += done.stops;
                        killed.push(done.last);
                        half_way.extend(done.half_way);
                    }
                    Err(why) => lane.fail(format!("{}.killed", round.name()), round.told(&why)),
                }
            }
        }
        kills += linux(lane, machine, bin, folder, &killed)?;
        // In a boot of their own: labels know their DIMM, which has one place.
        linux(lane, machine, bin, folder, &half_way)?;
    }
    for (count, what, unit) in [(kills, "killed", "guest kills"), (stops, "stopped", "guest stops")] {
        if count > 0 {
            tally("guest", &format!("QEMU {what} while Linux writes to our image"), unit, count);
        }
    }
    Ok(())
}

/// This program, for the guest, with its libraries: path in the guest and content.
fn program() -> Result<Vec<(String, Vec<u8>)>> {
    let path = std::env::current_exe().context("this program")?;
    let mut all = vec![("usr/bin/xtask".to_owned(), fs::read(&path).context(path.display())?)];
    for library in libraries(&path)? {
        let inside = merged(&library).trim_start_matches('/').to_owned();
        all.push((inside, fs::read(&library).context(&library)?));
    }
    Ok(all)
}

impl Round {
    /// All labels and all sector sizes take turns, so that the first three have each kind of labels and twelve have all.
    fn new(number: usize) -> Round {
        let labels = [Labels::None, Labels::V1_1, Labels::V1_2][number % 3];
        let size = [512, 4104, 4096, 520][number % 4];
        Round { number, combo: Combo::new(labels, size) }
    }

    fn name(self) -> String {
        format!("kill-{}.{}", self.number + 1, self.combo.name())
    }

    /// The folder of its files.
    fn folder(self, all: &Path) -> PathBuf {
        all.join(self.name())
    }

    fn seed(self) -> u64 {
        self.number as u64 + 1
    }

    /// The generation before the first, so that none is that of another round.
    fn base(self) -> u64 {
        self.seed() << 32
    }

    /// A failure, with how to see it again.
    fn told(self, why: &Failure) -> String {
        format!("seed {}: {why}", self.seed())
    }

    /// Linux writes, is stopped and looked at some times, and killed.
    fn kill(
        self,
        machine: &Machine,
        bin: &Path,
        folder: &Path,
        program: &[(String, Vec<u8>)],
    ) -> Result<Killed> {
        let name = self.name();
        let folder = &self.folder(folder);
        fs::create_dir(folder).context(folder.display())?;
        // In the boot that looks, each image has a place and one behind it for its contents.
        let image = Image::create(bin, folder, self.combo, 1 + self.number % SHARE * 2, SMALL)?;
        let progress = blank(folder, &format!("{name}.progress"))?;
        let (sectors, unit) = (image.geometry().sectors(), image.combo.data_size());
        let mut boot = Boot::default();
        for (path, content) in program {
            boot.program(path, content)?;
        }
        image.plug(&mut boot);
        boot.dimm(image.dimm + 1, &progress, 0);
        boot.script(format!("dimm {}; progress=$block", image.dimm + 1));
        boot.script(format!("btt {name} {} {} {unit} &&", image.dimm, image.content().size()));
        let base = self.base();
        boot.script(format!("xtask stamp /dev/$block /dev/$progress {unit} {sectors} {base} {CPUS}"));
        boot.script(format!("fail {name} 'its writers have ended'"));

        let (mut cuts, mut half_ways) = (Vec::new(), 0);
        let delay = |n| thread::sleep(Duration::from_micros(mix(base ^ n) % (LONGEST * 1000)));
        boot.kill(machine, &name, WRITING, BOOT_LIMIT, |emulator| {
            for n in 0..stops() {
                delay(n);
                let cut = stopped(emulator, || {
                    let half_way = audit(&image.path).is_err();
                    half_ways += usize::from(half_way);
                    if !n.is_multiple_of(EACH) && (!half_way || half_ways > HALF_WAY) {
                        return Ok(None);
                    }
                    let name = format!("{name}.stop-{}", n + 1);
                    let told = folder.join(format!("{name}.progress"));
                    fs::copy(&progress, &told).context(progress.display())?;
                    let image = image.copied(folder.join(format!("{name}.img")))?;
                    Ok(Some(Cut { name, image, progress: told, half_way }))
                })?;
                cuts.extend(cut);
            }
            delay(stops());
            Ok(())
        })?;
        let half_way = audit(&image.path).is_err();
        half_ways += usize::from(half_way);
        let last = Cut { name: name.clone(), image, progress, half_way };
        self.look(bin, folder, cuts, last, half_ways).map_err(|why| keep(why, folder, &name))
    }

    /// We look at all cuts, the last of which is the kill.
    fn look(self, bin: &Path, folder: &Path, cuts: Vec<Cut>, last: Cut, half_ways: usize) -> Result<Killed> {
        let (stops, mut newer, mut half_way) = (cuts.len(), 0, None);
        for cut in cuts {
            let keeps = cut.half_way && half_way.is_none();
            let (read, found) = self.look_at(bin, folder, cut)?;
            newer += found.newer;
            if keeps {
                half_way = Some(read);
            } else {
                for path in [&read.image.path, &read.raw] {
                    fs::remove_file(path).context(path.display())?;
                }
            }
        }
        let (last, found) = self.look_at(bin, folder, last)?;
        newer += found.newer;
        let words = format!(
            "{} stops and a kill in {} acknowledged sectors, {half_ways} of them between flog and map; in the {} that were \
             looked at no sector is torn or older than told, {newer} are newer; recovered by us, they read the same",
            self::stops(),
            found.told,
            stops + 1,
        );
        Ok(Killed { last, half_way, words, stops: stops as u64 })
    }

    /// We read a cut, which must be as it should be, and read a copy of it after we have recovered that.
    fn look_at(self, bin: &Path, folder: &Path, cut: Cut) -> Result<(Read, Found)> {
        let Cut { name, image, progress, .. } = cut;
        let raw = folder.join(format!("{name}.raw"));
        let unit = image.combo.data_size();
        let found: Result<Found> = (|| {
            fs::rename(copy_out(bin, &image, folder)?, &raw).context(raw.display())?;
            let all = fs::read(&raw).context(raw.display())?;
            let found = judge(&all, unit, &acknowledged(&progress)?, self.base())?;
            let ours = image.copied(folder.join(format!("{name}.ours")))?;
            let recovered = folder.join(format!("{name}.ours.raw"));
            recover(bin, &ours, &recovered)?;
            same(&recovered, &all, unit).context("recovered by us it reads differently")?;
            for path in [&ours.path, &recovered, &progress] {
                fs::remove_file(path).context(path.display())?;
            }
            Ok(found)
        })();
        Ok((Read { round: self, name: name.clone(), image, raw }, found.context(name)?))
    }
}

/// Linux recovers the images and reads all of them; what it reads must be what we read before and read afterwards. Gives how many
/// were as they should be.
fn linux(lane: &mut Lane, machine: &Machine, bin: &Path, folder: &Path, all: &[Read]) -> Result<u64> {
    let Some(first) = all.first() else { return Ok(0) };
    let mut boot = Boot::default();
    let (mut wanted, mut dumps) = (Vec::new(), Vec::new());
    for Read { round, name, image, .. } in all {
        let (unit, folder) = (image.combo.data_size(), round.folder(folder));
        let dump = blank(&folder, &format!("{name}.dump"))?;
        // For whoever has to find out what went wrong.
        image.copied(folder.join(format!("{name}.before-linux")))?;
        image.plug(&mut boot);
        boot.dimm(image.dimm + 1, &dump, 0);
        boot.script(format!("dimm {}; dump=/dev/$block", image.dimm + 1));
        boot.script(format!("if btt {name} {} {} {unit}; then", image.dimm, image.content().size()));
        boot.script("dd if=/dev/$block of=$dump bs=1M iflag=direct oflag=direct conv=notrunc 2>/tmp/dd");
        boot.script(format!("same {name}.kernel-reads 'Linux recovers and reads it' $? 0"));
        boot.script(format!("check {name}.check-namespace {}\nfi", ndctl_says(image.combo.sector_size)));
        wanted.extend(["bind", "kernel-reads", "check-namespace"].map(|case| format!("{name}.{case}")));
        dumps.push(dump);
    }
    let verdicts: Vec<Verdict> = boot.run(machine, &format!("{}.linux", first.name), BOOT_LIMIT)?;
    note(lane, &verdicts, &wanted);
    let mut good = 0;
    for (Read { round, name, image, raw }, dump) in all.iter().zip(dumps) {
        let folder = &round.folder(folder);
        let outcome = (|| {
            let (all, unit) = (fs::read(raw).context(raw.display())?, image.combo.data_size());
            same(&dump, &all, unit).context("what Linux reads is not what we read")?;
            let again = folder.join(format!("{name}.linux.raw"));
            recover(bin, image, &again)?;
            same(&again, &all, unit).context("recovered by Linux, we read something else than before")?;
            Ok(format!("Linux and we read the same {} sectors, before and after recovery", all.len() / unit))
        })();
        good += u64::from(outcome.is_ok());
        lane.note(format!("{name}.same"), outcome.map_err(|why| round.told(&keep(why, folder, name)).into()));
    }
    Ok(good)
}

/// Opens for writing, and so recovers; copies all; ends. The tables must be sound then.
fn recover(bin: &Path, image: &Image, raw: &Path) -> Result<()> {
    let server = image.serve(bin, &[])?;
    succeed(&mut command("nbdcopy", [server.uri.as_ref(), raw.as_os_str()]), LIMIT)?;
    server.stop()?;
    audit(&image.path)
}

/// Whether a device's contents are what its writers may have left: `told` is what was acknowledged of each of the [`lbas`].
fn judge(all: &[u8], unit: usize, told: &[u64], base: u64) -> Result<Found> {
    let lbas = lbas((all.len() / unit) as u64);
    ensure(lbas.len() == told.len(), || format!("{} generations for {} sectors", told.len(), lbas.len()))?;
    let count = told.iter().map(|generation| generation.saturating_sub(base)).sum();
    let mut told = lbas.into_iter().zip(told.iter().copied()).peekable();
    let (mut found, mut wrong) = (Found { told: count, ..Found::default() }, Vec::new());
    for (lba, sector) in (0..).zip(all.chunks(unit)) {
        let floor = told.next_if(|(of, _)| *of == lba).map(|(_, floor)| floor);
        match (read(lba, sector), floor) {
            (Err(torn), _) => wrong.push(torn),
            (Ok(UNWRITTEN), None) => {}
            (Ok(generation), None) => wrong.push(format!("LBA {lba}, never written, holds {generation:#x}")),
            (Ok(generation), Some(floor)) => {
                found.written += usize::from(generation != UNWRITTEN);
                found.newer += usize::from(generation != floor);
                if generation != floor && generation != next(floor, base) {
                    wrong.push(format!("LBA {lba} holds {generation:#x}, acknowledged was {floor:#x}"));
                }
            }
        }
    }
    let shown = wrong.len().min(3);
    ensure(wrong.is_empty(), || format!("{} sectors are wrong: {}", wrong.len(), wrong[..shown].join("; ")))?;
    ensure(found.written > 0, || "nothing was written".to_owned())?;
    Ok(found)
}

/// Compares the beginning of a file with a device's contents.
fn same(path: &Path, all: &[u8], unit: usize) -> Result<()> {
    let mut found = vec![0; all.len()];
    File::open(path).and_then(|file| file.read_exact_at(&mut found, 0)).context(path.display())?;
    let differ = |(_, (found, wanted)): &(usize, (&[u8], &[u8]))| found != wanted;
    let mut wrong = found.chunks(unit).zip(all.chunks(unit)).enumerate().filter(differ);
    match wrong.next() {
        None => Ok(()),
        Some((lba, _)) => Err(format!("LBA {lba} differs, and {} more", wrong.count()).into()),
    }
}

/// Stops an emulator, does something, and lets it go on.
fn stopped<T>(emulator: Pid, what: impl FnOnce() -> Result<T>) -> Result<T> {
    kill_process_group(emulator, Signal::STOP).context("stop QEMU")?;
    let asked = Instant::now();
    while !is_stopped(emulator)? {
        ensure(asked.elapsed() < LIMIT, || "QEMU does not stop".to_owned())?;
        thread::sleep(Duration::from_millis(1));
    }
    let done = what();
    kill_process_group(emulator, Signal::CONT).context("let QEMU go on")?;
    done
}

/// Whether every thread of a process stands still.
fn is_stopped(process: Pid) -> Result<bool> {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    for task in fs::read_dir(&tasks).context(&tasks)? {
        let path = task.context(&tasks)?.path().join("stat");
        let line = fs::read_to_string(&path).context(path.display())?;
        // The name, in parentheses, may hold anything.
        if !line.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A DIMM of zeros.
fn blank(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    File::create(&path).and_then(|file| file.set_len(SMALL)).context(path.display())?;
    Ok(path)
}

/// Keeps the files of a failed round where they outlive the run.
fn keep(why: Failure, folder: &Path, name: &str) -> Failure {
    let kept = target().join(format!("guest-{name}"));
    let _ = fs::remove_dir_all(&kept);
    match succeed(&mut command("cp", ["-r".as_ref(), folder.as_os_str(), kept.as_os_str()]), LIMIT) {
        Ok(_) => format!("{why} (its files: {})", kept.display()).into(),
        Err(_) => why,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;
    use crate::nbd::stamp::stamp;

    const BASE: u64 = 7 << 32;

    #[test]
    fn what_writers_cannot_have_left_is_named() {
        let sectors = 1100;
        let lbas = lbas(sectors);
        let mut told = vec![UNWRITTEN; lbas.len()];
        (told[0], told[1], told[2]) = (BASE + 1, BASE + 9, BASE + 9);
        let mut all = vec![0; 512 * 1100];
        let mut put = |lba: u64, sector: &[u8]| {
            let at = usize::try_from(lba).expect("fits") * 512;
            all[at..at + 512].copy_from_slice(sector);
            judge(&all, 512, &told, BASE).map_err(|why| why.to_string())
        };
        let of = |lba, generation| stamp(lba, BASE + generation, 512);
        assert!(put(lbas[0], &of(0, 1)).expect_err("two are lost").starts_with("2 sectors are wrong"));
        put(lbas[1], &of(1, 9)).expect_err("one is lost");
        // One as told, one newer, one that is not told yet.
        assert_eq!(put(lbas[2], &of(2, 10)), Ok(Found { told: 19, written: 3, newer: 1 }));
        assert_eq!(put(lbas[70], &of(lbas[70], 1)), Ok(Found { told: 19, written: 4, newer: 2 }));
        for (lba, sector, words) in [
            (0, [&of(0, 2)[..256], &of(0, 1)[256..]].concat(), "LBA 0 is torn"),
            (1, of(1, 8), "LBA 1 holds 0x700000008, acknowledged was 0x700000009"),
            (1, of(1, 11), "LBA 1 holds 0x70000000b"),
            (1, of(2, 9), "LBA 1 holds the sector of LBA 2"),
            (1, vec![0; 512], "LBA 1 holds 0x0"),
            (65, of(65, 1), "LBA 65, never written, holds"),
            (lbas[70], of(lbas[70], 2), "acknowledged was 0x0"),
        ] {
            let why = put(lba, &sector).expect_err(words);
            assert!(why.starts_with("1 sectors are wrong: ") && why.contains(words), "{words}: {why}");
            let sound = if lba == 65 { vec![0; 512] } else { of(lba, if lba == 1 { 9 } else { 1 }) };
            put(lba, &sound).expect("as before");
        }
    }

    #[test]
    fn contents_that_differ_in_a_bit_differ() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raw");
        let mut all = vec![3; 4096];
        fs::write(&path, [&all[..], &[9; 100]].concat()).expect("written");
        same(&path, &all, 512).expect("the same, and some more");
        all[1023] ^= 1;
        assert_eq!(same(&path, &all, 512).expect_err("a bit").to_string(), "LBA 1 differs, and 0 more");
    }

    #[test]
    fn what_is_stopped_stands_still_and_goes_on() {
        let mut child = command("sh", ["-c", "while :; do :; done"]);
        let mut child = child.process_group(0).spawn().expect("runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        let seen = stopped(pid, || is_stopped(pid)).expect("stopped");
        let after = is_stopped(pid).expect("there");
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert!(seen && !after);
    }
}
