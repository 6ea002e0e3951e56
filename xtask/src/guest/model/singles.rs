// SPDX-License-Identifier: MIT OR Apache-2.0
//! DIMMs that are each a region of their own, as QEMU describes them, a dozen in one boot.

use std::path::Path;

use serde_json::{Value, json};

use super::target::{Target, fill_in, uuid};
use super::{Outcomes, Story, compare};
use crate::guest::describe::{Dimm, Lab, Member, Range};
use crate::guest::qemu::Machine;
use crate::guest::record::plain;
use crate::report::{Context, Result};

const MIB: u64 = 1 << 20;
const AREA: u64 = 128 << 10;

/// Uuids that a DIMM's namespaces may have.
const EACH: usize = 16;

/// What is done to a DIMM, in turn, by us, by Linux, and by us again. `{r}` is its region, `{m}` the DIMM, `{n}` its number,
/// `{v}` the version of labels.
struct Kind {
    name: &'static str,
    /// Bytes of the file.
    size: u64,
    label_size: u64,
    /// Over the DIMM's own image, without a lab.
    image: &'static [&'static str],
    /// On the lab.
    lab: &'static [&'static str],
    guest: &'static [&'static str],
    on: &'static [&'static str],
}

const NONE: Kind =
    Kind { name: "", size: 128 * MIB, label_size: 0, image: &[], lab: &[], guest: &[], on: &[] };

/// These are made with labels of both versions.
const LABELLED: [Kind; 4] = [
    Kind {
        name: "whole",
        size: 128 * MIB,
        label_size: AREA,
        image: &[
            "create -s 128M --dimm {n} -m sector -l 512 -V {v} -n whole -u #1",
            "create-namespace -e namespace0.0 -m fsdax -M dev -a 2M -f -n renamed -u #2",
        ],
        guest: &["ndctl create-namespace -f -e @2 -m sector -l 4096 -u #3 -n again"],
        on: &["create-namespace -f -e @3 -m devdax -u #4"],
        ..NONE
    },
    Kind {
        name: "sectors",
        size: 256 * MIB,
        label_size: AREA,
        lab: &[
            "init-labels {m} -V {v}",
            "create-namespace -r {r} -s 32M -m sector -l 512 -u #1",
            "create-namespace -r {r} -s 32M -m sector -l 520 -u #2",
            "create-namespace -r {r} -s 32M -m sector -l 4096 -u #3 -n fast",
            "create-namespace -r {r} -s 32M -m sector -l 4104 -u #4",
            "create-namespace -r {r} -s 16M -m raw -l 4096 -u #5",
        ],
        guest: &["ndctl destroy-namespace -f @2", "ndctl create-namespace -r {r} -s 32M -m fsdax -u #6"],
        on: &[
            "destroy-namespace -f @6",
            "create-namespace -r {r} -s 32M -m sector -l 520 -u #7",
            "create-namespace -r {r} -m raw -u #8 -n rest",
        ],
        ..NONE
    },
    Kind {
        name: "dax",
        size: 256 * MIB,
        label_size: AREA,
        lab: &[
            "init-labels {m} -V {v}",
            "create-namespace -r {r} -s 16M -m fsdax -M mem -a 4K -u #1",
            "create-namespace -r {r} -s 32M -m fsdax -M dev -a 4K -u #2",
            "create-namespace -r {r} -s 48M -m fsdax -M dev -a 2M -u #3 -n data",
            "create-namespace -r {r} -s 32M -m devdax -a 2M -u #4",
            "create-namespace -r {r} -s 16M -m devdax -M mem -a 4K -u #5 -n map",
        ],
        guest: &["ndctl destroy-namespace -f @1", "rename @3 other"],
        on: &["create-namespace -r {r} -m raw -u #6", "create-namespace -f -e @2 -m devdax -u #7"],
        ..NONE
    },
    Kind {
        name: "edited",
        size: 256 * MIB,
        label_size: AREA,
        lab: &[
            "init-labels {m} -V {v}",
            "create-namespace -r {r} -s 32M -m raw -u #1",
            "create-namespace -r {r} -s 32M -m sector -u #2",
            "create-namespace -r {r} -s 32M -m fsdax -u #3",
            "create-namespace -r {r} -s 32M -m raw -u #4",
            "create-namespace -r {r} -s 32M -m sector -l 512 -u #5",
            "destroy-namespace -f @2",
            "destroy-namespace -f @4",
            "create-namespace -r {r} -s 16M -m raw -n hole -u #6",
            "create-namespace -f -e @1 -m fsdax -M mem -n first -u #7",
            "create-namespace -r {r} -m raw -u #8",
        ],
        guest: &[
            "ndctl create-namespace -r {r} -s 16M -m raw -u #9",
            "ndctl destroy-namespace -f @7",
            "ndctl create-namespace -f -e @8 -m sector -u #10",
        ],
        on: &["destroy-namespace -f @3", "create-namespace -r {r} -s 32M -m fsdax -u #11"],
        ..NONE
    },
];

/// These have no labels to begin with, and one of them gets some.
const OTHERS: [Kind; 4] = [
    Kind {
        name: "no-labels-fsdax",
        lab: &["create-namespace -f -e {s} -m fsdax"],
        guest: &["ndctl create-namespace -f -e {s} -m sector -l 512"],
        on: &["create-namespace -f -e {s} -m devdax"],
        ..NONE
    },
    Kind {
        name: "no-labels-sector",
        lab: &["create-namespace -f -e {s} -m sector -l 4096"],
        guest: &["ndctl create-namespace -f -e {s} -m fsdax -M mem"],
        on: &["create-namespace -f -e {s} -m sector -l 520"],
        ..NONE
    },
    Kind { name: "no-labels-devdax", lab: &["create-namespace -f -e {s} -m devdax"], ..NONE },
    Kind {
        name: "blank",
        label_size: AREA,
        lab: &["create-namespace -f -e {s} -m sector -u #1"],
        guest: &["ndctl create-namespace -f -e @1 -m fsdax -u #2"],
        on: &["create-namespace -f -e @2 -m raw -u #3"],
        ..NONE
    },
];

