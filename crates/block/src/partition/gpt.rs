// SPDX-License-Identifier: MIT OR Apache-2.0
//! GUID partition tables (UEFI, "GUID Partition Table (GPT) Disk Layout").

use gpt_disk_types::{Crc32, GptHeader, GptPartitionEntry, GptPartitionEntrySize, Guid, crc};
use nvstack_media::{Error, Kind, Result};
use uuid::Uuid;

use super::{PartitionInfo, PartitionKind, read_bytes};
use crate::{BlockDevice, Lba};

/// The largest array of entries that is read: sixty-four times what everybody writes.
const ARRAY_MAX: u64 = 1 << 20;

/// Reads the table by its primary header, else by its backup: the one that a whole primary header names, or the one at the
/// end of the device.
pub(super) fn read(device: &dyn BlockDevice) -> Result<Vec<PartitionInfo>> {
    let last = Lba(device.geometry().sectors.saturating_sub(1));
    let mut places = vec![Lba(1)];
    let mut failures = Vec::new();
    let header = header(device, Lba(1));
    if let Ok(header) = &header {
        places.push(Lba(header.alternate_lba.to_u64()));
    }
    places.push(last);
    for at in places {
        match self::header(device, at).and_then(|header| entries(device, &header)) {
            Ok(found) => return Ok(found),
            Err(e) if e.kind() == Kind::Gone => return Err(e),
            Err(e) => failures.push(format!("at LBA {at}: {e}")),
        }
    }
    Err(Error::new(Kind::Corrupt, "read partition table")
        .path(device.name())
        .found(format_args!("no whole GPT header ({})", failures.join("; ")))
        .accepted("a primary or a backup header with its entries"))
}

fn refuse(what: &'static str, found: impl std::fmt::Display, accepted: impl std::fmt::Display) -> Error {
    Error::new(Kind::Corrupt, what).found(found).accepted(accepted)
}

/// The header in a sector, checked against itself and the device.
fn header(device: &dyn BlockDevice, at: Lba) -> Result<GptHeader> {
    let geometry = device.geometry();
    let sector = usize::try_from(geometry.sector_size).unwrap_or(512);
    let bytes = read_bytes(device, at, sector)?;
    let header = bytes
        .get(..size_of::<GptHeader>())
        .and_then(|raw| bytemuck::try_pod_read_unaligned::<GptHeader>(raw).ok())
        .filter(GptHeader::is_signature_valid)
        .ok_or_else(|| refuse("header signature", "another", "\"EFI PART\""))?;
    let len = header.header_size.to_u32();
    let covered = usize::try_from(len).ok().filter(|len| *len >= size_of::<GptHeader>());
    let Some(covered) = covered.and_then(|len| bytes.get(..len)) else {
        return Err(refuse("header size", len, format_args!("92 to {sector} bytes")));
    };
    // The checksum is of the header with zeros in its own place.
    let before = covered.get(..16).unwrap_or_default();
    let after = covered.get(20..).unwrap_or_default();
    check_sum("header checksum", &[before, &[0; 4], after], header.header_crc32)?;
    let (mine, usable) =
        (header.my_lba.to_u64(), (header.first_usable_lba.to_u64(), header.last_usable_lba.to_u64()));
    if mine != at.0 {
        return Err(refuse("header's own LBA", mine, at));
    }
    if usable.0 > usable.1 || usable.1 >= geometry.sectors {
        return Err(refuse(
            "usable LBAs",
            format_args!("{} to {}", usable.0, usable.1),
            format_args!("LBA 0 to {}", geometry.sectors),
        ));
    }
    Ok(header)
}

/// The partitions in the entries that a header names.
fn entries(device: &dyn BlockDevice, header: &GptHeader) -> Result<Vec<PartitionInfo>> {
    let (count, size) =
        (header.number_of_partition_entries.to_u32(), header.size_of_partition_entry.to_u32());
    if let Err(e) = GptPartitionEntrySize::new(size) {
        return Err(refuse("size of an entry", size, e));
    }
    let len = u64::from(count).saturating_mul(u64::from(size));
    let Some(bytes) = usize::try_from(len).ok().filter(|_| len <= ARRAY_MAX) else {
        return Err(refuse("size of the entries", len, format_args!("at most {ARRAY_MAX} bytes")));
    };
    let array = read_bytes(device, Lba(header.partition_entry_lba.to_u64()), bytes)?;
    check_sum("checksum of the entries", &[&array], header.partition_entry_array_crc32)?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let entries = array.chunks_exact(size).zip(1u32..).filter_map(|(raw, number)| {
        let entry: GptPartitionEntry =
            bytemuck::try_pod_read_unaligned(raw.get(..size_of::<GptPartitionEntry>())?).ok()?;
        entry.is_used().then(|| info(number, &entry))
    });
    Ok(entries.collect())
}

fn check_sum(what: &'static str, pieces: &[&[u8]], accepted: Crc32) -> Result<()> {
    let crc = crc::Crc::<u32>::new(&Crc32::ALGORITHM);
    let mut digest = crc.digest();
    for piece in pieces {
        digest.update(piece);
    }
    let (found, accepted) = (digest.finalize(), accepted.0.to_u32());
    if found == accepted {
        return Ok(());
    }
    Err(refuse(
        what,
        format_args!("bytes of {found:#010x}"),
        format_args!("the checksum there, {accepted:#010x}"),
    ))
}

fn info(number: u32, entry: &GptPartitionEntry) -> PartitionInfo {
    let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
    let name = entry.name;
    let units: Vec<u16> = name
        .0
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0)
        .collect();
    let kind = entry.partition_type_guid;
    PartitionInfo {
        number,
        first: Lba(first),
        // None if it ends before it starts, which is no partition of any device.
        sectors: last.checked_sub(first).map_or(0, |n| n.saturating_add(1)),
        kind: PartitionKind::Gpt(uuid(kind.0)),
        id: Some(uuid(entry.unique_partition_guid)),
        label: String::from_utf16_lossy(&units),
    }
}

/// GUIDs lie mixed-endian on media.
fn uuid(guid: Guid) -> Uuid {
    Uuid::from_bytes_le(guid.to_bytes())
}
