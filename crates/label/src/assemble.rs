// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the labels of a region's DIMMs to its namespaces.
//!
//! # What is used
//!
//! A namespace is one label with its uuid on every DIMM of the region, each with the cookie of the set, each counting all
//! DIMMs, and each with a place of its own in the order of the set. Linux gives up a whole region for one label that it
//! cannot place, and serves a DIMM as one raw namespace when two labels overlap. Here a bad label costs its own namespace
//! and no other, and what labels disagree about is not served at all; its bytes stay reserved.
//!
//! # After a power cut
//!
//! An update goes over the DIMMs one by one, so a cut may leave some of them with the new label and some with the old one.
//! One label decides then: **the namespace is as the label at position 0 has it.** [`crate::LabelSet`] writes that label
//! last when it creates or changes a namespace, and removes it first when it deletes one, so that the index block
//! which switches that label switches the namespace from the old state to the new one. What the others still say, or say
//! already, is told as [`FindingKind::HalfWay`] and changes nothing:
//!
//! * no label at position 0, or at any other position: the namespace does not exist ([`FindingKind::HalfCreated`],
//!   [`FindingKind::Missing`]). Linux then sees none either. It begins at the labels of its first DIMM, so those of others
//!   that are left alone cost it no other namespace; updates here leave no other kind behind.
//! * labels at other positions that place the namespace elsewhere, with UPDATING set on them or on the one at position 0:
//!   it lies where the latter says, if no label of another namespace lies there on any DIMM. The first case is a resize
//!   that was cut here, the second one that was cut under Linux, which begins at position 0: then it is the new place, which
//!   Linux had found free on all DIMMs before it began.
//! * the same without UPDATING anywhere is no cut: [`FindingKind::Disagree`], and nothing is used.
//! * labels of another uuid at other positions, where those of the namespace should be: [`crate::LabelSet::write_as`] was
//!   cut between two DIMMs. They stand in for the namespace's own if one of them or the one at position 0 is UPDATING, if
//!   they claim some of its bytes on their DIMM and nobody else does there, and if their uuid is at position 0 of no DIMM.
//!   The uuid at position 0 is then the one that counts: the old one while the change goes on here, the new one if Linux was
//!   cut, which begins there. Nothing of two uuids overlaps on one DIMM at any time; Linux would take such a DIMM as one
//!   without labels. In this state it finds no namespace in the region at all, as after its own cut at the same place,
//!   until the change is settled: the label on the first DIMM lacks its partners.

use std::collections::BTreeMap;
use std::ops::Range;

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa, Invalid};
use uuid::Uuid;

use crate::contest::{contested, overlap};
use crate::mutants::{Mutant, keeps};
use crate::replace::{Sets, stand_in};
use crate::{Finding, FindingKind, Slot};

/// A region's mapping to one DIMM, and what the label area of that DIMM holds.
#[derive(Clone, Debug)]
pub struct Member {
    /// Version of the area's labels; none in an area without a valid index block.
    pub version: Option<Version>,
    /// The slots in use.
    pub slots: Vec<Slot>,
    /// Where the mapping begins on the DIMM.
    pub start: Dpa,
    /// Bytes of the mapping on this DIMM.
    pub size: u64,
}

