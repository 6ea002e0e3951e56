// SPDX-License-Identifier: MIT OR Apache-2.0
//! From labels to namespaces.
//!
//! Linux gives up a whole region for one label that it cannot place, and serves everything as one raw namespace when two
//! labels overlap. Here a bad label costs its own namespace and no other, and what labels disagree about is not served
//! at all.

use std::collections::HashMap;

use nvstack_format::label::{Label, Version};
use nvstack_format::{Invalid, SetMember, cookies};
use nvstack_media::{Error, Kind, MediaOffset};
use uuid::Uuid;

/// Nvdimm devices that one QEMU can have (`ACPI_MAX_RAM_SLOTS`).
const QEMU_DIMMS: u32 = 256;

/// A label of an area, valid by itself.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Where it stands in the image.
    pub(super) at: MediaOffset,
    /// What it says.
    pub(super) label: Label,
}

/// The outcome for a region.
pub(super) struct Assembled {
    /// The labels of the namespaces, in the order of their start.
    pub(super) labels: Vec<Label>,
    /// Whose labels they are.
    pub(super) owner: Option<Owner>,
    /// Why labels were left out.
    pub(super) findings: Vec<Error>,
}

/// Whose labels they are, as far as a cookie tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    /// The interleave set with this cookie.
    Set(u64),
    /// A QEMU's nvdimm with this number, counted from 1.
    Qemu(u32),
}

/// Puts together the namespaces of one DIMM whose region has `size` bytes.
pub(super) fn assemble(found: Vec<Found>, version: Version, size: u64) -> Assembled {
    let mut findings = Vec::new();
    let mut reject = |f: &Found, finding: Invalid| {
        findings.push(Error::invalid(
            Kind::Corrupt,
            format!("use label in slot {}", f.label.slot),
            f.at,
            finding,
        ));
    };

    // Every valid label reserves its range, whatever else is wrong with it: that is where somebody's data may be.
    let contested = contested(&found);
    let mut single = Vec::with_capacity(found.len());
    for (f, contested) in found.into_iter().zip(contested) {
        match contested.map_or_else(|| place(&f.label, version, size), Err) {
            Ok(()) => single.push(f),
            Err(finding) => reject(&f, finding),
        }
    }

    let qemu = qemu_dimms();
    let owner_of = |f: &Found| {
        let cookie = f.label.isetcookie;
        qemu.get(&cookie).map_or(Owner::Set(cookie), |n| Owner::Qemu(*n))
    };
    let owner = elect(single.iter().map(owner_of));
    let mut labels: Vec<Label> = Vec::with_capacity(single.len());
    for f in &single {
        if Some(owner_of(f)) == owner {
            labels.push(f.label);
        } else {
            let accepted = match owner {
                Some(_) => "the cookie of the other labels",
                None => "one cookie in all labels: nothing tells which of them belong to this DIMM",
            };
            reject(
                f,
                Invalid::new("label", "isetcookie", 88, format!("{:#x}", f.label.isetcookie), accepted),
            );
        }
    }
    labels.sort_by_key(|l| l.dpa);
    Assembled { labels, owner, findings }
}

/// For each label: what another one also says is its own.
fn contested(found: &[Found]) -> Vec<Option<Invalid>> {
    let mut order: Vec<usize> = (0..found.len()).collect();
    let mut out = vec![None; found.len()];
    let mut clash = |pair: [usize; 2], by: &dyn Fn(&Label, &Label) -> Invalid| {
        for [a, b] in [pair, [pair[1], pair[0]]] {
            if let (Some(slot), Some(mine), Some(theirs)) = (out.get_mut(a), found.get(a), found.get(b)) {
                slot.get_or_insert_with(|| by(&mine.label, &theirs.label));
            }
        }
    };
    let label = |i: usize| found.get(i).map(|f| f.label);
    let begin = |i: usize| label(i).map_or((u64::MAX, 0), |l| (l.dpa.0, l.rawsize));

    order.sort_by_key(|&i| begin(i));
    let mut furthest: Option<usize> = None;
    for &i in &order {
        let Some(this) = label(i) else { continue };
        if let Some((before, l)) = furthest.and_then(|b| Some((b, label(b)?))) {
            if this.dpa < l.end() && this.rawsize > 0 {
                clash([before, i], &|mine, theirs| {
                    let found = format!("bytes {} to {}", mine.dpa, mine.end());
                    let other = format!(
                        "bytes outside {} to {}, which the label in slot {} has",
                        theirs.dpa,
                        theirs.end(),
                        theirs.slot
                    );
                    Invalid::new("label", "dpa", 104, found, other)
                });
            }
            if this.end() <= l.end() {
                continue;
            }
        }
        furthest = Some(i);
    }

    let mut first: HashMap<Uuid, usize> = HashMap::new();
    for i in 0..found.len() {
        let Some(this) = label(i) else { continue };
        if let Some(&before) = first.get(&this.uuid) {
            clash([before, i], &|mine, theirs| {
                let other = format!("a uuid that the label in slot {} does not have", theirs.slot);
                Invalid::new("label", "uuid", 0, mine.uuid, other)
            });
        } else {
            first.insert(this.uuid, i);
        }
    }
    out
}

