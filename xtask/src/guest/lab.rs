// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest with a described set of DIMMs. Where they share ranges, the guest's memory has the bytes of a range in their order,
//! one after the other over all DIMMs' files, while the images of DIMMs hold a range's lines in turn; this turns the one into
//! the other.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::BOOT_LIMIT;
use super::acpi::Table;
use super::describe::{Dimm, Lab, Range};
use super::initramfs::Fingerprint;
use super::kernel::cache;
use super::qemu::{Boot, CPUS, MEMORY_GIB, Machine};
use crate::process::{command, succeed};
use crate::report::{Context, Failure, Result, ensure};

/// Where QEMU's room for DIMMs begins, with two gibibytes of memory.
pub(crate) const BASE: u64 = 4 << 30;

/// Debian's firmware for QEMU's PC.
const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";

/// What Linux adds memory by.
const SECTION: u64 = 128 << 20;

/// Read at once from each DIMM of a set. Whole lines, and whole pages: a page of zeros stays a hole.
const PART: u64 = 64 << 10;

impl Lab {
    /// Plugs in the guest's files, in the order of the lab's DIMMs, and the tables that describe them.
    pub(crate) fn plug(&self, machine: &Machine, boot: &mut Boot, files: &[PathBuf]) -> Result<()> {
        self.place(boot, files)?;
        if self.replaced {
            boot.tables(self.tables(machine)?);
        }
        Ok(())
    }

    fn place(&self, boot: &mut Boot, files: &[PathBuf]) -> Result<()> {
        ensure(files.len() == self.dimms.len(), || format!("{} files for {self:?}", files.len()))?;
        for ((dimm, address), file) in self.dimms.iter().zip(self.addresses()).zip(files) {
            let n = usize::try_from(dimm.handle).context("a handle")?;
            boot.dimm_at(n, file, dimm.label_size, address);
        }
        Ok(())
    }

