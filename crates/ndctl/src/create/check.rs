// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked, held against what the region can give. Nothing is stored here.

use nvstack_media::{Error, Kind, Result};
use uuid::Uuid;

use super::{CreateOptions, random_uuid};
use crate::model::{Bus, Claim, ClaimKind, MapLocation, Namespace, Region};
use crate::plan::{Mode, Plan, not_one_of, sector_size_refusal, space};
use nvstack_format::size;

/// The smallest namespace on which something can stand.
const CLAIM_MIN: u64 = 16 << 20;
/// What a namespace must begin at a multiple of, so that its memory can be mapped on every kernel.
const SECTION: u64 = 16 << 20;
/// What memory is mapped in at least.
const PAGE: u64 = 4096;
fn invalid(operation: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Invalid, operation)
}

/// What can be told without looking at the tree.
pub(super) fn options(o: &CreateOptions) -> Result<()> {
    if let Some(name) = o.name.as_ref().filter(|n| n.len() > 63) {
        return Err(invalid("name of namespace")
            .found(format_args!("{} bytes", name.len()))
            .accepted("at most 63"));
    }
    if o.uuid.is_some_and(|u| u.is_nil()) {
        return Err(invalid("uuid of namespace").found("all zeros").accepted("any other"));
    }
    if o.size == Some(0) {
        return Err(invalid("size of namespace").found(0).accepted("a multiple of the region's align"));
    }
    Ok(())
}

/// The plan for a new namespace, or why this region cannot give one.
pub(super) fn new(
    bus: &Bus<'_>,
    region: &Region<'_>,
    n: &Namespace<'_>,
    o: &CreateOptions,
) -> Result<Result<Plan, String>> {
    if region.read_only() {
        return Ok(Err(format!("{} is read-only", region.name())));
    }
    let labelled = n.labelled();
    let size = if labelled {
        let largest = region.largest_extent();
        let size = o.size.unwrap_or(largest);
        if largest == 0 || size > largest {
            let more = format!("{} has {largest} bytes free in one piece", region.name());
            return Ok(Err(more));
        }
        size
    } else {
        if o.size.is_some_and(|s| s != n.size()) {
            return Err(no_resize(region));
        }
        n.size()
    };
    let uuid = labelled.then(|| o.uuid.map_or_else(random_uuid, Ok)).transpose()?;
    check_uuid(bus, uuid)?;
    let draft = Plan {
        region: region.name().to_owned(),
        namespace: n.name().to_owned(),
        mode: o.mode.unwrap_or(Mode::Fsdax),
        map: o.map,
        uuid,
        name: o.name.clone().unwrap_or_default(),
        size,
        sector_size: 0,
        align: None,
        autolabel: false,
        space: None,
    };
    complete(draft, region, n, o, Before::default()).map(Ok)
}

fn no_resize(region: &Region<'_>) -> Error {
    invalid(format!("size of a namespace of {}", region.name()))
        .found("a region without labels")
        .accepted("no --size: its namespace is the whole of it (init-labels makes labels)")
}

/// Two namespaces of one uuid would be taken for one.
fn check_uuid(bus: &Bus<'_>, uuid: Option<Uuid>) -> Result<()> {
    let Some(uuid) = uuid else { return Ok(()) };
    for n in bus.regions().iter().flat_map(Region::namespaces) {
        if n.labelled() && n.uuid() == Some(uuid) {
            return Err(invalid("uuid of namespace")
                .found(format_args!("{uuid}, which {} has", n.name()))
                .accepted("one that no namespace has"));
        }
    }
    Ok(())
}

/// What a namespace was before it is made anew.
#[derive(Default)]
struct Before {
    name: Option<String>,
    sector_size: Option<u64>,
    align: Option<u64>,
}

