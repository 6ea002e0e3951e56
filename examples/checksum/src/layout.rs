// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies where on a namespace, and the block that says so.
//!
//! ```text
//!      0  nothing: whoever takes the namespace for a disk would look for a partition table here
//!   4096  superblock
//!   8192  checksums: 8 bytes for each block
//!         blocks, at the next multiple of 4096
//!    end  the superblock again, in the last 4096 bytes
//! ```
//!
//! The superblock stands where other drivers look for theirs (4096), so that no block's checksums, which whoever writes blocks
//! can choose, are ever taken for one of those.

use nvstack_media::{Media, MediaOffset, Result};
use uuid::Uuid;

/// How a superblock begins.
pub const SIGNATURE: [u8; 16] = *b"NVSTACK_CRC32C\0\0";
/// Where it stands.
pub const SUPERBLOCK: MediaOffset = MediaOffset(4096);
/// Bytes of it, and the unit of the layout.
pub const UNIT: u64 = 4096;
/// Sizes of a block.
pub const BLOCK_SIZES: [u64; 2] = [512, 4096];
/// Bytes that a namespace must have.
pub const MIN_SIZE: u64 = 16 << 20;

const ENTRIES: u64 = 8192;
const VERSION: u32 = 1;
const CRC_AT: usize = 4092;

/// The table of CRC-32C (Castagnoli; RFC 3720 calls it the iSCSI checksum).
pub(crate) static CRC32C: crc::Crc<u32, crc::Table<16>> =
    crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// Where things lie. It follows from the size of the namespace and of a block alone, so a superblock can tell no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the namespace, whole units.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// The first block.
    pub data: MediaOffset,
}

impl Layout {
    /// For a namespace of `size` bytes; none if it is too small, or the size of a block is none of [`BLOCK_SIZES`].
    #[must_use]
    pub fn compute(size: u64, block_size: u64) -> Option<Layout> {
        if size < MIN_SIZE || !BLOCK_SIZES.contains(&block_size) {
            return None;
        }
        let size = size.checked_div(UNIT)?.checked_mul(UNIT)?;
        // The checksums may waste the rest of a unit.
        let room = size.checked_sub(ENTRIES)?.checked_sub(UNIT)?.checked_sub(UNIT)?;
        let blocks = room.checked_div(block_size.checked_add(8)?)?;
        let entries = blocks.checked_mul(8)?.checked_next_multiple_of(UNIT)?;
        let data = MediaOffset(ENTRIES.checked_add(entries)?);
        Some(Layout { size, block_size: u32::try_from(block_size).ok()?, blocks, data })
    }

    /// Where the checksums of a block are.
    #[must_use]
    pub fn entry(&self, block: u64) -> MediaOffset {
        MediaOffset(block.saturating_mul(8).saturating_add(ENTRIES))
    }

    /// Where a block is.
    #[must_use]
    pub fn block(&self, block: u64) -> MediaOffset {
        self.data.plus(block.saturating_mul(u64::from(self.block_size)))
    }

    /// Where the superblock is again.
    #[must_use]
    pub fn backup(&self) -> MediaOffset {
        backup_of(self.size)
    }
}

fn backup_of(size: u64) -> MediaOffset {
    MediaOffset((size / UNIT).saturating_sub(1).saturating_mul(UNIT))
}

/// A superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The device's own uuid.
    pub uuid: Uuid,
    /// That of the namespace; nil if it has none.
    pub parent: Uuid,
    /// What lies where.
    pub layout: Layout,
}

/// What stands where a superblock belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// One of this namespace. `whole` says that both copies are.
    Superblock(Superblock, bool),
    /// None, or that of another namespace, which was here before.
    Nothing,
    /// One that cannot be used: what is wrong, and what would do.
    Damaged(String, String),
}