/// Whether a label names a namespace of this one DIMM.
fn place(label: &Label, version: Version, size: u64) -> Result<(), Invalid> {
    label.check(version)?;
    let bad = |field, offset, found: String, accepted: String| {
        Err(Invalid::new("label", field, offset, found, accepted))
    };
    if label.nlabel != 1 {
        let found = format!("part {} of a namespace on {} DIMMs", label.position, label.nlabel);
        return bad("nlabel", 84, found, "1: a set needs a lab with the images of its other DIMMs".into());
    }
    if label.isetcookie == 0 {
        return bad("isetcookie", 88, "0".into(), "the cookie of an interleave set".into());
    }
    if label.end().0 > size {
        let found = format!("{} bytes from {}", label.rawsize, label.dpa);
        return bad("rawsize", 112, found, format!("an end within the region's {size} bytes"));
    }
    Ok(())
}

/// Whose DIMM it is, as far as its labels tell: a QEMU's before any other, then the more frequent. None where two are
/// equally good.
fn elect(owners: impl Iterator<Item = Owner>) -> Option<Owner> {
    let mut votes: HashMap<Owner, usize> = HashMap::new();
    for owner in owners {
        *votes.entry(owner).or_default() += 1;
    }
    let rank = |(owner, n): (&Owner, &usize)| (matches!(owner, Owner::Qemu(_)), *n);
    let best = votes.iter().map(rank).max()?;
    let mut winners = votes.iter().filter(|v| rank(*v) == best);
    match (winners.next(), winners.next()) {
        (Some((owner, _)), None) => Some(*owner),
        _ => None,
    }
}

/// The cookies that the nvdimm devices of a QEMU can have, and whose they are. Linux takes that of either version.
fn qemu_dimms() -> HashMap<u64, u32> {
    (1..=QEMU_DIMMS)
        .flat_map(|n| {
            let c = cookies(&[SetMember::qemu(n - 1)]);
            [(c.v1_1, n), (c.v1_2, n)]
        })
        .collect()
}

impl Owner {
    /// The cookie of the region, as Linux tells it (`set_cookie`).
    pub(super) fn cookie(self, version: Version) -> u64 {
        match self {
            Owner::Set(cookie) => cookie,
            Owner::Qemu(dimm) => qemu_cookie(dimm, version),
        }
    }

    /// Which nvdimm of a QEMU it is.
    pub(super) fn dimm(self) -> Option<u32> {
        match self {
            Owner::Set(_) => None,
            Owner::Qemu(dimm) => Some(dimm),
        }
    }
}

