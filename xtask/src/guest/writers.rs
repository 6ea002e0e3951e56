// SPDX-License-Identifier: MIT OR Apache-2.0
//! What writes in the guest until its emulator is killed: this program, once more, as a process of the guest. It tells of each
//! completed write on a second DIMM, which is a file of the host and so outlives the kill.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use rustix::fs::OFlags;

use crate::nbd::stamp::{UNWRITTEN, mix, stamp};
use crate::report::{Context, Failure, Result, ensure};

/// The line on the console that says that all writers write.
pub(super) const WRITING: &str = "@WRITING";

/// Neighbouring sectors that belong to one writer, and whose generations fit into one sector of the progress.
const GROUP: u64 = 64;
/// Groups, spread over the whole device.
const GROUPS: u64 = 16;
/// Sectors of the longest write.
const LONGEST: usize = 8;
/// Writes of each writer before the line is printed.
const WARM: u64 = 8;
/// Bytes of a group's progress: what a block device writes at least, a word for each sector.
const RECORD: usize = 512;
/// What direct access asks of memory.
const PAGE: usize = 4096;

/// How to write.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The device
    device: PathBuf,
    /// Where generations go that are acknowledged
    progress: PathBuf,
    /// Bytes of a sector
    unit: usize,
    /// Sectors of the device
    sectors: u64,
    /// The generation before the first
    base: u64,
    /// Threads
    writers: u64,
}

/// The LBAs that are written on a device of so many sectors, group by group; the progress has them in this order.
pub(super) fn lbas(sectors: u64) -> Vec<u64> {
    let apart = sectors.saturating_sub(GROUP) / (GROUPS - 1);
    (0..GROUPS).flat_map(|group| group * apart..group * apart + GROUP).collect()
}

/// The acknowledged generation of each of the [`lbas`]; [`UNWRITTEN`] for none.
pub(super) fn acknowledged(progress: &Path) -> Result<Vec<u64>> {
    let file = File::open(progress).context(progress.display())?;
    let words = usize::try_from(GROUPS * GROUP).context("the progress")?;
    let mut bytes = vec![0; words * 8];
    file.read_exact_at(&mut bytes, 0).context(progress.display())?;
    let words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_le_bytes));
    Ok(words.collect())
}

/// The generation that follows one.
pub(super) fn next(generation: u64, base: u64) -> u64 {
    if generation == UNWRITTEN { base + 1 } else { generation + 1 }
}

/// Writes until something fails or the machine is gone.
pub(crate) fn run(options: &Options) -> Result<()> {
    let open = |path: &Path| {
        let mut how = File::options();
        how.read(true).write(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
        how.open(path).context(path.display())
    };
    let (device, progress) = (open(&options.device)?, open(&options.progress)?);
    let failed = AtomicBool::new(false);
    let (tell, told) = channel();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..options.writers)
            .map(|number| {
                let (tell, device, progress, failed) = (tell.clone(), &device, &progress, &failed);
                scope.spawn(move || {
                    let outcome = Writer::new(options, number, device, progress).and_then(|mut writer| {
                        (0..WARM).try_for_each(|_| writer.write())?;
                        let _ = tell.send(());
                        while !failed.load(Ordering::Relaxed) {
                            writer.write()?;
                        }
                        Ok(())
                    });
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        drop(tell);
        // All of them, or as many as there were before one failed.
        let writers_write = (0..options.writers).all(|_| told.recv().is_ok());
        if writers_write {
            println!("\n{WRITING}");
        }
        let gone = |_| Err(Failure::from("a writer failed"));
        writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(gone))
    })
}

/// One writer, with every N-th group to itself.
struct Writer<'a> {
    options: &'a Options,
    device: &'a File,
    progress: &'a File,
    groups: Vec<Group>,
    random: u64,
    buffer: Aligned,
}

/// What a writer knows of a group.
struct Group {
    number: u64,
    lbas: Vec<u64>,
    /// The generations that were acknowledged, as the progress has them.
    record: Aligned,
}

impl<'a> Writer<'a> {
    fn new(options: &'a Options, number: u64, device: &'a File, progress: &'a File) -> Result<Writer<'a>> {
        let lbas = lbas(options.sectors);
        let all = (0..).zip(lbas.chunks(RECORD / 8));
        let groups = all.filter(|(group, _)| group % options.writers == number).map(|(number, lbas)| Group {
            number,
            lbas: lbas.to_vec(),
            record: Aligned::new(RECORD),
        });
        let groups: Vec<Group> = groups.collect();
        ensure(!groups.is_empty(), || "more writers than groups".to_owned())?;
        let buffer = Aligned::new(LONGEST * options.unit);
        Ok(Writer { options, device, progress, groups, random: mix(options.base ^ number << 48), buffer })
    }

    /// Writes some neighbouring sectors by one request, then tells of it.
    fn write(&mut self) -> Result<()> {
        let Options { unit, base, .. } = *self.options;
        self.random = mix(self.random);
        let random = self.random;
        let pick = |shift: u32, of: usize| usize::try_from((random >> shift) % of as u64).unwrap_or(0);
        let place = pick(0, self.groups.len());
        let group = self.groups.get_mut(place).ok_or("no such group")?;
        let count = 1 + pick(16, LONGEST);
        let first = pick(32, group.lbas.len() - count + 1);
        let bytes = &mut self.buffer.bytes()[..count * unit];
        let words = &mut group.record.bytes()[first * 8..(first + count) * 8];
        let sectors = group.lbas[first..].iter().zip(words.chunks_exact_mut(8));
        for ((lba, word), sector) in sectors.zip(bytes.chunks_exact_mut(unit)) {
            let old = <[u8; 8]>::try_from(&*word).map(u64::from_le_bytes).context("a word")?;
            let generation = next(old, base);
            sector.copy_from_slice(&stamp(*lba, generation, unit));
            word.copy_from_slice(&generation.to_le_bytes());
        }
        whole(self.device, bytes, group.lbas[first] * unit as u64).context(self.options.device.display())?;
        whole(self.progress, group.record.bytes(), group.number * RECORD as u64)
            .context(self.options.progress.display())
    }
}

/// One request, not several.
fn whole(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    let written = file.write_at(bytes, at).context("write")?;
    ensure(written == bytes.len(), || format!("{written} of {} bytes were written", bytes.len()))
}

/// Memory for direct access.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let memory = vec![0; length + PAGE];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Aligned { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_apart_and_within_the_device() {
        for sectors in [1024, 7912, 65_000] {
            let lbas = lbas(sectors);
            assert_eq!(lbas.len() as u64, GROUP * GROUPS);
            assert!(lbas.windows(2).all(|pair| pair[0] < pair[1]) && lbas[lbas.len() - 1] < sectors);
        }
    }

    #[test]
    fn a_progress_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("progress");
        let mut bytes = vec![0; 1 << 20];
        bytes[65 * 8] = 7;
        std::fs::write(&path, bytes).expect("written");
        let found = acknowledged(&path).expect("read");
        assert_eq!((found.len(), found[64], found[65], found[66]), (1024, UNWRITTEN, 7, UNWRITTEN));
        assert_eq!((next(UNWRITTEN, 100), next(101, 100)), (101, 102));
    }
}
