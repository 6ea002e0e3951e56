// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: its buses, its drivers, the numbers that it gives out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nvstack_block::BlockDevice;
use nvstack_media::{Error, Kind, Media, Result};

use crate::events::{Action, Event, Events};
use crate::model::{BusState, Dev, Dimm, Generation, Mapping, PAGE, REGION_ALIGN, Region, bus_path};
use crate::personality::{OpenOptions, Personality};
use crate::pool::Pool;
use crate::spec::{BusSpec, DimmSpec, NamespaceKey, Provider, RegionSpec};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, RwLock};
use crate::tree::Tree;
use crate::{bind, drivers, probe};

/// How long removal waits for probes that are under way. One that hangs longer finds, when it ends, nothing to be installed
/// in, and leaves nothing behind.
const GRACE: Duration = Duration::from_secs(2);

/// A machine with NVDIMM buses. Cheap to clone; all clones are the same machine.
#[derive(Clone)]
pub struct Stack {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) buses: RwLock<BTreeMap<u32, Arc<Bus>>>,
    pub(crate) drivers: RwLock<Vec<Arc<dyn Personality>>>,
    pub(crate) events: Events,
    pub(crate) pool: Arc<Pool>,
    numbers: Mutex<Numbers>,
    generation: AtomicU64,
}

/// Numbers that are unique in the machine, given out lowest first.
#[derive(Default)]
struct Numbers {
    dimms: BTreeSet<u32>,
    regions: BTreeSet<u32>,
    disks: BTreeSet<u32>,
}

/// One bus.
pub(crate) struct Bus {
    pub(crate) id: u32,
    pub(crate) generation: Generation,
    pub(crate) provider: Provider,
    pub(crate) state: Mutex<BusState>,
    /// Told when no probe is under way any more.
    pub(crate) settled: Condvar,
    /// Told when somebody has done with changing a device.
    pub(crate) freed: Condvar,
    /// Namespaces that are not to be bound when they appear.
    pub(crate) idle: Vec<NamespaceKey>,
}

impl Bus {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BusState> {
        // Code that panicked under the lock would leave a half-changed model; there is none that can.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where something happens: the machine and the bus.
#[derive(Clone)]
pub(crate) struct At {
    pub(crate) inner: Arc<Inner>,
    pub(crate) bus: Arc<Bus>,
}

/// A registered bus. Holding it keeps nothing alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusId {
    number: u32,
    generation: Generation,
}

impl BusId {
    /// N of `ndbusN`.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }
}

impl Default for Stack {
    fn default() -> Stack {
        Stack::new()
    }
}

impl Stack {
    /// A machine without buses, with the drivers of this crate: btt, pfn, dax, and raw. It probes as many namespaces at once as
    /// pays on this computer, eight at least.
    #[must_use]
    pub fn new() -> Stack {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Stack::with_workers(cpus.saturating_mul(2).clamp(8, 64))
    }

    /// The same, with this many probes at once.
    #[must_use]
    pub fn with_workers(workers: usize) -> Stack {
        let stack = Stack::bare(workers);
        for driver in drivers::all() {
            stack.register_driver(driver);
        }
        stack
    }

    /// A machine without drivers.
    #[must_use]
    pub fn bare(workers: usize) -> Stack {
        Stack {
            inner: Arc::new(Inner {
                buses: RwLock::default(),
                drivers: RwLock::default(),
                events: Events::default(),
                pool: Pool::new(workers),
                numbers: Mutex::default(),
                generation: AtomicU64::new(1),
            }),
        }
    }

    /// Adds a driver. From now on each region has a seed for it, and namespaces that are bound later are probed by it, after
    /// those of other drivers that have a device of their own.
    pub fn register_driver(&self, driver: Arc<dyn Personality>) {
        let mut drivers = self.inner.drivers.write().unwrap_or_else(PoisonError::into_inner);
        drivers.push(driver);
        drop(drivers);
        for at in self.inner.all() {
            let mut state = at.bus.lock();
            let regions: Vec<u32> =
                state.regions.iter().filter(|(_, r)| r.bound).map(|(id, _)| *id).collect();
            for region in regions {
                at.ensure_seeds(&mut state, region);
            }
        }
    }

