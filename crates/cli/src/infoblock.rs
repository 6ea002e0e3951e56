// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack read-infoblock`: what stands at the head of a namespace, unjudged.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nvstack_format::{btt, pfn};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use serde_json::Value;
use uuid::Uuid;

use crate::args::InfoblockArgs;
use crate::end::{note, warn};
use crate::image::Image;
use crate::json::{self, Object, Style};
use crate::list::select;
use crate::output::write_out;

const COMMAND: &str = "read-infoblock";

/// Bytes that ndctl reads of each namespace: both places where an info block can be.
const HEAD: usize = 8192;

/// `nvstack read-infoblock [TARGET | -i FILE]`.
pub(crate) fn run(args: &InfoblockArgs) -> Result<()> {
    let heads = match (&args.input, &args.target) {
        (Some(file), _) => vec![("file", file.display().to_string(), head_of_file(file)?)],
        (None, Some(target)) => {
            let image = Image::open_to_read(COMMAND, target)?;
            let mut heads = Vec::new();
            for n in select(&image, target.target.name.as_deref())? {
                let mut head = vec![0; HEAD];
                image.media(n)?.read(MediaOffset(0), &mut head)?;
                heads.push(("dev", n.name(), head));
            }
            heads
        }
        (None, None) => {
            return Err(Error::new(Kind::Invalid, "read info blocks")
                .found("neither")
                .accepted("TARGET or --input FILE"));
        }
    };

    if args.json || args.human {
        let style = Style { human: args.human };
        let blocks: Vec<Value> =
            heads.iter().flat_map(|(key, name, head)| blocks(key, name, head, style)).collect();
        if blocks.is_empty() {
            warn(COMMAND, "no info block found");
        }
        write_out(args.output.as_deref(), json::text(&Value::Array(blocks)).as_bytes())?;
    } else {
        let all: Vec<u8> = heads.iter().flat_map(|(_, _, head)| head.iter().copied()).collect();
        write_out(args.output.as_deref(), &all)?;
    }
    note(COMMAND, format_args!("read {} infoblock{}", heads.len(), if heads.len() == 1 { "" } else { "s" }));
    Ok(())
}

fn head_of_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::os("read info blocks", e).path(path);
    let mut head = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(u64::try_from(HEAD).unwrap_or(u64::MAX))
        .read_to_end(&mut head)
        .map_err(failed)?;
    if head.len() < HEAD {
        let found = format!("{} bytes", head.len());
        return Err(Error::new(Kind::Io, "read info blocks")
            .path(path)
            .found(found)
            .accepted(format_args!("{HEAD} or more")));
    }
    Ok(head)
}

/// The info blocks in the head of a namespace, in ndctl's order: at 4096, then at 0.
fn blocks(key: &str, name: &str, head: &[u8], style: Style) -> Vec<Value> {
    let mut found = Vec::new();
    for at in [4096, 0] {
        let Some(fields) = head.get(at..at + btt::INFO_LEN).map(Fields) else { continue };
        let signature = fields.bytes::<16>(0);
        let mut o = Object::new();
        o.insert(key.into(), name.into());
        if signature == btt::SIGNATURE {
            btt_fields(&fields, &mut o, style);
        } else if at == 4096
            && [pfn::Kind::Fsdax, pfn::Kind::Devdax].iter().any(|k| k.signature() == signature)
        {
            pfn_fields(&fields, &mut o, style);
        } else {
            continue;
        }
        found.push(Value::Object(o));
    }
    found
}

fn common(f: &Fields<'_>, o: &mut Object, style: Style) {
    let signature = f.bytes::<16>(0);
    let text = signature.split(|b| *b == 0).next().unwrap_or_default();
    o.insert("signature".into(), String::from_utf8_lossy(text).into());
    o.insert("uuid".into(), Uuid::from_bytes(f.bytes(16)).to_string().into());
    o.insert("parent_uuid".into(), Uuid::from_bytes(f.bytes(32)).to_string().into());
    o.insert("flags".into(), style.hex(f.u32(48).into()));
    o.insert("version".into(), format!("{}.{}", f.u16(52), f.u16(54)).into());
}

fn btt_fields(f: &Fields<'_>, o: &mut Object, style: Style) {
    common(f, o, style);
    for (key, at) in [
        ("external_lbasize", 56),
        ("external_nlba", 60),
        ("internal_lbasize", 64),
        ("internal_nlba", 68),
        ("nfree", 72),
        ("infosize", 76),
    ] {
        o.insert(key.into(), f.u32(at).into());
    }
    for (key, at) in [("nextoff", 80), ("dataoff", 88), ("mapoff", 96), ("logoff", 104), ("info2off", 112)] {
        o.insert(key.into(), style.hex(f.u64(at)));
    }
}

fn pfn_fields(f: &Fields<'_>, o: &mut Object, style: Style) {
    common(f, o, style);
    o.insert("dataoff".into(), style.hex(f.u64(56)));
    o.insert("npfns".into(), style.hex(f.u64(64)));
    o.insert("mode".into(), f.u32(72).into());
    for (key, at) in [("start_pad", 76), ("end_trunc", 80), ("align", 84), ("page_size", 88)] {
        o.insert(key.into(), style.hex(f.u32(at).into()));
    }
    o.insert("page_struct_size".into(), style.hex(f.u16(92).into()));
}

/// An info block as bytes; the formats' own parsers refuse what is damaged, and here it is shown.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}
