//! One peer: its [`Rtc`], and the ways to it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use culvert_formats::rtp::is_rtcp;
use str0m::change::SdpOffer;
use str0m::net::{DatagramRecv, Protocol, Receive, Transmit};
use str0m::{Event, Input, Output, Rtc, RtcError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::answer::{fragment, placed, restarted};
use crate::burst::{Bell, Burst, Outlet, Way};
use crate::keys::{Agreed, Keys};
use crate::peers::Peers;
use crate::proof::{ASK, Proof, Remote, Verdict};
use crate::routes::{Datagram, Entry, Path};
use crate::session::Restart;

/// The first bytes of RTP and RTCP (RFC 7983 7),
const MEDIA: RangeInclusive<u8> = 128..=191;
/// those of DTLS,
const DTLS: RangeInclusive<u8> = 20..=63;
/// and those of STUN, as ICE has it: the first two bits and the next four are 0.
const STUN: RangeInclusive<u8> = 0..=3;

/// A peer and how to reach it.
pub(crate) struct Link {
    pub(crate) rtc: Rtc,
    /// What it was begun with.
    offer: String,
    outlet: Outlet,
    entry: Entry,
    inbox: mpsc::Receiver<Datagram>,
    asked: mpsc::Receiver<Restart>,
    /// What we said where we are: the agent is told that datagrams came there, wherever they did, for a router may have sent them on.
    own: Vec<SocketAddr>,
    peers: Peers,
    /// Where it is known that somebody wants this.
    proof: Proof,
    /// The path that the agents have agreed upon.
    path: Option<Path>,
    /// Another one, by which the peer has spoken since and where nobody has answered yet.
    chosen: Option<Path>,
    /// Keys are agreed upon.
    is_agreed: bool,
    /// Where what keys are agreed upon by went to.
    agreeing: HashSet<IpAddr>,
    /// Where media is sent by somebody else: the agent is silent of it, and its own reports do not go out. Two that count their packets apart would
    /// use a number of a key twice.
    keys: Option<Keys>,
    burst: Burst,
    refused: u64,
}

/// What a peer's task hears.
pub(crate) enum Heard {
    Datagram(Datagram),
    Restart(Restart),
}

impl Link {
    /// `keys`: where those of the agent will be, for who sends media in its place.
    pub(crate) fn new(
        (rtc, keys): (Rtc, Option<Keys>),
        offer: String,
        proof: Proof,
        outlet: Outlet,
        entry: Entry,
        (inbox, asked): (mpsc::Receiver<Datagram>, mpsc::Receiver<Restart>),
        own: Vec<SocketAddr>,
    ) -> Link {
        Link {
            rtc,
            offer,
            outlet,
            entry,
            inbox,
            asked,
            own,
            peers: Peers::default(),
            proof,
            path: None,
            chosen: None,
            is_agreed: false,
            agreeing: HashSet::new(),
            keys,
            burst: Burst::default(),
            refused: 0,
        }
    }

    fn is_silent(&self) -> bool {
        self.keys.is_some()
    }

    /// What was agreed upon for SRTP, once.
    pub(crate) fn keys(&self) -> Option<Agreed> {
        self.keys.as_ref()?.take()
    }

    /// The next thing for it. None: its entry is gone. Cancel safe.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        tokio::select! {
            datagram = self.inbox.recv() => datagram.map(Heard::Datagram),
            // Whoever could ask lives as long as the session.
            Some(restart) = self.asked.recv() => Some(Heard::Restart(restart)),
        }
    }

    /// Takes what was heard. Returns what is none of the agent's business: RTCP, enciphered, where it is silent.
    pub(crate) fn handle(&mut self, heard: Heard) -> Option<Datagram> {
        match heard {
            Heard::Datagram(datagram) => return self.take(datagram),
            Heard::Restart(Restart { remote, answer }) => {
                // Who asked may have gone.
                answer.send(self.restart(remote)).ok();
            }
        }
        None
    }

    /// ICE begins anew, with other credentials on both sides; keys and media go on (RFC 8445 9).
    fn restart(&mut self, remote: Remote) -> Result<String, String> {
        let offer = SdpOffer::from_sdp_string(&restarted(&self.offer, &remote)).map_err(|why| why.to_string())?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(|why| why.to_string())?;
        let name = self.rtc.direct_api().local_ice_credentials().ufrag;
        self.entry.rename(&name);
        self.proof.restart(remote, &name);
        self.chosen = None;
        self.peers.restart(self.path.map(|path| path.peer));
        Ok(fragment(&placed(&answer.to_sdp_string())))
    }

    /// Takes what came. What is wrong with it is counted, and nobody is told (security.md S21).
    fn take(&mut self, datagram: Datagram) -> Option<Datagram> {
        let Path { tcp, peer } = datagram.path;
        let is_stun = datagram.data.first().is_some_and(|first| STUN.contains(first));
        // More than any peer has: the agent keeps them all.
        if is_stun && !self.peers.may_ask(datagram.path) {
            self.refused += 1;
            tracing::debug!(%peer, "a WebRTC peer has had more addresses than are kept; it is to begin anew");
            return None;
        }
        self.peers.hear(peer, datagram.to, [self.path, self.chosen].map(|path| path.map(|path| path.peer)));
        if self.proof.take(peer, &datagram.data) {
            return None;
        }
        if self.is_silent()
            && datagram.data.first().is_some_and(|first| MEDIA.contains(first))
            && is_rtcp(&datagram.data)
        {
            return Some(datagram);
        }
        let Ok(contents) = DatagramRecv::try_from(&datagram.data[..]) else {
            self.refused += 1;
            return None;
        };
        let same = self.own.iter().find(|own| own.is_ipv4() == peer.is_ipv4()).or(self.own.first());
        let destination = same.copied()?;
        let proto = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let receive = Receive { proto, source: peer, destination, contents };
        if let Err(why) = self.rtc.handle_input(Input::Receive(Instant::now().into_std(), receive)) {
            self.refused += 1;
            tracing::debug!(%peer, %why, "a datagram of a WebRTC peer was refused");
        }
        None
    }

    /// It is time.
    pub(crate) fn tick(&mut self) -> Result<(), RtcError> {
        self.rtc.handle_input(Input::Timeout(Instant::now().into_std()))
    }

    /// Sends what is to be sent, and puts what happened into `events`. Returns when the next tick is due. To be called after each thing that
    /// was done with the `rtc`; what is sent goes out by [`Link::flush`].
    pub(crate) fn drain(&mut self, events: &mut Vec<Event>) -> Result<Instant, RtcError> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(Instant::from_std(at)),
                Output::Transmit(transmit) => self.send(transmit),
                Output::Event(event) => events.push(event),
            }
        }
    }

    fn send(&mut self, transmit: Transmit) {
        let tcp = transmit.proto != Protocol::Udp;
        let peer = transmit.destination;
        // We speak to those alone whose requests had the right checksum.
        self.entry.bind(Path { tcp, peer });
        self.peers.answer(Path { tcp, peer });
        let data: Vec<u8> = transmit.contents.into();
        let Some(&first) = data.first() else { return };
        if !STUN.contains(&first) {
            let path = Path { tcp, peer };
            // From then on the peer says itself where it is.
            if !self.is_silent() || !self.is_agreed {
                self.path = Some(path);
            }
            if self.is_silent() && MEDIA.contains(&first) {
                return;
            }
            if DTLS.contains(&first) {
                self.agreeing.insert(peer.ip());
            }
            if self.may_send(Instant::now(), path).is_err() {
                return;
            }
        }
        self.put(Path { tcp, peer }, &data);
    }

    /// Whether something else than ICE may go there. If not, whoever is there is asked, and it may be when they have answered; the moment is when
    /// they would be asked again.
    fn may_send(&mut self, now: Instant, path: Path) -> Result<(), Instant> {
        match self.proof.may(now, path.peer) {
            Verdict::Send => Ok(()),
            Verdict::Ask(question) => {
                self.put(path, &question);
                Err(now + ASK)
            }
            Verdict::Wait(until) => Err(until),
        }
    }

    /// The peer has spoken by this path, in words that are its own and new: that is the one it uses. The agent would stay with the first of two that
    /// are worth the same, also where a router has made the second of it and nobody is at the first. True: it is another than media takes.
    pub(crate) fn follow(&mut self, path: Path) -> bool {
        self.chosen = (self.path != Some(path)).then_some(path);
        self.chosen.is_some()
    }

    /// The way that media takes, and when to look again where that may be another then; what comes may say so earlier. Somebody else may have sent on
    /// what the peer said: until somebody has answered at another address, media goes on to where it went.
    pub(crate) fn media_way(&mut self, now: Instant) -> (Option<Way>, Option<Instant>) {
        let mut again = None;
        if let Some(chosen) = self.chosen {
            match self.may_send(now, chosen) {
                Ok(()) => (self.path, self.chosen) = (Some(chosen), None),
                Err(until) => again = Some(until),
            }
        }
        let Some(path) = self.path else { return (None, Some(now + ASK)) };
        match self.may_send(now, path) {
            Ok(()) => (Some(self.way(path)), again),
            Err(until) => (None, Some(again.map_or(until, |again| again.min(until)))),
        }
    }

    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// On its way, with what goes the same way.
    fn put(&mut self, path: Path, data: &[u8]) {
        let way = self.way(path);
        let write = |out: &mut [u8]| {
            out.copy_from_slice(data);
            true
        };
        self.burst.put(&self.outlet, &way, data.len(), write);
    }

    fn way(&self, path: Path) -> Way {
        Way { path, from: self.peers.own(path.peer) }
    }

    /// Keys are agreed upon: from now on media goes to where that was. Where that was at more than one address, any of them may be one that somebody
    /// only spoke of while the others answered, so none is known yet.
    pub(crate) fn prove(&mut self) {
        let only = self.agreeing.iter().next().filter(|_| self.agreeing.len() == 1).copied();
        self.proof.begin(only);
        self.is_agreed = true;
    }

    /// Whether somebody with the right checksum has been heard.
    pub(crate) fn is_found(&self) -> bool {
        self.entry.is_bound()
    }

    /// Gives to the kernel what waits to go. Some: it takes nothing at this moment, and this rings when it does.
    pub(crate) fn flush(&mut self) -> Option<Bell> {
        if self.burst.flush(&self.outlet) { None } else { self.outlet.kernel() }
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self) {
        // What cannot be said any more does not matter any more.
        if self.rtc.close().is_ok() {
            let _ = self.drain(&mut Vec::new());
            self.burst.finish(&self.outlet);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use str0m::Candidate;
    use str0m::crypto::from_feature_flags;
    use str0m::ice::{StunMessage, TransId};
    use str0m::media::{Direction, MediaKind};

    use super::*;
    use crate::routes::Routes;
    use crate::udp::Udp;

    #[tokio::test]
    async fn a_peer_is_answered_at_its_hundredth_address() {
        let (crypto, now) = (Arc::new(from_feature_flags()), std::time::Instant::now());
        let build = || Rtc::builder().set_crypto_provider(crypto.clone());
        let mut player = build().build(now);
        let mut change = player.sdp_api();
        change.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        let offer = change.apply().unwrap().0.to_sdp_string();
        let udp = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        udp.turn().await;
        let own: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let mut rtc = build().set_ice_lite(true).build(now);
        rtc.add_local_candidate(Candidate::host(own, "udp").unwrap());
        rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer).unwrap()).unwrap();
        let (credentials, remote) = (rtc.direct_api().local_ice_credentials(), Remote::of(&offer).unwrap());
        let (name, routes, (_restarts, asked)) = (credentials.ufrag, Routes::default(), mpsc::channel(1));
        let (entry, inbox) = routes.enter(&name);
        let username = format!("{name}:{}", remote.name());
        let proof = Proof::new(crypto.clone(), remote, &name);
        let outlet = Outlet::new(Some(udp), routes.clone());
        let mut link = Link::new((rtc, None), offer, proof, outlet, entry, (inbox, asked), vec![own]);
        let sockets: Vec<_> = (0..100).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for (at, socket) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let (mut bytes, id) = (vec![0; 500], TransId::new());
            let request = StunMessage::binding_request(&username, id, true, 9, 1_000, true);
            let hmac = |key: &[u8], parts: &[&[u8]]| crypto.sha1_hmac_provider.sha1_hmac(key, parts);
            let length = request.to_bytes(Some(credentials.pass.as_bytes()), &mut bytes, hmac).unwrap();
            let path = Path { tcp: false, peer: socket.local_addr().unwrap() };
            let data = Bytes::copy_from_slice(&bytes[..length]);
            assert!(link.handle(Heard::Datagram(Datagram { path, to: None, data })).is_none());
            link.drain(&mut Vec::new()).unwrap();
            assert!(link.flush().is_none());
            let length = socket.recv(&mut bytes).unwrap_or_else(|why| panic!("address {at}: {why}"));
            let answer = StunMessage::parse(&bytes[..length]).unwrap();
            assert!(answer.is_successful_binding_response() && answer.trans_id() == id, "address {at}");
        }
        assert_eq!(link.refused, 0);
    }
}