    /// Where in the guest's memory each DIMM begins: one right after the other where tables of ours divide them, else in whole
    /// sections, since Linux has no place for two regions in one.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let mut next = BASE;
        let place = |dimm: &Dimm| {
            let address = next;
            next += if self.replaced { dimm.size } else { dimm.size.next_multiple_of(SECTION) };
            address
        };
        self.dimms.iter().map(place).collect()
    }

    /// The guest's tables. QEMU's own ones, which they are made from, take a boot: they are kept for machines of the same shape.
    fn tables(&self, machine: &Machine) -> Result<Vec<Table>> {
        let mut shape = Fingerprint::default();
        let version = succeed(&mut command("qemu-system-x86_64", ["--version"]), BOOT_LIMIT)?.stdout;
        shape.take(version.as_bytes());
        // The methods know where the firmware has put a page for them.
        shape.take(&fs::read(FIRMWARE).unwrap_or_default());
        shape.take(&[CPUS, MEMORY_GIB].map(u64::to_le_bytes).concat());
        for dimm in &self.dimms {
            shape.take(&[u64::from(dimm.handle), dimm.size, dimm.label_size].map(u64::to_le_bytes).concat());
        }
        let folder = cache()?.join(format!("tables-{:016x}", shape.value()));
        if !folder.join("NFIT").is_file() {
            let work = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
            let mut boot = Boot::default();
            self.place(&mut boot, &self.blank(work.path())?)?;
            let found = work.path().join("tables");
            boot.out(&found);
            boot.script("mkdir /out; cd /sys/firmware/acpi/tables; cp NFIT SSDT* /out; save /out");
            boot.run(machine, "tables", BOOT_LIMIT)?;
            let new = folder.with_extension(format!("new-{}", std::process::id()));
            succeed(&mut command("cp", ["-r".as_ref(), found.as_os_str(), new.as_os_str()]), BOOT_LIMIT)?;
            fs::rename(&new, &folder).context(folder.display())?;
        }
        let nfit = Table::read(&folder.join("NFIT"))?.replaced(self)?;
        for entry in fs::read_dir(&folder).context(folder.display())? {
            let table = Table::read(&entry.context(folder.display())?.path())?;
            if table.mentions(b"_FIT") {
                return Ok(vec![nfit, table.without_fit()?]);
            }
        }
        Err(format!("{}: no table has _FIT", folder.display()).into())
    }

    /// A file of zeros for each DIMM.
    pub(crate) fn blank(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let blank = |dimm: &Dimm| {
            let path = folder.join(format!("dimm-{}", dimm.handle));
            let file = File::create(&path).context(path.display())?;
            file.set_len(dimm.size + dimm.label_size).context(path.display())?;
            Ok(path)
        };
        self.dimms.iter().map(blank).collect()
    }

    /// Makes the guest's files out of images of DIMMs.
    pub(crate) fn weave(&self, images: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
        let files = self.blank(folder)?;
        self.transfer(images, &files, true)?;
        Ok(files)
    }

    /// Puts what the guest has made of its files into the images of DIMMs.
    pub(crate) fn unweave(&self, files: &[PathBuf], images: &[PathBuf]) -> Result<()> {
        self.transfer(images, files, false)
    }

    fn transfer(&self, images: &[PathBuf], files: &[PathBuf], to_guest: bool) -> Result<()> {
        self.check()?;
        let open = |paths: &[PathBuf]| -> Result<Vec<File>> {
            let open =
                |path: &PathBuf| File::options().read(true).write(true).open(path).context(path.display());
            paths.iter().map(open).collect()
        };
        let (images, files) = (open(images)?, open(files)?);
        ensure(images.len() == self.dimms.len() && files.len() == images.len(), || {
            format!("{} images and {} files for {} DIMMs", images.len(), files.len(), self.dimms.len())
        })?;
        for ((dimm, image), file) in self.dimms.iter().zip(&images).zip(&files) {
            let (from, to) = if to_guest { (image, file) } else { (file, image) };
            let mut area = vec![0; usize::try_from(dimm.label_size).context("the label area")?];
            from.read_exact_at(&mut area, dimm.size).context("the label area")?;
            to.write_all_at(&area, dimm.size).context("the label area")?;
        }
        let memory = Memory { lab: self, files: &files };
        for range in &self.ranges {
            let mut done = 0;
            while done < range.share() {
                let part = PART.min(range.share() - done);
                self.stripe(range, &images, &memory, done, part, to_guest)?;
                done += part;
            }
        }
        Ok(())
    }

    /// Transfers `part` bytes on each DIMM of a range.
    fn stripe(
        &self,
        range: &Range,
        images: &[File],
        memory: &Memory<'_>,
        done: u64,
        part: u64,
        to_guest: bool,
    ) -> Result<()> {
        let ways = range.members.len();
        let line = usize::try_from(range.line_size).context("a line")?;
        let length = usize::try_from(part).context("a part")?;
        let at = range.address + done * ways as u64;
        let image = |handle| {
            let place = self.dimms.iter().position(|dimm| dimm.handle == handle);
            place.and_then(|place| images.get(place)).ok_or_else(|| Failure::from("no such DIMM"))
        };
        let mut holes = memory.is_hole(at, length * ways)?;
        for member in &range.members {
            holes &= is_hole(image(member.handle)?, member.dpa + done, part);
        }
        if holes {
            return Ok(());
        }
        let mut whole = vec![0; length * ways];
        let mut one = vec![0; length];
        if !to_guest {
            memory.read(at, &mut whole)?;
        }
        for (turn, member) in range.members.iter().enumerate() {
            let image = image(member.handle)?;
            if to_guest {
                image.read_exact_at(&mut one, member.dpa + done).context("an image")?;
            }
            for (lines, ours) in whole.chunks_mut(line * ways).zip(one.chunks_mut(line)) {
                let theirs = lines.chunks_mut(line).nth(turn).ok_or("a torn line")?;
                if to_guest {
                    theirs.copy_from_slice(ours);
                } else {
                    ours.copy_from_slice(theirs);
                }
            }
            if !to_guest {
                write(image, member.dpa + done, &one)?;
            }
        }
        if to_guest { memory.write(at, &whole) } else { Ok(()) }
    }
}

/// The guest's physical memory behind [`BASE`], in the files of its DIMMs.
pub(crate) struct Memory<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) files: &'a [File],
}

impl Memory<'_> {
    /// Reads from this guest-physical address on.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        self.pieces(address, rest.len(), |file, at, length| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(length);
            rest = later;
            file.read_exact_at(now, at).context("the guest's memory")
        })
    }

    /// Writes from this guest-physical address on, and leaves holes where zeros are already.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        self.pieces(address, rest.len(), |file, at, length| {
            let (now, later) = rest.split_at(length);
            rest = later;
            write(file, at, now)
        })
    }

    /// Whether none of it was ever written.
    fn is_hole(&self, address: u64, length: usize) -> Result<bool> {
        let mut holes = true;
        self.pieces(address, length, |file, at, length| {
            holes &= is_hole(file, at, length as u64);
            Ok(())
        })?;
        Ok(holes)
    }

    fn pieces(
        &self,
        address: u64,
        length: usize,
        mut piece: impl FnMut(&File, u64, usize) -> Result<()>,
    ) -> Result<()> {
        let (mut at, end) = (address, address + length as u64);
        for ((dimm, start), file) in self.lab.dimms.iter().zip(self.lab.addresses()).zip(self.files) {
            let stop = end.min(start + dimm.size);
            if at < stop && at >= start {
                piece(file, at - start, usize::try_from(stop - at).context("a piece")?)?;
                at = stop;
            }
        }
        ensure(at == end, || format!("the guest has no memory at {at:#x}"))
    }
}

