// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be configured on namespaces and claims: the stores of their attributes. Each is checked whole before anything is
//! changed, and what labels tell is written before the model says so.

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Name, Version};
use nvstack_media::{Error, Kind, Result};
use uuid::Uuid;

use crate::bind::{free, idle_claim};
use crate::events::Action;
use crate::model::{BusState, Claim, Dev, Namespace, NamespaceKind, busy, gone};
use crate::stack::At;
use crate::{labels, space};

/// Bytes below which nothing can stack on a namespace.
const CLAIM_MIN: u64 = 16 << 20;

/// The refusal of a text.
pub(crate) fn refuse(
    name: &str,
    operation: impl Into<String>,
    found: &str,
    accepted: impl std::fmt::Display,
) -> Error {
    Error::new(Kind::Invalid, operation.into()).path(name).found(format_args!("{found:?}")).accepted(accepted)
}

/// Reads a uuid in its canonical form.
pub(crate) fn parse_uuid(name: &str, text: &str) -> Result<Uuid> {
    let canonical = text.len() == 36 && text.is_ascii();
    let uuid = Uuid::try_parse(text).ok().filter(|uuid| canonical && !uuid.is_nil());
    uuid.ok_or_else(|| refuse(name, "set uuid", text, "a uuid such as 91755b80-2157-4923-b8f6-a1066974c539"))
}

/// Reads a number: decimal, or hexadecimal after 0x.
pub(crate) fn parse_number(name: &str, what: &str, text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| refuse(name, format!("set {what}"), text, "a number, decimal or after 0x hexadecimal"))
}

/// Reads a yes or no as the kernel does.
pub(crate) fn parse_bool(name: &str, what: &str, text: &str) -> Result<bool> {
    match text {
        "1" | "y" | "Y" | "yes" | "t" | "T" | "true" | "on" => Ok(true),
        "0" | "n" | "N" | "no" | "f" | "F" | "false" | "off" => Ok(false),
        _ => Err(refuse(name, format!("set {what}"), text, "0 or 1")),
    }
}

/// Changes a namespace and, where it has labels, these first. If they can't be written nothing has changed. Whether it may be
/// changed is asked under the same lock.
fn change(state: &mut BusState, r: u32, n: u32, how: impl FnOnce(&mut Namespace)) -> Result<()> {
    let ns = state.namespace_mut(r, n)?;
    let before = (ns.uuid, ns.name.clone(), ns.lbasize, ns.class, ns.start, ns.size);
    how(ns);
    if ns.kind == NamespaceKind::Io {
        return Ok(());
    }
    // With another uuid its old labels give way in the same updates.
    let written = labels::write(state, r, n, before.0);
    if written.is_err()
        && let Ok(ns) = state.namespace_mut(r, n)
    {
        (ns.uuid, ns.name, ns.lbasize, ns.class, ns.start, ns.size) = before;
    }
    written
}

/// `uuid` of a namespace.
pub(crate) fn namespace_uuid(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Namespace(r, n));
    let uuid = parse_uuid(&name, text)?;
    let mut state = at.bus.lock();
    let ns = state.namespace(r, n)?;
    free(ns, &name, "set uuid")?;
    if ns.uuid == Some(uuid) {
        return Ok(());
    }
    let taken = |state: &BusState| {
        state.regions.iter().any(|(id, region)| {
            region.namespaces.iter().any(|(m, other)| other.uuid == Some(uuid) && (*id, *m) != (r, n))
                || region.claims.values().any(|claim| claim.settings.uuid == Some(uuid))
        })
    };
    if taken(&state) {
        return Err(refuse(&name, "set uuid", text, "one that no other device of the bus has"));
    }
    change(&mut state, r, n, |ns| ns.uuid = Some(uuid))
}

/// `alt_name`.
pub(crate) fn alt_name(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Namespace(r, n));
    let text = text.trim();
    if text.len() > 63 || Name::new(text).is_err() {
        return Err(refuse(&name, "set alt_name", text, "at most 63 bytes"));
    }
    let mut state = at.bus.lock();
    free(state.namespace(r, n)?, &name, "set alt_name")?;
    change(&mut state, r, n, |ns| text.clone_into(&mut ns.name))
}

