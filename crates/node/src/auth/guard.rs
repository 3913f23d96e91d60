//! The one who asks the rules, for every protocol and for the API, and who slows down those that guess tokens.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use culvert_cascade::Peers;
use culvert_hub::{Ask, BoxFuture, Credentials, Digest, Grant, Policy, Refusal};
use culvert_media::Cid;
use tokio::time::Instant;
use url::{Host, Url};

use super::failures::Failures;
use super::tickets::Tickets;
use super::{Action, Dialler, Hash, Identity, Resource, Rules, authorize, identify, wrong_token};

/// What somebody shows of himself.
pub struct Shown<'a> {
    /// The address that he comes from.
    pub remote: IpAddr,
    /// Token or password.
    pub credentials: &'a Credentials,
    /// The web site on whose behalf he asks, where he speaks HTTP: see [`Ask::origin`].
    pub origin: Option<&'a str>,
    /// The upper of ours that sent the request down its link: then nothing else counts.
    pub upper: Option<&'a Arc<str>>,
}

/// Decides for the whole node. The rules can be exchanged while it runs.
pub struct Guard {
    rules: ArcSwap<Rules>,
    failures: Mutex<Failures>,
    tickets: Mutex<Tickets>,
    peers: OnceLock<Peers>,
}

impl Guard {
    /// With these rules.
    pub fn new(rules: Rules) -> Guard {
        let (failures, tickets) = Default::default();
        Guard { rules: ArcSwap::from_pointee(rules), failures, tickets, peers: OnceLock::new() }
    }

    /// Who is linked, which is known once the cascade is there: an old peer pushes nothing under the id of one that has shown a
    /// credential, also where no rule names it.
    pub fn look_at(&self, peers: Peers) {
        self.peers.set(peers).ok();
    }

    fn is_linked_by_ours(&self, cid: &Cid) -> bool {
        self.peers.get().and_then(|peers| peers.info(cid)).is_some_and(|peer| peer.linked && peer.carrier != "m7s")
    }

    /// Other rules from now on. What was granted stays granted.
    pub fn replace(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Who this is, and that they may do this. Never waits: a refusal costs its peer a place in the bucket of its address
    /// and this node next to nothing.
    pub fn check(&self, shown: &Shown<'_>, action: Action, resource: Resource<'_>) -> Result<Identity, Refusal> {
        let rules = self.rules.load();
        let by_ticket = if shown.upper.is_none() { self.by_ticket(shown.credentials) } else { None };
        let identity = match (shown.upper, by_ticket) {
            (Some(upper), _) => Identity::Upper(upper.clone()),
            (None, Some(_)) if action != Action::Play => {
                return Err(Refusal::Forbidden("a ticket is for playing; show the token itself".into()));
            }
            (None, Some(identity)) => identity,
            (None, None) => self.identify(&rules, shown.remote, shown.credentials)?,
        };
        if let (Identity::Loopback, Some(origin)) = (&identity, shown.origin)
            && !is_own_page(origin)
        {
            // security.md S11: any page in a browser on this machine comes from loopback.
            let why = "what this machine may do without a token is not for web pages from elsewhere, nor for what a proxy \
                       forwards; open the page from http://localhost, or send a token";
            return Err(Refusal::Forbidden(why.into()));
        }
        authorize(&rules, &identity, action, resource)?;
        Ok(identity)
    }

    fn by_ticket(&self, credentials: &Credentials) -> Option<Identity> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.find(credentials.secret.as_deref()?, Instant::now())
    }

    /// A word that stands for what is shown, for a minute, to play; and how long that is.
    pub fn ticket(&self, shown: &Shown<'_>) -> Result<(String, Duration), Refusal> {
        let identity = match (shown.upper, &shown.credentials.secret) {
            (None, Some(_)) if self.by_ticket(shown.credentials).is_none() => {
                self.identify(&self.rules.load(), shown.remote, shown.credentials)?
            }
            (Some(_), _) | (None, _) => {
                return Err(Refusal::Forbidden(
                    "a ticket stands for a token; show one (Authorization: Bearer ..)".into(),
                ));
            }
        };
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = tickets.issue(identity, Instant::now());
        ticket.ok_or_else(|| Refusal::TooMany("too many tickets are out; try again in a minute".into()))
    }

