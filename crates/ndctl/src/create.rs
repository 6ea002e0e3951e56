// SPDX-License-Identifier: MIT OR Apache-2.0
//! `create-namespace`.

use nvstack_media::{Error, Kind, Result};
use uuid::{Builder, Uuid};

use crate::control::{bind, enable_namespace};
use crate::destroy::{check_idle, free, take_down};
use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::json::Style;
use crate::labels::label_region;
use crate::list::{Detail, namespace};
use crate::model::{Bus, Claim, ClaimKind, MapLocation, Namespace, Region, settle};
use crate::plan::{Mode, Plan, not_one_of, sector_size_refusal, space};
use crate::report::{Outcome, Reporter, counted};
use crate::size;
use crate::sys::Sys;

/// The smallest namespace on which something can stand.
const CLAIM_MIN: u64 = 16 << 20;
/// What a namespace must begin at a multiple of, so that its memory can be mapped on every kernel.
const SECTION: u64 = 16 << 20;
/// What memory is mapped in at least.
const PAGE: u64 = 4096;
/// ENODEV: `ndctl` ends so when no region could give a namespace.
const NO_REGION: u8 = 237;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// `-b`, `-r`, `-t`: where.
    pub filter: Filter,
    /// `-e`: the namespace that is made anew in its place, in what was asked for and else as it is. What it held is lost.
    pub reconfigure: Option<String>,
    /// `-u`: the uuid of its label; random if not given.
    pub uuid: Option<Uuid>,
    /// `-n`: its name, at most 63 bytes.
    pub name: Option<String>,
    /// `-s`: bytes; the largest piece that is free if not given.
    pub size: Option<u64>,
    /// `-m`: what it is made into; fsdax if not given.
    pub mode: Option<Mode>,
    /// `-M`: where the page map goes; the device if not given.
    pub map: Option<MapLocation>,
    /// `-l`: sector size; 4096 in sector mode, else 512, if not given.
    pub sector_size: Option<u64>,
    /// `-a`: alignment of fsdax and devdax; what the seed says if not given.
    pub align: Option<u64>,
    /// `-f`: an active namespace too, and a region whose memory begins unaligned.
    pub force: bool,
    /// `-L`: with `-e` on a region without labels, make labels for it first, where its DIMMs can have them.
    pub autolabel: bool,
    /// `-c`: go on until no space is left.
    pub continuous: bool,
    /// `-R`: take back what was configured if it does not come up.
    pub autorecover: bool,
    /// `--dry-run`: only tell what would be made, and where its space would come from.
    pub dry_run: bool,
    /// `-u`-style numbers.
    pub human: bool,
    /// `-v`.
    pub verbose: bool,
}

impl Default for CreateOptions {
    /// As `create-namespace` without options has it.
    fn default() -> CreateOptions {
        CreateOptions {
            filter: Filter::default(),
            reconfigure: None,
            uuid: None,
            name: None,
            size: None,
            mode: None,
            map: None,
            sector_size: None,
            align: None,
            force: false,
            autolabel: true,
            continuous: false,
            autorecover: true,
            dry_run: false,
            human: false,
            verbose: false,
        }
    }
}

/// `create-namespace`: makes a namespace, or one anew, and prints it as `list -X` does.
///
/// An error refuses what was asked, and nothing was stored. Where no region can give the space the outcome has the status
/// 237, as `ndctl`; one that could not be made although it was planned leaves the status of what failed. All that was
/// asked is checked before the old namespace is touched.
pub fn create(sys: &dyn Sys, o: &CreateOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    o.filter.check()?;
    check_options(o)?;
    settle(sys);
    let mut outcome = Outcome::default();
    if let Some(name) = &o.reconfigure {
        for n in named_namespaces(sys, std::slice::from_ref(name), &o.filter)? {
            let plan = plan_anew(&n, o)?;
            check_idle(&n, o.force)?;
            if o.dry_run {
                outcome.json.push(plan.json(Style { human: o.human }));
                continue;
            }
            match anew(&n, plan, o, reporter) {
                Ok(made) => finish(&made, o, &mut outcome),
                Err(e) => outcome.fail(reporter, &e),
            }
        }
        return Ok(outcome);
    }

    let mut passed_over = Vec::new();
    'regions: for (bus, region) in o.filter.regions(sys) {
        while let Some(free) = candidate(&region, &mut passed_over) {
            let plan = match plan_new(&bus, &region, &free, o) {
                Ok(Ok(plan)) => plan,
                Ok(Err(reason)) => {
                    passed_over.push(reason);
                    break;
                }
                // What is left is too small or not aligned: that is how going on ends.
                Err(_) if outcome.count > 0 => break,
                Err(e) => return Err(e),
            };
            if o.dry_run {
                outcome.json.push(plan.json(Style { human: o.human }));
                if o.continuous {
                    break;
                }
                break 'regions;
            }
            match set_up(&free, &plan, o) {
                Ok(()) => finish(&free, o, &mut outcome),
                Err(e) => {
                    outcome.fail(reporter, &e);
                    break 'regions;
                }
            }
            if !o.continuous {
                break 'regions;
            }
        }
    }
    if outcome.json.is_empty() && outcome.status == 0 {
        let why = if passed_over.is_empty() { "no region fits".to_owned() } else { passed_over.join("; ") };
        reporter.error(&Error::new(Kind::NoSpace, "create namespace: no space left on device").because(why));
        outcome.status = NO_REGION;
    }
    if o.continuous && !o.dry_run {
        reporter.count(&format_args!("created {}", counted(outcome.count, "namespace")));
        if outcome.count > 0 {
            outcome.status = 0;
        }
    }
    Ok(outcome)
}

