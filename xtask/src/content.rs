// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each sector of a device holds: the pattern of (lba, generation), or zeros where nothing was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::process::sha256;
use crate::report::{Context, Result};

/// The line `LBA=%08x GEN=%04x` repeated, cut at the sector's data size.
pub(crate) fn pattern(lba: u64, generation: u16, data_size: usize) -> Vec<u8> {
    format!("LBA={lba:08x} GEN={generation:04x}\n").into_bytes().into_iter().cycle().take(data_size).collect()
}

/// Bytes of data in a sector of this size on the medium; the rest is metadata.
pub(crate) fn data_size(sector_size: u64) -> usize {
    if sector_size < 4096 { 512 } else { 4096 }
}

/// The contents of a whole device, by generations.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    data_size: usize,
    sectors: u64,
    generations: BTreeMap<u64, u16>,
}

impl Content {
    /// An unwritten device of `sectors` sectors with `data_size` bytes each.
    pub(crate) fn new(data_size: usize, sectors: u64) -> Content {
        Content { data_size, sectors, generations: BTreeMap::new() }
    }

    /// Notes that these sectors now hold this generation.
    pub(crate) fn set(&mut self, lbas: RangeInclusive<u64>, generation: u16) {
        self.generations.extend(lbas.map(|lba| (lba, generation)));
    }

    /// The last LBA.
    pub(crate) fn last(&self) -> u64 {
        self.sectors.saturating_sub(1)
    }

    /// How many LBAs the device has.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes of data in a sector.
    pub(crate) fn data_size(&self) -> usize {
        self.data_size
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> u64 {
        self.sectors * self.data_size as u64
    }

    /// The LBAs that were written.
    pub(crate) fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.generations.keys().copied()
    }

    /// The written sectors as maximal runs of neighbours: first LBA and bytes.
    pub(crate) fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (&lba, &generation) in &self.generations {
            let sector = pattern(lba, generation, self.data_size);
            match runs.last_mut() {
                Some((first, bytes)) if *first + (bytes.len() / self.data_size) as u64 == lba => {
                    bytes.extend(sector);
                }
                _ => runs.push((lba, sector)),
            }
        }
        runs
    }

    /// Writes the device's contents as a sparse file.
    pub(crate) fn write_file(&self, path: &Path) -> Result<()> {
        let name = path.display();
        let file = File::create(path).context(name)?;
        file.set_len(self.size()).context(path.display())?;
        for (first, bytes) in self.runs() {
            file.write_all_at(&bytes, first * self.data_size as u64).context(path.display())?;
        }
        Ok(())
    }

    /// The SHA-256 of the whole device.
    pub(crate) fn sha256(&self) -> Result<String> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let path = folder.path().join("content");
        self.write_file(&path)?;
        sha256(&path)
    }

    /// Says where the raw contents in `found` differ from these: the first few sectors and what they hold.
    pub(crate) fn compare(&self, found: &Path) -> Result<()> {
        let file = File::open(found).context(found.display())?;
        let length = file.metadata().context(found.display())?.len();
        if length != self.size() {
            return Err(format!("{} has {length} bytes, not {}", found.display(), self.size()).into());
        }
        let mut wrong = Vec::new();
        let mut sector = vec![0; self.data_size];
        for lba in 0..self.sectors {
            file.read_exact_at(&mut sector, lba * self.data_size as u64).context(found.display())?;
            let expected =
                self.generations.get(&lba).map(|generation| pattern(lba, *generation, self.data_size));
            if expected.unwrap_or_else(|| vec![0; self.data_size]) != sector {
                let head: String = sector
                    .iter()
                    .take(21)
                    .map(|byte| char::from(*byte).escape_default().to_string())
                    .collect();
                wrong.push(format!("lba {lba}: \"{head}\" instead of {:?}", self.generations.get(&lba)));
            }
        }
        match wrong.len() {
            0 => Ok(()),
            n => Err(format!(
                "{n} sectors differ: {}",
                wrong.into_iter().take(5).collect::<Vec<_>>().join("; ")
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_line_repeated_and_cut() {
        let sector = pattern(0x1a, 7, 512);
        assert_eq!(sector.len(), 512);
        assert!(sector.starts_with(b"LBA=0000001a GEN=0007\nLBA=0000001a"));
        assert_eq!(&sector[506..], b"LBA=00");
    }

    #[test]
    fn contents_are_compared_sector_by_sector() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raw");
        let mut content = Content::new(512, 100);
        content.set(3..=5, 1);
        content.set(4..=4, 2);
        content.set(content.last()..=99, 9);
        content.write_file(&path).expect("written");
        content.compare(&path).expect("equal");
        assert_eq!(
            content.runs().iter().map(|(lba, bytes)| (*lba, bytes.len())).collect::<Vec<_>>(),
            [(3, 1536), (99, 512)]
        );

        let file = File::options().write(true).open(&path).expect("open");
        file.write_all_at(b"x", 4 * 512 + 100).expect("one byte");
        let error = content.compare(&path).expect_err("a byte differs");
        assert!(error.to_string().starts_with("1 sectors differ: lba 4:"), "{error}");
        content.set(50..=50, 1);
        assert!(content.compare(&path).expect_err("two").to_string().starts_with("2 sectors differ"));
    }
}
