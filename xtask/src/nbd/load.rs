// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writers that remember what they were promised: connections with many requests in flight, and a ledger of what each sector
//! may hold after the server's end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::client::{Client, Command, FUA};
use super::stamp::{UNWRITTEN, mix, read, stamp};
use crate::report::{Context, Failure, Result, ensure};
use crate::server::Server;

/// Requests that a connection keeps in flight.
const DEPTH: usize = 16;
/// Sectors of the longest write.
const LONGEST: u64 = 8;
/// A writer asks for a flush after this many writes, where flushes matter.
const FLUSH_EVERY: u64 = 12;
/// Connections at once.
const WRITERS: u64 = 3;
const READ_AT_ONCE: usize = 256 << 10;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing, until a FLUSH that was sent after it is acknowledged, or unless the write had FUA.
    Flushed,
    /// That the sectors are there.
    Acknowledged,
}

/// What a sector may hold.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// The oldest generation that may be there.
    floor: u64,
    /// Younger ones that were sent.
    sent: BTreeSet<u64>,
}

/// The state of a device as its writers know it.
pub(crate) struct Ledger {
    promise: Promise,
    data_size: usize,
    sectors: Vec<Sector>,
    generation: u64,
    /// Acknowledged writes that no flush covers yet.
    loose: Vec<(u64, u64)>,
    acknowledged: u64,
    flushes: u64,
}

/// What happened in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Flushes that were.
    pub(crate) flushes: u64,
    /// Requests without an answer at the end.
    pub(crate) cut: u64,
}

/// A request in flight.
enum Flight {
    Write { first: u64, count: u64, generation: u64, fua: bool },
    Flush { covers: Vec<(u64, u64)> },
}

impl Ledger {
    /// For a fresh device, of which the first `sectors` sectors are used.
    pub(crate) fn new(promise: Promise, data_size: usize, sectors: usize) -> Ledger {
        let sectors = vec![Sector::default(); sectors];
        Ledger {
            promise,
            data_size,
            sectors,
            generation: UNWRITTEN,
            loose: Vec::new(),
            acknowledged: 0,
            flushes: 0,
        }
    }

    fn is_promised(&mut self, lba: u64, generation: u64) {
        if let Some(sector) = usize::try_from(lba).ok().and_then(|lba| self.sectors.get_mut(lba)) {
            sector.floor = sector.floor.max(generation);
        }
    }

    /// Books a reply.
    fn answered(&mut self, flight: Flight) {
        match flight {
            Flight::Write { first, count, generation, fua } => {
                self.acknowledged += 1;
                for lba in first..first + count {
                    if fua || self.promise == Promise::Acknowledged {
                        self.is_promised(lba, generation);
                    } else {
                        self.loose.push((lba, generation));
                    }
                }
            }
            Flight::Flush { covers } => {
                self.flushes += 1;
                for (lba, generation) in covers {
                    self.is_promised(lba, generation);
                }
            }
        }
    }

    /// Reads every sector: each must be whole, not older than what was promised, and something that was sent. What is found is
    /// what the next round starts from.
    pub(crate) fn check(&mut self, server: &Server) -> Result<()> {
        let mut client = Client::connect(&server.socket()?, &server.export())?;
        let at_once = READ_AT_ONCE / self.data_size;
        let mut wrong = Vec::new();
        let mut lba = 0_u64;
        for part in self.sectors.chunks_mut(at_once) {
            let data = client.read(lba * self.data_size as u64, part.len() * self.data_size)?;
            for (sector, found) in part.iter_mut().zip(data.chunks(self.data_size)) {
                match read(lba, found) {
                    Ok(generation)
                        if generation == sector.floor
                            || (generation > sector.floor && sector.sent.contains(&generation)) =>
                    {
                        *sector = Sector { floor: generation, sent: BTreeSet::new() };
                    }
                    Ok(generation) => wrong.push(format!(
                        "LBA {lba} holds generation {generation}, promised was {} or one of {:?}",
                        sector.floor,
                        sector.sent.range(sector.floor..).collect::<Vec<_>>()
                    )),
                    Err(torn) => wrong.push(torn),
                }
                lba += 1;
            }
        }
        self.loose.clear();
        let shown = wrong.len().min(3);
        ensure(wrong.is_empty(), || {
            format!("{} sectors are wrong: {}", wrong.len(), wrong[..shown].join("; "))
        })
    }
}

