// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack read-labels`: the label area, as JSON or as its bytes.

use nvstack_format::guid;
use nvstack_format::label::{AreaLayout, IndexHeader, Label, Version};
use nvstack_label::LabelArea;
use nvstack_media::{Error, Kind, Media, MediaOffset, Result, check_range};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::args::LabelsArgs;
use crate::end::note;
use crate::image::{Image, ImagePart};
use crate::json::{self, Object, Style};
use crate::output::{Output, write_out};

const COMMAND: &str = "read-labels";
const CHUNK: usize = 1 << 20;

/// `nvstack read-labels TARGET`.
pub(crate) fn run(args: &LabelsArgs) -> Result<()> {
    let image = Image::open_to_read(COMMAND, &args.target)?;
    match args.target.target.name.as_deref() {
        None | Some("nmem0") => {}
        Some(name) => {
            return Err(Error::new(Kind::NotFound, "look for a DIMM")
                .path(&image.path)
                .found(name)
                .accepted("nmem0"));
        }
    }
    let Some(area) = image.labels() else {
        return Err(Error::new(Kind::NotFound, "look for a label area")
            .path(&image.path)
            .found("no index block")
            .accepted("a label area in the last bytes of the file; --label-size takes them as one"));
    };
    if args.json || args.human {
        show(area, args)?;
    } else {
        copy(area, args).map_err(|e| e.path(&image.path))?;
    }
    note(COMMAND, "read 1 nmem");
    Ok(())
}

/// The area as JSON. `ndctl` shows every label whose slot number is its own, in use or not.
fn show(area: &LabelArea<ImagePart>, args: &LabelsArgs) -> Result<()> {
    let style = Style { human: args.human };
    let mut dimm = Object::new();
    dimm.insert("dev".into(), "nmem0".into());
    dimm.insert("index".into(), area.headers()?.iter().map(index).collect());
    if !args.index {
        let version = area.version().unwrap_or(Version::V1_2);
        dimm.insert("label".into(), area.all_labels()?.iter().map(|l| label(l, version, style)).collect());
    }
    let dimm = Value::Object(dimm);
    let shown = if args.human { dimm } else { Value::Array(vec![dimm]) };
    write_out(args.output.as_deref(), json::text(&shown).as_bytes())
}

fn index(header: &IndexHeader) -> Value {
    let signature = header.signature.split(|b| *b == 0).next().unwrap_or_default();
    json!({
        "signature": String::from_utf8_lossy(signature),
        "major": header.major,
        "minor": header.minor,
        "labelsize": header.label_len,
        "seq": header.seq,
        "nslot": header.nslot,
    })
}

fn label(label: &Label, version: Version, style: Style) -> Value {
    let mut o = Object::new();
    o.insert("uuid".into(), label.uuid.to_string().into());
    o.insert("name".into(), label.name.to_string().into());
    o.insert("slot".into(), label.slot.into());
    o.insert("position".into(), label.position.into());
    o.insert("nlabel".into(), label.nlabel.into());
    o.insert("flags".into(), label.flags.bits().into());
    o.insert("isetcookie".into(), style.hex(label.isetcookie));
    o.insert("lbasize".into(), label.lbasize.into());
    o.insert("dpa".into(), style.hex(label.dpa.0));
    o.insert("rawsize".into(), style.size(label.rawsize));
    if version == Version::V1_2 {
        // ndctl prints the bytes in the order in which they stand there, not as GUIDs are written.
        for (key, guid) in [("type_guid", label.type_guid), ("abstraction_guid", label.abstraction)] {
            o.insert(key.into(), Uuid::from_bytes(guid::to_media(guid)).to_string().into());
        }
    }
    Value::Object(o)
}

/// The bytes of the area, or of a range of it.
fn copy(area: &LabelArea<ImagePart>, args: &LabelsArgs) -> Result<()> {
    let media = area.media();
    let all = if args.index { index_bytes(area)? } else { media.len() };
    let start = args.offset.unwrap_or(0);
    let len = args.size.unwrap_or(all.saturating_sub(start));
    check_range(all, "read label area", MediaOffset(start), len)?;

    let mut output = Output::open(args.output.as_deref())?;
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).unwrap_or(CHUNK).min(CHUNK);
        let Some(bytes) = chunk.get_mut(..step) else { break };
        media.read(MediaOffset(start + done), bytes)?;
        output.write(bytes)?;
        done += u64::try_from(step).unwrap_or(u64::MAX);
    }
    output.finish();
    Ok(())
}

/// Bytes of both index blocks.
fn index_bytes(area: &LabelArea<ImagePart>) -> Result<u64> {
    if let Some(index) = area.index() {
        return Ok(index.layout().labeloff());
    }
    let layout = AreaLayout::compute(area.media().len(), Version::V1_2);
    layout
        .map(|l| l.labeloff())
        .map_err(|f| Error::invalid(Kind::Invalid, "read label area", MediaOffset(0), f))
}