/// Sector sizes of a namespace's own.
pub(crate) const NAMESPACE_SECTORS: [u64; 2] = [512, 4096];

/// `sector_size` of a namespace.
pub(crate) fn sector_size(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Namespace(r, n));
    let mut state = at.bus.lock();
    free(state.namespace(r, n)?, &name, "set sector_size")?;
    let value = parse_number(&name, "sector_size", text)?;
    if value != 0 && !NAMESPACE_SECTORS.contains(&value) {
        return Err(refuse(&name, "set sector_size", text, "512 or 4096"));
    }
    change(&mut state, r, n, |ns| ns.lbasize = value)
}

/// `holder_class`.
pub(crate) fn holder_class(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Namespace(r, n));
    let drivers = at.inner.drivers();
    let mut state = at.bus.lock();
    free(state.namespace(r, n)?, &name, "set holder_class")?;
    // Where no label can tell the class it is not there any more at the next start, and BTT 2.0 would not be looked for.
    let version = match state.namespace(r, n)?.kind {
        NamespaceKind::Io => Some(Version::V1_1),
        NamespaceKind::Pmem => labels::version(&state, r),
    };
    let class = if text.is_empty() {
        ClaimClass::None
    } else {
        let driver = drivers.iter().find(|d| !d.identity().in_place && d.identity().prefix == text);
        let Some(driver) = driver else {
            let known: Vec<&str> =
                drivers.iter().map(|d| d.identity()).filter(|i| !i.in_place).map(|i| i.prefix).collect();
            return Err(refuse(
                &name,
                "set holder_class",
                text,
                format_args!("nothing, {}", known.join(", ")),
            ));
        };
        driver.class(version)
    };
    change(&mut state, r, n, |ns| ns.class = class)
}

/// `size`: allocates, grows, shrinks, and with 0 deletes.
pub(crate) fn size(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Namespace(r, n));
    let wanted = parse_number(&name, "size", text)?;
    let mut state = at.bus.lock();
    let ns = state.namespace(r, n)?;
    free(ns, &name, "set size")?;
    let (now, start, uuid) = (ns.size, ns.start, ns.uuid);
    let no_device = |found: &str, accepted: &str| {
        Error::new(Kind::NoDevice, "set size").path(&name).found(found).accepted(accepted)
    };
    let Some(uuid) = uuid else {
        // Linux, too, gives ENXIO for the deletion of what has no uuid; ndctl is used to it.
        return Err(no_device("no uuid", "a uuid, set first"));
    };
    let region = state.region(r)?;
    let (align, ways) = (region.align, region.ways());
    if region.mappings.is_empty() {
        return Err(no_device("a region without DIMMs", "one whose namespaces have labels"));
    }
    if !wanted.is_multiple_of(align) {
        return Err(refuse(
            &name,
            "set size",
            text,
            format_args!(
                "a multiple of the region's align, {align}; {} would do",
                wanted.next_multiple_of(align)
            ),
        ));
    }
    if wanted == 0 {
        return delete(at, &mut state, r, n, uuid);
    }
    let each = wanted / ways;
    let place = space::place(&state, region, uuid, (now > 0).then_some(start / ways), each);
    let Some(place) = place else {
        let (total, most) = space::available(&state, region);
        let (total, most) = (total.saturating_add(now), most.max(now));
        let kind = if wanted > total { Kind::NoSpace } else { Kind::NoDevice };
        return Err(Error::new(kind, "set size")
            .path(&name)
            .found(format_args!("{wanted} bytes"))
            .accepted(format_args!("at most {most} in one piece; {total} of region{r} are free in all")));
    };
    change(&mut state, r, n, |ns| {
        ns.start = place.saturating_mul(ways);
        ns.size = wanted;
    })?;
    at.tell(&state, Action::Change, Dev::Namespace(r, n));
    Ok(())
}

