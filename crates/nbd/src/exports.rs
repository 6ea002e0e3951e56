// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices that are served, by name.

use std::sync::{Arc, PoisonError, Weak};

use nvstack_block::BlockDevice;
use nvstack_media::{Error, Kind, Result};

use crate::proto::{BlockSize, ExportInfo, MAX_STRING, TransmissionFlags, string};
use crate::stream::Stream;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::{MAX_REQUEST, PIECE};

/// One device under one name.
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) device: Arc<dyn BlockDevice>,
    gone: AtomicBool,
    clients: Mutex<Vec<Weak<Stream>>>,
}

impl Export {
    /// Whether it has been removed: every request from now on fails.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Notes a connection that has begun to use it. One that comes too late is told so at once.
    pub(crate) fn join(&self, stream: &Arc<Stream>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(stream));
        if self.is_gone() {
            stream.stop_receiving();
        }
    }

    fn leave(&self) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        self.gone.store(true, Ordering::Release);
        for stream in clients.iter().filter_map(Weak::upgrade) {
            stream.stop_receiving();
        }
    }

    /// What a client must know before it begins. `structured` tells whether it has agreed to structured replies.
    pub(crate) fn info(&self, structured: bool) -> ExportInfo {
        use TransmissionFlags as F;
        let geometry = self.device.geometry();
        // A flush costs a device without a volatile cache next to nothing, and clients' own sync paths want one.
        let mut flags = F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::CAN_MULTI_CONN | F::SEND_CACHE;
        flags.set(F::SEND_DF, structured);
        flags.set(F::READ_ONLY, geometry.read_only);
        flags.set(F::SEND_TRIM, geometry.discard && !geometry.read_only);
        flags.set(F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO, !geometry.read_only);
        ExportInfo { size: geometry.bytes(), flags }
    }

    /// The sizes that its requests must have.
    pub(crate) fn block_size(&self) -> BlockSize {
        let geometry = self.device.geometry();
        let minimum = geometry.sector_size;
        let preferred = match geometry.preferred.clamp(minimum.max(512), MAX_REQUEST) {
            size if size.is_power_of_two() => size,
            _ => minimum.max(512),
        };
        BlockSize { minimum, preferred, maximum: MAX_REQUEST }
    }
}

/// The devices that a server offers, by name; the first is the default one. Devices may be added and removed while
/// servers run, and several servers may share one table.
#[derive(Default)]
pub struct Exports(RwLock<Vec<Arc<Export>>>);

impl Exports {
    /// A table without devices.
    #[must_use]
    pub fn new() -> Exports {
        Exports::default()
    }

    /// Offers a device under a name, with a text for people (may be empty).
    ///
    /// # Errors
    /// [`Kind::Exists`] if the name is taken; [`Kind::Invalid`] if the name is empty (that means the default export),
    /// holds a NUL or more than 4096 bytes, or if the device's sectors cannot be told to NBD clients, which know
    /// powers of two up to 64 KiB.
    pub fn add(
        &self,
        name: impl Into<String>,
        description: impl Into<String>,
        device: Arc<dyn BlockDevice>,
    ) -> Result<()> {
        let (name, description) = (name.into(), description.into());
        let refuse = |kind| Error::new(kind, "add NBD export");
        if name.is_empty() || string(name.as_bytes()).is_err() || string(description.as_bytes()).is_err() {
            return Err(refuse(Kind::Invalid)
                .found(format_args!("name {name:?}, description {description:?}"))
                .accepted(format_args!("a name, and texts without NUL of at most {MAX_STRING} bytes")));
        }
        let size = device.geometry().sector_size;
        if !size.is_power_of_two() || size > 1 << 16 || crate::usize_of(size) > PIECE {
            return Err(refuse(Kind::Invalid)
                .found(format_args!("sectors of {size} bytes"))
                .accepted("powers of two up to 65536"));
        }
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if table.iter().any(|export| export.name == name) {
            return Err(refuse(Kind::Exists)
                .found(format_args!("an export {name:?}"))
                .accepted("an unused name"));
        }
        let export =
            Export { name, description, device, gone: AtomicBool::new(false), clients: Mutex::default() };
        table.push(Arc::new(export));
        Ok(())
    }

    /// Takes a device off the table and gives it back; `None` if there is none of that name.
    ///
    /// Requests in progress are finished; those that follow get `ESHUTDOWN`, and the connections that use the device
    /// end, each letting go of the device as it does. Nothing is flushed: that is for the caller, who now has the device.
    pub fn remove(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        let export = {
            let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let at = table.iter().position(|export| export.name == name)?;
            table.remove(at)
        };
        export.leave();
        Some(export.device.clone())
    }

    /// Connections that use a device now.
    #[must_use]
    pub fn clients(&self, name: &str) -> usize {
        let Some(export) = self.all().into_iter().find(|export| export.name == name) else { return 0 };
        let clients = export.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.iter().filter(|client| client.strong_count() > 0).count()
    }

    /// The names, in the order in which they were added.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.all().iter().map(|export| export.name.clone()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Export>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The export of a name as a client gives it: empty for the first.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Export>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().find(|export| name.is_empty() || export.name == name).cloned()
    }

    /// Flushes every device, and gives the first error.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut outcome = Ok(());
        for export in self.all() {
            if let (Err(error), true) = (export.device.flush(), outcome.is_ok()) {
                let name = format!("flush NBD export {:?}", export.name);
                outcome = Err(Error::new(error.kind(), name).because(error));
            }
        }
        outcome
    }
}
