// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each sector may hold after a cut, given what was asked for and what was answered.

use nvstack_sim::mix;

use crate::content::{self, Contents};

#[derive(Clone, Debug)]
struct Write {
    /// The request that it is.
    id: u8,
    sector: u8,
    content: u8,
    invoked: u64,
    /// When it was answered.
    acknowledged: Option<u64>,
    /// It, or something that was written after it, is there after any cut from now on.
    durable: bool,
    /// It was answered with an error: it may be there or not.
    failed: bool,
    /// Its block was lost.
    lost: bool,
    /// When somebody was told so: from then on the sector is lost, whatever becomes of the block.
    told: Option<u64>,
}

/// The requests of all tasks so far.
///
/// A write that was superseded is gone: if another one to its sector was promised durable, and was asked for only after this
/// one was answered, then this one may not come back. All others that were asked for may be there.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    writes: Vec<Write>,
    /// Flushes and reads that were not answered yet, with when they were asked for.
    open: Vec<(u8, u64)>,
    clock: u64,
    /// Whether an answer is a promise. Else flush and FUA are.
    immediate: bool,
    /// Operations on the medium that were made to fail.
    pub(crate) faults: u32,
    /// What was found wrong while the tasks ran.
    pub(crate) wrong: Option<String>,
}

/// A request that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    id: u8,
    at: u64,
    write: Option<usize>,
}

impl Oracle {
    /// Nothing was asked for yet.
    #[must_use]
    pub(crate) fn new(start: Contents, sectors: u8, immediate: bool) -> Oracle {
        let write = |sector| Write {
            id: 0xf0 | sector,
            sector,
            content: start.get(sector),
            invoked: 0,
            acknowledged: Some(0),
            durable: true,
            failed: false,
            lost: false,
            told: None,
        };
        Oracle {
            writes: (0..sectors).map(write).collect(),
            open: Vec::new(),
            clock: 0,
            immediate,
            faults: 0,
            wrong: None,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A task asks for a sector to be written. `id` is the request's own, below 240.
    pub(crate) fn write(&mut self, id: u8, sector: u8, content: u8) -> Begun {
        let at = self.tick();
        self.writes.push(Write {
            id,
            sector,
            content,
            invoked: at,
            acknowledged: None,
            durable: false,
            failed: false,
            lost: false,
            told: None,
        });
        Begun { id, at, write: Some(self.writes.len() - 1) }
    }

    /// A write was answered with success; `durable` if that is a promise.
    pub(crate) fn written(&mut self, begun: Begun, durable: bool) {
        let at = self.tick();
        let immediate = self.immediate;
        if let Some(write) = begun.write.and_then(|i| self.writes.get_mut(i)) {
            write.acknowledged = Some(at);
            write.durable |= durable || immediate;
        }
    }

    /// A task asks for a flush, or for a read.
    pub(crate) fn begin(&mut self, id: u8) -> Begun {
        let at = self.tick();
        self.open.push((id, at));
        Begun { id, at, write: None }
    }

    fn close(&mut self, begun: Begun) {
        self.tick();
        self.open.retain(|(id, _)| *id != begun.id);
    }

    /// A flush was answered with success.
    pub(crate) fn flushed(&mut self, begun: Begun) {
        self.close(begun);
        for write in &mut self.writes {
            write.durable |= !write.failed && write.acknowledged.is_some_and(|at| at < begun.at);
        }
    }

    /// A read was answered.
    pub(crate) fn read(&mut self, begun: Begun, sector: u8, content: u8) {
        self.close(begun);
        let seen = |w: &Write| !w.failed && w.acknowledged.is_some_and(|at| at < begun.at);
        let possible: Vec<usize> = (0..self.writes.len())
            .filter(|i| self.writes[*i].sector == sector && !self.is_superseded(*i, seen))
            .collect();
        let told = |w: &Write| w.told.is_some_and(|at| at < begun.at);
        let reads = |w: &Write| w.content == content && !told(w) || w.lost && content == content::LOST;
        let mut found = possible.iter().copied().filter(|i| reads(&self.writes[*i]));
        match (found.next(), found.next()) {
            // What was seen stays: the map is switched after the record of it is durable. A zero entry has no record, so
            // it may be seen by another task before it is promised to anybody.
            (Some(only), None) if self.immediate && content != 0 => {
                self.writes[only].durable = true;
                if self.writes[only].lost && content == content::LOST {
                    self.writes[only].told.get_or_insert(self.clock);
                }
            }
            (Some(_), _) => {}
            (None, _) => {
                let may: Vec<String> =
                    possible.iter().map(|i| content::describe(self.writes[*i].content)).collect();
                self.wrong.get_or_insert(format!(
                    "a read of sector {sector} gave {}, and may give {}",
                    content::describe(content),
                    may.join(" or ")
                ));
            }
        }
    }

    /// The block with some content of a sector is lost.
    pub(crate) fn lose(&mut self, sector: u8, content: u8) {
        for write in self.writes.iter_mut().filter(|w| w.sector == sector && w.content == content) {
            write.lost = true;
        }
    }

    /// A request failed. If nothing was wrong with the medium, that is wrong.
    pub(crate) fn failed(&mut self, begun: Option<Begun>, what: &str) {
        if self.faults > 0 {
            let Some(begun) = begun else { return };
            self.close(begun);
            let at = self.clock;
            if let Some(write) = begun.write.and_then(|i| self.writes.get_mut(i)) {
                (write.acknowledged, write.failed) = (Some(at), true);
            }
            return;
        }
        self.wrong.get_or_insert(what.to_owned());
    }

    /// Whether another write that counts came wholly after this one.
    fn is_superseded(&self, write: usize, counts: impl Fn(&Write) -> bool) -> bool {
        let this = &self.writes[write];
        this.acknowledged.is_some_and(|at| {
            self.writes.iter().any(|w| w.sector == this.sector && w.invoked > at && counts(w))
        })
    }

    /// Whether nobody waits for an answer, and every answer is a promise.
    #[must_use]
    pub(crate) fn at_rest(&self) -> bool {
        let settled = |w: &Write| w.durable && !w.failed && w.acknowledged.is_some();
        self.open.is_empty() && self.writes.iter().all(settled)
    }

    /// What may be there after a cut now.
    #[must_use]
    pub(crate) fn allowed(&self, sectors: u8) -> Allowed {
        let mut sets = vec![Vec::new(); usize::from(sectors)];
        for (i, write) in self.writes.iter().enumerate() {
            if !self.is_superseded(i, |w| w.durable)
                && let Some(set) = sets.get_mut(usize::from(write.sector))
            {
                if write.told.is_none() {
                    set.push(write.content);
                }
                if write.lost {
                    set.push(content::LOST);
                }
            }
        }
        for set in &mut sets {
            set.sort_unstable();
            set.dedup();
        }
        Allowed { sets }
    }

    /// A hash of what decides about all answers to come.
    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        let mut sum = u64::from(self.wrong.is_some()) | u64::from(self.faults) << 1;
        // When something happened counts only against what others then had behind them.
        for w in &self.writes {
            let after = |at: u64| w.acknowledged.is_some_and(|done| at > done);
            let writes = self.writes.iter().filter(|o| after(o.invoked)).map(|o| u64::from(o.id));
            let others = self.open.iter().filter(|(_, at)| after(*at)).map(|(id, _)| 0x100 | u64::from(*id));
            let later = writes.chain(others).fold(0u64, |h, id| h.wrapping_add(mix(id)));
            let told = w.told.map_or(0, |told| self.open.iter().filter(|(_, at)| *at > told).count());
            let words = [
                told as u64,
                u64::from(w.id) << 8
                    | u64::from(w.told.is_some()) << 4
                    | u64::from(w.lost) << 3
                    | u64::from(w.failed) << 2
                    | u64::from(w.durable) << 1
                    | u64::from(w.acknowledged.is_some()),
                later,
            ];
            sum = sum.wrapping_add(words.into_iter().fold(7, |h, x| mix(h ^ x)));
        }
        sum
    }
}

/// What each sector may hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Allowed {
    sets: Vec<Vec<u8>>,
}

