//! Who somebody is and what they may do: [`identify`] and [`authorize`], both pure and the same for every protocol,
//! `Rules::admit_link` for platforms below, and [`Guard`], which asks them for the whole node.
//!
//! It does not know what a protocol calls a refusal, nor where a credential stood; the doors find both.

mod failures;
mod guard;
mod links;
mod tickets;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use culvert_hub::{Credentials, Digest, Refusal};
use culvert_media::{Cid, StreamName};
use culvert_rtsp::wire::auth::{Algorithm, ha1, response};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

pub use self::guard::{Guard, Shown};
pub use self::links::Dialler;
pub use crate::config::Action;
use crate::config::{AdminToken, CidPattern, Config, OldPeers, Permission};

/// Who somebody is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// Anybody, from anywhere.
    Anonymous,
    /// Somebody on this machine, where the configuration has no `auth` section.
    Loopback,
    /// Who has the admin token.
    Admin,
    /// One of `auth.users`, by its token.
    User(Arc<str>),
    /// An upper of ours, through the link to it. What it may call was decided by `cascade.allow` before the router.
    Upper(Arc<str>),
    /// A platform below, by a token of `cascade.lowers.admit`, which is for these ids.
    Lower(Arc<[CidPattern]>),
    /// An old peer of `cascade.lowers.old_peers`, which pushes under this id. It shows no more than its address.
    Old(Cid),
}

impl From<&Identity> for culvert_hub::Identity {
    fn from(identity: &Identity) -> culvert_hub::Identity {
        match identity {
            Identity::Anonymous => culvert_hub::Identity::anonymous(),
            // Two programs on this machine are not one publisher: neither may take over from the other.
            Identity::Loopback => culvert_hub::Identity { name: "loopback".into(), proven: false },
            Identity::Admin => culvert_hub::Identity::proven("admin"),
            // With a prefix, so that a user called admin is not the admin.
            Identity::User(name) => culvert_hub::Identity::proven(&format!("user:{name}")),
            Identity::Upper(name) => culvert_hub::Identity::proven(&format!("upper:{name}")),
            // Whoever may have an id may take over its streams, as he may take over its link.
            Identity::Lower(cids) => culvert_hub::Identity::proven(&format!("lower:{}", joined(cids))),
            // Likewise: its push that comes back must not wait for one that is half-open (OLD_PEERS.md 5, line 11).
            Identity::Old(cid) => culvert_hub::Identity::proven(&format!("m7s:{cid}")),
        }
    }
}

/// What an action is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource<'a> {
    /// One stream.
    Stream(&'a StreamName),
    /// The node as a whole.
    Node,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Stream(name) => write!(f, "the stream {name}"),
            Resource::Node => f.write_str("the whole node"),
        }
    }
}

/// What the configuration says about permission, ready to be asked.
#[derive(Clone, Debug)]
pub struct Rules {
    admin: Hash,
    /// The same for the user `admin`.
    admin_ha1: [Arc<str>; 2],
    /// Whether this machine may do all: there is no `auth` section.
    open_to_loopback: bool,
    anonymous: Permission,
    users: Arc<[Known]>,
    lowers: Arc<[Lower]>,
    /// The ids for which `cascade.lowers.admit` has rows without a token.
    by_certificate: Arc<[CidPattern]>,
    old_peers: OldPeers,
    /// Every certificate of the authority is for the id that it names: any id may be somebody's.
    any_by_certificate: bool,
    wait_for_stream: Duration,
}

#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    token: Hash,
    /// Name, realm and token, hashed by MD5 and SHA-256.
    ha1: [Option<Arc<str>>; 2],
    permission: Permission,
}

/// A token of `cascade.lowers.admit`, once, with the ids of all of its rows.
#[derive(Clone, Debug)]
struct Lower {
    token: Hash,
    cids: Arc<[CidPattern]>,
}

/// The SHA-256 of a secret. `Debug` does not show it. In words: with thousands of tokens, comparing byte by byte would
/// be most of what it costs to let a platform in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hash([u64; 4]);

impl Hash {
    fn of(secret: &str) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Hash::from(hash)
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Hash {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Hash(words)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::logs::MASK)
    }
}