    /// Registers a bus, and returns at once. Its DIMMs, regions and namespaces are probed by workers; [`Stack::settle`] waits
    /// for them.
    pub fn register(&self, spec: BusSpec) -> BusId {
        let inner = &self.inner;
        let mut buses = inner.buses.write().unwrap_or_else(PoisonError::into_inner);
        let id = crate::model::lowest_free(buses.keys().copied());
        let bus = Arc::new(Bus {
            id,
            generation: inner.next_generation(),
            provider: spec.provider,
            state: Mutex::default(),
            settled: Condvar::new(),
            freed: Condvar::new(),
            idle: spec.idle.namespaces,
        });
        buses.insert(id, Arc::clone(&bus));
        drop(buses);
        let at = At { inner: Arc::clone(inner), bus };
        let bus_id = BusId { number: id, generation: at.bus.generation };

        let mut state = at.bus.lock();
        at.tell(&state, Action::Add, Dev::Bus(id));
        at.tell(&state, Action::Bind, Dev::Bus(id));
        let mut dimms = Vec::with_capacity(spec.dimms.len());
        for (n, dimm) in spec.dimms.into_iter().enumerate() {
            let number = inner.number(|n| &mut n.dimms);
            dimms.push(number);
            let idle = spec.idle.dimms.contains(&n);
            state.dimms.insert(number, new_dimm(inner, number, dimm, idle));
            at.tell(&state, Action::Add, Dev::Dimm(number));
        }
        for (n, region) in spec.regions.into_iter().enumerate() {
            let number = inner.number(|n| &mut n.regions);
            let idle = spec.idle.regions.contains(&n);
            let region = new_region(inner, region, &dimms);
            state.regions.insert(number, Region { changing: !idle, ..region });
            at.tell(&state, Action::Add, Dev::Region(number));
        }
        probe::start(&at, &mut state);
        bus_id
    }

    /// Removes a bus and all that is on it, claims before namespaces before regions before DIMMs. Requests in flight
    /// are waited for; what comes later, through any handle, gets [`Kind::Gone`].
    pub fn unregister(&self, bus: BusId) -> Result<()> {
        let at = self.inner.at(bus.number)?;
        if at.bus.generation != bus.generation {
            return Err(crate::model::gone(format_args!("ndbus{}", bus.number)));
        }
        bind::remove_bus(&at, GRACE)
    }

    /// Waits until no probe is under way on any bus: the barrier.
    pub fn settle(&self) {
        for at in self.inner.all() {
            at.settle(None);
        }
    }

