//! `tls`: the certificate of the one port. Which bytes it has is the door's business; here are only the paths.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The section `tls`; where it is absent the port speaks plain text only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub enum Tls {
    /// A certificate chain and its key, both PEM.
    Files {
        /// The chain, the node's own certificate first.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
        /// PEM; see [`Tls::client_ca`].
        client_ca: Option<PathBuf>,
    },
    /// A certificate that the node makes for itself: for a first try; browsers will warn.
    SelfSigned {
        /// PEM; see [`Tls::client_ca`].
        client_ca: Option<PathBuf>,
    },
}

impl Tls {
    /// The authority whose certificates platforms below may show instead of a token: the certificate's DNS name is then
    /// the cid.
    pub fn client_ca(&self) -> Option<&Path> {
        match self {
            Tls::Files { client_ca, .. } | Tls::SelfSigned { client_ca } => client_ca.as_deref(),
        }
    }
}

/// The section as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
struct Keys {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    self_signed: bool,
    client_ca: Option<PathBuf>,
}

impl TryFrom<Keys> for Tls {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Tls, &'static str> {
        let client_ca = keys.client_ca;
        match (keys.cert, keys.key, keys.self_signed) {
            (Some(cert), Some(key), false) => Ok(Tls::Files { cert, key, client_ca }),
            (None, None, true) => Ok(Tls::SelfSigned { client_ca }),
            (Some(_), None, false) => Err("tls has a cert but no key; give the path of the private key, too"),
            (None, Some(_), false) => Err("tls has a key but no cert; give the path of the certificate, too"),
            (None, None, false) => {
                Err("tls needs cert and key, or self_signed: true; leave the whole section out for a plain port")
            }
            (_, _, true) => Err("tls has files and self_signed: true; only one of them can be"),
        }
    }
}

impl From<Tls> for Keys {
    fn from(tls: Tls) -> Keys {
        match tls {
            Tls::Files { cert, key, client_ca } => {
                Keys { cert: Some(cert), key: Some(key), self_signed: false, client_ca }
            }
            Tls::SelfSigned { client_ca } => Keys { cert: None, key: None, self_signed: true, client_ca },
        }
    }
}