impl Rules {
    /// The rules of this configuration.
    pub fn new(config: &Config, admin: &AdminToken) -> Rules {
        let auth = config.auth.clone().unwrap_or_default();
        let users = auth.users.into_iter().map(|user| Known {
            name: user.name.as_str().into(),
            token: user.token_sha256.0.into(),
            ha1: [user.digest_md5.map(|ha1| ha1.0.into()), user.digest_sha256.map(|ha1| ha1.0.into())],
            permission: Permission { allow: user.allow, streams: user.streams },
        });
        let mut lowers: BTreeMap<Hash, Vec<CidPattern>> = BTreeMap::new();
        let mut by_certificate = Vec::new();
        for row in &config.cascade.lowers.admit {
            match row.token_sha256 {
                Some(token) => lowers.entry(token.0.into()).or_default().push(row.cid.clone()),
                None => by_certificate.push(row.cid.clone()),
            }
        }
        let client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca().is_some());
        Rules {
            any_by_certificate: client_ca && by_certificate.is_empty(),
            admin: Hash::of(admin.reveal()),
            admin_ha1: [Algorithm::Md5, Algorithm::Sha256]
                .map(|algorithm| ha1(algorithm, ADMIN, culvert_rtsp::REALM, admin.reveal()).into()),
            open_to_loopback: config.auth.is_none(),
            anonymous: auth.anonymous.unwrap_or_default(),
            users: users.collect(),
            lowers: lowers.into_iter().map(|(token, cids)| Lower { token, cids: cids.into() }).collect(),
            by_certificate: by_certificate.into(),
            old_peers: config.cascade.lowers.old_peers.clone(),
            wait_for_stream: config.limits.wait_for_stream.get(),
        }
    }

    /// Whose token this is. The time it takes does not depend on whose (security.md S30).
    fn owner(&self, token: &Hash) -> Option<Identity> {
        // 0 is nobody, 1 the admin, 2 and up the users and behind them the platforms below.
        let mut owner = 0_u64;
        let users = self.users.iter().map(|user| &user.token);
        let lowers = self.lowers.iter().map(|lower| &lower.token);
        let hashes = std::iter::once(&self.admin).chain(users).chain(lowers);
        for (index, hash) in (1_u64..).zip(hashes) {
            let same: Choice = hash.0.ct_eq(&token.0);
            // Of two that are the same the first counts: a user with the admin's token does not lock the admin out.
            let free = owner.ct_eq(&0);
            owner.conditional_assign(&index, same & free);
        }
        match owner {
            0 => None,
            1 => Some(Identity::Admin),
            index => {
                let index = usize::try_from(index - 2).ok()?;
                match self.users.get(index) {
                    Some(user) => Some(Identity::User(user.name.clone())),
                    None => {
                        let lower = self.lowers.get(index.checked_sub(self.users.len())?)?;
                        Some(Identity::Lower(lower.cids.clone()))
                    }
                }
            }
        }
    }
}

/// The user of the admin token, where a protocol wants one.
const ADMIN: &str = "admin";

impl Rules {
    /// Whose password a digest shows.
    fn owner_by_digest(&self, digest: &Digest) -> Option<Identity> {
        let (at, algorithm) = if digest.sha256 { (1, Algorithm::Sha256) } else { (0, Algorithm::Md5) };
        let right = |ha1: &str| -> bool {
            let due = response(algorithm, ha1, &digest.middle, &digest.a2);
            due.as_bytes().ct_eq(digest.response.as_bytes()).into()
        };
        if digest.user == ADMIN && right(self.admin_ha1.get(at)?) {
            return Some(Identity::Admin);
        }
        let user = self.users.iter().find(|user| *user.name == *digest.user)?;
        right(user.ha1.get(at)?.as_deref()?).then(|| Identity::User(user.name.clone()))
    }

    /// Whether there is somebody whose digest this could be.
    fn has_digest(&self, digest: &Digest) -> bool {
        let at = usize::from(digest.sha256);
        let known = |user: &Known| *user.name == *digest.user && user.ha1.get(at).is_some_and(Option::is_some);
        digest.user == ADMIN || self.users.iter().any(known)
    }

    /// Which digests some user can be known by.
    fn digests(&self) -> Vec<Algorithm> {
        let known = |at: usize| self.users.iter().any(|user| user.ha1.get(at).is_some_and(Option::is_some));
        let all = [(0, Algorithm::Md5), (1, Algorithm::Sha256)];
        all.into_iter().filter(|(at, _)| known(*at)).map(|(_, algorithm)| algorithm).collect()
    }
}

