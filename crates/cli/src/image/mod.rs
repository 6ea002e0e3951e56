// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image file, and what is on it.
//!
//! The label area lies in the last bytes, found by its index blocks or given by its size; what comes before is the
//! persistent memory of one DIMM, and of one region. Labels cut it into namespaces, numbered in the order of their
//! start; without labels it is one namespace. Which interleave set a DIMM is in is told by the machine's tables, not
//! by the image. So labels are taken if they agree among themselves; one that carries another set's cookie is left out,
//! as Linux would.
//!
//! Opening writes nothing, and what is wrong with one label or namespace is told and stays its own.

mod area;
mod assemble;
mod model;
mod probe;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Label, Version};
use nvstack_label::LabelArea;
use nvstack_media::{Access, Error, Kind, Mapping, Media, MediaOffset, Part, Result};
use uuid::Uuid;

use crate::args::TargetArgs;
use crate::end;

pub(crate) use assemble::qemu_cookie;
pub(crate) use model::{LabelInfo, LabelState, Namespace, Personality, REGION_ALIGN, Region};

/// Linux maps memory by pages, and so does every region.
const PAGE: u64 = 4096;

/// Findings that are told one by one; of a hostile area there may be any number.
const TOLD: usize = 20;

/// A part of an image's mapping.
pub(crate) type ImagePart = Part<Arc<Mapping>>;

/// An open, locked image.
pub(crate) struct Image {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Its region.
    pub(crate) region: Region,
    /// Its namespaces, in order.
    pub(crate) namespaces: Vec<Namespace>,
    mapping: Arc<Mapping>,
    labels: Option<LabelArea<ImagePart>>,
    findings: Vec<Error>,
}

impl Image {
    /// Opens an image under a lock, exclusive for writing. `label_size` is that of its label area, 0 for none, where
    /// it is not to be looked for.
    pub(crate) fn open(path: &Path, label_size: Option<u64>, access: Access) -> Result<Image> {
        let mapping = Arc::new(Mapping::open_locked(path, access)?);
        Image::of_mapping(mapping, path, label_size).map_err(|e| e.path(path))
    }

    /// Opens the image of a command that only looks, and tells what is wrong with it.
    pub(crate) fn open_to_read(command: &str, target: &TargetArgs) -> Result<Image> {
        let image = Image::open(target.target.image()?, target.label_size, Access::ReadOnly)?;
        image.tell(command);
        Ok(image)
    }

    /// What is on a mapping.
    pub(crate) fn of_mapping(mapping: Arc<Mapping>, path: &Path, label_size: Option<u64>) -> Result<Image> {
        let found = area::find(&mapping, label_size)?;
        let size = mapping.len().saturating_sub(found.size) / PAGE * PAGE;
        if size == 0 {
            return Err(Error::new(Kind::Invalid, "open image")
                .found(format_args!("{} bytes, {} of them for labels", mapping.len(), found.size))
                .accepted(format_args!("{PAGE} bytes or more beside the labels")));
        }
        let mut image = Image {
            path: path.to_path_buf(),
            region: Region { size, labels: LabelState::None, dimm: 1 },
            namespaces: Vec::new(),
            mapping,
            labels: None,
            findings: Vec::new(),
        };
        if let Some(area) = found.area.as_ref().filter(|a| a.index().is_some()) {
            image.assemble(area)?;
        } else if let Some(cause) = found.damage {
            let personality = Personality::Damaged { cause, from_backup: None };
            image.namespaces.push(Namespace { index: 0, start: 0, size, label: None, personality });
        } else {
            image.add(0, size, None)?;
        }
        image.labels = found.area;
        Ok(image)
    }