impl Allowed {
    /// From now on each sector is what was seen.
    pub(crate) fn settle(&mut self, seen: Contents) {
        for (sector, set) in (0u8..).zip(&mut self.sets) {
            *set = vec![seen.get(sector)];
        }
    }

    /// A sector may also be this.
    pub(crate) fn add(&mut self, sector: u8, content: u8) {
        if let Some(set) = self.sets.get_mut(usize::from(sector)) {
            set.push(content);
        }
    }

    /// A sector is this and nothing else.
    pub(crate) fn only(&mut self, sector: u8, content: u8) {
        if let Some(set) = self.sets.get_mut(usize::from(sector)) {
            *set = vec![content];
        }
    }

    /// What is wrong with contents, if anything is.
    #[must_use]
    pub(crate) fn finds(&self, contents: Contents) -> Option<String> {
        let wrong = |(sector, set): (u8, &Vec<u8>)| {
            let found = contents.get(sector);
            (!set.contains(&found)).then(|| {
                let may: Vec<String> = set.iter().map(|c| content::describe(*c)).collect();
                format!("sector {sector} is {}, and may be {}", content::describe(found), may.join(" or "))
            })
        };
        (0u8..).zip(&self.sets).find_map(wrong)
    }

    /// A hash of it.
    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.sets.iter().fold(3, |h, set| set.iter().fold(mix(h ^ 0x100), |h, c| mix(h ^ u64::from(*c))))
    }
}
