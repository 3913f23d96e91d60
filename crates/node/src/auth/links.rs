//! Who may link to this node, and under which id (security.md S1): by a token, by a certificate, or from this machine.

use std::net::IpAddr;

use culvert_hub::{Credentials, Refusal};
use culvert_media::{Cid, StreamName};

use super::{Identity, Rules, joined};

/// What somebody shows who wants to link.
pub struct Dialler<'a> {
    /// The address that he comes from.
    pub remote: IpAddr,
    /// The token.
    pub credentials: &'a Credentials,
    /// Whether the request has an `Origin` header, which only browsers send.
    pub has_origin: bool,
    /// The site that the request was sent to: [`culvert_hub::site`] without an origin.
    pub site: &'a str,
    /// Whether a certificate that he showed, and that was verified, is for this name; None: he showed none.
    pub certificate: Option<&'a dyn Fn(&str) -> bool>,
}

/// What to do, as the end of a sentence.
const HOW: &str = "give it a token under cascade.lowers.admit here, and the same under cascade.uppers there";

impl Rules {
    /// `owner` is whose token was shown, where one was; `own_site` whether the request was sent to this machine by a name
    /// that only means this machine.
    pub(super) fn admit_link(
        &self,
        owner: Option<Identity>,
        dialler: &Dialler<'_>,
        own_site: bool,
        cid: &Cid,
    ) -> Result<(), Refusal> {
        match owner {
            Some(Identity::Admin) => Ok(()),
            Some(Identity::Lower(cids)) if cids.iter().any(|pattern| pattern.matches(cid)) => Ok(()),
            Some(Identity::Lower(cids)) => Err(Refusal::Forbidden(format!(
                "this token is not for the platform {cid} but for {}; change node.cid there, or {HOW}",
                joined(&cids)
            ))),
            Some(Identity::User(name)) => Err(Refusal::Forbidden(format!(
                "this is the token of the user {name}, which is not for linking; {HOW}"
            ))),
            // Nobody's token: they come of an address or a link.
            Some(Identity::Anonymous | Identity::Loopback | Identity::Upper(_) | Identity::Old(_)) | None => {
                self.admit_without_token(dialler, own_site, cid)
            }
        }
    }

    fn admit_without_token(&self, dialler: &Dialler<'_>, own_site: bool, cid: &Cid) -> Result<(), Refusal> {
        if let Some(is_for) = dialler.certificate {
            if !is_for(cid.as_str()) {
                return Err(Refusal::Forbidden(format!(
                    "the client certificate is not for the platform {cid}; its DNS name has to be the cid"
                )));
            }
            // Without any such row every certificate of the authority is for the id that it names.
            if self.by_certificate.is_empty() || self.by_certificate.iter().any(|pattern| pattern.matches(cid)) {
                return Ok(());
            }
            return Err(Refusal::Forbidden(format!(
                "no row of cascade.lowers.admit lets the platform {cid} in by its certificate; add one with this cid and \
                 without a token_sha256"
            )));
        }
        let has_rows = !(self.lowers.is_empty() && self.by_certificate.is_empty());
        if self.open_to_loopback && !has_rows && dialler.remote.to_canonical().is_loopback() {
            if own_site {
                return Ok(());
            }
            return Err(Refusal::Forbidden(format!(
                "what this machine may do without a token is not for what a proxy forwards, nor under a name other than \
                 localhost; dial 127.0.0.1, or {HOW}"
            )));
        }
        Err(Refusal::Unauthorized(format!("the platform {cid} needs a token to link here; {HOW}")))
    }

    /// Whether an old peer at this address may have this id, which it cannot prove (security.md S2).
    pub(super) fn admit_old(&self, remote: IpAddr, cid: &Cid) -> Result<(), Refusal> {
        if self.has_credential(cid) {
            return Err(Refusal::Forbidden(format!(
                "the platform {cid} has a row in cascade.lowers.admit, so nobody gets this id without its token or certificate"
            )));
        }
        if self.old_peers_admit(remote, cid) {
            return Ok(());
        }
        let how = if self.old_peers.is_on() {
            "add a row for this id and network to cascade.lowers.old_peers"
        } else {
            "set cascade.lowers.old_peers to let m7s peers in"
        };
        Err(Refusal::Unauthorized(format!("the old peer {cid} is not let in from {}; {how}", remote.to_canonical())))
    }

    /// Where any id may have a certificate, only those that a row names are nobody's.
    fn old_peers_admit(&self, remote: IpAddr, cid: &Cid) -> bool {
        if self.any_by_certificate {
            return self.old_peers.admit_by_name(remote, cid);
        }
        self.old_peers.admit(remote, cid)
    }

    pub(super) fn has_old_peers(&self) -> bool {
        self.old_peers.is_on()
    }

    /// Whether somebody has a credential for this id.
    fn has_credential(&self, cid: &Cid) -> bool {
        let by_token = self.lowers.iter().flat_map(|lower| lower.cids.iter());
        by_token.chain(self.by_certificate.iter()).any(|pattern| pattern.matches(cid))
    }

    /// As whom an old peer may push a stream of this name: under an id that ends it and that it may have, while no id that
    /// ends it belongs to somebody else: by a rule, or since `is_taken` says so.
    pub(super) fn old_pusher(
        &self,
        remote: IpAddr,
        stream: &StreamName,
        is_taken: impl Fn(&Cid) -> bool,
    ) -> Option<Identity> {
        if !self.old_peers.is_on() {
            return None;
        }
        let name = stream.as_str();
        let cids = name.match_indices('-').filter_map(|(at, _)| Cid::parse(name.get(at + 1..)?).ok());
        let cids: Vec<Cid> = cids.filter(|cid| stream.without_cid(cid).is_some()).collect();
        if cids.iter().any(|cid| self.has_credential(cid) || is_taken(cid)) {
            return None;
        }
        cids.into_iter().find(|cid| self.old_peers_admit(remote, cid)).map(Identity::Old)
    }
}