/// The plan for making a namespace anew.
pub(super) fn anew(n: &Namespace<'_>, o: &CreateOptions) -> Result<Plan> {
    let region = n.region();
    if n.size() == 0 {
        return Err(Error::new(Kind::Gone, format!("reconfigure {}", n.name()))
            .found("no size")
            .accepted("a namespace that is configured"));
    }
    let holder = n.holder();
    let mode = o.mode.or_else(|| Mode::parse(n.mode())).unwrap_or(Mode::Raw);
    let autolabel = o.autolabel && can_label(region);
    let labelled = n.labelled() || autolabel;
    let size = match o.size {
        Some(size) if labelled => size,
        Some(size) if size != n.size() => return Err(no_resize(region)),
        // Labels give space in steps.
        _ if autolabel => crate::plan::round_down(region.size(), region.align_or_page()),
        _ => n.size(),
    };
    let room = match crate::plan::free(region, Some(n.name())) {
        Some(gaps) => gaps.into_iter().map(|(_, len)| len).max().unwrap_or(0),
        None => region.available().saturating_add(n.size()),
    };
    if labelled && size > room {
        return Err(Error::new(Kind::NoSpace, format!("reconfigure {}", n.name()))
            .found(format_args!("size {size}"))
            .accepted(format_args!("at most {room} in {}", region.name())));
    }
    let uuid = labelled.then(|| o.uuid.map_or_else(random_uuid, Ok)).transpose()?;
    if o.uuid.is_some() && o.uuid != n.uuid() {
        for bus in crate::model::buses(n.sys()) {
            if bus.regions().iter().any(|r| r.name() == region.name()) {
                check_uuid(&bus, uuid)?;
            }
        }
    }
    let same = |kind| holder.as_ref().filter(|c| c.kind() == kind && mode.claim() == Some(kind));
    let before = Before {
        name: n.word("alt_name"),
        sector_size: match mode {
            Mode::Sector => same(ClaimKind::Btt).and_then(|c| c.sector_sizes().chosen),
            _ => n.sector_sizes().chosen,
        },
        align: holder.as_ref().filter(|_| mode.mapped()).and_then(Claim::align),
    };
    let map = o.map.or_else(|| holder.as_ref().filter(|_| mode.mapped()).and_then(Claim::map_location));
    let draft = Plan {
        region: region.name().to_owned(),
        namespace: n.name().to_owned(),
        mode,
        map,
        uuid,
        name: o.name.clone().or_else(|| before.name.clone()).unwrap_or_default(),
        size,
        sector_size: 0,
        align: None,
        autolabel,
        space: None,
    };
    complete(draft, region, n, o, before)
}

/// Whether labels can be made for a region that has none.
fn can_label(region: &Region<'_>) -> bool {
    let mappings = region.mappings();
    let dimms = crate::model::buses(region.sys()).into_iter().flat_map(|b| b.dimms());
    let able = dimms.filter(|d| d.has_label_area() && mappings.iter().any(|m| m.dimm == d.name())).count();
    !region.labelled() && able > 0 && able == mappings.len()
}

/// Checks sizes, and settles what was left open.
fn complete(
    mut plan: Plan,
    region: &Region<'_>,
    n: &Namespace<'_>,
    o: &CreateOptions,
    before: Before,
) -> Result<Plan> {
    let labelled = plan.uuid.is_some();
    let mode = plan.mode;
    if !mode.mapped() {
        if o.map.is_some() {
            return Err(invalid("map")
                .found(format_args!("{} mode", mode.name()))
                .accepted("fsdax or devdax"));
        }
        if o.align.is_some() {
            return Err(invalid("align")
                .found(format_args!("{} mode", mode.name()))
                .accepted("fsdax or devdax"));
        }
        plan.map = None;
    } else if plan.map.is_none() {
        plan.map = Some(MapLocation::Device);
    }

    let seed = match mode.claim() {
        Some(kind) => Some(region.claim_seed(kind).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("create namespace in {} mode", mode.name()))
                .found(format_args!("{} without a {} seed", region.name(), kind.word()))
        })?),
        None => None,
    };

    // Only space that is given out in steps needs a size of such steps.
    if labelled {
        check_size(plan.size, region, o.size)?;
    }
    plan.align = match &seed {
        Some(seed) if mode.mapped() => Some(choose_align(&plan, region, seed, o, before.align)?),
        _ => None,
    };
    let unit = plan.align.unwrap_or(PAGE).saturating_mul(region.ways());
    if labelled && plan.size.checked_rem(unit) != Some(0) {
        return Err(suggest(&plan, region, unit));
    }
    if mode != Mode::Raw && plan.size < CLAIM_MIN {
        return Err(invalid(format!("size of a namespace in {} mode", mode.name()))
            .found(plan.size)
            .accepted(format_args!("{CLAIM_MIN} or more; any size in raw mode")));
    }
    plan.sector_size = choose_sector_size(mode, seed.as_ref(), n, o, before.sector_size)?;
    if mode.mapped()
        && !o.force
        && let Some(start) = region.resource().filter(|r| !r.is_multiple_of(SECTION))
    {
        return Err(invalid(format!("{} mode in {}", mode.name(), region.name()))
            .found(format_args!("memory from {start:#x} on"))
            .accepted(format_args!("a multiple of {SECTION:#x}, or --force")));
    }
    plan.space = space(region, &plan, o.reconfigure.as_deref().map(|_| n), labelled)?;
    Ok(plan)
}

