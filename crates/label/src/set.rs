// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the labels of a namespace on all DIMMs of its region.
//!
//! Everything is admitted on every DIMM before the first store. Then the label goes to every DIMM with UPDATING set, and
//! in a second pass without (UEFI "Updating labels"). The DIMM whose label has position 0 comes last in the first pass, and
//! first when labels are deleted: its index block is the one that decides, see [`mod@crate::assemble`] for the rule by
//! which every cut leaves the old namespace or the new one.

use std::fmt;
use std::ops::Range;

use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa};
use nvstack_media::{Error, Kind, Media, Result};
use uuid::Uuid;

use crate::assemble::bytes;
use crate::mutants::{Mutant, keeps};
use crate::{Assembled, LabelArea, Member, assemble};

/// The label area of one DIMM, and a region's mapping to that DIMM.
pub struct SetArea<'a, M: Media> {
    /// The area.
    pub area: &'a mut LabelArea<M>,
    /// Where the mapping begins on the DIMM.
    pub start: Dpa,
    /// Bytes of the mapping on this DIMM.
    pub size: u64,
}

impl<M: Media> fmt::Debug for SetArea<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetArea")
            .field("area", &self.area)
            .field("start", &self.start)
            .field("size", &self.size)
            .finish()
    }
}

/// The label areas of all DIMMs of a region, in the order of their position in the set.
///
/// ```
/// use nvstack_format::label::{Name, Version};
/// use nvstack_format::{Dpa, SetMember, cookies, guid::ClaimClass};
/// use nvstack_label::{LabelArea, LabelSet, NamespaceLabel, SetArea};
/// use nvstack_media::Anon;
///
/// let mut dimms = [
///     LabelArea::init(Anon::new(128 << 10)?, Version::V1_2)?,
///     LabelArea::init(Anon::new(128 << 10)?, Version::V1_2)?,
/// ];
/// let of = |dimm| SetMember { region_offset: u64::from(dimm) * 256, ..SetMember::qemu(dimm) };
/// let areas = dimms.iter_mut().map(|area| SetArea { area, start: Dpa(0), size: 256 << 20 }).collect();
/// let mut set = LabelSet::new(areas, cookies(&[of(0), of(1)]))?;
/// let uuid = uuid::Uuid::from_u128(1);
/// set.write(&NamespaceLabel {
///     uuid,
///     name: Name::new("disk")?,
///     class: ClaimClass::Btt2,
///     lbasize: 4096,
///     start: 0,
///     size: 64 << 20,
/// })?;
/// let found = set.assemble()?;
/// assert_eq!((found.namespaces[0].size, found.namespaces[0].labels[1].rawsize), (64 << 20, 32 << 20));
/// assert_eq!(found.free()[0], 64 << 20..512 << 20);
/// set.delete(uuid)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LabelSet<'a, M: Media> {
    areas: Vec<SetArea<'a, M>>,
    cookies: Cookies,
}

impl<M: Media> fmt::Debug for LabelSet<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabelSet").field("areas", &self.areas).field("cookies", &self.cookies).finish()
    }
}

/// A namespace to be written: what its labels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceLabel {
    /// Its uuid. The labels with that uuid are replaced.
    pub uuid: Uuid,
    /// Its name.
    pub name: Name,
    /// What may stack on it. Labels of version 1.1 can hold [`ClaimClass::None`] alone.
    pub class: ClaimClass,
    /// Sector size of the raw namespace; 0 where it does not apply.
    pub lbasize: u64,
    /// Where it begins, in bytes from the start of the region; a multiple of the ways.
    pub start: u64,
    /// Its bytes, over all DIMMs; a multiple of the ways.
    pub size: u64,
}

/// The labels of one namespace as they are: for each DIMM, those in the mapping.
struct Standing {
    members: Vec<Member>,
    labels: Vec<Vec<Label>>,
}

