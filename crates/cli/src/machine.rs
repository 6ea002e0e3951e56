// SPDX-License-Identifier: MIT OR Apache-2.0
//! TARGET, opened: a machine of the device model, or the one that a running server has.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvstack_lab::{Lab, OpenBus, Persistence, RegionKind};
use nvstack_media::{Access, Domain, Error, Kind, Mapping, Media, Result};
use nvstack_ndctl::Sys;
use nvstack_stack::provider::{self, ImageProvider};
use nvstack_stack::{BusId, BusSpec, DimmSpec, Identity, Idle, MappingSpec, Provider, RegionSpec, Stack};

use crate::args::TargetArgs;
use crate::control::Remote;
use crate::end;
use crate::state::State;
use crate::sys::LocalSys;
use crate::target::Place;

/// Findings that are told one by one; of a hostile area there may be any number.
const TOLD: usize = 20;

/// What a command works on.
pub(crate) struct Machine {
    sys: Box<dyn Sys>,
    stack: Option<Stack>,
    buses: Vec<BusId>,
    /// Where the state is kept that Linux keeps in memory; none for memory and for a running server, which keeps it itself.
    state: Option<PathBuf>,
    /// Where the bytes are, for messages.
    pub(crate) place: PathBuf,
    /// What a drain achieves.
    pub(crate) domain: Domain,
    pub(crate) writable: bool,
    /// Regions that were taken down for a verb.
    again: RefCell<Vec<String>>,
}

impl Machine {
    /// Opens a TARGET under a lock, shared to look and exclusive to change; brings its buses up and waits for them.
    pub(crate) fn open(target: &TargetArgs, access: Access) -> Result<Machine> {
        let label_size = target.label_size;
        match &target.target.place {
            Place::Image(path) => Machine::of_image(path, label_size, access),
            Place::Lab(path) => Machine::of_lab(path, access),
            Place::Memory(size) => {
                Machine::up(vec![provider::memory(*size)?], None, PathBuf::from("mem:"), Domain::Memory, true)
            }
            Place::Running(path) => {
                let remote = Remote::connect(path)?;
                let place = path.clone();
                let sys = Box::new(remote);
                Ok(Machine {
                    sys,
                    stack: None,
                    buses: Vec::new(),
                    state: None,
                    place,
                    domain: Domain::Memory,
                    writable: true,
                    again: RefCell::default(),
                })
            }
        }
    }

    fn of_image(path: &Path, label_size: Option<u64>, access: Access) -> Result<Machine> {
        let mapping = Mapping::open_locked(path, access)?;
        Machine::of_mapping(Arc::new(mapping), path, label_size)
    }

    /// The machine of an image that is open and locked.
    pub(crate) fn of_mapping(mapping: Arc<Mapping>, path: &Path, label_size: Option<u64>) -> Result<Machine> {
        let (domain, writable) = (mapping.domain(), !mapping.read_only());
        let image = ImageProvider::new(mapping, label_size).map_err(|e| e.path(path))?;
        if image.foreign {
            end::warn(
                "open",
                format_args!(
                    "{}: labels of interleave-set cookie {:#x}, which is that of no nvdimm of a QEMU; Linux shows these \
                     namespaces only on the DIMM that they were made on",
                    path.display(),
                    image.cookies.v1_2
                ),
            );
        }
        Machine::up(vec![image.bus()], Some(path), path.to_path_buf(), domain, writable)
    }

    fn of_lab(path: &Path, access: Access) -> Result<Machine> {
        let lab = Lab::load(path)?.open(access)?;
        let mut domain = None;
        let mut buses = Vec::with_capacity(lab.buses.len());
        for bus in lab.buses {
            buses.push(bus_of(bus, path, &mut domain)?);
        }
        let writable = access == Access::ReadWrite;
        Machine::up(buses, Some(path), path.to_path_buf(), domain.unwrap_or(Domain::Memory), writable)
    }

    fn up(
        mut buses: Vec<BusSpec>,
        state: Option<&Path>,
        place: PathBuf,
        domain: Domain,
        writable: bool,
    ) -> Result<Machine> {
        let state = state.map(State::beside);
        let known = match &state {
            Some(path) => State::load(path)?,
            None => State::default(),
        };
        known.apply(&mut buses)?;
        let stack = Stack::new();
        let buses = buses.into_iter().map(|bus| stack.register(bus)).collect();
        stack.settle();
        known.restore(&stack)?;
        let sys = Box::new(LocalSys::new(stack.clone(), writable));
        Ok(Machine {
            sys,
            stack: Some(stack),
            buses,
            state,
            place,
            domain,
            writable,
            again: RefCell::default(),
        })
    }