    /// Makes the namespaces of the labels in an area.
    fn assemble(&mut self, area: &LabelArea<ImagePart>) -> Result<()> {
        let Some(index) = area.index() else { return Ok(()) };
        let (layout, version) = (*index.layout(), index.layout().version);
        let mut found = Vec::new();
        for slot in area.slots()? {
            let at = area.media().base().plus(layout.slot(slot.number).unwrap_or(0));
            match slot.label {
                Ok(label) => found.push(assemble::Found { at, label }),
                Err(finding) => {
                    let operation = format!("use label in slot {}", slot.number);
                    self.findings.push(Error::invalid(Kind::Corrupt, operation, at, finding));
                }
            }
        }
        let assembled = assemble::assemble(found, version, self.region.size);
        self.findings.extend(assembled.findings);
        self.region.dimm = assembled.owner.and_then(assemble::Owner::dimm).unwrap_or(1);
        let cookie = assembled.owner.map_or_else(|| qemu_cookie(1, version), |o| o.cookie(version));
        self.region.labels = LabelState::Set(cookie);
        if let Some(assemble::Owner::Set(cookie)) = assembled.owner {
            self.findings.push(
                Error::new(Kind::Unsupported, "match labels with a DIMM")
                    .found(format_args!("interleave-set cookie {cookie:#x}"))
                    .accepted("that of an nvdimm of a QEMU; Linux shows these namespaces only on the DIMM that they were made on"),
            );
        }
        for label in assembled.labels {
            self.add(label.dpa.0, label.rawsize, Some((label, version)))?;
        }
        Ok(())
    }

    /// Adds the next namespace, probed.
    fn add(&mut self, start: u64, size: u64, label: Option<(Label, Version)>) -> Result<()> {
        let part = Part::new(Arc::clone(&self.mapping), MediaOffset(start), size)?;
        let (uuid, claim) = label.map_or((Uuid::nil(), ClaimClass::None), |(l, _)| (l.uuid, l.claim()));
        let personality = match probe::probe(&part, probe::Subject { claim, uuid, start }) {
            Ok(personality) => personality,
            // Lost bytes under an info block are this namespace's trouble; its neighbours are read all the same.
            Err(cause) => Personality::Damaged { cause, from_backup: None },
        };
        let label =
            label.map(|(l, _)| LabelInfo { uuid: l.uuid, name: l.name.to_string(), lbasize: l.lbasize });
        self.namespaces.push(Namespace { index: self.namespaces.len(), start, size, label, personality });
        Ok(())
    }

    /// Tells on stderr what is wrong with the image.
    pub(crate) fn tell(&self, command: &str) {
        let path = self.path.display();
        for finding in self.findings.iter().take(TOLD) {
            end::warn(command, format_args!("{path}: {finding}"));
        }
        if let more @ 1.. = self.findings.len().saturating_sub(TOLD) {
            end::warn(command, format_args!("{path}: {more} more labels are left out"));
        }
        let damaged = self.namespaces.iter().filter_map(|n| match &n.personality {
            Personality::Damaged { cause, from_backup } => Some((n, cause, from_backup)),
            _ => None,
        });
        for (n, cause, from_backup) in damaged.clone().take(TOLD) {
            let backup = from_backup.map_or("", |_| "; its backup info block is whole");
            end::warn(command, format_args!("{path}: {} is not usable: {cause}{backup}", n.name()));
        }
        if let more @ 1.. = damaged.count().saturating_sub(TOLD) {
            end::warn(command, format_args!("{path}: {more} more namespaces are not usable"));
        }
    }

    /// The namespace of a name.
    pub(crate) fn namespace(&self, name: &str) -> Result<&Namespace> {
        self.namespaces.iter().find(|n| n.name() == name).ok_or_else(|| {
            let known: Vec<String> = self.namespaces.iter().map(Namespace::name).collect();
            let known =
                if known.is_empty() { "nothing: it has no namespace".into() } else { known.join(", ") };
            Error::new(Kind::NotFound, "look for a namespace").path(&self.path).found(name).accepted(known)
        })
    }

    /// The bytes of a namespace.
    pub(crate) fn media(&self, n: &Namespace) -> Result<ImagePart> {
        Part::new(Arc::clone(&self.mapping), MediaOffset(n.start), n.size)
    }

    /// The mapping under it all.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The label area; it may be blank.
    pub(crate) fn labels(&self) -> Option<&LabelArea<ImagePart>> {
        self.labels.as_ref()
    }

    /// Bytes that Linux could still give to namespaces, all of them and in one piece.
    pub(crate) fn available(&self) -> (u64, u64) {
        if self.region.labels == LabelState::None {
            return (0, 0);
        }
        let align = self.region.align();
        let mut free = 0u64;
        let (mut total, mut largest) = (0u64, 0u64);
        let ends = self.namespaces.iter().map(|n| (n.start, n.start.saturating_add(n.size)));
        for (start, end) in ends.chain([(self.region.size, self.region.size)]) {
            let gap = (start / align * align).saturating_sub(free.next_multiple_of(align));
            total += gap;
            largest = largest.max(gap);
            free = end;
        }
        (total, largest)
    }
}