fn finish(made: &Namespace<'_>, o: &CreateOptions, outcome: &mut Outcome) {
    let detail =
        Detail { style: Style { human: o.human }, device_dax: true, verbose: o.verbose, ..Detail::default() };
    outcome.json.push(namespace(made, detail));
    outcome.count = outcome.count.saturating_add(1);
}

fn invalid(operation: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Invalid, operation)
}

/// What can be told without looking at the tree.
fn check_options(o: &CreateOptions) -> Result<()> {
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

/// The namespace of a region that can be configured next: number 0 if it is idle, else the seed.
fn candidate<'a>(region: &Region<'a>, passed_over: &mut Vec<String>) -> Option<Namespace<'a>> {
    if !region.bound() {
        passed_over.push(format!("{} is disabled", region.name()));
        return None;
    }
    let idle = |n: &Namespace<'_>| !n.active() && n.holder().is_none() && (!n.labelled() || n.size() == 0);
    let first = region.namespaces().into_iter().find(|n| n.id() == Some(0));
    let found = first.filter(idle).or_else(|| region.seed().filter(idle));
    if found.is_none() {
        let why =
            if region.labelled() { "has no idle seed" } else { "has no labels, and its namespace is in use" };
        passed_over.push(format!("{} {why}", region.name()));
    }
    found
}

/// The plan for a new namespace, or why this region cannot give one.
fn plan_new(
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
fn plan_anew(n: &Namespace<'_>, o: &CreateOptions) -> Result<Plan> {
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

pub(crate) fn random_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Kind::Io, "make a uuid").found(e))?;
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}

/// Takes a namespace down and makes it anew in its place, or where labels are made for its region, as its first.
fn anew<'a>(
    n: &Namespace<'a>,
    mut plan: Plan,
    o: &CreateOptions,
    reporter: &mut dyn Reporter,
) -> Result<Namespace<'a>> {
    let region = n.region().clone();
    take_down(n, o.force, reporter)?;
    let mut made = n.clone();
    if plan.autolabel {
        if let Err(e) = label_region(&region) {
            // The namespace can still be what was asked, but for a size and a uuid of its own.
            reporter.warning(&format_args!("{}: goes on without labels: {e}", region.name()));
            plan.uuid = None;
        }
        let mut why = Vec::new();
        made = candidate(&region, &mut why).ok_or_else(|| {
            Error::new(Kind::Unrecognised, format!("reconfigure {}", n.name())).found(why.join("; "))
        })?;
    }
    set_up(&made, &plan, o)?;
    Ok(made)
}

/// Stores what was planned, and enables it.
fn set_up(n: &Namespace<'_>, plan: &Plan, o: &CreateOptions) -> Result<()> {
    let claim = match plan.mode.claim() {
        // Pages that ordinary memory describes already need nothing more.
        Some(ClaimKind::Pfn)
            if plan.map == Some(MapLocation::Memory) && n.text("mode").as_deref() == Some("memory") =>
        {
            None
        }
        Some(kind) => Some(n.region().claim_seed(kind).ok_or_else(|| {
            Error::new(Kind::Unrecognised, format!("create {}", n.name()))
                .found(format_args!("no {} seed", kind.word()))
        })?),
        None => None,
    };
    let result = configure(n, claim.as_ref(), plan).and_then(|()| match &claim {
        Some(claim) => bind(claim),
        None => enable_namespace(n),
    });
    if result.is_err() && o.autorecover {
        // What is taken back is told by the error that is on its way already.
        if let Some(claim) = claim.filter(|c| c.word("namespace").is_some()) {
            let _ = claim.store("namespace", "\n");
        }
        let _ = n.store("holder_class", "");
        // A namespace that was there before stays, raw: behind its head is still what was there.
        if n.labelled() && o.reconfigure.is_none() {
            let _ = free(n);
        }
    }
    result
}

/// The stores, in `ndctl`'s order.
fn configure(n: &Namespace<'_>, claim: Option<&Claim<'_>>, plan: &Plan) -> Result<()> {
    if let Some(uuid) = plan.uuid {
        n.store("uuid", &uuid.to_string())?;
        n.store("alt_name", &plan.name)?;
        n.store("size", &format!("{:#x}\n", plan.size))?;
    }
    if n.sector_sizes().supported.contains(&plan.sector_size) {
        n.store("sector_size", &format!("{}\n", plan.sector_size))?;
    }
    // Says to those who look later what to look for; kernels before 4.13 know no such attribute.
    let _ = n.store("holder_class", plan.mode.claim().map_or("", ClaimKind::word));

    let Some(claim) = claim else { return Ok(()) };
    claim.store("uuid", &random_uuid()?.to_string())?;
    match claim.kind() {
        ClaimKind::Btt => claim.store("sector_size", &format!("{}\n", plan.sector_size))?,
        ClaimKind::Pfn | ClaimKind::Dax => {
            claim.store("mode", plan.map.unwrap_or(MapLocation::Device).word())?;
            if let Some(align) = plan.align.filter(|_| claim.align().is_some()) {
                claim.store("align", &format!("{align}\n"))?;
            }
        }
    }
    claim.store("namespace", n.name())
}