    /// The tree that verbs work on.
    pub(crate) fn sys(&self) -> &dyn Sys {
        self.sys.as_ref()
    }

    /// The machine itself, where it is not somebody else's.
    pub(crate) fn stack(&self) -> Result<&Stack> {
        self.stack.as_ref().ok_or_else(|| {
            Error::new(Kind::Unsupported, "open target")
                .path(&self.place)
                .found("a running server")
                .accepted("IMAGE, LAB.toml or mem:SIZE")
        })
    }

    /// Keeps what Linux would keep in memory: what is disabled, read-only, or lost.
    pub(crate) fn save(&self) -> Result<()> {
        match (&self.state, &self.stack) {
            (Some(path), Some(stack)) if self.writable => State::of(stack).save(path),
            _ => Ok(()),
        }
    }

    /// Keeps the state, for somebody who outlives this borrow.
    pub(crate) fn keeper(&self) -> impl Fn() -> Result<()> + Send + Sync + 'static {
        let kept = self.state.clone().zip(self.stack.clone()).filter(|_| self.writable);
        move || match &kept {
            Some((path, stack)) => State::of(stack).save(path),
            None => Ok(()),
        }
    }

    /// Takes the buses down, in the order of the tree.
    pub(crate) fn down(&self) {
        let Some(stack) = &self.stack else { return };
        for bus in &self.buses {
            // A bus that is gone is down.
            let _ = stack.unregister(*bus);
        }
    }

    /// Whether an object of this name is there; an error names those that are.
    pub(crate) fn find(&self, name: &str) -> Result<()> {
        let known = self.sys.list("bus/nd/devices")?;
        // A namespace without bytes is one that is yet to be made.
        let size = self.sys.read(&format!("bus/nd/devices/{name}/size"));
        let idle = name.starts_with("namespace") && size.is_ok_and(|size| size.trim() == "0");
        if !idle && known.iter().any(|known| known == name) {
            return Ok(());
        }
        let alike: Vec<String> = known
            .into_iter()
            .filter(|known| {
                known.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
                    == name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
            })
            .filter(|known| {
                self.sys.read(&format!("bus/nd/devices/{known}/size")).is_ok_and(|size| size.trim() != "0")
                    || !known.starts_with("namespace")
            })
            .collect();
        let accepted =
            if alike.is_empty() { "nothing of this kind: it has none".to_owned() } else { alike.join(", ") };
        Err(Error::new(Kind::NotFound, "look for an object").path(&self.place).found(name).accepted(accepted))
    }

    /// Whether a namespace has no driver because something is wrong with it.
    pub(crate) fn has_damage(&self) -> bool {
        let names = self.sys.list("bus/nd/devices").unwrap_or_default();
        names.iter().filter(|name| name.starts_with("namespace")).any(|name| {
            let error = self.sys.read(&format!("bus/nd/devices/{name}/nvstack/error"));
            error.is_ok_and(|words| !words.trim().is_empty())
        })
    }

    /// [`Kind::NotFound`] where no DIMM has a label area.
    pub(crate) fn needs_labels(&self) -> Result<()> {
        let names = self.sys.list("bus/nd/devices")?;
        let mut dimms = names.iter().filter(|name| name.starts_with("nmem"));
        if dimms.any(|dimm| self.sys.label_size(dimm).is_ok()) {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, "look for a label area")
            .path(&self.place)
            .found("no index block")
            .accepted("a label area in the last bytes of the file; --label-size takes them as one"))
    }

    /// The enabled regions on these DIMMs, or on all.
    pub(crate) fn regions_of(&self, dimms: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in self.sys.list("bus/nd/devices")?.into_iter().filter(|name| name.starts_with("region")) {
            let at = format!("bus/nd/devices/{name}");
            let mappings = (0..32).map_while(|n| self.sys.read(&format!("{at}/mapping{n}")).ok());
            let on = mappings.filter_map(|m| m.split(',').next().map(str::to_owned));
            let meant = on.into_iter().any(|dimm| dimms.is_empty() || dimms.contains(&dimm));
            if meant && self.sys.link(&format!("{at}/driver")).is_ok() {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Notes a region that is to come up again.
    pub(crate) fn again(&self, region: &str) {
        self.again.borrow_mut().push(region.to_owned());
    }

    /// Brings the DIMMs and regions up again that were taken down for a verb, with what is on them now.
    pub(crate) fn bring_up_again(&self) {
        let regions = self.again.take();
        if regions.is_empty() {
            return;
        }
        let quiet = &mut nvstack_ndctl::Lines::default();
        let names = self.sys.list("bus/nd/devices").unwrap_or_default();
        for dimm in names.iter().filter(|name| name.starts_with("nmem")) {
            // What it knows of its labels is what was there before.
            let idle =
                self.sys.read(&format!("bus/nd/devices/{dimm}/state")).is_ok_and(|s| s.trim() == "idle");
            let bound = self.sys.link(&format!("bus/nd/devices/{dimm}/driver")).is_ok();
            if idle && bound {
                let which = nvstack_ndctl::EnableOptions::named(dimm);
                let _ = nvstack_ndctl::disable_dimms(self.sys(), &which, quiet);
                let _ = nvstack_ndctl::enable_dimms(self.sys(), &which, quiet);
            }
        }
        for region in regions {
            let _ = nvstack_ndctl::enable_regions(
                self.sys(),
                &nvstack_ndctl::EnableOptions::named(&region),
                quiet,
            );
        }
        let _ = self.sys.read("bus/nd/devices/ndbus0/wait_probe");
    }

    /// Tells on stderr what is wrong with what was found.
    pub(crate) fn tell(&self, command: &str) {
        let Some(stack) = &self.stack else { return };
        let tree = stack.tree();
        let place = self.place.display();
        let mut told = Vec::new();
        for (name, _) in tree.list("bus/nd/devices").unwrap_or_default() {
            let Ok(words) = tree.read(&format!("{name}/nvstack/error")) else { continue };
            for line in words.lines().filter(|line| !line.is_empty()) {
                if name.starts_with("namespace") {
                    told.push(format!("{name} is not usable: {line}"));
                } else {
                    told.push(format!("{name}: {line}"));
                }
            }
        }
        for line in told.iter().take(TOLD) {
            end::warn(command, format_args!("{place}: {line}"));
        }
        if let more @ 1.. = told.len().saturating_sub(TOLD) {
            end::warn(command, format_args!("{place}: {more} more findings"));
        }
    }
}

/// A bus of a lab as the device model takes it.
///
/// A DIMM whose file is missing or no good is there without its bytes. One that somebody else has open is no reason to go on
/// without it: [`Kind::Busy`].
fn bus_of(bus: OpenBus, path: &Path, domain: &mut Option<Domain>) -> Result<BusSpec> {
    let nfit = bus.provider == "ACPI.NFIT";
    let provider = if nfit { Provider::Nfit } else { Provider::Platform(bus.provider) };
    let mut dimms = Vec::with_capacity(bus.dimms.len());
    for dimm in bus.dimms {
        let identity = dimm.identity.map(|i| Identity {
            handle: i.handle,
            phys_id: i.phys_id,
            vendor: i.vendor,
            device: i.device,
            revision: i.revision,
            subsystem_vendor: i.subsystem_vendor,
            subsystem_device: i.subsystem_device,
            subsystem_revision: i.subsystem_revision,
            serial: i.serial,
            made: i.manufacturing.map(|made| (made.location, made.date)),
            format: i.format,
            family: i32::try_from(i.family).unwrap_or(-1),
            flags: dimm.flags.iter().map(|flag| (*flag).to_owned()).collect(),
        });
        let (labels, fault) = match dimm.parts {
            Ok(parts) => (parts.labels, None),
            Err(error) if error.kind() == Kind::Busy => return Err(error),
            Err(error) => (None, Some(error)),
        };
        dimms.push(DimmSpec { identity, labels, fault });
    }
    let mut regions = Vec::with_capacity(bus.regions.len());
    for region in bus.regions {
        let body = match region.body {
            Ok(body) => body,
            Err(error) => {
                end::warn("open", format_args!("{}: a region is left out: {error}", path.display()));
                continue;
            }
        };
        // The weakest of all is what can be promised of the whole.
        let this = body.media.domain();
        *domain = Some(match *domain {
            Some(Domain::PageCache) => Domain::PageCache,
            _ => this,
        });
        let ranged = body.mappings.is_empty();
        regions.push(RegionSpec {
            media: Ok(body.media),
            start: body.start,
            size: body.size,
            mappings: body
                .mappings
                .iter()
                .map(|m| MappingSpec {
                    dimm: m.dimm,
                    dpa: m.dpa.0,
                    size: m.size,
                    position: u16::try_from(m.position).unwrap_or(u16::MAX),
                })
                .collect(),
            cookies: region.cookies,
            range_index: (nfit && !ranged).then_some(u32::from(region.range_index)),
            read_only: region.read_only,
            volatile: region.kind == RegionKind::Volatile,
            align: Some(body.align),
            persistence_domain: match body.persistence {
                Persistence::CpuCache => Some("cpu_cache".to_owned()),
                Persistence::MemoryController => Some("memory_controller".to_owned()),
                Persistence::Unknown => None,
            },
            numa_node: region.numa_node,
            target_node: Some(region.target_node),
        });
    }
    Ok(BusSpec { provider, dimms, regions, idle: Idle::default() })
}