/// The size must be one that the region gives out.
fn check_size(bytes: u64, region: &Region<'_>, asked: Option<u64>) -> Result<()> {
    let align = region.align_or_page();
    if bytes.checked_rem(align) == Some(0) {
        return Ok(());
    }
    let down = crate::plan::round_down(bytes, align);
    let up = down.saturating_add(align);
    Err(invalid(format!("{}: align setting is {align:#x} size {bytes:#x} is misaligned", region.name()))
        .accepted(match (asked, down) {
            (Some(_), 0) => format!("--size={up}"),
            _ => format!("--size={down} or --size={up}"),
        }))
}

fn suggest(plan: &Plan, region: &Region<'_>, unit: u64) -> Error {
    let up = plan.size.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let [text] = [(30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| up.trailing_zeros() >= *shift)
        .map_or([up.to_string()], |(shift, unit)| [format!("{}{unit}", up >> shift)]);
    invalid(format!(
        "'--size=' must align to interleave-width: {} and alignment: {}",
        region.ways(),
        plan.align.unwrap_or(PAGE)
    ))
    .found(format_args!("{} ({})", plan.size, size::human(plan.size)))
    .accepted(format_args!("--size={text}, if that was meant"))
}

fn join(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn choose_sector_size(
    mode: Mode,
    seed: Option<&Claim<'_>>,
    n: &Namespace<'_>,
    o: &CreateOptions,
    before: Option<u64>,
) -> Result<u64> {
    if mode == Mode::Sector {
        let size = o.sector_size.or(before).unwrap_or(4096);
        let supported = seed.map(|s| s.sector_sizes().supported).unwrap_or_default();
        return match supported.as_slice() {
            [] => Ok(size),
            all if all.contains(&size) => Ok(size),
            all if all.len() == 7 => Err(sector_size_refusal(size)),
            all => Err(not_one_of("sector size", size, &join(all))),
        };
    }
    let size = o.sector_size.or(before).unwrap_or(512);
    let supported = n.sector_sizes().supported;
    // Without labels there is nowhere to put another.
    let supported = if supported.is_empty() { vec![512] } else { supported };
    if supported.contains(&size) {
        return Ok(size);
    }
    Err(not_one_of(&format!("sector size in {} mode", mode.name()), size, &join(&supported)))
}

fn choose_align(
    plan: &Plan,
    region: &Region<'_>,
    seed: &Claim<'_>,
    o: &CreateOptions,
    before: Option<u64>,
) -> Result<u64> {
    let default = seed.align().unwrap_or(2 << 20);
    let mut supported = seed.alignments();
    if supported.is_empty() {
        supported.push(default);
    }
    if let Some(align) = o.align {
        if supported.contains(&align) {
            return Ok(align);
        }
        let what = format!("align in {} mode", plan.mode.name());
        return Err(not_one_of(&what, align, &join(&supported)));
    }
    if let Some(align) = before.filter(|a| supported.contains(a)) {
        return Ok(align);
    }
    // Memory that begins in the middle of a large page can only be mapped in small ones.
    let aligned = region.resource().is_none_or(|r| r.checked_rem(default) == Some(0));
    Ok(if aligned || !supported.contains(&PAGE) { default } else { PAGE })
}
