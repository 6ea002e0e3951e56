// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attributes: names, modes, texts and stores, one table for each type of device. The list of the ABI is made of these.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use nvstack_format::label::Version;
use nvstack_media::{Error, Kind, MediaOffset, Result};

use super::names::{bound_of, namespace_of};
use crate::configure;
use crate::model::{BusState, Claim, Dev, Dimm, Namespace, NamespaceKind, Region, unset};
use crate::spec::{Identity, Provider};
use crate::stack::At;
use crate::{labels, space};

/// A device, looked at.
pub(crate) struct View<'a> {
    pub(crate) at: &'a At,
    pub(crate) state: &'a BusState,
    pub(crate) dev: Dev,
}

impl View<'_> {
    fn name(&self) -> String {
        self.at.name(self.dev)
    }

    fn dimm(&self) -> Result<&Dimm> {
        match self.dev {
            Dev::Dimm(n) => self.state.dimm(n),
            _ => Err(crate::model::gone(self.name())),
        }
    }

    /// The region that the device is, or is in.
    pub(crate) fn region(&self) -> Result<&Region> {
        match self.dev {
            Dev::Region(r) | Dev::Namespace(r, _) | Dev::Claim(r, ..) => self.state.region(r),
            _ => Err(crate::model::gone(self.name())),
        }
    }

    fn region_number(&self) -> u32 {
        match self.dev {
            Dev::Region(r) | Dev::Namespace(r, _) | Dev::Claim(r, ..) => r,
            _ => 0,
        }
    }

    fn namespace(&self) -> Result<&Namespace> {
        match self.dev {
            Dev::Namespace(r, n) => self.state.namespace(r, n),
            _ => Err(crate::model::gone(self.name())),
        }
    }

    pub(crate) fn claim(&self) -> Result<&Claim> {
        match self.dev {
            Dev::Claim(r, d, n) => self.state.claim(r, d, n),
            _ => Err(crate::model::gone(self.name())),
        }
    }

    /// NFIT identity of the DIMM.
    fn identity(&self) -> Result<&Identity> {
        self.dimm()?
            .identity
            .as_ref()
            .ok_or_else(|| unset(&self.name(), "identity", "a DIMM that a table describes"))
    }
}