/// How to send a credential, as the end of a sentence.
const HOW: &str = "send a token as ?token=TOKEN, as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic or of an RTMP URL";

/// Who this is. A secret that nobody has is refused even where none would do: who sends one means to be somebody.
pub fn identify(rules: &Rules, remote: IpAddr, credentials: &Credentials) -> Result<Identity, Refusal> {
    match &credentials.secret {
        Some(secret) => rules.owner(&Hash::of(secret)).ok_or_else(wrong_token),
        // `::ffff:127.0.0.1` is what a socket for both families says of 127.0.0.1.
        None if rules.open_to_loopback && remote.to_canonical().is_loopback() => Ok(Identity::Loopback),
        None => Ok(Identity::Anonymous),
    }
}

fn wrong_token() -> Refusal {
    Refusal::Unauthorized("this token is not known here; check it, or send none if none is needed".into())
}

/// Whether this identity may do this.
pub fn authorize(rules: &Rules, identity: &Identity, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
    let what = action.name();
    match identity {
        Identity::Admin => Ok(()),
        Identity::Loopback if rules.open_to_loopback => Ok(()),
        Identity::Loopback | Identity::Anonymous => {
            if allows(&rules.anonymous, action, resource) {
                return Ok(());
            }
            let why = if rules.open_to_loopback {
                format!(
                    "{what} of {resource} needs the admin token (the file admin-token in data_dir), since this node has no \
                     auth section and this does not come from its own machine; {HOW}"
                )
            } else {
                format!("{what} of {resource} needs a credential; {HOW}")
            };
            Err(Refusal::Unauthorized(why))
        }
        Identity::User(name) => {
            let Some(user) = rules.users.iter().find(|user| user.name == *name) else {
                return Err(Refusal::Unauthorized(format!("the user {name} is no longer known here; {HOW}")));
            };
            if allows(&rules.anonymous, action, resource) || allows(&user.permission, action, resource) {
                return Ok(());
            }
            let permission = &user.permission;
            let why = if permission.allow.contains(&action) {
                format!("{name} may {what} streams {} only, and this is about {resource}", permission.streams)
            } else {
                format!("{name} may not {what}; add it to `allow` of this user in the auth section")
            };
            Err(Refusal::Forbidden(why))
        }
        Identity::Upper(name) => match action {
            Action::Play | Action::ReadApi | Action::ChangeApi | Action::Metrics | Action::Peer => Ok(()),
            Action::Publish => {
                Err(Refusal::Forbidden(format!("{name} is an upper of this node; it may not publish here")))
            }
        },
        Identity::Old(cid) => match resource {
            Resource::Stream(name) if action == Action::Publish && name.without_cid(cid).is_some() => Ok(()),
            Resource::Stream(_) | Resource::Node => Err(Refusal::Forbidden(format!(
                "an old peer may push streams whose names end in -{cid}; this is {what} of {resource}"
            ))),
        },
        Identity::Lower(cids) => {
            let own = match resource {
                Resource::Stream(name) => cids.iter().any(|cid| cid.ends(name)),
                Resource::Node => false,
            };
            if own && action == Action::Publish {
                return Ok(());
            }
            let cids = joined(cids);
            Err(Refusal::Forbidden(format!(
                "this token is for the platform {cids}: with it one may link, and publish streams whose names end in \
                 -{cids}; this is {what} of {resource}"
            )))
        }
    }
}

/// The ids of a platform's token, for people.
fn joined(cids: &[CidPattern]) -> String {
    /// More would hide the sentence around them.
    const MOST: usize = 5;
    let shown: Vec<&str> = cids.iter().take(MOST).map(CidPattern::as_str).collect();
    let more = if cids.len() > MOST { " or .." } else { "" };
    format!("{}{more}", shown.join(" or "))
}

fn allows(permission: &Permission, action: Action, resource: Resource<'_>) -> bool {
    permission.allow.contains(&action)
        && match resource {
            Resource::Stream(name) => permission.streams.matches(name),
            // Who may see some streams only must not see the others in a list or a log.
            Resource::Node => permission.streams.is_everything(),
        }
}

#[cfg(test)]
mod tests;
