// SPDX-License-Identifier: MIT OR Apache-2.0
//! ACPI tables for the guest. QEMU has no interleave sets, but Linux takes tables from its initrd in place of the firmware's:
//! an NFIT of ours, and QEMU's own table of methods with its `_FIT`, which would override the NFIT, under another name.
//!
//! Layouts: ACPI 6.5, sections 5.2.6 (header) and 5.2.25 (NFIT).

use std::path::Path;

use super::cpio::Archive;
use super::describe::{Dimm, Lab, Range};
use crate::report::{Context, Failure, Result, ensure};

/// Where Linux looks for tables in an uncompressed archive at the start of its initrd.
const FOLDER: &str = "kernel/firmware/acpi";

const HEADER: usize = 36;
const LENGTH: usize = 4;
const CHECKSUM: usize = 9;
const OEM_REVISION: usize = 24;

/// The persistent memory range type 66f0d379-b4f3-4074-ac43-0d3318b78cdb, in the byte order of GUIDs.
const PERSISTENT_MEMORY: [u8; 16] =
    [0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb];

/// EFI memory attributes: write-back cacheable, non-volatile.
const ATTRIBUTES: u64 = 0x8008;
/// Of a range: its proximity domain is valid; its control regions are for management only.
const RANGE_FLAGS: u16 = 3;
/// Of a control region: manufacturing date and location are valid.
const MADE_VALID: u8 = 1;
/// Of a memory device: the NVDIMM is healthy.
const NO_STATE: u16 = 0;
/// Interleave structures are numbered from 1; 0 says that a range is not interleaved.
const NO_INTERLEAVE: u16 = 0;

/// A whole table, with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table(Vec<u8>);

impl Table {
    /// Takes the bytes of a table whose length and checksum are right.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Table> {
        let table = Table(bytes);
        let stated = table.bytes(LENGTH)?;
        ensure(table.0.len() >= HEADER && u32::from_le_bytes(stated) as usize == table.0.len(), || {
            format!("{} bytes of an ACPI table that states {}", table.0.len(), u32::from_le_bytes(stated))
        })?;
        ensure(table.sum() == 0, || format!("an ACPI table whose bytes sum up to {:#x}", table.sum()))?;
        Ok(table)
    }

    /// Reads a table that a guest saved.
    pub(crate) fn read(path: &Path) -> Result<Table> {
        Table::new(std::fs::read(path).context(path.display())?).context(path.display())
    }

    /// Whether the table has this text anywhere behind its header.
    pub(crate) fn mentions(&self, text: &[u8]) -> bool {
        self.find(text).is_some()
    }

    /// The table with the method `_FIT` under another name and a higher revision, so that Linux prefers it.
    pub(crate) fn without_fit(self) -> Result<Table> {
        let at = self.find(b"_FIT").ok_or("an ACPI table without _FIT")?;
        self.with(at, b"XFIT")?.preferred()
    }

    /// An NFIT of ours for what this one, QEMU's, was for.
    pub(crate) fn replaced(&self, lab: &Lab) -> Result<Table> {
        ensure(self.0.starts_with(b"NFIT"), || "no NFIT to replace".to_owned())?;
        let mut bytes = self.bytes::<HEADER>(0)?.to_vec();
        bytes.extend(structures(lab)?);
        let length = u32::try_from(bytes.len()).context("the NFIT")?;
        Table(bytes).with(LENGTH, &length.to_le_bytes())?.preferred()
    }

    /// The table with a revision above that of the one that it replaces, and a checksum that is right again.
    fn preferred(self) -> Result<Table> {
        let revision = u32::from_le_bytes(self.bytes(OEM_REVISION)?).wrapping_add(1);
        let table = self.with(OEM_REVISION, &revision.to_le_bytes())?.with(CHECKSUM, &[0])?;
        let sum = table.sum().wrapping_neg();
        Table::new(table.with(CHECKSUM, &[sum])?.0)
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Result<Table> {
        let all = self.0.len();
        let place = self.0.get_mut(at..at + bytes.len());
        place.ok_or_else(|| Failure::from(format!("an ACPI table of {all} bytes")))?.copy_from_slice(bytes);
        Ok(self)
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        self.0.windows(text.len()).skip(HEADER).position(|window| window == text).map(|at| at + HEADER)
    }

    fn sum(&self) -> u8 {
        self.0.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.0.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| format!("an ACPI table of {} bytes", self.0.len()).into())
    }
}

