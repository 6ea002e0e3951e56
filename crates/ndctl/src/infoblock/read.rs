// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands at the head of a namespace, unjudged.

use nvstack_format::{btt, fletcher64_without, pfn};
use nvstack_media::{Error, Kind, Result};
use serde_json::Value;
use uuid::Uuid;

use super::check_disabled;
use crate::control::{HEAD, with_raw};
use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::json::{Object, Style};
use crate::model::{Namespace, settle};
use crate::report::{Outcome, Reporter, counted};
use crate::sys::Sys;

/// Where the checksum of every kind of info block stands.
const CHECKSUM: usize = 4088;

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadInfoblock {
    /// Names of namespaces, or `all`.
    pub namespaces: Vec<String>,
    /// `-b`, `-r`.
    pub filter: Filter,
    /// `-j`: the fields as JSON instead of the bytes.
    pub json: bool,
    /// `-u`: as JSON, numbers for people.
    pub human: bool,
    /// `-V`: only blocks whose checksum is right and that were made for their namespace.
    pub verify: bool,
}

/// `read-infoblock`: what stands at the head of namespaces, unjudged: their first 8 KiB, or the fields.
///
/// A namespace that is active is refused ([`Kind::Busy`], 240): its head is not the medium's.
pub fn read_infoblocks(sys: &dyn Sys, o: &ReadInfoblock, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let all = o.namespaces.iter().any(|w| w == "all");
    let mut outcome = Outcome::default();
    let mut heads = Vec::new();
    for n in named_namespaces(sys, &o.namespaces, &o.filter)? {
        if all && n.size() == 0 {
            continue;
        }
        match head_of(&n) {
            Ok(head) => {
                let parent = n.uuid().filter(|_| n.labelled()).unwrap_or_default();
                heads.push(("dev", n.name().to_owned(), Some(parent), head));
                outcome.count = outcome.count.saturating_add(1);
            }
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    deliver(&mut outcome, heads, o, reporter);
    Ok(outcome)
}

/// `read-infoblock -i`: as [`read_infoblocks`], for bytes that begin as a namespace does.
///
/// [`Kind::Invalid`] for fewer than 8 KiB.
pub fn read_infoblock_of(
    file: &str,
    bytes: &[u8],
    o: &ReadInfoblock,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let Some(head) = bytes.get(..HEAD) else {
        return Err(Error::new(Kind::Invalid, "read info blocks")
            .path(file)
            .found(format_args!("{} bytes", bytes.len()))
            .accepted(format_args!("{HEAD} or more")));
    };
    let mut outcome = Outcome { count: 1, ..Outcome::default() };
    deliver(&mut outcome, vec![("file", file.to_owned(), None, head.to_vec())], o, reporter);
    Ok(outcome)
}

type Head = (&'static str, String, Option<Uuid>, Vec<u8>);

fn deliver(outcome: &mut Outcome, heads: Vec<Head>, o: &ReadInfoblock, reporter: &mut dyn Reporter) {
    if o.json || o.human {
        let style = Style { human: o.human };
        let mut found = Vec::new();
        for (key, name, parent, head) in &heads {
            found.extend(blocks(key, name, head, style, |block| {
                !o.verify
                    || verify(block, *parent)
                        .inspect_err(|why| reporter.warning(&format_args!("{name}: {why}")))
                        .is_ok()
            }));
        }
        if found.is_empty() {
            reporter.warning(&"no matching devices found");
        }
        // ndctl keeps the brackets here, for people too.
        outcome.json.push(Value::Array(found));
    } else {
        outcome.bytes = Some(heads.into_iter().flat_map(|(.., head)| head).collect());
    }
    reporter.count(&format_args!("read {}", counted(outcome.count, "infoblock")));
}

fn head_of(n: &Namespace<'_>) -> Result<Vec<u8>> {
    check_disabled(n)?;
    with_raw(n, |dev| {
        let mut head = vec![0; HEAD];
        n.sys().read_dev(dev, 0, &mut head)?;
        Ok(head)
    })
}

/// The info blocks in the head of a namespace, in `ndctl`'s order: at 4096, then at 0.
fn blocks(
    key: &str,
    name: &str,
    head: &[u8],
    style: Style,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Vec<Value> {
    let mut found = Vec::new();
    let (first, second) = head.split_at_checked(btt::INFO_LEN).unwrap_or((head, &[]));
    for (at, block) in [(4096, second), (0, first)] {
        let fields = Fields(block);
        let signature = fields.bytes::<16>(0);
        let pages = [pfn::Kind::Fsdax, pfn::Kind::Devdax].iter().any(|k| k.signature() == signature);
        if !(signature == btt::SIGNATURE || at == 4096 && pages) || !take(block) {
            continue;
        }
        let mut o = Object::new();
        o.insert(key.into(), name.into());
        if pages {
            pfn_fields(&fields, &mut o, style);
        } else {
            btt_fields(&fields, &mut o, style);
        }
        found.push(Value::Object(o));
    }
    found
}

/// Whether the checksum of a block is right, and whether it was made for a namespace of that uuid, nil for one without a
/// label; none for any.
fn verify(block: &[u8], namespace: Option<Uuid>) -> Result<()> {
    let fields = Fields(block);
    let sum = <&[u8; btt::INFO_LEN]>::try_from(block).map(|b| fletcher64_without(b, CHECKSUM));
    let stored = fields.u64(CHECKSUM);
    if sum.ok() != Some(stored) {
        return Err(
            Error::new(Kind::Corrupt, "verify checksum of info block").found(format_args!("{stored:#x}"))
        );
    }
    let parent = Uuid::from_bytes(fields.bytes(32));
    let any = fields.bytes::<16>(0) == btt::SIGNATURE && parent.is_nil();
    match namespace {
        Some(uuid) if uuid != parent && !any => {
            Err(Error::new(Kind::Unrecognised, "verify parent of info block").found(parent).accepted(uuid))
        }
        _ => Ok(()),
    }
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
