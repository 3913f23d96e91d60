//! What a node makes for itself at its first start and keeps in `data_dir`: its platform id and its admin token.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use culvert_media::Cid;
use thiserror::Error;

use super::kept;
use super::node::Node;

/// Who this node is, once it runs.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// The platform id.
    pub cid: Cid,
    /// For people; the cid where the configuration has none.
    pub name: Arc<str>,
    /// From the configuration.
    pub serial: Option<Arc<str>>,
    /// Who shows it may do all.
    pub admin_token: AdminToken,
    /// Where it is kept, to tell people; the token itself is never printed.
    pub admin_token_file: PathBuf,
    /// Whether it was made just now: the first start.
    pub first_start: bool,
}

/// The admin token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(Arc<str>);

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file or the folder of `data_dir`.
    #[error("{}: {doing}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What came of it.
        why: io::Error,
    },
    /// What is kept there is not what was put there.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The token file can be read by others.
    #[error("{}: others can read this file (mode {mode:03o}), so its token may be known; run `chmod 600 {}`, or delete it \
             to get a new token at the next start", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system has no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
}

impl NodeIdentity {
    /// Reads what is in `data_dir`, and makes what is missing.
    pub fn load_or_make(node: &Node) -> Result<NodeIdentity, IdentityError> {
        let folder = &node.data_dir;
        fs::create_dir_all(folder).map_err(|why| failed(folder, "making this folder", why))?;
        let cid = match &node.cid {
            Some(cid) => cid.clone(),
            None => kept_cid(&folder.join("cid"))?,
        };
        let admin_token_file = folder.join("admin-token");
        let (admin_token, first_start) = kept_token(&admin_token_file)?;
        let name = node.name.as_ref().map_or_else(|| cid.as_str().into(), |name| name.as_str().into());
        let serial = node.serial.as_ref().map(|serial| serial.as_str().into());
        Ok(NodeIdentity { cid, name, serial, admin_token, admin_token_file, first_start })
    }
}

impl AdminToken {
    /// Shortest token that is accepted from the file: somebody may have put an own one there.
    const MIN_BYTES: usize = 16;
    /// Longest.
    const MAX_BYTES: usize = 256;

    /// 32 random bytes as base64url.
    pub fn random() -> Result<AdminToken, IdentityError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        Ok(AdminToken(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// The token itself, to compare or to send; never to log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::logs::MASK)
    }
}

fn kept_cid(path: &Path) -> Result<Cid, IdentityError> {
    let wrong = |why: String| IdentityError::Content { path: path.to_path_buf(), why };
    match open(path)? {
        Some(mut file) => Cid::parse(text(&mut file, path)?.trim())
            .map_err(|why| wrong(format!("{why}; delete the file to get a new one, or set node.cid"))),
        None => {
            let cid = Cid::parse(&random_uuid()?).map_err(|why| wrong(why.to_string()))?;
            keep(path, cid.as_str(), 0o644)?;
            Ok(cid)
        }
    }
}

/// The token, and whether it is new.
fn kept_token(path: &Path) -> Result<(AdminToken, bool), IdentityError> {
    let Some(mut file) = open(path)? else {
        let token = AdminToken::random()?;
        keep(path, token.reveal(), 0o600)?;
        return Ok((token, true));
    };
    refuse_exposed(&file, path)?;
    let token = text(&mut file, path)?;
    let token = token.trim();
    let fits = (AdminToken::MIN_BYTES..=AdminToken::MAX_BYTES).contains(&token.len());
    if !fits || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let why = "this is no admin token (16 to 256 visible characters); delete the file to get a new one".to_string();
        return Err(IdentityError::Content { path: path.to_path_buf(), why });
    }
    Ok((AdminToken(token.into()), false))
}

/// A UUID version 4 (RFC 9562 5.4).
fn random_uuid() -> Result<String, IdentityError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{number:032x}");
    let mut uuid = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    Ok(uuid)
}

fn open(path: &Path) -> Result<Option<File>, IdentityError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(failed(path, "opening this file", why)),
    }
}

fn text(file: &mut File, path: &Path) -> Result<String, IdentityError> {
    /// More than anything that is kept this way.
    const MOST: u64 = 4096;
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|why| failed(path, "reading this file", why))?;
    Ok(text)
}

fn keep(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    kept::keep(path, text, mode).map_err(|why| failed(path, "writing this file", why))
}

#[cfg(unix)]
fn refuse_exposed(file: &File, path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let about = file.metadata().map_err(|why| failed(path, "looking at this file", why))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_path_buf(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_file: &File, _path: &Path) -> Result<(), IdentityError> {
    Ok(())
}

fn failed(path: &Path, doing: &'static str, why: io::Error) -> IdentityError {
    IdentityError::Io { path: path.to_path_buf(), doing, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(folder: &Path) -> Node {
        Node { data_dir: folder.join("data"), ..Node::default() }
    }

    #[test]
    fn the_first_start_makes_an_id_and_a_token_and_the_second_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let first = NodeIdentity::load_or_make(&node(folder.path())).unwrap();
        let second = NodeIdentity::load_or_make(&node(folder.path())).unwrap();
        assert_eq!((first.first_start, second.first_start), (true, false));
        assert_eq!((&first.cid, &first.admin_token), (&second.cid, &second.admin_token));
        assert_eq!(first.admin_token.reveal().len(), 43);
        assert!(!format!("{first:?}").contains(first.admin_token.reveal()));
        let uuid = first.cid.as_str();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]));
        assert_eq!(&*first.name, uuid);
        let left: Vec<_> = fs::read_dir(folder.path().join("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_configured_id_is_used_and_none_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node { cid: Some(Cid::parse("edge7").unwrap()), ..node(folder.path()) };
        assert_eq!(NodeIdentity::load_or_make(&node).unwrap().cid.as_str(), "edge7");
        assert!(!node.data_dir.join("cid").exists());
    }

    #[cfg(unix)]
    #[test]
    fn the_token_file_is_for_its_owner_alone_and_refused_otherwise() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let made = NodeIdentity::load_or_make(&node(folder.path())).unwrap();
        let file = &made.admin_token_file;
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            let refused = NodeIdentity::load_or_make(&node(folder.path())).unwrap_err().to_string();
            assert!(refused.contains(&format!("mode {mode:03o}")) && refused.contains("chmod 600"), "{refused}");
            assert!(!refused.contains(made.admin_token.reveal()));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let made = NodeIdentity::load_or_make(&node(folder.path())).unwrap();
        fs::write(&made.admin_token_file, "short").unwrap();
        let refused = NodeIdentity::load_or_make(&node(folder.path())).unwrap_err().to_string();
        assert!(refused.contains("delete the file"), "{refused}");
        fs::write(folder.path().join("data/cid"), "").unwrap();
        let refused = NodeIdentity::load_or_make(&node(folder.path())).unwrap_err().to_string();
        assert!(
            refused.contains("a platform id has 1 to 64 characters") && refused.contains("delete the file"),
            "{refused}"
        );
    }
}
