// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second reader of label areas, which shares no code with the engine: the rules of Linux, written as plainly as they
//! are told.
//!
//! Index blocks: small labels are tried first; of two valid blocks the one whose number (its low two bits, in 1, 2, 3, 1 ...)
//! comes after the other's counts, and block 1 on a tie. Labels: the slot number and, of 256 bytes, the checksum. Two labels of
//! a DIMM that share bytes make Linux give up the DIMM; a label of the first DIMM without partners on all others, the region.

use std::fmt;

/// A label, as it stands in its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) uuid: [u8; 16],
    pub(crate) name: String,
    pub(crate) flags: u32,
    pub(crate) count: u64,
    pub(crate) position: u64,
    pub(crate) cookie: u64,
    pub(crate) lbasize: u64,
    pub(crate) dpa: u64,
    pub(crate) size: u64,
    /// Type and abstraction GUID; nothing in small labels.
    pub(crate) guids: Vec<u8>,
}

/// A label area with a valid index block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    /// Which index blocks are valid.
    pub(crate) valid: [bool; 2],
    /// The one that counts.
    pub(crate) current: usize,
    /// Its sequence number.
    pub(crate) seq: u64,
    /// Bytes of a label.
    pub(crate) label_len: usize,
    /// Where the slots begin, and how many there are.
    pub(crate) slots_at: usize,
    pub(crate) slots: usize,
    /// The slots in use, and the label if it is one.
    pub(crate) used: Vec<(usize, Option<Label>)>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(bytes) = bytes.get(at..at + len) {
        word[..len].copy_from_slice(bytes);
    }
    u64::from_le_bytes(word)
}

/// Fletcher64 of little-endian words of 32 bits, with eight bytes of a structure taken as zero.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u64 {
    let (mut low, mut high) = (0u32, 0u32);
    for (i, word) in bytes.chunks_exact(4).enumerate() {
        let own = i * 4 == field || i * 4 == field + 4;
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        low = low.wrapping_add(if own { 0 } else { word });
        high = high.wrapping_add(low);
    }
    u64::from(high) << 32 | u64::from(low)
}

fn round_up(n: usize) -> usize {
    n.div_ceil(256) * 256
}

/// Bytes of an index block, and how many slots fit.
fn sizes(area: usize, label: usize) -> (usize, usize) {
    let first = round_up(72 + (area / label).div_ceil(8));
    let slots = area.saturating_sub(2 * first) / label;
    (round_up(72 + slots.div_ceil(8)), slots)
}

/// The sequence number and the count of slots of a valid index block.
fn index(area: &[u8], label: usize, which: usize) -> Option<(u64, usize)> {
    let (len, fit) = sizes(area.len(), label);
    let block = area.get(which * len..(which + 1) * len)?;
    let minor_12 = number(block, 60, 2) * 100 + number(block, 62, 2) >= 102;
    let shift = if minor_12 { block[19].into() } else { 0u64 };
    let seq = number(block, 20, 4) & 3;
    let slots = number(block, 56, 4) as usize;
    let good = block.starts_with(b"NAMESPACE_INDEX\0")
        && shift < 32
        && 128u64 << shift == label as u64
        && checksum(block, 64) == number(block, 64, 8)
        && seq != 0
        && number(block, 24, 8) == (which * len) as u64
        && (72..=len as u64).contains(&number(block, 32, 8))
        && number(block, 40, 8) == ((1 - which) * len) as u64
        && number(block, 48, 8) == (2 * len) as u64
        && slots <= fit;
    good.then_some((seq, slots))
}

fn next(seq: u64) -> u64 {
    if seq == 3 { 1 } else { seq + 1 }
}

fn label(bytes: &[u8], slot: usize) -> Option<Label> {
    if number(bytes, 120, 4) != slot as u64 {
        return None;
    }
    if bytes.len() == 256 && checksum(bytes, 248) != number(bytes, 248, 8) {
        return None;
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[..16]);
    let name: Vec<u8> = bytes[16..80].iter().copied().take_while(|b| *b != 0).collect();
    Some(Label {
        uuid,
        name: String::from_utf8_lossy(&name).into_owned(),
        flags: number(bytes, 80, 4) as u32,
        count: number(bytes, 84, 2),
        position: number(bytes, 86, 2),
        cookie: number(bytes, 88, 8),
        lbasize: number(bytes, 96, 8),
        dpa: number(bytes, 104, 8),
        size: number(bytes, 112, 8),
        guids: bytes.get(128..160).unwrap_or_default().to_vec(),
    })
}

