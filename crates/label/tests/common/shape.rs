// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label areas of several DIMMs on one medium.

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Flags, Name, Version};
use nvstack_format::{Cookies, Dpa};
use nvstack_label::{Assembled, LabelArea, LabelSet, NamespaceLabel, SetArea};
use nvstack_media::{Anon, Media, MediaOffset, Part};
use uuid::Uuid;

use super::all;

const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };
pub(crate) const MIB: u64 = 1 << 20;
const START: Dpa = Dpa(MIB);
/// Bytes of each DIMM's mapping.
const SIZE: u64 = 64 * MIB;

/// Some DIMMs' label areas, one behind the other on one medium, so that a cut sees the order over all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) ways: u64,
    pub(crate) area: u64,
    pub(crate) version: Version,
}

impl Shape {
    pub(crate) fn parts<'m, M: Media>(&self, media: &'m M) -> Vec<LabelArea<Part<&'m M>>> {
        (0..self.ways)
            .map(|i| {
                LabelArea::open(Part::new(media, MediaOffset(i * self.area), self.area).unwrap()).unwrap()
            })
            .collect()
    }

    pub(crate) fn run<M: Media, T>(
        &self,
        media: &M,
        with: impl FnOnce(&mut LabelSet<'_, Part<&M>>) -> T,
    ) -> T {
        with(&mut set(&mut self.parts(media)))
    }

    /// The bytes of new areas with some namespaces.
    pub(crate) fn fresh(&self, namespaces: &[NamespaceLabel]) -> Vec<u8> {
        let media = Anon::new(self.ways * self.area).unwrap();
        for i in 0..self.ways {
            LabelArea::init(Part::new(&media, MediaOffset(i * self.area), self.area).unwrap(), self.version)
                .unwrap();
        }
        self.run(&media, |set| namespaces.iter().for_each(|n| set.write(n).unwrap()));
        all(&media)
    }

    /// A namespace of `mib` MiB on each DIMM, from `at`.
    pub(crate) fn namespace(&self, id: u8, name: &str, at: u64, mib: u64) -> NamespaceLabel {
        NamespaceLabel {
            uuid: Uuid::from_bytes([id; 16]),
            name: Name::new(name).unwrap(),
            class: ClaimClass::None,
            lbasize: 512,
            start: at * MIB * self.ways,
            size: mib * MIB * self.ways,
        }
    }
}

/// Some areas as a region's.
pub(crate) fn set<M: Media>(areas: &mut [LabelArea<M>]) -> LabelSet<'_, M> {
    let areas = areas.iter_mut().map(|area| SetArea { area, start: START, size: SIZE }).collect();
    LabelSet::new(areas, COOKIES).unwrap()
}

/// The slots in use on each DIMM, and the flags of the labels in them.
pub(crate) type Stand = Vec<Vec<(u32, Option<Flags>)>>;
pub(crate) type State = Vec<(Uuid, String, ClaimClass, u64, u64, u64)>;

pub(crate) fn state(outcome: &Assembled) -> State {
    outcome
        .namespaces
        .iter()
        .map(|n| (n.uuid, n.name.to_string(), n.class, n.lbasize, n.start, n.size))
        .collect()
}

pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for version in Version::ALL {
        for (ways, area) in [(1, 1024), (2, 1024), (2, 2048), (4, 2048)] {
            shapes.push(Shape { ways, area, version });
        }
    }
    shapes
}

/// How the slots stand on all DIMMs.
pub(crate) fn stand<M: Media>(shape: Shape, media: &M) -> Stand {
    let of = |area: LabelArea<Part<&M>>| {
        let slots = area.slots().unwrap().into_iter();
        slots.map(|s| (s.number, s.label.ok().map(|l| l.flags))).collect()
    };
    shape.parts(media).into_iter().map(of).collect()
}