impl Member {
    /// The valid labels, whichever region they belong to.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.slots.iter().filter_map(|slot| slot.label.as_ref().ok())
    }

    fn end(&self) -> Dpa {
        Dpa(self.start.0.saturating_add(self.size))
    }

    /// Whether some of a label's bytes are the mapping's.
    pub(crate) fn touches(&self, label: &Label) -> bool {
        label.dpa < self.end() && (label.end() > self.start || label.dpa >= self.start)
    }

    /// The part of the mapping that a label claims, in bytes from the mapping's start.
    pub(crate) fn claimed(&self, label: &Label) -> Range<u64> {
        let within = |dpa: Dpa| dpa.0.saturating_sub(self.start.0).min(self.size);
        within(label.dpa)..within(label.end())
    }

    /// Whether a label carries a cookie of the region.
    pub(crate) fn is_of(&self, cookies: &Cookies, label: &Label) -> bool {
        let cookie = label.isetcookie;
        cookie != 0 && (cookie == self.cookie(cookies) || cookie == cookies.alternative)
    }

    /// The cookie that labels of this area are written with.
    pub(crate) fn cookie(&self, cookies: &Cookies) -> u64 {
        match self.version {
            Some(Version::V1_1) => cookies.v1_1,
            _ => cookies.v1_2,
        }
    }

    /// Whether a label can be a part of a namespace of this region, as far as it tells itself.
    fn fits(&self, label: &Label, ways: usize) -> Result<(), Invalid> {
        label.check(self.version.unwrap_or(Version::V1_2))?;
        if usize::from(label.nlabel) != ways {
            return Err(Invalid::new("label", "nlabel", 84, label.nlabel, format_args!("{ways} DIMMs")));
        }
        let whole = self.size.checked_mul(bytes(ways));
        if label.dpa < self.start || label.end() > self.end() || whole.is_none() {
            let found = format!("bytes {} to {}", label.dpa, label.end());
            let accepted = format!("bytes of the mapping, {} to {}", self.start, self.end());
            return Err(Invalid::new("label", "rawsize", 112, found, accepted));
        }
        Ok(())
    }
}

/// A namespace with all its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetNamespace {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name (Linux `alt_name`).
    pub name: Name,
    /// What may stack on it (Linux `holder_class`).
    pub class: ClaimClass,
    /// Sector size of the raw namespace; 0 where it does not apply.
    pub lbasize: u64,
    /// Where it begins, in bytes from the start of the region.
    pub start: u64,
    /// Its bytes, over all DIMMs.
    pub size: u64,
    /// Whether an update of its labels was cut and should be settled.
    pub half_way: bool,
    /// Its labels as they stand on the DIMMs, in the order of the mappings. Those other than the one at position 0 may
    /// say something else of a namespace that is half-way, or be those of another uuid that stand in for its own.
    pub labels: Vec<Label>,
}

/// The outcome for a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// The namespaces that can be used, in the order of their start.
    pub namespaces: Vec<SetNamespace>,
    /// What is wrong with labels, used or not.
    pub findings: Vec<Finding>,
    /// The bytes of the region that any label of any of its DIMMs claims, used or refused: sorted, without overlap, in
    /// bytes from the start of the region.
    pub reserved: Vec<Range<u64>>,
    /// Bytes of the region.
    pub size: u64,
}

impl Assembled {
    /// The bytes that no label claims: where a namespace can be made. From the lowest on.
    #[must_use]
    pub fn free(&self) -> Vec<Range<u64>> {
        let mut free = Vec::new();
        let mut from = 0;
        for taken in &self.reserved {
            if taken.start > from {
                free.push(from..taken.start);
            }
            from = taken.end;
        }
        if self.size > from {
            free.push(from..self.size);
        }
        free
    }
}

/// A label with the cookie of the region, and whether it was refused for itself.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) label: Label,
    pub(crate) refused: bool,
}

/// Puts together the namespaces of a region from its mappings, in the order of their position in the set.
///
/// The region has as many ways as mappings; its bytes are those of the smallest mapping times the ways. Of labels outside
/// the mappings, which belong to other regions, nothing is told. Writes nothing, and changes nothing on the strength of
/// what it finds.
#[must_use]
pub fn assemble(members: &[Member], cookies: &Cookies) -> Assembled {
    let ways = members.len();
    let mut findings = Vec::new();
    let mut sets: Sets = BTreeMap::new();
    for (dimm, member) in members.iter().enumerate() {
        for slot in &member.slots {
            if let Err(detail) = &slot.label {
                findings.push(Finding {
                    dimm,
                    slot: Some(slot.number),
                    uuid: None,
                    kind: FindingKind::BadSlot,
                    detail: detail.clone(),
                });
            }
        }
        let labels: Vec<&Label> = member.labels().collect();
        for (label, contested) in labels.iter().copied().zip(contested(&labels)) {
            if !member.touches(label) {
                continue;
            }
            // LOCAL, of block windows that are no more, is ignored: Linux 6.1 attaches such a namespace.
            let ours = member.is_of(cookies, label);
            let wrong = judge(member, cookies, label, contested, ways);
            if ours {
                let set = sets.entry(label.uuid).or_insert_with(|| vec![Vec::new(); ways]);
                if let Some(parts) = set.get_mut(dimm) {
                    parts.push(Part { label: *label, refused: wrong.is_some() });
                }
            }
            if let Some((kind, detail)) = wrong {
                findings.push(of(dimm, label, kind, detail));
            }
        }
    }
    if keeps(Mutant::StandIn) {
        stand_in(members, &mut sets);
    }
    let mut namespaces = Vec::new();
    for (uuid, set) in sets {
        namespaces.extend(whole(members, uuid, &set, &mut findings));
    }
    namespaces.sort_by_key(|n: &SetNamespace| (n.start, n.uuid));
    findings.sort_by_key(|f| (f.dimm, f.slot));
    let size = members.iter().map(|m| m.size).min().unwrap_or(0).saturating_mul(bytes(ways));
    Assembled { namespaces, findings, reserved: reserved(members, size), size }
}

