//! `auth`: who may do what. Deciding by it is [`crate::auth`]'s business.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::glob::Glob;
use super::node::Label;
use super::values::{FromText, leaf_by_text, shown};

/// The section `auth`. Where it is absent, this machine may do all and others nothing without the admin token.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Auth {
    /// What anybody may do without a credential. Default: nothing.
    pub anonymous: Option<Permission>,
    /// Who has a token, and what they may do beside what anybody may. Default: nobody.
    pub users: Vec<User>,
}

/// The section as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
struct Keys {
    anonymous: Option<Permission>,
    users: Vec<User>,
}

/// Most users in the configuration: each presented token is compared with all of them.
const MAX_USERS: usize = 10_000;

impl TryFrom<Keys> for Auth {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Auth, String> {
        if keys.users.len() > MAX_USERS {
            return Err(format!("auth.users has more than {MAX_USERS} users"));
        }
        let (mut names, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        for user in &keys.users {
            if !names.insert(user.name.as_str()) {
                return Err(format!("auth.users has the name {:?} twice", user.name.as_str()));
            }
            if !tokens.insert(user.token_sha256.0) {
                return Err(format!("auth.users: {:?} has the same token as another user", user.name.as_str()));
            }
        }
        Ok(Auth { anonymous: keys.anonymous, users: keys.users })
    }
}

/// What may be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Permission {
    /// Which actions. Default: none.
    pub allow: BTreeSet<Action>,
    /// With which streams; what concerns the whole node needs `**`. Default: all.
    pub streams: Glob,
}

impl Default for Permission {
    fn default() -> Permission {
        Permission { allow: BTreeSet::new(), streams: Glob::everything() }
    }
}

/// One of `auth.users`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a user: name, token_sha256, allow, streams")]
pub struct User {
    /// Shown in the API and in logs; two publishers of one name may take over from each other.
    pub name: Label,
    /// The SHA-256 of the token, 64 hex digits: `printf %s "$TOKEN" | sha256sum`.
    pub token_sha256: TokenHash,
    /// For RTSP clients that show passwords by Digest only: the MD5 of `name:culvert:TOKEN`, 32 hex digits:
    /// `printf %s "cam:culvert:$TOKEN" | md5sum`. Default: none, and then RTSP uses Basic.
    #[serde(default)]
    pub digest_md5: Option<Ha1<16>>,
    /// The same with SHA-256: `printf %s "cam:culvert:$TOKEN" | sha256sum`.
    #[serde(default)]
    pub digest_sha256: Option<Ha1<32>>,
    /// Which actions. Default: none.
    #[serde(default)]
    pub allow: BTreeSet<Action>,
    /// With which streams; what concerns the whole node needs `**`. Default: all.
    #[serde(default = "Glob::everything")]
    pub streams: Glob,
}

/// The SHA-256 of a token. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::logs::MASK)
    }
}

/// The hash of name, realm and token (RFC 7616 3.4.2), in lower-case hex. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1<const BYTES: usize>(pub String);

impl<const BYTES: usize> fmt::Debug for Ha1<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::logs::MASK)
    }
}

impl<const BYTES: usize> FromText for Ha1<BYTES> {
    fn from_text(text: &str) -> Result<Ha1<BYTES>, String> {
        if text.len() != BYTES * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            let tool = if BYTES == 16 { "md5sum" } else { "sha256sum" };
            let digits = BYTES * 2;
            // The text is not repeated: somebody may have written the token itself.
            return Err(format!("this is {digits} hex digits: printf %s \"NAME:culvert:$TOKEN\" | {tool}"));
        }
        Ok(Ha1(text.to_ascii_lowercase()))
    }
}

impl FromText for TokenHash {
    fn from_text(text: &str) -> Result<TokenHash, String> {
        // The text is not repeated: somebody may have written the token itself.
        let why = "token_sha256 is the SHA-256 of the token in 64 hex digits: printf %s \"$TOKEN\" | sha256sum";
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(why.into());
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2).ok_or(why)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| why)?;
        }
        Ok(TokenHash(hash))
    }
}

// With the hash: see the note on `Config`.
impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<const BYTES: usize> Serialize for Ha1<BYTES> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Bring a stream.
    Publish,
    /// See a stream.
    Play,
    /// Ask the API.
    ReadApi,
    /// Change something by the API.
    ChangeApi,
    /// Read `/metrics`.
    Metrics,
    /// Call and see the platforms below.
    Peer,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 6] =
        [Action::Publish, Action::Play, Action::ReadApi, Action::ChangeApi, Action::Metrics, Action::Peer];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Publish => "publish",
            Action::Play => "play",
            Action::ReadApi => "read-api",
            Action::ChangeApi => "change-api",
            Action::Metrics => "metrics",
            Action::Peer => "peer",
        }
    }
}

impl FromText for Action {
    fn from_text(text: &str) -> Result<Action, String> {
        let words = Action::ALL.map(Action::name).join(", ");
        let known = Action::ALL.into_iter().find(|action| action.name() == text);
        known.ok_or_else(|| format!("{} is no action; the actions are {words}", shown(text)))
    }
}
leaf_by_text!(TokenHash, Action, Ha1<16>, Ha1<32>);

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}
