// SPDX-License-Identifier: MIT OR Apache-2.0
//! BTTs: info blocks alone, chains of arenas, tables as a power cut or an enemy left them.

mod edit;
mod info;
mod made;
mod use_it;

use nvstack_btt::{Btt, OpenOptions};
use nvstack_media::Domain;
use uuid::Uuid;

pub(crate) use edit::seal;
pub use info::info_block;
pub(crate) use info::{FIELDS_IN_INPUT, INFO_INPUT};
pub(crate) use made::Made;

use crate::naive::btt as naive;
use crate::{Input, Sparse};

/// Info blocks that lead from arena to arena: whatever the chain says, it ends, and is whole or refused.
///
/// Input: which BTT, how it is opened, then edits (`edit`).
pub fn arena_chain(data: &[u8]) {
    let mut input = Input::new(data);
    // Those of several arenas twice as often.
    let made = Made::of([3, 4, 5, 6, 4, 5, 0, 1][usize::from(input.u8() % 8)]);
    engine(&mut input, made);
}

/// Map and flog in any state: recovered, read, written, and opened again with the same contents.
///
/// Input as that of [`arena_chain`].
pub fn btt_tables(data: &[u8]) {
    let mut input = Input::new(data);
    let made = Made::of(input.u8());
    engine(&mut input, made);
}

fn engine(input: &mut Input<'_>, made: &Made) {
    let flags = input.u8();
    let domain = if flags & 1 == 0 { Domain::Memory } else { Domain::PageCache };
    let medium = made.medium.clone().in_domain(domain);
    let writes: Vec<(u64, u8)> = (0..flags >> 4).map(|_| (input.number(), input.u8())).collect();
    edit::all(input, &medium, made, flags & 4 == 0);
    use_it::engine(&medium, made, flags & 2 != 0, &writes);
}

/// Our reading of info blocks, flogs and maps against the naive one: whether it is taken, every value, every sector.
///
/// Input as that of [`btt_tables`]; no bytes are lost.
pub fn differential_btt(data: &[u8]) {
    let mut input = Input::new(data);
    let made = Made::of(input.u8());
    let _ = input.u8();
    let medium = made.medium.clone();
    edit::all(&mut input, &medium, made, false);

    let theirs = chain(&medium, made);
    let ours = open(&medium, made, true);
    let (arenas, ours) = match (theirs, ours) {
        (Err(_), Err(_)) => return,
        (Ok(arenas), Ok(ours)) => (arenas, ours),
        (Err(why), Ok(_)) => panic!("taken, though the naive reader refuses it: {why}"),
        (Ok(_), Err(why)) => panic!("refused, though the naive reader takes it: {why}"),
    };
    assert_eq!(ours.infos().len(), arenas.len());
    let redone: usize = arenas.iter().map(|(_, tables)| tables.redo.len()).sum();
    assert_eq!(ours.recovered(), redone as u64);
    let mut first = 0;
    for (info, (theirs, tables)) in ours.infos().iter().zip(&arenas) {
        info::same(info, theirs);
        use_it::compare(&ours, &medium, first, theirs, tables);
        first += theirs.sectors;
    }

    // Writing is refused for one reason more: a block in use twice. Arenas in error state are not looked at.
    let shared = |info: &naive::Info, tables: &naive::Tables| {
        info.flags & 1 == 0 && info.blocks < 1 << 20 && tables.shared_block(&medium).is_some()
    };
    let shared = arenas.iter().any(|(info, tables)| shared(info, tables));
    let huge = arenas.iter().any(|(info, _)| info.blocks >= 1 << 20);
    match open(&medium, made, false) {
        Ok(_) => assert!(!shared, "opened for writing with a block in use twice"),
        Err(why) => assert!(shared || huge, "not opened for writing: {why}"),
    }
}

fn open(medium: &Sparse, made: &Made, read_only: bool) -> nvstack_media::Result<Btt<Sparse>> {
    let mut options = OpenOptions::new("hostile", made.version, Uuid::from_bytes(made.parent));
    options.read_only = read_only;
    Btt::open(medium.clone(), options)
}

/// All arenas, or why the BTT is not used.
fn chain(medium: &Sparse, made: &Made) -> Result<Vec<(naive::Info, naive::Tables)>, String> {
    let len = nvstack_media::Media::len(medium);
    let mut arenas: Vec<(naive::Info, naive::Tables)> = Vec::new();
    let mut infos: Vec<(u64, naive::Info)> = Vec::new();
    let mut base = made.version.start();
    loop {
        let raw = medium.get::<4096>(base);
        let info = match naive::info(&raw, made.version.major().into(), made.parent, len - base) {
            naive::Verdict::Good(info) => info,
            other => return Err(format!("arena {}: {other:?}", infos.len())),
        };
        if let Some((_, head)) = infos.first() {
            // UEFI wants these to be the same in all arenas; Linux does not look.
            let kin = |i: &naive::Info| (i.uuid, i.lbasize, i.nfree);
            if kin(head) != kin(&info) {
                return Err("arenas that are none of each other's".to_owned());
            }
        }
        let next = info.next;
        infos.push((base, info));
        if next == 0 {
            break;
        }
        base += next;
    }
    for (base, info) in infos {
        let tables =
            naive::tables(medium, base, &info).map_err(|why| format!("arena at {base:#x}: {why:?}"))?;
        arenas.push((info, tables));
    }
    Ok(arenas)
}
