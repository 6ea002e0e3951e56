// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack lab init`: a description of a lab to begin with, and its files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvstack_lab::{Interleaving, Lab, Template, TemplateDimm, TemplateSet};
use nvstack_label::LabelArea;
use nvstack_media::{Access, Error, Kind, Mapping, Media, MediaOffset, Part, Result};

use crate::args::{LabArgs, LabChore, LabInitArgs};
use crate::end::note;
use crate::verbs::version;

/// `nvstack lab ...`.
pub(crate) fn run(args: &LabArgs) -> Result<()> {
    match &args.chore {
        LabChore::Init(args) => init(args),
    }
}

fn init(args: &LabInitArgs) -> Result<()> {
    let folder = args.lab.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut made = Made(Vec::new());
    let mut dimms = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let fresh = match file.symlink_metadata() {
            Ok(_) => false,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let Some(size) = args.size else {
                    return Err(Error::os("look for image", e)
                        .path(file)
                        .accepted("a file, or --size to make one"));
                };
                made.0.push(file.clone());
                make(file, size, args)?;
                true
            }
            Err(e) => return Err(Error::os("look for image", e).path(file)),
        };
        let named = file.strip_prefix(folder).unwrap_or(file);
        let relative = folder == Path::new(".") || file.starts_with(folder) || file.is_absolute();
        let shown =
            if relative { named.to_path_buf() } else { std::path::absolute(file).unwrap_or(file.clone()) };
        let Some(text) = shown.to_str() else {
            return Err(Error::new(Kind::Invalid, "make lab").path(file).found("a name that is no UTF-8"));
        };
        let label_size = (fresh && args.label_version.is_none()).then_some(args.label_size);
        dimms.push(TemplateDimm { file: text.to_owned(), size: None, label_size });
    }
    let sets = match args.interleave {
        Some(lines) => {
            vec![TemplateSet { dimms: (0..dimms.len()).collect(), interleaving: Interleaving::Lines(lines) }]
        }
        None => Vec::new(),
    };
    let text = Template { dimms, sets }.render();
    // What is written must be what opens.
    Lab::parse(&text, &args.lab)?;
    let mut lab = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.lab)
        .map_err(|e| Error::os("make lab", e).path(&args.lab))?;
    made.0.push(args.lab.clone());
    lab.write_all(text.as_bytes())
        .and_then(|()| lab.sync_all())
        .map_err(|e| Error::os("write lab", e).path(&args.lab))?;
    made.0.clear();
    note("lab", format_args!("made {} of {} DIMMs", args.lab.display(), args.files.len()));
    Ok(())
}

/// Files that are removed unless all was made.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn make(path: &Path, size: u64, args: &LabInitArgs) -> Result<()> {
    let failed = |e| Error::os("make image", e).path(path);
    let file: File = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    let Some(wanted) = args.label_version else { return Ok(()) };
    let mapping: Arc<dyn Media> = Arc::new(Mapping::from_file(file, path, Access::ReadWrite)?);
    let at = MediaOffset(size.saturating_sub(args.label_size));
    let area = Part::new(mapping, at, args.label_size)?;
    LabelArea::init(area, version(wanted)).map(|_| ())
}
