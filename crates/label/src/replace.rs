// SPDX-License-Identifier: MIT OR Apache-2.0
//! A namespace that is being replaced by one of another uuid, cut between two DIMMs.

use std::collections::BTreeMap;

use nvstack_format::Dpa;
use nvstack_format::label::{Flags, Label};
use uuid::Uuid;

use crate::Member;
use crate::assemble::Part;

/// The labels of a region by uuid and DIMM.
pub(crate) type Sets = BTreeMap<Uuid, Vec<Vec<Part>>>;

/// Gives each namespace whose replacement was cut the labels that stand in for its own, so that it has one on every DIMM.
///
/// The uuid with the label at position 0 is the one that counts, old or new. Another label is its stand-in on a DIMM where
/// it has none if it is the only one there that claims any of the bytes that the one at position 0 has, if one of the two is
/// UPDATING, if its own uuid is at position 0 nowhere, and if what it claims is claimed by no third one on any DIMM. Nothing
/// else leaves that: neither here nor in Linux does a label come to bytes that another one of its DIMM has, other than
/// in its stead.
pub(crate) fn stand_in(members: &[Member], sets: &mut Sets) {
    let mut moves: Vec<(Uuid, Vec<(usize, Uuid)>)> = Vec::new();
    for (uuid, set) in sets.iter() {
        let found = stand_ins(members, sets, set).filter(|found| !found.is_empty());
        moves.extend(found.map(|found| (*uuid, found)));
    }
    for (uuid, found) in moves {
        for (dimm, other) in found {
            let taken = sets.get_mut(&other).and_then(|set| set.get_mut(dimm)).map(std::mem::take);
            let place = sets.get_mut(&uuid).and_then(|set| set.get_mut(dimm));
            if let (Some(taken), Some(place)) = (taken, place) {
                *place = taken;
            }
        }
    }
    sets.retain(|_, set| set.iter().any(|parts| !parts.is_empty()));
}

/// The stand-ins of one namespace: the DIMM, and whose label it is. None if it is not one whose replacement was cut.
fn stand_ins(members: &[Member], sets: &Sets, set: &[Vec<Part>]) -> Option<Vec<(usize, Uuid)>> {
    let one = |parts: &[Part]| match parts {
        [part] if !part.refused => Some(part.label),
        _ => None,
    };
    let (home, first) = set
        .iter()
        .enumerate()
        .find_map(|(dimm, parts)| Some((dimm, one(parts).filter(|l| l.position == 0)?)))?;
    let offset = first.dpa.0.checked_sub(members.get(home)?.start.0)?;
    let mut found = Vec::new();
    let mut taken = vec![false; members.len()];
    for (dimm, (parts, member)) in set.iter().zip(members).enumerate() {
        let label = if parts.is_empty() {
            let start = Dpa(member.start.0.checked_add(offset)?);
            let wanted = Label { dpa: start, rawsize: first.rawsize, ..first };
            if offset.checked_add(first.rawsize)? > member.size {
                return None;
            }
            let mut there = member.labels().filter(|l| l.dpa < wanted.end() && wanted.dpa < l.end());
            let (other, None) = (there.next()?, there.next()) else { return None };
            let theirs = sets.get(&other.uuid)?;
            let label = theirs.get(dimm).and_then(|parts| one(parts))?;
            if label.slot != other.slot || !(label.flags | first.flags).contains(Flags::UPDATING) {
                return None;
            }
            if theirs.iter().flatten().any(|part| part.label.position == 0) {
                return None;
            }
            found.push((dimm, label.uuid));
            label
        } else {
            one(parts)?
        };
        match taken.get_mut(usize::from(label.position)) {
            Some(taken) if !*taken => *taken = true,
            _ => return None,
        }
    }
    // A uuid that has a label elsewhere too is more than a stand-in.
    let whole = |other: &Uuid| {
        let here = found.iter().filter(|(_, uuid)| uuid == other).count();
        sets.get(other).is_some_and(|set| set.iter().flatten().count() == here)
    };
    let own = |label: &Label| label.uuid == first.uuid || found.iter().any(|(_, uuid)| *uuid == label.uuid);
    let alone = |(dimm, other): &(usize, Uuid)| {
        let label = sets.get(other).and_then(|set| one(set.get(*dimm)?));
        let (Some(label), Some(member)) = (label, members.get(*dimm)) else { return false };
        let part = member.claimed(&label);
        members.iter().all(|member| {
            member
                .labels()
                .filter(|l| !own(l))
                .map(|l| member.claimed(l))
                .all(|theirs| theirs.is_empty() || theirs.end <= part.start || part.end <= theirs.start)
        })
    };
    found.iter().all(|found| whole(&found.1) && alone(found)).then_some(found)
}
