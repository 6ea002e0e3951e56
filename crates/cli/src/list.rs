// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack list`: the objects of an image as `ndctl list` prints them.

use nvstack_format::SetMember;
use nvstack_media::Result;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::args::ListArgs;
use crate::image::{Image, LabelState, Namespace, Personality, Region};
use crate::json::{Object, Style, print, print_array};

/// What is shown of each object.
#[derive(Clone, Copy, Default)]
pub(crate) struct Detail {
    pub(crate) style: Style,
    pub(crate) device_dax: bool,
    pub(crate) verbose: bool,
}

/// `nvstack list TARGET`.
pub(crate) fn run(args: &ListArgs) -> Result<()> {
    let image = Image::open_to_read("list", &args.target)?;
    let detail =
        Detail { style: Style { human: args.human }, device_dax: args.device_dax, verbose: args.verbose };
    let selected = select(&image, args.target.target.name.as_deref())?;

    let namespaces = || -> Vec<Value> {
        let mut all: Vec<Value> = selected.iter().map(|n| namespace(n, detail)).collect();
        if args.idle && args.target.target.name.is_none() {
            all.extend(seed(&image));
        }
        all
    };
    let show_namespaces = args.namespaces || !(args.buses || args.dimms || args.regions);
    let dimms = || vec![dimm(&image.region, detail.style)];
    let regions = || {
        let nested = if show_namespaces { namespaces() } else { Vec::new() };
        vec![region(&image, args.dimms, nested, detail.style)]
    };

    let mut tree = Object::new();
    if args.buses {
        tree.insert("provider".into(), "ACPI.NFIT".into());
        tree.insert("dev".into(), "ndbus0".into());
    }
    if args.dimms {
        insert(&mut tree, "dimms", dimms());
    }
    if args.regions {
        insert(&mut tree, "regions", regions());
    } else if show_namespaces {
        insert(&mut tree, "namespaces", namespaces());
    }

    if args.buses {
        return print_array(vec![Value::Object(tree)], detail.style);
    }
    let classes = [args.dimms, args.regions, show_namespaces].into_iter().filter(|&c| c).count();
    if tree.is_empty() {
        return Ok(());
    }
    if classes > 1 {
        return print(&Value::Object(tree));
    }
    match tree.into_iter().next() {
        Some((_, Value::Array(objects))) => print_array(objects, detail.style),
        _ => Ok(()),
    }
}

/// A class of objects joins the tree unless it is empty.
fn insert(tree: &mut Object, key: &str, objects: Vec<Value>) {
    if !objects.is_empty() {
        tree.insert(key.into(), Value::Array(objects));
    }
}

/// The namespaces that are meant by `#NAME`.
pub(crate) fn select<'a>(image: &'a Image, name: Option<&str>) -> Result<Vec<&'a Namespace>> {
    match name {
        None | Some("ndbus0" | "nmem0" | "region0") => Ok(image.namespaces.iter().collect()),
        Some(name) => Ok(vec![image.namespace(name)?]),
    }
}

/// A namespace's object.
pub(crate) fn namespace(n: &Namespace, detail: Detail) -> Value {
    let style = detail.style;
    let label_uuid = n.label.as_ref().map(|l| l.uuid);
    let mut o = Object::new();
    let mut add = |key: &str, value: Value| {
        o.insert(key.into(), value);
    };
    add("dev", n.name().into());
    let claim = match &n.personality {
        Personality::Raw | Personality::Damaged { .. } => {
            add("mode", "raw".into());
            add("size", style.size(n.size));
            label_uuid
        }
        Personality::Sector(s) => {
            add("mode", "sector".into());
            add("size", style.size(s.size));
            Some(s.uuid)
        }
        Personality::Pages(p) => {
            add("mode", if p.devdax { "devdax" } else { "fsdax" }.into());
            add("map", if p.map_on_media { "dev" } else { "mem" }.into());
            add("size", style.size(p.size));
            Some(p.uuid)
        }
    };
    if let Some(uuid) = claim {
        add("uuid", uuid.to_string().into());
    }
    if let (true, Some(uuid)) = (detail.verbose, label_uuid) {
        add("raw_uuid", uuid.to_string().into());
    }
    let number = n.disk_number();
    match &n.personality {
        Personality::Raw => {
            add("sector_size", n.raw_sector_size().into());
            add("blockdev", format!("pmem{number}").into());
        }
        Personality::Damaged { .. } => {
            add("sector_size", n.raw_sector_size().into());
            add("state", "disabled".into());
        }
        Personality::Sector(s) => {
            add("sector_size", s.sector_size.into());
            add("blockdev", format!("pmem{number}s").into());
        }
        Personality::Pages(p) if p.devdax => {
            let chardev = format!("dax0.{}", n.index);
            if detail.device_dax || detail.verbose {
                let device = json!({ "chardev": chardev, "size": style.size(p.size), "target_node": 0, "align": p.align, "mode": "devdax" });
                add(
                    "daxregion",
                    json!({ "id": 0, "size": style.size(p.size), "align": p.align, "devices": [device] }),
                );
            } else {
                add("chardev", chardev.into());
            }
            add("align", p.align.into());
        }
        Personality::Pages(p) => {
            add("sector_size", n.raw_sector_size().into());
            add("align", p.align.into());
            add("blockdev", format!("pmem{number}").into());
        }
    }
    match &n.label {
        Some(label) if !label.name.is_empty() => add("name", label.name.clone().into()),
        _ => {}
    }
    Value::Object(o)
}

/// The namespace that Linux would give out next: only a region with labels has one.
fn seed(image: &Image) -> Option<Value> {
    if image.region.labels == LabelState::None {
        return None;
    }
    Some(json!({
        "dev": format!("namespace0.{}", image.namespaces.len()),
        "mode": "raw",
        "size": 0,
        "uuid": Uuid::nil().to_string(),
        "sector_size": 512,
        "state": "disabled",
    }))
}

/// The DIMM's object: what Linux reads from the tables of a QEMU.
fn dimm(region: &Region, style: Style) -> Value {
    let [a, b, c, d] = SetMember::qemu(region.dimm.saturating_sub(1)).serial.to_le_bytes();
    json!({
        "dev": "nmem0",
        "id": format!("8680-{a:02x}{b:02x}{c:02x}{d:02x}"),
        "handle": style.hex(u64::from(region.dimm)),
        "phys_id": style.hex(0),
    })
}

/// The region's object.
fn region(image: &Image, mappings: bool, namespaces: Vec<Value>, style: Style) -> Value {
    let r = &image.region;
    let (available, largest) = image.available();
    let mut o = Object::new();
    let mut add = |key: &str, value: Value| {
        o.insert(key.into(), value);
    };
    add("dev", "region0".into());
    add("size", style.size(r.size));
    add("align", r.align().into());
    add("available_size", style.size(available));
    add("max_available_extent", style.size(largest));
    add("type", "pmem".into());
    if let LabelState::Set(cookie) = r.labels {
        add("iset_id", style.hex(cookie));
    }
    if mappings {
        add(
            "mappings",
            json!([{ "dimm": "nmem0", "offset": style.hex(0), "length": style.hex(r.size), "position": 0 }]),
        );
    }
    add("persistence_domain", "unknown".into());
    if !namespaces.is_empty() {
        add("namespaces", Value::Array(namespaces));
    }
    Value::Object(o)
}