/// When an attribute is there.
#[derive(Clone, Copy)]
pub(crate) enum Shown {
    Always,
    /// Where this says so.
    When(fn(&View<'_>) -> bool),
    /// With the mode that this says, where it says one.
    As(fn(&View<'_>) -> Option<u16>),
}

type Show = fn(&View<'_>) -> Result<String>;
pub(crate) type Store = fn(&At, Dev, &str) -> Result<()>;

/// An attribute of a type of device.
#[derive(Clone, Copy)]
pub(crate) struct Attr {
    pub(crate) name: &'static str,
    pub(crate) mode: u16,
    /// What its text looks like, for the list of the ABI.
    pub(crate) format: &'static str,
    pub(crate) shown: Shown,
    pub(crate) show: Show,
    pub(crate) store: Option<Store>,
}

impl Attr {
    const fn ro(name: &'static str, format: &'static str, show: Show) -> Attr {
        Attr { name, mode: 0o444, format, shown: Shown::Always, show, store: None }
    }

    const fn rw(name: &'static str, format: &'static str, show: Show, store: Store) -> Attr {
        Attr { name, mode: 0o644, format, shown: Shown::Always, show, store: Some(store) }
    }

    const fn when(self, shown: fn(&View<'_>) -> bool) -> Attr {
        Attr { shown: Shown::When(shown), ..self }
    }

    const fn as_(self, shown: fn(&View<'_>) -> Option<u16>) -> Attr {
        Attr { shown: Shown::As(shown), ..self }
    }

    const fn mode(self, mode: u16) -> Attr {
        Attr { mode, ..self }
    }

    /// The mode that it has on a device; none if it is not there.
    pub(crate) fn mode_on(&self, view: &View<'_>) -> Option<u16> {
        match self.shown {
            Shown::Always => Some(self.mode),
            Shown::When(shown) => shown(view).then_some(self.mode),
            Shown::As(mode) => mode(view),
        }
    }
}

fn line(text: impl std::fmt::Display) -> Result<String> {
    Ok(format!("{text}\n"))
}

fn hex(value: u64) -> Result<String> {
    // As C's %#llx has it.
    if value == 0 { line("0") } else { line(format_args!("{value:#x}")) }
}

fn flag(value: bool) -> Result<String> {
    line(u8::from(value))
}

fn is_nfit(view: &View<'_>) -> bool {
    view.at.bus.provider == Provider::Nfit
}

fn has_set(view: &View<'_>) -> bool {
    view.region().is_ok_and(|r| r.cookies.is_some())
}

/// Every device of the nd bus type.
const COMMON: [Attr; 2] = [
    Attr::ro("devtype", "type", devtype),
    Attr::ro("modalias", "nd:t<n>", |v| line(format_args!("nd:t{}", device_number(v)))),
];

/// Regions and what is on them.
const NODES: [Attr; 2] = [
    Attr::ro("numa_node", "<n>", |v| line(v.region()?.numa_node)),
    Attr::ro("target_node", "<n>", |v| line(v.region()?.target_node.unwrap_or(-1)))
        .when(|v| v.region().is_ok_and(|r| r.target_node.is_some())),
];

/// `ndbusN`.
const BUS: [Attr; 6] = [
    Attr::ro("commands", "<command> <command> ", |v| line(if is_nfit(v) { "cmd_call " } else { "" })),
    Attr::ro("provider", "name", |v| line(v.at.bus.provider.name())),
    // What waits stands in `Tree::read`: not under the lock.
    Attr::ro("wait_probe", "1", |_| line(1)),
    Attr::ro("nfit/dsm_mask", "0x<mask>", |_| line("0x0")).when(is_nfit),
    Attr::rw(
        "nfit/hw_error_scrub",
        "0 or 1",
        |_| line(0),
        |at, dev, text| match configure::parse_bool(&at.name(dev), "hw_error_scrub", text)? {
            false => Ok(()),
            true => Err(Error::new(Kind::Unsupported, "set hw_error_scrub")
                .path(at.name(dev))
                .found(1)
                .accepted("0: there is no scrub to start")),
        },
    )
    .when(is_nfit),
    Attr::ro("nfit/revision", "<n>", |_| line(1)).when(is_nfit),
];

/// `ndctlN`.
const CONTROL: [Attr; 1] = [Attr::ro("dev", "<major>:<minor>", |v| match v.dev {
    Dev::Control(n) => line(format_args!("{}:{n}", super::CONTROL_MAJOR)),
    _ => Err(crate::model::gone(v.name())),
})];

/// `nmemN`.
const DIMM: [Attr; 20] = [
    Attr::ro("available_slots", "<n>", |v| {
        let dimm = v.dimm()?;
        match &dimm.area {
            Some(area) if dimm.bound => line(area.available_slots()),
            _ => Err(unset(&v.name(), "available_slots", "a DIMM with its driver and its label area")),
        }
    }),
    Attr::ro("commands", "<command> <command> ", |v| {
        let mut commands = String::new();
        if v.dimm()?.media.is_some() {
            commands.push_str("get_size get_data set_data ");
        }
        if is_nfit(v) {
            commands.push_str("cmd_call ");
        }
        line(commands)
    }),
    Attr::ro("dev", "<major>:<minor>", |v| line(format_args!("{}:{}", super::DIMM_MAJOR, v.dimm()?.minor))),
    Attr::ro("flags", "label lock ", |v| line(if v.dimm()?.labelled() { "label " } else { "" })),
    Attr::ro("state", "idle or active", |v| line(if v.dimm()?.busy > 0 { "active" } else { "idle" })),
    nfit("nfit/device", "0x<4 digits>", |v| line(format_args!("{:#06x}", v.identity()?.device.swap_bytes()))),
    nfit("nfit/dsm_mask", "0x<mask>", |v| line(if v.dimm()?.media.is_some() { "0x70" } else { "0x0" })),
    nfit("nfit/family", "<n>", |v| {
        let family = v.identity()?.family;
        if family < 0 {
            Err(unset(&v.name(), "family", "a DIMM with a command family"))
        } else {
            line(family)
        }
    }),
    nfit("nfit/flags", "<flag> <flag> ", |v| {
        line(v.identity()?.flags.iter().fold(String::new(), |mut text, flag| {
            let _ = write!(text, "{flag} ");
            text
        }))
    }),
    nfit("nfit/format", "0x<4 digits>", |v| line(format_args!("{:#06x}", v.identity()?.format))),
    nfit("nfit/formats", "<n>", |_| line(1)),
    nfit("nfit/handle", "0x<handle>", |v| hex(u64::from(v.identity()?.handle))),
    nfit("nfit/id", "<vendor>[-<location>-<date>]-<serial>", |v| line(v.identity()?.id())),
    nfit("nfit/phys_id", "0x<id>", |v| {
        let id = v.identity()?.phys_id;
        if id == 0 { line("0x0") } else { hex(u64::from(id)) }
    }),
    nfit("nfit/rev_id", "0x<4 digits>", |v| {
        line(format_args!("{:#06x}", v.identity()?.revision.swap_bytes()))
    }),
    nfit("nfit/serial", "0x<8 digits>", |v| {
        line(format_args!("{:#010x}", v.identity()?.serial.swap_bytes()))
    }),
    nfit("nfit/subsystem_device", "0x<4 digits>", |v| {
        line(format_args!("{:#06x}", v.identity()?.subsystem_device.swap_bytes()))
    }),
    nfit("nfit/subsystem_rev_id", "0x<4 digits>", |v| {
        line(format_args!("{:#06x}", v.identity()?.subsystem_revision.swap_bytes()))
    }),
    nfit("nfit/subsystem_vendor", "0x<4 digits>", |v| {
        line(format_args!("{:#06x}", v.identity()?.subsystem_vendor.swap_bytes()))
    }),
    nfit("nfit/vendor", "0x<4 digits>", |v| line(format_args!("{:#06x}", v.identity()?.vendor.swap_bytes()))),
];

const fn nfit(name: &'static str, format: &'static str, show: Show) -> Attr {
    Attr::ro(name, format, show).when(|v| is_nfit(v) && v.dimm().is_ok_and(|d| d.identity.is_some()))
}

/// Ours, on DIMMs.
const DIMM_OURS: [Attr; 1] =
    [Attr::ro("nvstack/error", "words or nothing", |v| line(v.dimm()?.error.as_deref().unwrap_or("")))];

/// `regionN`. Beside these, a seed for each driver and a `mappingN` for each mapping.
const REGION: [Attr; 17] = [
    Attr::rw(
        "align",
        "0x<bytes>",
        |v| hex(v.region()?.align),
        |at, dev, text| configure::align(at, region_of(dev), text),
    ),
    Attr::ro("available_size", "<bytes>", |v| line(space::available(v.state, v.region()?).0)).when(has_set),
    Attr::ro("badblocks", "<sector> <count>, a line each", |v| {
        let region = v.region()?;
        if !region.bound {
            return Err(unset(&v.name(), "badblocks", "a region with its driver"));
        }
        Ok(badblocks(region, MediaOffset(0), region.size))
    }),
    Attr::rw(
        "deep_flush",
        "0 or 1",
        |v| flag(needs_flush(v)),
        |at, dev, text| configure::deep_flush(at, region_of(dev), text),
    )
    // Without anything to flush it can be read alone, as without flush hints in Linux.
    .as_(|v| Some(if needs_flush(v) { 0o644 } else { 0o444 })),
    Attr::ro("init_namespaces", "<active>/<total>", |v| {
        let region = v.region()?;
        if !region.bound {
            return Err(unset(&v.name(), "init_namespaces", "a region with its driver"));
        }
        line(format_args!(
            "{}/{}",
            region.initial.1.max(seeded(region)),
            region.initial.0.max(seeded(region))
        ))
    }),
    Attr::ro("mappings", "<n>", |v| line(v.region()?.mappings.len())),
    Attr::ro("max_available_extent", "<bytes>", |v| line(space::available(v.state, v.region()?).1)),
    Attr::ro("namespace_seed", "name or nothing", |v| match v.region()?.namespace_seed {
        Some(n) => line(v.at.name(Dev::Namespace(v.region_number(), n))),
        None => line(""),
    }),
    Attr::ro("nfit/range_index", "<n>", |v| line(v.region()?.range_index.unwrap_or(0)))
        .when(|v| v.region().is_ok_and(|r| r.range_index.is_some())),
    Attr::ro("nstype", "<n>", |v| line(v.region()?.nstype(&v.state.dimms))),
    Attr::ro("persistence_domain", "cpu_cache or memory_controller", |v| {
        line(v.region()?.persistence_domain.as_deref().unwrap_or(""))
    })
    .when(|v| v.region().is_ok_and(|r| r.persistence_domain.is_some())),
    Attr::rw(
        "read_only",
        "0 or 1",
        |v| flag(v.region()?.read_only.load(Ordering::Relaxed)),
        |at, dev, text| configure::read_only(at, region_of(dev), text),
    ),
    Attr::ro("resource", "0x<address>", |v| hex(v.region()?.start)).mode(0o400),
    Attr::ro("set_cookie", "0x<cookie>", |v| {
        let region = v.region()?;
        let cookies = region.cookies.ok_or_else(|| unset(&v.name(), "set_cookie", "an interleave set"))?;
        hex(match labels::version(v.state, v.region_number()) {
            Some(Version::V1_1) => cookies.v1_1,
            _ => cookies.v1_2,
        })
    })
    .when(has_set),
    Attr::ro("size", "<bytes>", |v| line(v.region()?.size)),
    Attr::ro("nvstack/domain", "cpu_cache, page_cache or memory", |v| match &v.region()?.media {
        Ok(media) => line(media.domain()),
        Err(cause) => {
            Err(Error::new(Kind::NoDevice, "read domain").path(v.name()).because(cause.to_string()))
        }
    }),
    Attr::ro("nvstack/error", "words, a line each", |v| {
        let region = v.region()?;
        let lines = region.error.iter().chain(&region.findings);
        Ok(lines.fold(String::new(), |mut text, finding| {
            let _ = writeln!(text, "{finding}");
            text
        }))
    }),
];

/// Whether a completed store may still be volatile: in the page cache of a plain file.
fn needs_flush(v: &View<'_>) -> bool {
    v.region().is_ok_and(|r| r.media.as_ref().is_ok_and(|m| !m.domain().is_immediate()))
}

fn seeded(region: &Region) -> usize {
    // Linux counts the empty namespace that it makes where there is none.
    usize::from(region.initial.0 == 0 && !region.namespaces.is_empty())
}

/// `namespaceR.N`.
const NAMESPACE: [Attr; 13] = [
    Attr::rw(
        "alt_name",
        "name or nothing",
        |v| line(&v.namespace()?.name),
        |at, dev, text| configure::alt_name(at, region_of(dev), number_of(dev), text),
    )
    .when(is_pmem),
    Attr::ro("dpa_extents", "<n>", |v| line(u8::from(v.namespace()?.size > 0))).when(is_pmem),
    Attr::rw(
        "force_raw",
        "0 or 1",
        |v| flag(v.namespace()?.force_raw),
        |at, dev, text| configure::force_raw(at, region_of(dev), number_of(dev), text),
    ),
    Attr::ro("holder", "name or nothing", |v| match v.namespace()?.holder {
        Some((d, n)) => line(v.at.name(Dev::Claim(v.region_number(), d, n))),
        None => line(""),
    }),
    Attr::rw("holder_class", "btt, pfn, dax or nothing", holder_class, |at, dev, text| {
        configure::holder_class(at, region_of(dev), number_of(dev), text)
    }),
    Attr::ro("mode", "raw, safe, memory or dax", |v| {
        let held = v
            .namespace()?
            .holder
            .filter(|(d, n)| bound_of(v.state, Dev::Claim(v.region_number(), *d, *n)).is_some());
        line(held.and_then(|(d, _)| v.at.inner.driver(d)).map_or("raw", |d| d.identity().mode))
    }),
    Attr::ro("nstype", "<n>", |v| line(device_number(v))),
    Attr::ro("resource", "0x<address>", |v| {
        let ns = v.namespace()?;
        match ns.size {
            0 => Err(unset(&v.name(), "resource", "a namespace with bytes")),
            _ => hex(v.region()?.start.saturating_add(ns.start)),
        }
    })
    .mode(0o400),
    Attr::rw(
        "sector_size",
        "[512] 4096 ",
        |v| {
            let ns = v.namespace()?;
            // Nothing is chosen before there is a namespace.
            let chosen = (ns.size > 0 || ns.uuid.is_some()).then_some(ns.lbasize);
            line(configure::NAMESPACE_SECTORS.iter().fold(String::new(), |mut text, size| {
                let _ =
                    if chosen == Some(*size) { write!(text, "[{size}] ") } else { write!(text, "{size} ") };
                text
            }))
        },
        |at, dev, text| configure::sector_size(at, region_of(dev), number_of(dev), text),
    )
    .when(is_pmem),
    Attr::rw(
        "size",
        "<bytes>",
        |v| line(v.namespace()?.size),
        |at, dev, text| configure::size(at, region_of(dev), number_of(dev), text),
    )
    .as_(|v| Some(if is_pmem(v) { 0o644 } else { 0o444 })),
    Attr::rw(
        "uuid",
        "uuid or nothing",
        |v| line(v.namespace()?.uuid.map_or(String::new(), |u| u.to_string())),
        |at, dev, text| configure::namespace_uuid(at, region_of(dev), number_of(dev), text),
    )
    .when(is_pmem),
    Attr::ro("nvstack/badblocks", "<sector> <count>, a line each", |v| {
        let ns = v.namespace()?;
        Ok(badblocks(v.region()?, MediaOffset(ns.start), ns.size))
    }),
    Attr::ro("nvstack/error", "words or nothing", |v| {
        line(v.namespace()?.error.as_ref().map_or(String::new(), ToString::to_string))
    }),
];

/// btt, pfn, dax and their like. Beside these, the driver's own.
const CLAIM: [Attr; 4] = [
    Attr::rw(
        "namespace",
        "name or nothing",
        |v| match v.claim()?.namespace {
            Some(n) => line(v.at.name(Dev::Namespace(v.region_number(), n))),
            None => line(""),
        },
        |at, dev, text| match dev {
            Dev::Claim(r, d, n) => configure::claim_namespace(at, r, d, n, text),
            _ => Err(crate::model::gone(at.name(dev))),
        },
    ),
    Attr::ro("resource", "0x<address>", |v| {
        let bound = v.claim()?.bound.as_ref();
        let data = bound.and_then(|b| b.attached.data());
        match (data, namespace_of(v.state, v.dev)) {
            (Some(data), Some((r, n))) => {
                let ns = v.state.namespace(r, n)?;
                hex(v.region()?.start.saturating_add(ns.start).saturating_add(data.0))
            }
            _ => Err(unset(&v.name(), "resource", "a device with its driver")),
        }
    })
    .mode(0o400)
    .when(|v| match v.dev {
        Dev::Claim(_, d, _) => v.at.inner.driver(d).is_some_and(|d| d.identity().has_resource),
        _ => false,
    }),
    Attr::ro("size", "<bytes>", |v| match &v.claim()?.bound {
        Some(bound) => line(bound.attached.size()),
        None => Err(unset(&v.name(), "size", "a device with its driver")),
    }),
    Attr::rw(
        "uuid",
        "uuid or nothing",
        |v| line(v.claim()?.settings.uuid.map_or(String::new(), |u| u.to_string())),
        |at, dev, text| match dev {
            Dev::Claim(r, d, n) => configure::claim_uuid(at, r, d, n, text),
            _ => Err(crate::model::gone(at.name(dev))),
        },
    ),
];

fn region_of(dev: Dev) -> u32 {
    match dev {
        Dev::Region(r) | Dev::Namespace(r, _) | Dev::Claim(r, ..) => r,
        _ => u32::MAX,
    }
}

fn number_of(dev: Dev) -> u32 {
    match dev {
        Dev::Namespace(_, n) | Dev::Claim(_, _, n) => n,
        _ => u32::MAX,
    }
}

fn is_pmem(view: &View<'_>) -> bool {
    view.namespace().is_ok_and(|ns| ns.kind == NamespaceKind::Pmem)
}

/// The word of the driver that a class belongs to.
fn holder_class(v: &View<'_>) -> Result<String> {
    use nvstack_format::guid::ClaimClass;
    let class = v.namespace()?.class;
    if let ClaimClass::Unknown(_) = class {
        let drivers = v.at.inner.drivers();
        let own = drivers.iter().find(|d| !d.identity().in_place && d.accepts(class));
        return line(own.map_or("<unknown>", |d| d.identity().prefix));
    }
    line(class)
}

fn devtype(v: &View<'_>) -> Result<String> {
    line(match v.dev {
        Dev::Bus(_) | Dev::Control(_) => "",
        Dev::Dimm(_) => "nvdimm",
        Dev::Region(_) if v.region()?.volatile => "nd_volatile",
        Dev::Region(_) => "nd_pmem",
        Dev::Namespace(..) if is_pmem(v) => "nd_namespace_pmem",
        Dev::Namespace(..) => "nd_namespace_io",
        Dev::Claim(_, d, _) => {
            return v.at.inner.driver(d).map_or(line(""), |d| line(d.identity().devtype));
        }
    })
}

/// The number in `modalias`, which is ABI.
pub(crate) fn device_number(v: &View<'_>) -> u8 {
    match v.dev {
        Dev::Bus(_) | Dev::Control(_) => 0,
        Dev::Dimm(_) => 1,
        Dev::Region(_) => 2,
        Dev::Namespace(..) => {
            if is_pmem(v) {
                5
            } else {
                4
            }
        }
        Dev::Claim(_, d, _) => {
            let own = v.at.inner.driver(d).and_then(|d| d.identity().number);
            own.unwrap_or_else(|| v.region().map_or(4, |r| r.nstype(&v.state.dimms)))
        }
    }
}

/// Lost units of a part of a region, as `badblocks` files have them.
pub(crate) fn badblocks(region: &Region, at: MediaOffset, len: u64) -> String {
    let Ok(media) = &region.media else { return String::new() };
    let first = at.0 / 512;
    media.badblocks(at, len).into_iter().fold(String::new(), |mut text, (unit, count)| {
        let _ = writeln!(text, "{} {count}", unit.saturating_sub(first));
        text
    })
}

/// The tables of a device, in order.
pub(crate) fn tables(dev: Dev) -> Vec<&'static [Attr]> {
    match dev {
        Dev::Bus(_) => vec![&BUS],
        Dev::Control(_) => vec![&CONTROL],
        Dev::Dimm(_) => vec![&COMMON, &DIMM, &DIMM_OURS],
        Dev::Region(_) => vec![&COMMON, &NODES, &REGION],
        Dev::Namespace(..) => vec![&COMMON, &NODES, &NAMESPACE],
        Dev::Claim(..) => vec![&COMMON, &NODES, &CLAIM],
    }
}
