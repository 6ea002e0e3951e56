// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium that costs what was written to it, and is copied for the price of a list: a terabyte for each input.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Poison, Result, check_range};

const PAGE: u64 = 4096;
const NOTHING: [u8; PAGE as usize] = [0; PAGE as usize];

type Pages = BTreeMap<u64, Arc<[u8; PAGE as usize]>>;

/// Memory, sparse.
#[derive(Debug)]
pub struct Sparse {
    len: u64,
    domain: Domain,
    read_only: bool,
    pages: Mutex<Pages>,
    poison: Poison,
}

impl Clone for Sparse {
    /// The same bytes, lost ones included; changes of one are not the other's.
    fn clone(&self) -> Sparse {
        let poison = Poison::new(self.len);
        for (first, count) in self.poison.list(MediaOffset(0), self.len) {
            poison.add(MediaOffset(first * 512), count * 512);
        }
        Sparse { poison, pages: Mutex::new(self.pages().clone()), ..*self }
    }
}

impl Sparse {
    /// Zeros, as many as `len`.
    #[must_use]
    pub fn new(len: u64) -> Sparse {
        let (domain, pages) = (Domain::Memory, Mutex::default());
        Sparse { len, domain, read_only: false, pages, poison: Poison::new(len) }
    }

    /// A copy of bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Sparse {
        let sparse = Sparse::new(bytes.len() as u64);
        sparse.poke(0, bytes);
        sparse
    }

    /// The same in another persistence domain.
    #[must_use]
    pub fn in_domain(self, domain: Domain) -> Sparse {
        Sparse { domain, ..self }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both hold the same bytes, lost or not.
    #[must_use]
    pub fn same_bytes(&self, other: &Sparse) -> bool {
        self.differs(other).is_none()
    }

    /// The first page that is not the same in both.
    #[must_use]
    pub fn differs(&self, other: &Sparse) -> Option<u64> {
        // Not at once, as nobody else orders these locks.
        let (ours, theirs) = (self.pages().clone(), other.pages().clone());
        let differ = |a: &Pages, b: &Pages| {
            a.iter().find_map(|(number, page)| match b.get(number) {
                Some(other) if Arc::ptr_eq(page, other) => None,
                other => (page[..] != other.map_or(&NOTHING, |o| &**o)[..]).then_some(number * PAGE),
            })
        };
        differ(&ours, &theirs).or_else(|| differ(&theirs, &ours))
    }

    /// Reads bytes, lost or not. What lies outside is zero.
    pub fn peek(&self, at: u64, into: &mut [u8]) {
        let pages = self.pages();
        let mut at = at;
        let mut into = into;
        while !into.is_empty() {
            let offset = (at % PAGE) as usize;
            let len = (PAGE as usize - offset).min(into.len());
            let (now, later) = into.split_at_mut(len);
            now.copy_from_slice(&pages.get(&(at / PAGE)).map_or(&NOTHING, |p| &**p)[offset..offset + len]);
            (at, into) = (at.saturating_add(len as u64), later);
        }
    }

    /// Changes bytes, lost or not; those inside alone.
    pub fn poke(&self, at: u64, from: &[u8]) {
        let room = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut from = &from[..from.len().min(room)];
        let mut pages = self.pages();
        let mut at = at;
        while !from.is_empty() {
            let offset = (at % PAGE) as usize;
            let (now, later) = from.split_at((PAGE as usize - offset).min(from.len()));
            let number = at / PAGE;
            // A hole stays one.
            if pages.contains_key(&number) || now.iter().any(|byte| *byte != 0) {
                let page = pages.entry(number).or_insert_with(|| Arc::new(NOTHING));
                Arc::make_mut(page)[offset..offset + now.len()].copy_from_slice(now);
            }
            (at, from) = (at + now.len() as u64, later);
        }
    }

    /// The pages of a range that hold anything.
    #[must_use]
    pub fn present(&self, from: u64, to: u64) -> Vec<u64> {
        let pages = self.pages();
        pages
            .range(from / PAGE..to.div_ceil(PAGE).max(from / PAGE))
            .map(|(number, _)| number * PAGE)
            .collect()
    }

    /// `N` bytes, lost or not.
    #[must_use]
    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.peek(at, &mut bytes);
        bytes
    }

    /// As `check_range`, and a store to what cannot be stored to.
    fn may_store(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, operation, at, len)?;
        if self.read_only { Err(Error::new(Kind::ReadOnly, operation).path(self.name())) } else { Ok(()) }
    }

    fn lost(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        match self.poison.first(at, len) {
            None => Ok(()),
            Some(place) => Err(Error::new(Kind::Poison, operation).path(self.name()).at(place)),
        }
    }

    fn aligned(at: MediaOffset, to: u64) -> Result<()> {
        if at.0.is_multiple_of(to) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, "access a word").at(at).accepted("an aligned one"))
    }
}

impl Media for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn domain(&self) -> Domain {
        self.domain
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        check_range(self.len, "read", at, into.len() as u64)?;
        self.lost("read", at, into.len() as u64)?;
        self.peek(at.0, into);
        Ok(())
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.may_store("store", at, from.len() as u64)?;
        self.poke(at.0, from);
        self.poison.clear(at, from.len() as u64);
        self.lost("store", at, from.len() as u64)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.store(at, from)
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.may_store("zero", at, len)?;
        let end = at.0 + len;
        let (first, last) = (at.0.div_ceil(PAGE), end / PAGE);
        if first < last {
            let mut pages = self.pages();
            let mut behind = pages.split_off(&first);
            pages.append(&mut behind.split_off(&last));
        }
        let head = (first * PAGE).min(end);
        self.poke(at.0, &NOTHING[..(head - at.0) as usize]);
        let tail = (last * PAGE).max(head);
        self.poke(tail, &NOTHING[..(end - tail) as usize]);
        self.poison.clear(at, len);
        self.lost("zero", at, len)
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        Sparse::aligned(at, 4)?;
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        Sparse::aligned(at, 4)?;
        self.store(at, &value.to_le_bytes())
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        Sparse::aligned(at, 8)?;
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        Sparse::aligned(at, 8)?;
        self.store(at, &value.to_le_bytes())
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, "flush", at, len)
    }

    fn drain(&self) -> Result<()> {
        Ok(())
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.poison.list(at, len)
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.poison.first(at, len).is_some()
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, "inject poison", at, len)?;
        self.poison.add(at, len);
        Ok(())
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, "clear poison", at, len)?;
        self.poison.clear(at, len);
        Ok(())
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        check_range(self.len, "look for holes", at, len)?;
        if len == 0 {
            return Ok(Extent { at, len, hole: false });
        }
        let pages = self.pages();
        let first = at.0 / PAGE;
        let hole = !pages.contains_key(&first);
        let end = if hole {
            pages.range(first..).next().map(|(number, _)| number * PAGE)
        } else {
            let run = pages.range(first..).zip(first..).take_while(|((number, _), want)| **number == *want);
            run.last().map(|((number, _), _)| (number + 1) * PAGE)
        };
        let end = end.unwrap_or(u64::MAX).min(at.0 + len);
        Ok(Extent { at, len: end - at.0, hole })
    }

    fn name(&self) -> String {
        format!("hostile medium of {} bytes", self.len)
    }
}