/// Deletes a namespace. The seed, and number 0, stay as devices without anything.
fn delete(at: &At, state: &mut BusState, r: u32, n: u32, uuid: Uuid) -> Result<()> {
    if state.namespace(r, n)?.size > 0 {
        labels::delete(state, r, uuid)?;
    }
    let region = state.region_mut(r)?;
    if n != 0 && region.namespace_seed != Some(n) {
        at.tell(state, Action::Remove, Dev::Namespace(r, n));
        state.region_mut(r)?.namespaces.remove(&n);
        return Ok(());
    }
    let fresh = crate::probe::blank(at, NamespaceKind::Pmem);
    let ns = state.namespace_mut(r, n)?;
    // It is another one from here on, though of the same name: what somebody still holds of the old one is void.
    let force_raw = ns.force_raw;
    *ns = Namespace { force_raw, ..fresh };
    at.tell(state, Action::Change, Dev::Namespace(r, n));
    Ok(())
}

/// `force_raw`: always writable, counts at the next bind.
pub(crate) fn force_raw(at: &At, r: u32, n: u32, text: &str) -> Result<()> {
    let value = parse_bool(&at.name(Dev::Namespace(r, n)), "force_raw", text)?;
    at.bus.lock().namespace_mut(r, n)?.force_raw = value;
    Ok(())
}

/// Whether a claim may be configured.
fn free_claim(claim: &Claim, name: &str, operation: &'static str) -> Result<()> {
    if claim.changing {
        return Err(busy(name, operation, "a device that is being changed"));
    }
    if claim.bound.is_some() {
        return Err(busy(name, operation, "a device with its driver"));
    }
    Ok(())
}

/// `uuid` of a claim.
pub(crate) fn claim_uuid(at: &At, r: u32, d: usize, id: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Claim(r, d, id));
    let uuid = parse_uuid(&name, text)?;
    let mut state = at.bus.lock();
    free_claim(state.claim(r, d, id)?, &name, "set uuid")?;
    let taken = state.regions.iter().any(|(region, contents)| {
        contents.namespaces.values().any(|ns| ns.uuid == Some(uuid))
            || contents
                .claims
                .iter()
                .any(|(key, claim)| claim.settings.uuid == Some(uuid) && (*region, *key) != (r, (d, id)))
    });
    if taken {
        return Err(refuse(&name, "set uuid", text, "one that no other device of the bus has"));
    }
    state.claim_mut(r, d, id)?.settings.uuid = Some(uuid);
    Ok(())
}

/// An attribute of the driver's own.
pub(crate) fn claim_value(at: &At, r: u32, d: usize, id: u32, attribute: &str, text: &str) -> Result<()> {
    let name = at.name(Dev::Claim(r, d, id));
    let driver = at.inner.driver(d).ok_or_else(|| gone(&name))?;
    let mut state = at.bus.lock();
    let claim = state.claim_mut(r, d, id)?;
    free_claim(claim, &name, "set attribute")?;
    let mut settings = claim.settings.clone();
    driver.store(&mut settings, attribute, text).map_err(|e| e.path(&name))?;
    claim.settings = settings;
    Ok(())
}