/// What an area holds; nothing without a valid index block.
pub(crate) fn read(area: &[u8]) -> Option<Area> {
    for label_len in [128, 256] {
        let found = [index(area, label_len, 0), index(area, label_len, 1)];
        let current = match found {
            [None, None] => continue,
            [Some(_), None] => 0,
            [None, Some(_)] => 1,
            [Some((a, _)), Some((b, _))] => usize::from(a == b || next(a) == b),
        };
        let (seq, slots) = found[current]?;
        let (len, _) = sizes(area.len(), label_len);
        let free = &area[current * len + 72..];
        let used = (0..slots)
            .filter(|slot| free[slot / 8] >> (slot % 8) & 1 == 0)
            .map(|slot| (slot, label(&area[2 * len + slot * label_len..][..label_len], slot)))
            .collect();
        return Some(Area {
            valid: found.map(|block| block.is_some()),
            current,
            seq,
            label_len,
            slots_at: 2 * len,
            slots,
            used,
        });
    }
    None
}

/// A namespace, as Linux makes it of labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Namespace {
    /// From the start of the region.
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) name: String,
    pub(crate) lbasize: u64,
    pub(crate) guids: Vec<u8>,
}

/// Why Linux shows nothing of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// Two labels of a DIMM share bytes.
    Overlap(usize),
    /// A label of the first DIMM is not complete.
    Incomplete(String),
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GivenUp::Overlap(dimm) => write!(f, "two labels of DIMM {dimm} share bytes"),
            GivenUp::Incomplete(what) => f.write_str(what),
        }
    }
}

/// A region: one mapping to each DIMM, all alike.
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// The cookie of small labels, and that of large ones.
    pub(crate) cookies: [u64; 2],
}

impl Region {
    fn is_of(&self, area: &Area, label: &Label) -> bool {
        label.cookie == self.cookies[usize::from(area.label_len == 256)]
            && label.dpa >= self.start
            && label.dpa < self.start + self.size
    }

    /// The namespaces of a region, from the lowest on.
    pub(crate) fn scan(&self, areas: &[Option<Area>]) -> Result<Vec<Namespace>, GivenUp> {
        for (dimm, area) in areas.iter().enumerate() {
            let labels: Vec<&Label> =
                area.iter().flat_map(|a| &a.used).filter_map(|(_, l)| l.as_ref()).collect();
            for (i, one) in labels.iter().enumerate() {
                for other in &labels[i + 1..] {
                    if one.dpa < other.dpa + other.size && other.dpa < one.dpa + one.size {
                        return Err(GivenUp::Overlap(dimm));
                    }
                }
            }
        }
        let Some(Some(first)) = areas.first() else { return Ok(Vec::new()) };
        let mut found: Vec<Namespace> = Vec::new();
        for (_, label) in &first.used {
            let Some(label) = label.as_ref().filter(|l| self.is_of(first, l)) else { continue };
            found.push(self.namespace(areas, label)?);
        }
        found.sort();
        Ok(found)
    }

    fn namespace(&self, areas: &[Option<Area>], label: &Label) -> Result<Namespace, GivenUp> {
        let incomplete = |what: String| Err(GivenUp::Incomplete(what));
        let mut parts: Vec<Option<&Label>> = vec![None; areas.len()];
        for (dimm, area) in areas.iter().enumerate() {
            let Some(area) = area else { return incomplete(format!("DIMM {dimm} has no labels")) };
            let of = area.used.iter().filter_map(|(_, l)| l.as_ref());
            let of: Vec<&Label> = of.filter(|l| l.uuid == label.uuid && self.is_of(area, l)).collect();
            let [one] = of.as_slice() else {
                return incomplete(format!("DIMM {dimm} has {} labels of a namespace", of.len()));
            };
            if one.count != areas.len() as u64 || one.dpa + one.size > self.start + self.size {
                return incomplete(format!("a label of DIMM {dimm} does not fit"));
            }
            match parts.get_mut(one.position as usize) {
                Some(place) if place.is_none() => *place = Some(one),
                _ => return incomplete(format!("position {} twice", one.position)),
            }
        }
        let parts: Vec<&Label> = parts.into_iter().flatten().collect();
        let first = parts[0];
        Ok(Namespace {
            start: (first.dpa - self.start) * areas.len() as u64,
            size: parts.iter().map(|l| l.size).sum(),
            uuid: first.uuid,
            name: first.name.clone(),
            lbasize: first.lbasize,
            guids: first.guids.clone(),
        })
    }
}