impl Superblock {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend(SIGNATURE);
        bytes.extend(self.uuid.as_bytes());
        bytes.extend(self.parent.as_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.layout.block_size.to_le_bytes());
        for word in [self.layout.size, self.layout.blocks, ENTRIES, self.layout.data.0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.resize(CRC_AT, 0);
        let crc = CRC32C.checksum(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// Reads a block of [`UNIT`] bytes on a namespace of `size` bytes with this uuid.
    #[must_use]
    pub fn decode(bytes: &[u8], size: u64, parent: Uuid) -> Found {
        if !bytes.starts_with(&SIGNATURE) {
            return Found::Nothing;
        }
        let damaged = |found: String, accepted: String| Found::Damaged(found, accepted);
        let (body, told) = bytes.split_at_checked(CRC_AT).unwrap_or((bytes, &[]));
        let (crc, told) = (CRC32C.checksum(body), u32_at(told, 0));
        if crc != told {
            return damaged(format!("checksum {told:#010x}"), format!("{crc:#010x}"));
        }
        if uuid_at(body, 32) != parent {
            return Found::Nothing;
        }
        let version = u32_at(body, 48);
        if version != VERSION {
            return damaged(format!("version {version}"), VERSION.to_string());
        }
        let block_size = u32_at(body, 52);
        let Some(layout) = Layout::compute(size, u64::from(block_size)) else {
            return damaged(format!("blocks of {block_size} bytes"), "512 or 4096".to_owned());
        };
        let superblock = Superblock { uuid: uuid_at(body, 16), parent, layout };
        // All else follows from what was just read: a superblock that has anything different is of another layout.
        if superblock.encode() != bytes {
            let sizes = [56, 64, 72, 80].map(|at| u64_at(body, at));
            let accepted = [layout.size, layout.blocks, ENTRIES, layout.data.0];
            return damaged(
                format!("size, blocks, checksums and data {sizes:?}"),
                format!("{accepted:?} on a namespace of {size} bytes"),
            );
        }
        Found::Superblock(superblock, true)
    }

    /// Reads both copies. The second counts only where the first is one that was damaged or lost: where something else
    /// stands, the device was destroyed on purpose.
    pub fn find(media: &dyn Media, parent: Uuid) -> Result<Found> {
        let size = media.len();
        if size < MIN_SIZE {
            return Ok(Found::Nothing);
        }
        let read = |at| {
            let mut bytes = vec![0u8; 4096];
            media.read(at, &mut bytes).map(|()| Superblock::decode(&bytes, size, parent))
        };
        let first = read(SUPERBLOCK);
        match first {
            Ok(Found::Nothing) => first,
            Ok(Found::Superblock(superblock, _)) => {
                let whole = read(superblock.layout.backup())
                    .is_ok_and(|second| second == Found::Superblock(superblock, true));
                Ok(Found::Superblock(superblock, whole))
            }
            // A reading error is told unless the other copy makes up for it.
            Ok(Found::Damaged(..)) | Err(_) => match read(backup_of(size)) {
                Ok(Found::Superblock(superblock, _)) => Ok(Found::Superblock(superblock, false)),
                _ => first,
            },
        }
    }

    /// Writes both copies, durably: the second first, so that a cut leaves no device or a whole one.
    pub fn write(&self, media: &dyn Media) -> Result<()> {
        let bytes = self.encode();
        for at in [self.layout.backup(), SUPERBLOCK] {
            media.store(at, &bytes)?;
            media.persist(at, UNIT)?;
        }
        Ok(())
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(field(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_and_nothing_overlaps() {
        for size in [MIN_SIZE, MIN_SIZE + 4096, MIN_SIZE + 5000, 1 << 30, 6 << 40] {
            for block_size in BLOCK_SIZES {
                let layout = Layout::compute(size, block_size).unwrap();
                assert!(layout.entry(0) >= SUPERBLOCK.plus(UNIT));
                assert!(layout.entry(layout.blocks) <= layout.block(0));
                assert!(layout.block(layout.blocks) <= layout.backup());
                assert!(layout.backup().0 + UNIT <= size);
                // Not much is wasted: less than two units and what a block takes.
                assert!(layout.backup().0 - layout.block(layout.blocks).0 < 2 * UNIT + block_size);
            }
        }
        assert_eq!(Layout::compute(MIN_SIZE - 1, 4096), None);
        assert_eq!(Layout::compute(MIN_SIZE, 1024), None);
        assert!(Layout::compute(u64::MAX, 512).is_some());
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the catalogue of CRC algorithms, and RFC 3720's of 32 zeros.
        assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_superblock_is_taken_whole_or_not_at_all() {
        let layout = Layout::compute(64 << 20, 512).unwrap();
        let superblock = Superblock { uuid: Uuid::from_u128(1), parent: Uuid::from_u128(2), layout };
        let bytes = superblock.encode();
        let decode = |bytes: &[u8]| Superblock::decode(bytes, 64 << 20, Uuid::from_u128(2));
        assert_eq!(decode(&bytes), Found::Superblock(superblock, true));
        assert_eq!(Superblock::decode(&bytes, 64 << 20, Uuid::from_u128(3)), Found::Nothing);
        // On a namespace of another size its numbers mean nothing, though its checksum is right.
        let other = Superblock::decode(&bytes, 32 << 20, Uuid::from_u128(2));
        assert!(matches!(other, Found::Damaged(..)), "{other:?}");
        for byte in 0..4096 {
            let mut changed = bytes.clone();
            changed[byte] ^= 0x10;
            let found = decode(&changed);
            let expected =
                if byte < 16 { found == Found::Nothing } else { matches!(found, Found::Damaged(..)) };
            assert!(expected, "byte {byte}: {found:?}");
        }
        assert!(matches!(decode(&bytes[..100]), Found::Damaged(..)));
    }
}