/// A DIMM among the others.
struct Place<'a> {
    kind: &'a Kind,
    version: &'static str,
    /// From 1, as slots of QEMU.
    number: usize,
}

impl Place<'_> {
    /// A line for us.
    fn ours(&self, line: &str) -> Result<String> {
        let n = self.number - 1;
        let names = [
            ("{r}", format!("region{n}")),
            ("{m}", format!("nmem{n}")),
            ("{s}", format!("namespace{n}.0")),
            ("{n}", self.number.to_string()),
            ("{v}", self.version.to_owned()),
        ];
        self.numbered(&names.iter().fold(line.to_owned(), |line, (key, name)| line.replace(key, name)))
    }

    /// A line for the guest.
    fn theirs(&self, line: &str) -> Result<String> {
        self.numbered(&line.replace("{r}", "$region").replace("{s}", "$namespace"))
    }

    /// Turns numbers of uuids from those of the DIMM into those of all.
    fn numbered(&self, line: &str) -> Result<String> {
        fill_in(line, |mark, n| Ok(format!("{mark}{}", self.number * EACH + n)))
    }
}

/// The DIMMs of all kinds.
fn lab(places: &[Place<'_>]) -> Result<Lab> {
    let dimm = |place: &Place<'_>| -> Result<Dimm> {
        let n = u32::try_from(place.number).context("a DIMM")?;
        let Lab { dimms, .. } = plain(place.kind.size - place.kind.label_size, place.kind.label_size);
        let dimm = dimms.into_iter().next().ok_or("no DIMM")?;
        Ok(Dimm { handle: n, serial: dimm.serial + n - 1, ..dimm })
    };
    let dimms = places.iter().map(dimm).collect::<Result<Vec<Dimm>>>()?;
    let mut lab = Lab { dimms, ranges: Vec::new(), capabilities: None, replaced: false };
    for (dimm, address) in lab.dimms.iter().zip(lab.addresses()) {
        let members = vec![Member { handle: dimm.handle, region_id: 0, offset: 0, dpa: 0 }];
        let index = u16::try_from(2 * dimm.handle).context("a range")?;
        lab.ranges.push(Range { index, address, size: dimm.size, line_size: 256, members });
    }
    Ok(lab)
}

pub(super) fn run(machine: &Machine, bin: &Path, folder: &Path) -> Outcomes {
    let mut outcomes = Vec::new();
    if let Err(why) = tell(machine, bin, folder, &mut outcomes) {
        outcomes.push(("model.singles".to_owned(), Err(why)));
    }
    outcomes
}

fn tell(machine: &Machine, bin: &Path, folder: &Path, outcomes: &mut Outcomes) -> Result<()> {
    let versions =
        ["1.2", "1.1"].into_iter().flat_map(|version| LABELLED.iter().map(move |kind| (kind, version)));
    let all = versions.chain(OTHERS.iter().map(|kind| (kind, "")));
    let places: Vec<Place<'_>> =
        all.zip(1..).map(|((kind, version), number)| Place { kind, version, number }).collect();
    let target = Target::blank(bin, folder, lab(&places)?)?;
    let (mut guest, mut on) = (String::new(), Vec::new());
    for (place, image) in places.iter().zip(&target.images) {
        let name = format!("{} {}", place.kind.name, place.version);
        for (n, line) in place.kind.image.iter().enumerate() {
            if n == 0 {
                std::fs::remove_file(image).context(image.display())?;
            }
            let line = fill_in(&place.ours(line)?, |_, n| Ok(uuid(n)))?;
            target.verb_on(image, &line).context(&name)?;
        }
        for line in place.kind.lab {
            target.verb(&place.ours(line)?).context(&name)?;
        }
        guest.push_str(&format!("dimm {}\n", place.number));
        for line in place.kind.guest {
            guest.push_str(&format!("edit {}\n", place.theirs(line)?));
        }
        for line in place.kind.on {
            on.push(place.ours(line)?);
        }
    }
    let alone = alone(&target, &places);
    let story = Story { name: "model.singles", target, guest, ours: on };
    let whole = story.target.list()?;
    outcomes.push(("model.singles.alone".to_owned(), alone.and_then(|lists| as_parts(&lists, &whole))));
    story.tell(machine, outcomes)
}

/// Each labelled image as a target by itself, with its number.
fn alone(target: &Target, places: &[Place<'_>]) -> Result<Vec<(usize, Value)>> {
    let labelled = places.iter().zip(&target.images).filter(|(place, _)| !place.version.is_empty());
    labelled.map(|(place, image)| Ok((place.number, target.list_of(image, "list -BDRNX")?))).collect()
}

/// Images alone are listed as the lab lists them, which Linux is compared with.
fn as_parts(lists: &[(usize, Value)], whole: &Value) -> Result<String> {
    for (n, list) in lists {
        let of = |key: &str| whole.pointer(&format!("/0/{key}/{}", n - 1)).cloned().unwrap_or_default();
        let mut wanted = whole.clone();
        if let Some(bus) = wanted.get_mut(0) {
            *bus = json!({
                "provider": "ACPI.NFIT", "dev": "ndbus0", "dimms": [of("dimms")], "regions": [of("regions")],
            });
        }
        compare(list, &wanted, &[]).context(format!("DIMM {n}"))?;
    }
    Ok(format!("{} images are listed alone as they are in a lab", lists.len()))
}
