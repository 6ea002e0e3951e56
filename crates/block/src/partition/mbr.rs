// SPDX-License-Identifier: MIT OR Apache-2.0
//! Master boot records, and the chains of extended ones.

use std::collections::BTreeSet;

use gpt_disk_types::{MasterBootRecord, MbrPartitionRecord};
use nvstack_media::{Kind, Result};

use super::{PartitionInfo, PartitionKind, read_bytes};
use crate::{BlockDevice, Lba};

/// Partitions that a device can have; Linux numbers no more.
const LIMIT: usize = 255;

/// The record in a sector; `None` if it holds none. A FAT boot sector has the same signature, but what it has in place of
/// boot flags is hardly ever one.
pub(super) fn record(device: &dyn BlockDevice, at: Lba) -> Result<Option<MasterBootRecord>> {
    let bytes = read_bytes(device, at, size_of::<MasterBootRecord>())?;
    let Ok(record) = bytemuck::try_pod_read_unaligned::<MasterBootRecord>(&bytes) else { return Ok(None) };
    let flags_are_flags = record.partitions.iter().all(|p| matches!(p.boot_indicator, 0 | 0x80));
    Ok((record.signature == [0x55, 0xaa] && flags_are_flags).then_some(record))
}

/// Whether the record only keeps others away from a GPT.
pub(super) fn is_protective(record: &MasterBootRecord) -> bool {
    record.partitions.iter().any(|p| p.os_indicator == 0xee)
}

fn is_extended(record: &MbrPartitionRecord) -> bool {
    matches!(record.os_indicator, 0x05 | 0x0f | 0x85)
}

fn first(record: &MbrPartitionRecord) -> u64 {
    u64::from(record.starting_lba.to_u32())
}

fn sectors(record: &MbrPartitionRecord) -> u64 {
    u64::from(record.size_in_lba.to_u32())
}

fn info(number: usize, first: u64, record: &MbrPartitionRecord) -> PartitionInfo {
    PartitionInfo {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        first: Lba(first),
        sectors: sectors(record),
        kind: PartitionKind::Mbr(record.os_indicator),
        id: None,
        label: String::new(),
    }
}

/// The partitions that a record tells of, and those of its extended ones.
pub(super) fn read(device: &dyn BlockDevice, record: &MasterBootRecord) -> Result<Vec<PartitionInfo>> {
    let used = || record.partitions.iter().zip(1usize..).filter(|(p, _)| sectors(p) > 0);
    let mut found: Vec<PartitionInfo> =
        used().filter(|(p, _)| !is_extended(p)).map(|(p, number)| info(number, first(p), p)).collect();
    let mut number = 5;
    for (extended, _) in used().filter(|(p, _)| is_extended(p)) {
        logical(device, extended, &mut number, &mut found)?;
    }
    Ok(found)
}

/// Follows the chain of an extended partition. Places in it count from the extended partition's start, those of the
/// partitions from the record that names them.
fn logical(
    device: &dyn BlockDevice,
    extended: &MbrPartitionRecord,
    number: &mut usize,
    found: &mut Vec<PartitionInfo>,
) -> Result<()> {
    let (start, room) = (first(extended), sectors(extended));
    let mut seen = BTreeSet::new();
    let mut offset = 0u64;
    while offset < room && seen.len() < LIMIT && seen.insert(offset) {
        let at = start.saturating_add(offset);
        let record = match record(device, Lba(at)) {
            Ok(Some(record)) => record,
            // An empty extended partition needs no record. One that can't be read ends the chain as a damaged one does.
            Ok(None) => break,
            Err(e) if e.kind() == Kind::Gone => return Err(e),
            Err(_) => break,
        };
        // The first two are the partition and the link, in either order; the rest is not looked at.
        let both = record.partitions.iter().take(2).filter(|p| sectors(p) > 0);
        for partition in both.clone().filter(|p| !is_extended(p)) {
            if *number > LIMIT {
                return Ok(());
            }
            found.push(info(*number, at.saturating_add(first(partition)), partition));
            *number = number.saturating_add(1);
        }
        let Some(link) = both.clone().find(|p| is_extended(p)) else { break };
        offset = first(link);
    }
    Ok(())
}