/// Whether the file system says that these bytes are a hole. One that knows none says no.
fn is_hole(file: &File, at: u64, length: u64) -> bool {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data >= at + length,
        Err(error) => error == Errno::NXIO,
    }
}

/// Writes, but leaves holes where there are only zeros and were before.
fn write(file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    let mut old = vec![0; bytes.len()];
    file.read_exact_at(&mut old, at).context("a DIMM")?;
    if old == bytes { Ok(()) } else { file.write_all_at(bytes, at).context("a DIMM") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::record::interleaved;

    #[test]
    fn lines_of_a_set_are_in_the_order_of_its_region_offsets() {
        let mut lab = interleaved();
        for dimm in &mut lab.dimms {
            dimm.size = 192 << 10;
        }
        let [pair, four] = lab.ranges.as_mut_slice() else { panic!("two ranges") };
        (pair.size, four.size, four.address) = (128 << 10, 512 << 10, BASE + (128 << 10));
        for member in &mut four.members {
            member.dpa = member.dpa.min(64 << 10);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            path
        };
        let images = lab.blank(&path("images")).expect("fits");
        // Each line of an image says where it is: the handle, and its number on the DIMM.
        for (dimm, image) in lab.dimms.iter().zip(&images) {
            let lines = (0..(dimm.size + dimm.label_size) / 256).flat_map(|n| {
                let mut line = vec![0; 256];
                line[..4].copy_from_slice(&dimm.handle.to_le_bytes());
                line[4..12].copy_from_slice(&n.to_le_bytes());
                line
            });
            fs::write(image, lines.collect::<Vec<u8>>()).expect("written");
        }
        let files = lab.weave(&images, &path("guest")).expect("fits");
        let open: Vec<File> = files.iter().map(|file| File::open(file).expect("is there")).collect();
        let line_at = |offset: u64| {
            let mut line = [0; 12];
            Memory { lab: &lab, files: &open }.read(BASE + offset, &mut line).expect("is there");
            (line[0], line[4..].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
        };
        assert_eq!([0, 256, 512, 768].map(line_at), [(1, 0), (2, 0), (1, 1), (2, 1)]);
        let second = 128 << 10;
        let found = [0, 256, 512, 768, 1024, 1280].map(|at| line_at(second + at));
        assert_eq!(found, [(3, 0), (1, 256), (4, 0), (2, 256), (3, 1), (1, 257)]);
        assert_eq!(line_at(second + (512 << 10) - 256), (2, 767), "the last line");

        let again = lab.blank(&path("again")).expect("fits");
        lab.unweave(&files, &again).expect("fits");
        for (n, (before, after)) in images.iter().zip(&again).enumerate() {
            let (mut before, after) =
                (fs::read(before).expect("is there"), fs::read(after).expect("is there"));
            if n > 1 {
                // The last third of these is in no range.
                before[128 << 10..192 << 10].fill(0);
            }
            assert!(before == after, "DIMM {}", n + 1);
        }

        // Holes count as the zeros that they are.
        lab.unweave(&lab.blank(&path("blank")).expect("fits"), &again).expect("fits");
        for image in &again {
            assert!(fs::read(image).expect("is there").iter().all(|byte| *byte == 0), "{}", image.display());
        }
    }

    #[test]
    fn a_range_that_does_not_fit_its_dimms_is_refused() {
        let words = |change: fn(&mut Lab)| {
            let mut lab = interleaved();
            change(&mut lab);
            lab.check().expect_err("impossible").to_string()
        };
        interleaved().check().expect("possible");
        assert!(words(|lab| lab.ranges[1].members[1].dpa += 256).contains("ends at 201326848 on DIMM 0x1"));
        assert!(words(|lab| lab.ranges[0].members[1].offset = 0).contains("DIMM 0x2 starts at 0"));
        assert!(words(|lab| lab.ranges[0].members[1].handle = 9).contains("0x9"));
        assert!(words(|lab| lab.ranges[0].size += 256).contains("no lines of 256 bytes on 2 DIMMs"));
    }
}