/// The cookie of a QEMU's nvdimm, counted from 1.
pub(crate) fn qemu_cookie(dimm: u32, version: Version) -> u64 {
    let cookies = cookies(&[SetMember::qemu(dimm.saturating_sub(1))]);
    match version {
        Version::V1_1 => cookies.v1_1,
        Version::V1_2 => cookies.v1_2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvstack_format::Dpa;
    use nvstack_format::guid;
    use nvstack_format::label::{Flags, Name};

    const SIZE: u64 = 64 << 20;

    /// A label of 16 MiB at `mib`, in a slot of its own.
    fn label(slot: u32, mib: u64, cookie: u64) -> Label {
        Label {
            uuid: Uuid::from_u128(u128::from(slot) + 1),
            name: Name::new("").unwrap(),
            flags: Flags::empty(),
            nlabel: 1,
            position: 0,
            isetcookie: cookie,
            lbasize: 512,
            dpa: Dpa(mib << 20),
            rawsize: 16 << 20,
            slot,
            align: 0,
            type_guid: guid::PERSISTENT_MEMORY,
            abstraction: Uuid::nil(),
        }
    }

    /// The slots that are used, and those that are refused with the field that is to blame.
    fn outcome(labels: &[Label]) -> (Vec<u32>, Vec<String>) {
        let at = MediaOffset(0);
        let found = labels.iter().map(|l| Found { at, label: *l }).collect();
        let done = assemble(found, Version::V1_2, SIZE);
        let words = |e: &Error| {
            let text = e.to_string();
            let slot = text.split("in slot ").nth(1).unwrap().split(' ').next().unwrap();
            let field = text.split("label: ").nth(1).unwrap().split(' ').next().unwrap();
            format!("{slot} {field}")
        };
        (done.labels.iter().map(|l| l.slot).collect(), done.findings.iter().map(words).collect())
    }

    fn qemu(n: u32) -> u64 {
        qemu_cookie(n, Version::V1_2)
    }

    #[test]
    fn namespaces_come_in_the_order_of_their_start() {
        let labels = [label(0, 32, qemu(3)), label(1, 0, qemu(3)), label(2, 16, qemu(3))];
        assert_eq!(outcome(&labels), (vec![1, 2, 0], vec![]));
    }

    #[test]
    fn what_two_labels_claim_is_nobodys_and_their_neighbours_stay() {
        let c = qemu(1);
        let mut wide = label(1, 0, c);
        wide.rawsize = 48 << 20;
        let labels = [label(0, 0, c), wide, label(2, 16, c), label(3, 48, c), label(4, 32, c)];
        assert_eq!(
            outcome(&labels),
            (vec![3], vec!["0 dpa".into(), "1 dpa".into(), "2 dpa".into(), "4 dpa".into()])
        );
        let mut twin = label(1, 32, c);
        twin.uuid = label(0, 0, c).uuid;
        assert_eq!(
            outcome(&[label(0, 0, c), twin, label(2, 16, c)]),
            (vec![2], vec!["0 uuid".into(), "1 uuid".into()])
        );
    }

    #[test]
    fn bytes_of_a_label_that_is_refused_are_still_somebodys() {
        let mut of_a_set = label(0, 8, qemu(1));
        (of_a_set.nlabel, of_a_set.position) = (2, 1);
        let labels = [of_a_set, label(1, 0, qemu(1)), label(2, 32, qemu(1))];
        assert_eq!(outcome(&labels), (vec![2], vec!["0 dpa".into(), "1 dpa".into()]));
    }

    #[test]
    fn one_dimm_has_one_cookie() {
        // The odd one goes, whoever is in the majority, if only one is a QEMU's.
        let labels = [label(0, 0, 5), label(1, 16, 5), label(2, 32, qemu(256))];
        assert_eq!(outcome(&labels), (vec![2], vec!["0 isetcookie".into(), "1 isetcookie".into()]));
        let labels = [label(0, 0, 5), label(1, 16, 6), label(2, 32, 5)];
        assert_eq!(outcome(&labels), (vec![0, 2], vec!["1 isetcookie".into()]));
        // Nobody can tell: nothing is used.
        let labels = [label(0, 0, qemu(1)), label(1, 16, qemu(2))];
        assert_eq!(outcome(&labels), (vec![], vec!["0 isetcookie".into(), "1 isetcookie".into()]));
        // Linux takes the older kind of cookie of the same DIMM as well.
        let labels = [label(0, 0, qemu(2)), label(1, 16, qemu_cookie(2, Version::V1_1))];
        assert_eq!(outcome(&labels), (vec![0, 1], vec![]));
        // Hardware that is no QEMU's is as good, alone.
        assert_eq!(outcome(&[label(0, 0, 5)]), (vec![0], vec![]));
        assert_eq!(outcome(&[label(0, 0, 0)]), (vec![], vec!["0 isetcookie".into()]));
    }

    #[test]
    fn a_label_must_lie_in_the_region() {
        let mut long = label(0, 48, qemu(1));
        assert_eq!(outcome(&[long]), (vec![0], vec![]));
        long.rawsize += 1;
        assert_eq!(outcome(&[long]), (vec![], vec!["0 rawsize".into()]));
        long.rawsize = u64::MAX;
        assert_eq!(outcome(&[long, label(1, 0, qemu(1))]), (vec![1], vec!["0 rawsize".into()]));
    }
}