/// The archive that Linux takes these tables from. It must come first in the initrd, and uncompressed.
pub(crate) fn archive(tables: &[Table]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (n, Table(bytes)) in tables.iter().enumerate() {
        archive.file(&format!("{FOLDER}/{n}.aml"), false, bytes)?;
    }
    archive.finish()
}

/// One structure of an NFIT in the making: little-endian fields behind a type and a length.
struct Fields(Vec<u8>);

impl Fields {
    fn new(kind: u16) -> Fields {
        Fields(kind.to_le_bytes().into_iter().chain([0, 0]).collect())
    }

    fn bytes(mut self, bytes: &[u8]) -> Fields {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Fields {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Fields {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Fields {
        self.bytes(&value.to_le_bytes())
    }

    /// Padded to a multiple of eight bytes, as all structures are, with its length filled in.
    fn finish(mut self) -> Result<Vec<u8>> {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let length = u16::try_from(self.0.len()).context("a structure of the NFIT")?;
        for (place, byte) in self.0.iter_mut().skip(2).zip(length.to_le_bytes()) {
            *place = byte;
        }
        Ok(self.0)
    }
}

/// What follows the header of the NFIT.
fn structures(lab: &Lab) -> Result<Vec<u8>> {
    lab.check()?;
    let mut all = vec![0; 4];
    let mut maps = Vec::new();
    for (n, range) in (1..).zip(&lab.ranges) {
        all.extend(range_structure(range).finish()?);
        let ways = u16::try_from(range.members.len()).context("ways")?;
        let interleave = if ways > 1 { n } else { NO_INTERLEAVE };
        if ways > 1 {
            maps.extend(interleave_structure(n, ways.into(), range.line_size).finish()?);
        }
        for member in &range.members {
            let dimm = lab.dimm(member.handle)?;
            let map = Fields::new(1).u32(member.handle).u16(dimm.phys_id).u16(member.region_id);
            let map = map.u16(range.index).u16(control(lab, dimm)?);
            let map = map.u64(range.share()).u64(member.offset).u64(member.dpa);
            maps.extend(map.u16(interleave).u16(ways).u16(NO_STATE).u16(0).finish()?);
        }
    }
    all.extend(maps);
    for dimm in &lab.dimms {
        let made = dimm.made.map_or((0, 0, 0), |made| (MADE_VALID, made.location, made.date));
        let id = Fields::new(4).u16(control(lab, dimm)?).u16(dimm.vendor).u16(dimm.device).u16(dimm.revision);
        let id = id.u16(0).u16(0).u16(0).bytes(&[made.0, made.1]).u16(made.2).u16(0);
        // No block windows: the structure ends with their number.
        all.extend(id.u32(dimm.serial).u16(dimm.format).u16(0).finish()?);
    }
    if let Some(bits) = lab.capabilities {
        let highest = u8::try_from(31_u32.saturating_sub(bits.leading_zeros())).unwrap_or(0);
        all.extend(Fields::new(7).bytes(&[highest, 0, 0, 0]).u32(bits).u32(0).finish()?);
    }
    Ok(all)
}

fn range_structure(range: &Range) -> Fields {
    let fields = Fields::new(0).u16(range.index).u16(RANGE_FLAGS).u32(0).u32(0).bytes(&PERSISTENT_MEMORY);
    fields.u64(range.address).u64(range.size).u64(ATTRIBUTES)
}

/// Each DIMM has two lines: its own first one, and its second after the others had their turn.
fn interleave_structure(index: u16, ways: u32, line_size: u32) -> Fields {
    let lines = [0, ways * line_size];
    let fields = Fields::new(2).u16(index).u16(0).u32(2).u32(line_size);
    lines.iter().fold(fields, |fields, line| fields.u32(*line))
}

/// The index of a DIMM's control region.
fn control(lab: &Lab, dimm: &Dimm) -> Result<u16> {
    let place = lab.dimms.iter().position(|other| other.handle == dimm.handle);
    u16::try_from(place.unwrap_or(0) + 1).context("the number of DIMMs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::record::interleaved;

    /// A table of this kind as firmware would have it.
    fn firmware(signature: &[u8; 4], body: &[u8]) -> Table {
        let mut bytes = signature.to_vec();
        bytes.extend(u32::try_from(HEADER + body.len()).expect("small").to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(b"BOCHS NVDIMM  \x01\0\0\0BXPC\x01\0\0\0");
        bytes.extend(body);
        let sum = Table(bytes.clone()).sum().wrapping_neg();
        bytes[CHECKSUM] = sum;
        Table::new(bytes).expect("a sound table")
    }

    #[test]
    fn a_table_that_replaces_another_is_newer_and_sound() {
        let ssdt = firmware(b"SSDT", b"\x14\x20_FIT\x08 and more");
        let new = ssdt.clone().without_fit().expect("has it");
        assert!(new.mentions(b"XFIT") && !new.mentions(b"_FIT"));
        assert_eq!((new.sum(), new.0[OEM_REVISION], ssdt.0[OEM_REVISION]), (0, 2, 1));
        assert_eq!(new.0[10..24], ssdt.0[10..24], "Linux goes by the OEM's names");
        assert!(firmware(b"SSDT", b"nothing").without_fit().is_err());

        let mut torn = ssdt.0.clone();
        torn.pop();
        assert!(Table::new(torn).expect_err("short").to_string().contains("states"));
        let mut flipped = ssdt.0;
        flipped[40] ^= 1;
        assert!(Table::new(flipped).expect_err("a flipped bit").to_string().contains("sum up"));
    }

    #[test]
    fn an_nfit_says_what_the_lab_says() {
        let table = firmware(b"NFIT", &[0; 4]).replaced(&interleaved()).expect("possible");
        let bytes = &table.0;
        let word = |at: usize, n: usize| {
            bytes[at..at + n].iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
        };
        let mut at = HEADER + 4;
        let mut found = Vec::new();
        while at < bytes.len() {
            found.push((word(at, 2), word(at + 2, 2), at));
            at += usize::try_from(word(at + 2, 2)).expect("small");
        }
        assert_eq!(at, bytes.len(), "no structure runs over the end");
        let kinds: Vec<(u64, u64)> = found.iter().map(|(kind, length, _)| (*kind, *length)).collect();
        let (range, map, lines, control) = ((0, 56), (1, 48), (2, 24), (4, 32));
        let expected = [
            range,
            range,
            lines,
            map,
            map,
            lines,
            map,
            map,
            map,
            map,
            control,
            control,
            control,
            control,
            (7, 16),
        ];
        // Ranges come first here or between: their order among other kinds means nothing.
        let sorted = |mut kinds: Vec<(u64, u64)>| {
            kinds.sort_unstable();
            kinds
        };
        assert_eq!(sorted(kinds), sorted(expected.to_vec()));

        let maps: Vec<usize> = found.iter().filter(|(kind, ..)| *kind == 1).map(|(.., at)| *at).collect();
        // Of the second DIMM of the set of four: handle 1, second region of the DIMM, after one line, 64 MiB into the DIMM.
        let at = maps[3];
        let fields = [(4, 4), (8, 2), (10, 2), (12, 2), (14, 2), (16, 8), (24, 8), (32, 8), (40, 2), (42, 2)];
        let values = fields.map(|(offset, n)| word(at + offset, n));
        assert_eq!(values, [1, 0x21, 1, 2, 1, 128 << 20, 256, 64 << 20, 2, 4]);
        let control = found.iter().find(|(kind, ..)| *kind == 4).expect("there").2;
        let fields = [(4, 2), (6, 2), (8, 2), (18, 1), (19, 1), (20, 2), (24, 4), (28, 2), (30, 2)];
        let values = fields.map(|(offset, n)| word(control + offset, n));
        assert_eq!(values, [1, 0x8980, 0x0a35, 1, 1, 0x2118, 0x5b01_0041, 0x0301, 0]);
    }
}