/// Writes from several connections until the server is gone, which `end` brings about (it can ask how many writes were
/// acknowledged so far); gives what was answered.
pub(crate) fn until_the_end(
    ledger: &mut Ledger,
    socket: &Path,
    export: &str,
    seed: u64,
    end: impl FnOnce(&dyn Fn() -> u64),
) -> Result<Tally> {
    (ledger.acknowledged, ledger.flushes) = (0, 0);
    let shared = Mutex::new(ledger);
    let cut = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let client = Client::connect(socket, export);
                let shared = &shared;
                scope.spawn(move || client.and_then(|client| Writer::new(client, shared, n, seed).run()))
            })
            .collect();
        end(&|| lock(&shared).acknowledged);
        let gone = |_| Err(Failure::from("a writer failed"));
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(gone)).sum::<Result<u64>>()
    })?;
    let ledger = lock(&shared);
    Ok(Tally { acknowledged: ledger.acknowledged, flushes: ledger.flushes, cut })
}

/// One connection with a part of the sectors to itself.
struct Writer<'a, 'b> {
    client: Client,
    ledger: &'a Mutex<&'b mut Ledger>,
    number: u64,
    random: u64,
    flights: BTreeMap<u64, Flight>,
    writes: u64,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn new(client: Client, ledger: &'a Mutex<&'b mut Ledger>, number: u64, seed: u64) -> Self {
        Writer {
            client,
            ledger,
            number,
            random: mix(seed ^ (number << 48)),
            flights: BTreeMap::new(),
            writes: 0,
        }
    }

    /// Until the connection breaks; gives the number of requests that it cut off.
    fn run(mut self) -> Result<u64> {
        let mut open = true;
        loop {
            while open && self.flights.len() < DEPTH {
                open = self.send();
            }
            // What the server answered before its end still arrives.
            match self.client.receive() {
                Ok((cookie, 0)) => {
                    let flight = self.flights.remove(&cookie).ok_or("a reply to no request")?;
                    lock(self.ledger).answered(flight);
                }
                Ok((_, error)) => return Err(format!("a write or flush failed with error {error}").into()),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return Err(error).context("the server is silent");
                }
                Err(_) => return Ok(self.flights.len() as u64),
            }
        }
    }

    /// Sends one request; false when the connection is broken.
    fn send(&mut self) -> bool {
        let (flight, data) = self.next();
        let sent = match &flight {
            Flight::Write { first, fua, .. } => {
                let at = first * lock(self.ledger).data_size as u64;
                self.client.send(Command::Write, if *fua { FUA } else { 0 }, at, data.len(), &data)
            }
            Flight::Flush { .. } => self.client.send(Command::Flush, 0, 0, 0, &[]),
        };
        // Half of a request may have arrived: a write that failed to be sent counts as sent, and is in the ledger already.
        match sent {
            Ok(cookie) => self.flights.insert(cookie, flight).is_none(),
            Err(_) => false,
        }
    }

    /// Chooses the next request and books it as sent.
    fn next(&mut self) -> (Flight, Vec<u8>) {
        let mut ledger = lock(self.ledger);
        self.writes += 1;
        if ledger.promise == Promise::Flushed && self.writes.is_multiple_of(FLUSH_EVERY) {
            return (Flight::Flush { covers: std::mem::take(&mut ledger.loose) }, Vec::new());
        }
        let share = ledger.sectors.len() as u64 / WRITERS;
        let (first, count) = loop {
            self.random = mix(self.random);
            let count = 1 + (self.random >> 8) % LONGEST;
            let first = self.number * share + (self.random >> 16) % (share - count);
            let clear = |flight: &Flight| match flight {
                Flight::Write { first: other, count: long, .. } => {
                    first + count <= *other || other + long <= first
                }
                Flight::Flush { .. } => true,
            };
            if self.flights.values().all(clear) {
                break (first, count);
            }
        };
        ledger.generation += 1;
        let generation = ledger.generation;
        let mut data = Vec::new();
        for lba in first..first + count {
            data.extend(stamp(lba, generation, ledger.data_size));
            if let Some(sector) = usize::try_from(lba).ok().and_then(|lba| ledger.sectors.get_mut(lba)) {
                sector.sent.insert(generation);
            }
        }
        (Flight::Write { first, count, generation, fua: self.random.is_multiple_of(16) }, data)
    }
}

fn lock<'a, 'b>(ledger: &'a Mutex<&'b mut Ledger>) -> MutexGuard<'a, &'b mut Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