fn of(dimm: usize, label: &Label, kind: FindingKind, detail: Invalid) -> Finding {
    Finding { dimm, slot: Some(label.slot), uuid: Some(label.uuid), kind, detail }
}

pub(crate) fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What is wrong with a label by itself and on its DIMM.
fn judge(
    member: &Member,
    cookies: &Cookies,
    label: &Label,
    contested: Option<Invalid>,
    ways: usize,
) -> Option<(FindingKind, Invalid)> {
    if let Some(detail) = contested.filter(|_| keeps(Mutant::Contested)) {
        return Some((FindingKind::Overlap, detail));
    }
    if !member.is_of(cookies, label) {
        let found = format!("{:#x}", label.isetcookie);
        let accepted = format!("{:#x} or {:#x}", member.cookie(cookies), cookies.alternative);
        return Some((FindingKind::Foreign, Invalid::new("label", "isetcookie", 88, found, accepted)));
    }
    member.fits(label, ways).err().map(|detail| (FindingKind::BadLabel, detail))
}

/// The namespace of a set of labels with one uuid, if they make one.
fn whole(
    members: &[Member],
    uuid: Uuid,
    set: &[Vec<Part>],
    findings: &mut Vec<Finding>,
) -> Option<SetNamespace> {
    let before = findings.len();
    let mut usable = true;
    for (dimm, parts) in set.iter().enumerate() {
        usable &= !parts.iter().any(|part| part.refused);
        for (part, other) in parts.iter().zip(parts.iter().cycle().skip(1)).take(parts.len()) {
            if parts.len() > 1 {
                let accepted = format!("a uuid that the label in slot {} does not have", other.label.slot);
                let detail = Invalid::new("label", "uuid", 0, uuid, accepted);
                findings.push(of(dimm, &part.label, FindingKind::Duplicate, detail));
            }
        }
    }
    let present: Vec<(usize, Label)> = set
        .iter()
        .enumerate()
        .flat_map(|(dimm, parts)| parts.iter().map(move |part| (dimm, part.label)))
        .collect();
    let updating = present.iter().all(|(_, label)| label.flags.contains(Flags::UPDATING));
    for (dimm, _) in set.iter().enumerate().filter(|(_, parts)| parts.is_empty()) {
        let kind = if updating { FindingKind::HalfCreated } else { FindingKind::Missing };
        let have: Vec<String> =
            present.iter().map(|(dimm, label)| format!("DIMM {dimm} in slot {}", label.slot)).collect();
        let accepted = format!("a label on all {} DIMMs, as on {}", set.len(), have.join(" and "));
        let detail = Invalid::new("label set", "position", 86, "no label", accepted);
        findings.push(Finding { dimm, slot: None, uuid: Some(uuid), kind, detail });
    }
    if !usable || findings.len() > before {
        return None;
    }

    // One label on each DIMM. Linux does not ask which DIMM has which position, as long as all are there.
    let mut seen = vec![false; present.len()];
    for (dimm, label) in &present {
        match seen.get_mut(usize::from(label.position)) {
            Some(taken) if !*taken => *taken = true,
            _ => {
                let detail =
                    Invalid::new("label", "position", 86, label.position, "one that no other DIMM has");
                findings.push(of(*dimm, label, FindingKind::BadLabel, detail));
            }
        }
    }
    if findings.len() > before {
        return None;
    }
    let (home, first) = present.iter().find(|(_, label)| label.position == 0)?;
    let offset = first.dpa.0.checked_sub(members.get(*home)?.start.0)?;
    let half_way = compare(members, (offset, first), &present, findings)?;
    let ways = bytes(present.len());
    Some(SetNamespace {
        uuid,
        name: first.name,
        class: first.claim(),
        lbasize: first.lbasize,
        start: offset.checked_mul(ways)?,
        size: first.rawsize.checked_mul(ways)?,
        half_way,
        labels: present.iter().map(|(_, label)| *label).collect(),
    })
}