    /// Waits for probes for at most `limit`. [`Kind::Busy`] names those that are still under way.
    pub fn settle_within(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let mut late = Vec::new();
        for at in self.inner.all() {
            late.extend(at.settle(Some(until)));
        }
        if late.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, "wait for probes")
            .found(format_args!("{} after {} ms", late.join(", "), limit.as_millis()))
            .accepted("probes that end"))
    }

    /// Opens a disk by its own name (`pmem0s`), by the name of the namespace under it, or by that of its claim. The driver opens it
    /// once for all; the options of the first count, and one that asks for more gets [`Kind::Busy`].
    pub fn open(&self, name: &str, options: &OpenOptions) -> Result<Arc<dyn BlockDevice>> {
        crate::disk::open(&self.inner, name, options).map(|opened| opened.device)
    }

    /// As [`Stack::open`], with what the driver says of the disk.
    pub fn open_described(&self, name: &str, options: &OpenOptions) -> Result<Opened> {
        crate::disk::open(&self.inner, name, options)
    }

    /// The tree of attributes.
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::new(Arc::clone(&self.inner))
    }

    /// Binds a namespace whose BTT has lost its first info block, with the help of the backup. Its disk can be read alone.
    ///
    /// Linux never looks at the backup (UEFI asks for it); autodetection here refuses such a namespace rather than serve it raw.
    pub fn bind_from_backup(&self, namespace: &str) -> Result<()> {
        let Some((at, Dev::Namespace(r, n))) = crate::tree::names::device(&self.inner, namespace) else {
            return Err(Error::new(Kind::NotFound, "look up namespace")
                .found(namespace)
                .accepted("its name"));
        };
        let drivers = self.inner.drivers();
        let btt = drivers.iter().position(|d| d.identity().prefix == "btt").ok_or_else(|| {
            Error::new(Kind::Unsupported, "bind").path(namespace).found("a machine without btt")
        })?;
        let settings = crate::Settings::default().with(drivers::FROM_BACKUP, 1);
        match bind::bind_as(&at, r, n, None, Some((btt, settings))) {
            // It comes up as its claim, which is what was asked for.
            Err(e) if e.kind() == Kind::NoDevice => Ok(()),
            done => done,
        }
    }

    /// Marks bytes of a region as lost, in units of 512: what an injection through the platform's firmware does.
    pub fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        let (place, r) = self.region(region)?;
        crate::poison::inject(&place, r, at, len)
    }

    /// Heals the units of 512 bytes that lie wholly in a range of a region.
    pub fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        let (place, r) = self.region(region)?;
        crate::poison::clear(&place, r, at, len)
    }

    /// The lost units of 512 bytes of a region, as (first, count).
    #[must_use]
    pub fn badblocks(&self, region: &str) -> Vec<(u64, u64)> {
        let Ok((at, r)) = self.region(region) else { return Vec::new() };
        let state = at.bus.lock();
        let Ok(region) = state.region(r) else { return Vec::new() };
        match &region.media {
            Ok(media) => media.badblocks(nvstack_media::MediaOffset(0), region.size),
            Err(_) => Vec::new(),
        }
    }

    /// Whether a region is read-only because somebody wrote to its `read_only` attribute.
    #[must_use]
    pub fn is_read_only_by_choice(&self, region: &str) -> bool {
        let Ok((at, r)) = self.region(region) else { return false };
        let state = at.bus.lock();
        state.region(r).is_ok_and(|region| !region.born_read_only && region.read_only.load(Ordering::Relaxed))
    }

    fn region(&self, name: &str) -> Result<(At, u32)> {
        match crate::tree::names::device(&self.inner, name) {
            Some((at, Dev::Region(r))) => Ok((at, r)),
            _ => {
                Err(Error::new(Kind::NotFound, "look up region").found(name).accepted("the name of a region"))
            }
        }
    }

    /// The label area of a DIMM, as a medium: what the commands GET_CONFIG_DATA and SET_CONFIG_DATA reach.
    ///
    /// [`Kind::Busy`] for writing while an enabled region uses the DIMM (`write`), [`Kind::Unsupported`] for a DIMM without
    /// one. Once a region is enabled that uses the DIMM what was given for writing gives [`Kind::Gone`], and so does
    /// everything once the DIMM is removed. What was not asked for writing gives [`Kind::ReadOnly`] for a store.
    pub fn label_area(&self, dimm: &str, write: bool) -> Result<Arc<dyn Media>> {
        let Some((at, Dev::Dimm(n))) = crate::tree::names::device(&self.inner, dimm) else {
            return Err(Error::new(Kind::NotFound, "look up DIMM")
                .found(dimm)
                .accepted("the name of a DIMM"));
        };
        let mut state = at.bus.lock();
        if state.dead {
            return Err(crate::model::gone(dimm));
        }
        let found = state.dimm_mut(n)?;
        if write && found.busy > 0 {
            return Err(crate::model::busy(dimm, "write labels", "a DIMM of an enabled region"));
        }
        crate::labels::handle(found, &at.name(Dev::Dimm(n)), write)
    }

    /// All events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// How often an attribute that can be polled (`region0/badblocks`, `nmem0/nfit/flags`) has changed. With `seen`, waits
    /// until it is more often than that, for at most `limit`.
    pub fn poll(&self, attribute: &str, seen: Option<u64>, limit: Duration) -> u64 {
        match seen {
            Some(seen) => self.inner.events.poll(attribute, seen, limit),
            None => self.inner.events.changes(attribute),
        }
    }

    /// Threads that probe just now. None when the machine is settled.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.inner.pool.threads()
    }
}

