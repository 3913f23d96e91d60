//! Small files in `data_dir` that this node writes for itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Writes a file so that it is there as a whole or not at all, also after a power cut: aside, synced, renamed.
pub(crate) fn keep(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    // Left by a start that was cut short; its mode is not to be trusted.
    match fs::remove_file(&aside) {
        Ok(()) => {}
        Err(why) if why.kind() == ErrorKind::NotFound => {}
        Err(why) => return Err(why),
    }
    let mut file = create(&aside, mode)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    // The rename itself is lasting once the folder is synced.
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

#[cfg(unix)]
fn create(path: &Path, mode: u32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

#[cfg(not(unix))]
fn create(path: &Path, _mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}