impl<'a, M: Media> LabelSet<'a, M> {
    /// The label areas of a region.
    ///
    /// [`Kind::Invalid`] for no area at all, or more than a label can count.
    pub fn new(areas: Vec<SetArea<'a, M>>, cookies: Cookies) -> Result<LabelSet<'a, M>> {
        if areas.is_empty() || u16::try_from(areas.len()).is_err() {
            return Err(Error::new(Kind::Invalid, "use label areas")
                .found(format_args!("{} DIMMs", areas.len()))
                .accepted("1 to 65535"));
        }
        Ok(LabelSet { areas, cookies })
    }

    /// The namespaces as the labels now have them.
    pub fn assemble(&self) -> Result<Assembled> {
        Ok(assemble(&self.members()?, &self.cookies))
    }

    /// Namespaces that may still be made as far as slots go: those of the fullest DIMM.
    #[must_use]
    pub fn available_slots(&self) -> u32 {
        self.areas.iter().map(|member| member.area.available_slots()).min().unwrap_or(0)
    }

    /// Creates a namespace, or changes one in any respect: its labels are replaced on all DIMMs.
    ///
    /// Flags and alignment of the labels it has stay. A label gets the cookie that its area's version calls for.
    ///
    /// Nothing is written if anything speaks against it: [`Kind::NoSpace`] if a DIMM has too few free slots (two for a new
    /// namespace, of which one stays free in the end), [`Kind::Invalid`] for what a label cannot hold or bytes that
    /// another label claims on any DIMM, [`Kind::Exists`] if the uuid is another region's, [`Kind::Unrecognised`] for a
    /// DIMM without an index block, [`Kind::ReadOnly`] for a medium that takes no writes. The errors name the DIMM, by its
    /// number in the set from 0. One from a medium on the way leaves the namespace as after a cut.
    pub fn write(&mut self, namespace: &NamespaceLabel) -> Result<()> {
        self.write_as(None, namespace)
    }

    /// As [`LabelSet::write`], and the labels of namespace `old` give way: so a namespace gets another uuid, and whatever else
    /// is to change with it. Flags, alignment and positions of its labels stay. If `old` has no labels it is a plain write.
    ///
    /// On each DIMM, the index block that publishes the new label is the one that frees the old one: no bytes are ever
    /// claimed twice, and on one DIMM a cut leaves exactly the old namespace or exactly the new one.
    ///
    /// Of several DIMMs each switches for itself, position 0 last. A cut between two of them leaves labels of both: the old
    /// namespace as it was, whole and half-way ([`crate::FindingKind::HalfWay`], with the uuid of the old one), until position
    /// 0 has switched; from then on the new one. [`LabelSet::settle`], or any change of the namespace, takes back what
    /// others have switched before position 0 did, and this call with the same arguments completes it. Linux, which knows no
    /// such rule, finds no namespace in the region meanwhile, and changes nothing.
    ///
    /// Errors as [`LabelSet::write`], and with nothing written [`Kind::Exists`] if both uuids have labels and no cut
    /// explains it, and over several DIMMs [`Kind::Invalid`] if the new namespace shares no bytes with the old one: they
    /// are what its labels are known by after a cut.
    pub fn write_as(&mut self, old: Option<Uuid>, namespace: &NamespaceLabel) -> Result<()> {
        self.make_sure("write label")?;
        let own = self.replaced(old, namespace)?;
        let plan = self.plan(namespace, &own)?;
        let mut order: Vec<usize> = (0..plan.len()).collect();
        order.sort_by_key(|dimm| std::cmp::Reverse(plan.get(*dimm).map(|label| label.position)));
        if !keeps(Mutant::WriteOrder) {
            order.reverse();
        }
        for updating in [true, false] {
            if !keeps(if updating { Mutant::UpdatingPass } else { Mutant::FinalPass }) {
                continue;
            }
            for dimm in &order {
                if let (Some(member), Some(label)) = (self.areas.get_mut(*dimm), plan.get(*dimm)) {
                    if updating && !keeps(Mutant::AdmitAll) {
                        member.area.admit(label, &own).map_err(|e| on(*dimm, e))?;
                    }
                    member.area.update(label, &own, updating).map_err(|e| on(*dimm, e))?;
                }
            }
        }
        Ok(())
    }

    /// Removes the labels of a namespace, whole or not, from all DIMMs that have one in the mapping.
    ///
    /// What a cut has left of a uuid that was to replace another one, or to be replaced, is settled first, since only one of
    /// the two exists: see [`LabelSet::write_as`].
    ///
    /// [`Kind::NotFound`] if none has, which then is durable. A deletion that failed is ended by another try.
    pub fn delete(&mut self, uuid: Uuid) -> Result<()> {
        self.make_sure("delete label")?;
        if let Some(namespace) = self.assemble()?.namespaces.iter().find(|n| has(n, uuid))
            && namespace.labels.iter().any(|label| label.uuid != namespace.uuid)
        {
            self.write(&namespace.into())?;
            if namespace.uuid != uuid {
                return Ok(());
            }
        }
        let mut found: Vec<(u16, usize, Vec<u32>)> = Vec::new();
        for (dimm, labels) in self.standing(&[uuid])?.labels.into_iter().enumerate() {
            let position = labels.iter().map(|label| label.position).min();
            found.extend(position.map(|p| (p, dimm, labels.iter().map(|label| label.slot).collect())));
        }
        if found.is_empty() && !self.areas.iter().any(|member| member.area.leaving.contains(&uuid)) {
            return Err(
                Error::new(Kind::NotFound, "delete labels").accepted(format_args!("a label of {uuid}"))
            );
        }
        found.sort();
        if !keeps(Mutant::DeleteOrder) {
            found.reverse();
        }
        for (_, dimm, slots) in found {
            if let Some(member) = self.areas.get_mut(dimm) {
                member.area.free_slots(&slots, Some(uuid)).map_err(|e| on(dimm, e))?;
            }
        }
        for member in &mut self.areas {
            member.area.leaving.retain(|left| *left != uuid);
        }
        Ok(())
    }

    /// Gives a namespace another name. [`Kind::NotFound`] if no usable one has this uuid; else as [`LabelSet::write`].
    pub fn rename(&mut self, uuid: Uuid, name: Name) -> Result<()> {
        self.change(uuid, |namespace| namespace.name = name)
    }

    /// Gives a namespace another size, from where it begins. Its data is not touched: what lies in a part that is cut off
    /// is lost to the next namespace there. Errors as [`LabelSet::rename`].
    pub fn resize(&mut self, uuid: Uuid, size: u64) -> Result<()> {
        self.change(uuid, |namespace| namespace.size = size)
    }

    /// Says what may stack on a namespace. Errors as [`LabelSet::rename`].
    pub fn set_class(&mut self, uuid: Uuid, class: ClaimClass) -> Result<()> {
        self.change(uuid, |namespace| namespace.class = class)
    }

    /// Gives a raw namespace another sector size. Errors as [`LabelSet::rename`].
    pub fn set_lbasize(&mut self, uuid: Uuid, lbasize: u64) -> Result<()> {
        self.change(uuid, |namespace| namespace.lbasize = lbasize)
    }

    /// Ends an update of a namespace that a cut has left half-way. Tells whether there was anything to do.
    ///
    /// The label at position 0 goes to all DIMMs that have another one or none. Where position 0 itself has none, the others
    /// give it back, if they agree: so a creation that was cut is ended and a deletion that was cut is taken back, which
    /// loses nothing; [`LabelSet::delete`] is for who wants it gone. A cut meanwhile leaves what was there before, or
    /// the whole. Labels of another uuid that stand in for those of the namespace give way to it; settling that other uuid does
    /// the same.
    ///
    /// [`Kind::NotFound`] if no DIMM has a label of it. [`Kind::Corrupt`], with nothing written, if no cut explains what the
    /// labels say. Otherwise as [`LabelSet::write`].
    pub fn settle(&mut self, uuid: Uuid) -> Result<bool> {
        let assembled = self.assemble()?;
        let known = assembled.namespaces.iter().find(|namespace| has(namespace, uuid));
        if let Some(namespace) = known {
            if namespace.half_way {
                self.write(&namespace.into())?;
            }
            return Ok(namespace.half_way);
        }
        let standing = self.standing(&[uuid])?;
        let present: Vec<(usize, Label)> = standing
            .labels
            .iter()
            .enumerate()
            .flat_map(|(dimm, labels)| labels.iter().map(move |label| (dimm, *label)))
            .collect();
        let lowest = present.iter().min_by_key(|(_, label)| label.position);
        let Some((dimm, truth)) = lowest else {
            return Err(
                Error::new(Kind::NotFound, "settle labels").accepted(format_args!("a label of {uuid}"))
            );
        };
        let offset = |dimm: &usize, label: &Label| {
            standing.members.get(*dimm).and_then(|m| label.dpa.0.checked_sub(m.start.0))
        };
        let place = (offset(dimm, truth), truth.rawsize);
        let refused = assembled.findings.iter().find(|f| {
            f.uuid == Some(uuid)
                && !matches!(f.kind, crate::FindingKind::HalfCreated | crate::FindingKind::Missing)
        });
        if let Some(finding) = refused {
            return Err(Error::from(finding));
        }
        let explained = |(dimm, label): &(usize, Label)| {
            (offset(dimm, label), label.rawsize) == place
                || truth.position == 0 && (label.flags | truth.flags).contains(Flags::UPDATING)
        };
        if let Some((dimm, label)) = present.iter().find(|p| !explained(p)) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("settle label in slot {} of DIMM {dimm}", label.slot),
            )
            .found(format_args!("bytes {} to {}", label.dpa, label.end()))
            .accepted(format_args!("{} to {}, as on another DIMM", truth.dpa, truth.end())));
        }
        let (Some(offset), ways) = (place.0, bytes(self.areas.len())) else { return Ok(false) };
        self.write(&NamespaceLabel {
            uuid,
            name: truth.name,
            class: truth.claim(),
            lbasize: truth.lbasize,
            start: offset.saturating_mul(ways),
            size: truth.rawsize.saturating_mul(ways),
        })?;
        Ok(true)
    }

    fn change(&mut self, uuid: Uuid, change: impl FnOnce(&mut NamespaceLabel)) -> Result<()> {
        let assembled = self.assemble()?;
        let Some(namespace) = assembled.namespaces.iter().find(|namespace| namespace.uuid == uuid) else {
            let error = Error::new(Kind::NotFound, "change labels")
                .accepted(format_args!("a whole namespace with uuid {uuid}"));
            let finding = assembled.findings.iter().find(|finding| finding.uuid == Some(uuid));
            return Err(match finding {
                Some(finding) => error.because(Error::from(finding)),
                None => error,
            });
        };
        let mut changed = namespace.into();
        change(&mut changed);
        self.write(&changed)
    }

    fn members(&self) -> Result<Vec<Member>> {
        let areas = self.areas.iter().enumerate();
        areas
            .map(|(dimm, member)| member.area.member(member.start, member.size).map_err(|e| on(dimm, e)))
            .collect()
    }

    /// Refuses what would fail on the way, before the first store.
    fn writable(&self, operation: &'static str) -> Result<()> {
        for (dimm, member) in self.areas.iter().enumerate() {
            member.area.staged().map_err(|e| on(dimm, e))?;
            if member.area.media().read_only() {
                return Err(on(dimm, Error::new(Kind::ReadOnly, operation)));
            }
        }
        Ok(())
    }

    /// The same, and has every DIMM make sure that what it says is durable.
    fn make_sure(&mut self, operation: &'static str) -> Result<()> {
        self.writable(operation)?;
        for (dimm, member) in self.areas.iter_mut().enumerate() {
            member.area.make_sure().map_err(|e| on(dimm, e))?;
        }
        Ok(())
    }

    fn standing(&self, own: &[Uuid]) -> Result<Standing> {
        let members = self.members()?;
        let of = |member: &Member| {
            member.labels().filter(|l| own.contains(&l.uuid) && member.touches(l)).copied().collect()
        };
        let labels = members.iter().map(of).collect();
        Ok(Standing { members, labels })
    }

    /// The uuids whose labels give way to those of a namespace: its own, that of the old one, and those that stand in for
    /// the labels of either.
    fn replaced(&self, old: Option<Uuid>, namespace: &NamespaceLabel) -> Result<Vec<Uuid>> {
        let assembled = self.assemble()?;
        let named: Vec<Uuid> = [Some(namespace.uuid), old].into_iter().flatten().collect();
        let mut own = named.clone();
        let exists = |found: String, accepted: String| {
            Err(Error::new(Kind::Exists, "write labels").found(found).accepted(accepted))
        };
        for known in assembled.namespaces.iter().filter(|n| named.iter().any(|uuid| has(n, *uuid))) {
            if !named.contains(&known.uuid) {
                let found = format!("labels of {named:?} in the stead of those of {}", known.uuid);
                return exists(found, "the latter settled first".to_owned());
            }
            own.extend(known.labels.iter().map(|label| label.uuid));
        }
        let Some(old) = old.filter(|old| *old != namespace.uuid) else { return Ok(own) };
        let has_labels = |uuid| -> Result<bool> {
            Ok(self.standing(&[uuid])?.labels.iter().any(|labels| !labels.is_empty()))
        };
        if has_labels(old)? && has_labels(namespace.uuid)? {
            let both = |n: &crate::SetNamespace| has(n, old) && has(n, namespace.uuid);
            if !assembled.namespaces.iter().any(both) {
                let found = format!("labels of {old} and of {}", namespace.uuid);
                return exists(found, "a new uuid that no label has".to_owned());
            }
        }
        let end = |start: u64, size: u64| start.saturating_add(size);
        let known = assembled.namespaces.iter().find(|n| n.uuid == old).filter(|_| self.areas.len() > 1);
        if let Some(known) = known
            && (namespace.start >= end(known.start, known.size)
                || known.start >= end(namespace.start, namespace.size))
        {
            return Err(Error::new(Kind::Invalid, "write labels")
                .found(format_args!("{} bytes from {}", namespace.size, namespace.start))
                .accepted(format_args!(
                    "some of the {} bytes from {} that {old} has",
                    known.size, known.start
                )));
        }
        Ok(own)
    }

    /// The label of each DIMM, all of them admitted. Labels of the namespaces `own` are going to be replaced.
    fn plan(&self, namespace: &NamespaceLabel, own: &[Uuid]) -> Result<Vec<Label>> {
        self.writable("write label")?;
        let ways = bytes(self.areas.len());
        let share = |field: &str, value: u64| match value.checked_rem(ways) {
            Some(0) => Ok(value.checked_div(ways).unwrap_or(0)),
            _ => Err(Error::new(Kind::Invalid, "write labels")
                .found(format_args!("{field} {value}"))
                .accepted(format_args!("a multiple of {ways}, the DIMMs of the region"))),
        };
        let (offset, rawsize) = (share("start", namespace.start)?, share("size", namespace.size)?);
        let standing = self.standing(own)?;
        let part = offset..offset.saturating_add(rawsize);
        let positions = positions(&standing);
        let mut plan = Vec::with_capacity(self.areas.len());
        for (((dimm, member), labels), position) in
            standing.members.iter().enumerate().zip(&standing.labels).zip(positions)
        {
            check_place(member, namespace.uuid, own, &part).map_err(|e| on(dimm, e))?;
            let old = labels.first();
            let label = Label {
                uuid: namespace.uuid,
                name: namespace.name,
                flags: old.map_or(Flags::empty(), |old| old.flags.difference(Flags::UPDATING)),
                nlabel: u16::try_from(self.areas.len()).unwrap_or(u16::MAX),
                position,
                isetcookie: member.cookie(&self.cookies),
                lbasize: namespace.lbasize,
                dpa: Dpa(member.start.0.saturating_add(offset)),
                rawsize,
                slot: 0,
                align: old.map_or(0, |old| old.align),
                type_guid: match member.version {
                    Some(Version::V1_1) => Uuid::nil(),
                    _ => guid::PERSISTENT_MEMORY,
                },
                abstraction: namespace.class.guid(),
            };
            if let Some(area) = self.areas.get(dimm).filter(|_| keeps(Mutant::AdmitAll)) {
                area.area.admit(&label, own).map_err(|e| on(dimm, e))?;
            }
            plan.push(label);
        }
        Ok(plan)
    }
}