    /// Whether somebody may link to this node as the platform `cid`. Never waits, as [`Guard::check`].
    pub fn admit_link(&self, dialler: &Dialler<'_>, cid: &Cid) -> Result<(), Refusal> {
        if dialler.has_origin {
            // security.md S11: a page in somebody's browser must not become a platform.
            return Err(Refusal::Forbidden(
                "a link is not made by web pages: this request has an Origin header".into(),
            ));
        }
        let rules = self.rules.load();
        let owner = match &dialler.credentials.secret {
            Some(_) => Some(self.identify(&rules, dialler.remote, dialler.credentials)?),
            None => None,
        };
        rules.admit_link(owner, dialler, is_own_page(dialler.site), cid)
    }

    /// Whether an old peer may link to this node as the platform `cid`.
    pub fn admit_old(&self, remote: IpAddr, cid: &Cid) -> Result<(), Refusal> {
        self.rules.load().admit_old(remote, cid)
    }

    /// Whether old peers may be let in at all.
    pub fn has_old_peers(&self) -> bool {
        self.rules.load().has_old_peers()
    }

    /// Which digests can be answered.
    pub fn digests(&self) -> Vec<culvert_rtsp::wire::auth::Algorithm> {
        self.rules.load().digests()
    }

    /// A digest costs a guess as much as a token does.
    fn identify_digest(&self, rules: &Rules, remote: IpAddr, digest: &Digest) -> Result<Identity, Refusal> {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let may_try = failures.wait(remote, now).is_none();
        match rules.owner_by_digest(digest) {
            Some(Identity::Admin) => Ok(Identity::Admin),
            Some(user) if may_try => Ok(user),
            None if may_try => {
                // Who has no digest cannot be right by one, and did not guess.
                if rules.has_digest(digest) {
                    failures.note_wrong(remote, now);
                }
                Err(wrong_token())
            }
            Some(_) | None => Err(too_many()),
        }
    }

    fn identify(&self, rules: &Rules, remote: IpAddr, credentials: &Credentials) -> Result<Identity, Refusal> {
        if let Some(digest) = &credentials.digest {
            return self.identify_digest(rules, remote, digest);
        }
        let Some(secret) = &credentials.secret else {
            return identify(rules, remote, credentials);
        };
        let token = Hash::of(secret);
        let owner = rules.owner(&token);
        let now = Instant::now();
        // Nothing can panic while it is held; and if something did, the counts would still be counts.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let may_try = failures.wait(remote, now).is_none();
        match owner {
            // 256 random bits cannot be guessed, so the admin is never locked out by a neighbour who tries.
            Some(Identity::Admin) => Ok(Identity::Admin),
            // Nor are the lowers of a site whose address others spoil; their tokens are made, not chosen.
            Some(lower @ Identity::Lower(_)) => Ok(lower),
            // A user's token may be a word that people chose: while the bucket is empty, a right one is let in only
            // if it was right from there before.
            Some(user) if may_try || failures.was_right(remote, token) => {
                failures.note_right(remote, token);
                Ok(user)
            }
            None if may_try => {
                failures.note_wrong(remote, now);
                Err(wrong_token())
            }
            Some(_) | None => Err(too_many()),
        }
    }
}

fn too_many() -> Refusal {
    Refusal::TooMany("too many wrong tokens from this address; wait a few seconds and try again".into())
}

impl Policy for Guard {
    fn admit<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Grant, Refusal>> {
        let action = match ask.action {
            culvert_hub::Action::Publish => Action::Publish,
            culvert_hub::Action::Play => Action::Play,
        };
        let stream = Resource::Stream(&ask.stream);
        let shown = Shown {
            remote: ask.remote.ip(),
            credentials: &ask.credentials,
            origin: ask.origin.as_deref(),
            upper: ask.upper.as_ref(),
        };
        let rules = self.rules.load();
        let nobody = ask.credentials == Credentials::default() && ask.upper.is_none();
        let old = (action == Action::Publish && ask.protocol == "ws-flv" && nobody)
            .then(|| rules.old_pusher(ask.remote.ip(), &ask.stream, |cid| self.is_linked_by_ours(cid)))
            .flatten();
        let verdict = match old {
            Some(old) => authorize(&rules, &old, action, stream).map(|()| old),
            None => self.check(&shown, action, stream),
        };
        let wait = rules.wait_for_stream;
        let grant = verdict.map(|identity| Grant { identity: (&identity).into(), wait });
        Box::pin(std::future::ready(grant))
    }
}

/// Whether a page of this `Origin` was served by this machine under a name that only means this machine, which no DNS
/// answer can point elsewhere or from elsewhere.
fn is_own_page(origin: &str) -> bool {
    match Url::parse(origin).ok().and_then(|url| url.host().map(|host| host.to_owned())) {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // Not a path such as file://localhost.
        Some(Host::Domain(name)) => name == "localhost" && origin.starts_with("http"),
        None => false,
    }
}