/// Compares the labels of a namespace with the one at position 0, whose offset in its mapping is given. Tells whether an
/// update was cut; none if the namespace cannot be used.
fn compare(
    members: &[Member],
    (offset, first): (u64, &Label),
    present: &[(usize, Label)],
    findings: &mut Vec<Finding>,
) -> Option<bool> {
    let (mut usable, mut half_way) = (true, false);
    for (dimm, label) in present {
        let member = members.get(*dimm)?;
        // Where the label would be if it agreed.
        let wanted = Label { dpa: Dpa(member.start.0.checked_add(offset)?), ..*label };
        let wanted = Label { rawsize: first.rawsize, ..wanted };
        let cut = (label.flags | first.flags).contains(Flags::UPDATING);
        let (kind, detail) = if label.uuid != first.uuid {
            let [found, wanted] = [label, first].map(|l| l.uuid.to_string());
            (FindingKind::HalfWay, differs("uuid", 0, found, wanted))
        } else if (wanted.dpa, wanted.rawsize) != (label.dpa, label.rawsize) {
            let found = format!("bytes {} to {}", label.dpa, label.end());
            let accepted = format!("{} to {}, as at position 0", wanted.dpa, wanted.end());
            let other = member
                .labels()
                .find(|o| o.uuid != label.uuid && o.dpa < wanted.end() && wanted.dpa < o.end());
            match other {
                Some(other) => (FindingKind::Overlap, overlap(&wanted, other)),
                None if wanted.end() > member.end() || !cut => {
                    (FindingKind::Disagree, Invalid::new("label", "dpa", 104, found, accepted))
                }
                None => (FindingKind::HalfWay, Invalid::new("label", "dpa", 104, found, accepted)),
            }
        } else if label.flags.contains(Flags::UPDATING) && keeps(Mutant::UpdatingCheck) {
            let found = format!("{:#x}", label.flags.bits());
            (
                FindingKind::HalfWay,
                Invalid::new("label", "flags", 80, found, "no UPDATING (8) after an update"),
            )
        } else if label.name != first.name {
            (
                FindingKind::HalfWay,
                differs("name", 16, format!("{:?}", label.name), format!("{:?}", first.name)),
            )
        } else if label.abstraction != first.abstraction {
            let [found, wanted] = [label, first].map(|l| l.abstraction.to_string());
            (FindingKind::HalfWay, differs("abstraction_guid", 144, found, wanted))
        } else if label.lbasize != first.lbasize {
            let [found, wanted] = [label, first].map(|l| l.lbasize.to_string());
            (FindingKind::HalfWay, differs("lbasize", 96, found, wanted))
        } else {
            continue;
        };
        usable &= kind.is_usable();
        half_way = true;
        findings.push(Finding { uuid: Some(first.uuid), ..of(*dimm, label, kind, detail) });
    }
    usable.then_some(half_way)
}

fn differs(field: &'static str, offset: u64, found: String, wanted: String) -> Invalid {
    Invalid::new("label", field, offset, found, format!("{wanted}, as at position 0"))
}

/// What labels claim of the region, on any DIMM.
fn reserved(members: &[Member], size: u64) -> Vec<Range<u64>> {
    let ways = bytes(members.len());
    let scale = |offset: u64| offset.saturating_mul(ways).min(size);
    let mut claimed: Vec<Range<u64>> = members
        .iter()
        .flat_map(|member| member.labels().map(|label| member.claimed(label)))
        .map(|part| scale(part.start)..scale(part.end))
        .filter(|part| !part.is_empty())
        .collect();
    claimed.sort_by_key(|part| part.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for part in claimed {
        match merged.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => merged.push(part),
        }
    }
    merged
}