/// An open disk and what its driver says of it.
#[derive(Clone)]
pub struct Opened {
    /// The disk. After its device was removed every operation gives [`Kind::Gone`].
    pub device: Arc<dyn BlockDevice>,
    /// Sector size, recovery: words for people.
    pub note: String,
    /// Bytes of a sector with its metadata.
    pub sector_size: u32,
}

fn new_dimm(inner: &Inner, number: u32, spec: DimmSpec, idle: bool) -> Dimm {
    Dimm {
        generation: inner.next_generation(),
        identity: spec.identity,
        media: spec.labels,
        fault: spec.fault,
        minor: number,
        bound: false,
        probed: idle,
        changing: false,
        readers: None,
        writers: None,
        damage: None,
        area: None,
        slots: Vec::new(),
        reserved: Vec::new(),
        busy: 0,
        error: None,
    }
}

fn new_region(inner: &Inner, spec: RegionSpec, dimms: &[u32]) -> Region {
    let mappings: Vec<Mapping> = spec
        .mappings
        .iter()
        .filter_map(|m| {
            let dimm = *dimms.get(m.dimm)?;
            Some(Mapping { dimm, dpa: m.dpa, size: m.size, position: m.position })
        })
        .collect();
    let ways = u64::try_from(mappings.len()).unwrap_or(1).max(1);
    // Linux's default: 16 MiB, a page in a region too small for it; times the ways where they do not divide it.
    let align = spec.align.unwrap_or_else(|| {
        let align = if spec.size < REGION_ALIGN { PAGE } else { REGION_ALIGN };
        if align.is_multiple_of(ways) { align } else { align.saturating_mul(ways) }
    });
    let born_read_only = spec.read_only || spec.media.as_ref().is_ok_and(|m| m.read_only());
    Region {
        generation: inner.next_generation(),
        born_read_only,
        read_only: Arc::new(AtomicBool::new(born_read_only)),
        media: spec.media,
        start: spec.start,
        size: spec.size,
        mappings,
        cookies: spec.cookies,
        range_index: spec.range_index,
        volatile: spec.volatile,
        persistence_domain: spec.persistence_domain,
        numa_node: spec.numa_node,
        target_node: spec.target_node,
        align,
        bound: false,
        changing: false,
        initial: (0, 0),
        namespaces: BTreeMap::new(),
        claims: BTreeMap::new(),
        namespace_seed: None,
        seeds: BTreeMap::new(),
        findings: Vec::new(),
        error: None,
    }
}

impl Inner {
    pub(crate) fn next_generation(&self) -> Generation {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }

    fn number(&self, of: impl Fn(&mut Numbers) -> &mut BTreeSet<u32>) -> u32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let set = of(&mut numbers);
        let number = crate::model::lowest_free(set.iter().copied());
        set.insert(number);
        number
    }

    pub(crate) fn new_disk(&self) -> u32 {
        self.number(|n| &mut n.disks)
    }

    pub(crate) fn free_disk(&self, number: u32) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).disks.remove(&number);
    }

    pub(crate) fn free_dimm(&self, number: u32) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).dimms.remove(&number);
    }

    pub(crate) fn free_region(&self, number: u32) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).regions.remove(&number);
    }

    /// The drivers, in the order of their registration, which never changes: their place is their number.
    pub(crate) fn drivers(&self) -> Vec<Arc<dyn Personality>> {
        self.drivers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn driver(&self, number: usize) -> Option<Arc<dyn Personality>> {
        self.drivers.read().unwrap_or_else(PoisonError::into_inner).get(number).cloned()
    }

    /// The buses, in order.
    pub(crate) fn all(self: &Arc<Inner>) -> Vec<At> {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        buses.values().map(|bus| At { inner: Arc::clone(self), bus: Arc::clone(bus) }).collect()
    }

    pub(crate) fn at(self: &Arc<Inner>, number: u32) -> Result<At> {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        let bus = buses.get(&number).ok_or_else(|| crate::model::gone(format_args!("ndbus{number}")))?;
        Ok(At { inner: Arc::clone(self), bus: Arc::clone(bus) })
    }

    pub(crate) fn forget(&self, number: u32) {
        self.buses.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

impl At {
    /// The name of a device.
    pub(crate) fn name(&self, dev: Dev) -> String {
        match dev {
            Dev::Bus(n) => format!("ndbus{n}"),
            Dev::Control(n) => format!("ndctl{n}"),
            Dev::Dimm(n) => format!("nmem{n}"),
            Dev::Region(n) => format!("region{n}"),
            Dev::Namespace(r, n) => format!("namespace{r}.{n}"),
            Dev::Claim(r, driver, n) => {
                let prefix = self.inner.driver(driver).map_or("claim", |d| d.identity().prefix);
                format!("{prefix}{r}.{n}")
            }
        }
    }

    /// Its place below `/sys`.
    pub(crate) fn path(&self, dev: Dev) -> String {
        let bus = bus_path(&self.bus.provider, self.bus.id);
        match dev {
            Dev::Bus(_) => bus,
            Dev::Control(_) => format!("{bus}/nd/{}", self.name(dev)),
            Dev::Dimm(_) | Dev::Region(_) => format!("{bus}/{}", self.name(dev)),
            Dev::Namespace(r, _) | Dev::Claim(r, ..) => format!("{bus}/region{r}/{}", self.name(dev)),
        }
    }

    /// Tells an event of a device.
    pub(crate) fn tell(&self, state: &BusState, action: Action, dev: Dev) {
        self.tell_more(state, action, dev, Vec::new());
    }

    /// Tells an event of a device, with more to say.
    pub(crate) fn tell_more(
        &self,
        state: &BusState,
        action: Action,
        dev: Dev,
        more: Vec<(&'static str, String)>,
    ) {
        let mut variables = crate::tree::uevent(self, state, dev);
        variables.extend(more);
        self.tell_as(action, dev, self.name(dev), variables);
    }

    /// Tells an event of a device that may be gone from the model already.
    pub(crate) fn tell_as(
        &self,
        action: Action,
        dev: Dev,
        name: String,
        variables: Vec<(&'static str, String)>,
    ) {
        self.inner.events.tell(Event {
            sequence: 0,
            action,
            name,
            devpath: format!("/{}", self.path(dev)),
            subsystem: "nd",
            variables,
        });
    }

    /// Waits until no probe is under way; gives what was still being probed when the time was over.
    pub(crate) fn settle(&self, until: Option<Instant>) -> Vec<String> {
        let mut state = self.bus.lock();
        while !state.pending.is_empty() {
            state = match until {
                None => self.bus.settled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return state.pending.values().cloned().collect();
                    }
                    self.bus.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Vec::new()
    }

    /// Counts a probe as under way.
    pub(crate) fn begin(&self, state: &mut BusState, what: String) -> Generation {
        let ticket = self.inner.next_generation();
        state.pending.insert(ticket, what);
        ticket
    }

    /// Counts it as ended.
    pub(crate) fn end(&self, state: &mut BusState, ticket: Generation) {
        state.pending.remove(&ticket);
        if state.pending.is_empty() {
            self.bus.settled.notify_all();
        }
    }
}