/// `namespace` of a claim: attaches to the one that is named, or with nothing lets go.
pub(crate) fn claim_namespace(at: &At, r: u32, d: usize, id: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Claim(r, d, id));
    let driver = at.inner.driver(d).ok_or_else(|| gone(&name))?;
    let mut state = at.bus.lock();
    free_claim(state.claim(r, d, id)?, &name, "set namespace")?;
    let held = state.claim(r, d, id)?.namespace;
    if text.is_empty() {
        let Some(n) = held else { return Ok(()) };
        if let Ok(ns) = state.namespace_mut(r, n) {
            ns.holder = None;
        }
        let region = state.region_mut(r)?;
        if region.seeds.get(&d) == Some(&id) {
            // The seed starts again; Linux keeps the alignment of pfn and dax, which the driver's defaults have.
            region.claims.insert((d, id), idle_claim(at, driver.as_ref()));
        } else {
            region.claims.remove(&(d, id));
            at.tell(&state, Action::Remove, Dev::Claim(r, d, id));
        }
        at.ensure_seeds(&mut state, r);
        return Ok(());
    }
    if held.is_some() {
        return Err(busy(&name, "set namespace", "a device that holds one"));
    }
    if !text.starts_with("namespace") {
        return Err(refuse(
            &name,
            "set namespace",
            text,
            "the name of a namespace of its region, or nothing",
        ));
    }
    let n = text
        .strip_prefix("namespace")
        .and_then(|rest| rest.split_once('.'))
        .filter(|(region, _)| region.parse() == Ok(r))
        .and_then(|(_, n)| n.parse::<u32>().ok())
        .filter(|n| state.namespace(r, *n).is_ok());
    let Some(n) = n else {
        return Err(Error::new(Kind::Unrecognised, "set namespace")
            .path(name)
            .found(format_args!("{text:?}"))
            .accepted(format_args!("a namespace of region{r}")));
    };
    let ns = state.namespace(r, n)?;
    if let Some((driver, other)) = ns.holder {
        return Err(busy(
            &name,
            "set namespace",
            format_args!("{text} held by {}", at.name(Dev::Claim(r, driver, other))),
        ));
    }
    if !driver.accepts(ns.class) {
        return Err(Error::new(Kind::Busy, "set namespace")
            .path(name)
            .found(format_args!("{text} of holder_class {:?}", ns.class.to_string()))
            .accepted(format_args!("none or {}", driver.identity().prefix)));
    }
    let least = driver.identity().min_size.max(CLAIM_MIN);
    if ns.size < least {
        return Err(Error::new(Kind::NoDevice, "set namespace")
            .path(name)
            .found(format_args!("{text} of {} bytes", ns.size))
            .accepted(format_args!("{least} or more")));
    }
    state.namespace_mut(r, n)?.holder = Some((d, id));
    state.claim_mut(r, d, id)?.namespace = Some(n);
    Ok(())
}

/// `read_only` of a region: its disks refuse writes, or take them again.
pub(crate) fn read_only(at: &At, r: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Region(r));
    let value = parse_bool(&name, "read_only", text)?;
    let state = at.bus.lock();
    let region = state.region(r)?;
    let forced = region.media.as_ref().is_ok_and(|m| m.read_only());
    if forced && !value {
        return Err(Error::new(Kind::ReadOnly, "set read_only")
            .path(name)
            .found("a medium that was opened read-only")
            .accepted("1"));
    }
    region.read_only.store(value, std::sync::atomic::Ordering::Relaxed);
    at.inner.events.changed(&format!("{name}/read_only"));
    at.tell(&state, Action::Change, Dev::Region(r));
    Ok(())
}

/// `align` of a region.
pub(crate) fn align(at: &At, r: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Region(r));
    let value = parse_number(&name, "align", text)?;
    let mut state = at.bus.lock();
    let region = state.region_mut(r)?;
    let ways = region.ways();
    let each = value / ways;
    let fits = value.is_multiple_of(ways)
        && each.is_power_of_two()
        && each >= crate::model::PAGE
        && value <= region.size;
    if !fits {
        let accepted = format!("{ways} times a power of two from 4096 on, at most {}", region.size);
        return Err(refuse(&name, "set align", text, accepted));
    }
    region.align = value;
    Ok(())
}

/// `deep_flush` of a region.
pub(crate) fn deep_flush(at: &At, r: u32, text: &str) -> Result<()> {
    let name = at.name(Dev::Region(r));
    if !parse_bool(&name, "deep_flush", text)? {
        return Err(refuse(&name, "set deep_flush", text, "1"));
    }
    let media = match &at.bus.lock().region(r)?.media {
        Ok(media) => std::sync::Arc::clone(media),
        Err(cause) => {
            return Err(Error::new(Kind::NoDevice, "flush").path(name).because(cause.to_string()));
        }
    };
    media.drain()
}