/// The position of each DIMM's label. A whole set keeps those that it has: with two labels of one position, as a cut would
/// leave them, it would be none.
fn positions(standing: &Standing) -> Vec<u16> {
    let ways = standing.labels.len();
    let own: Vec<u16> = standing
        .labels
        .iter()
        .filter_map(|labels| match labels.as_slice() {
            [one] => Some(one.position),
            _ => None,
        })
        .collect();
    let mut sorted = own.clone();
    sorted.sort_unstable();
    let by_mapping: Vec<u16> = (0..ways).filter_map(|dimm| u16::try_from(dimm).ok()).collect();
    if sorted == by_mapping { own } else { by_mapping }
}

/// Whether a part of a mapping can be this namespace's, as far as the mapping goes. What other labels claim is for
/// [`LabelArea`] to judge; each DIMM's labels thereby speak for all, since the parts lie at the same offset everywhere.
fn check_place(member: &Member, uuid: Uuid, own: &[Uuid], part: &Range<u64>) -> Result<()> {
    let refuse = |kind| {
        Error::new(kind, "write label")
            .found(format_args!("{uuid} at bytes {:#x} to {:#x} of the mapping", part.start, part.end))
    };
    if part.end > member.size || part.is_empty() {
        return Err(
            refuse(Kind::Invalid).accepted(format_args!("at least one byte, up to {:#x}", member.size))
        );
    }
    // All labels with these uuids are going to be replaced: those that mean something else must not be.
    let mut replaced = member.labels().filter(|label| own.contains(&label.uuid));
    match replaced.find(|label| !member.touches(label)) {
        Some(other) => {
            let accepted = format!("a uuid that the label in slot {} does not have", other.slot);
            Err(refuse(Kind::Exists).accepted(accepted))
        }
        None => Ok(()),
    }
}

/// Whether a namespace has labels of this uuid: its own, or those that stand in for some of them.
fn has(namespace: &crate::SetNamespace, uuid: Uuid) -> bool {
    namespace.uuid == uuid || namespace.labels.iter().any(|label| label.uuid == uuid)
}

/// Says which DIMM an error is about.
fn on(dimm: usize, error: Error) -> Error {
    Error::new(error.kind(), format!("DIMM {dimm}")).because(error)
}

impl From<&crate::SetNamespace> for NamespaceLabel {
    /// What is to be written to leave the namespace as it is.
    fn from(namespace: &crate::SetNamespace) -> NamespaceLabel {
        NamespaceLabel {
            uuid: namespace.uuid,
            name: namespace.name,
            class: namespace.class,
            lbasize: namespace.lbasize,
            start: namespace.start,
            size: namespace.size,
        }
    }
}
