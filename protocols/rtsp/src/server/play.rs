//! Players: what they begin with, and those that are served by themselves, because they take a part, or take it in datagrams.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use culvert_formats::rtp::rtcp::{Message, messages};
use culvert_formats::rtp::{self, Packet, framed};
use culvert_hub::{Class, parameter};
use culvert_media::Mux as _;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use super::{FAREWELL, Fault, Feeding, PORTS_TAKEN, Peer, Role, udp_ways};
use crate::session::Way;

/// How long `PLAY` waits for a first picture, to say which packet it begins with.
const FIRST_PICTURE: Duration = Duration::from_secs(2);

/// Most of it that is looked through for the first packets of all tracks.
const LOOK_AHEAD_BYTES: usize = 512 << 10;

/// A viewer of datagrams begins with what is cached, which may be megabytes; its socket holds a fifth of one. So much goes at once,
/// and then nothing for so long: 85 Mbit/s.
const BURST_BYTES: usize = 32 << 10;
const BURST_PAUSE: Duration = Duration::from_millis(3);

impl Peer {
    pub(super) async fn play(&mut self) -> Result<(), Fault> {
        let Role::Described(described) = std::mem::replace(&mut self.role, Role::Idle) else {
            self.session.refuse(455, "", &[]);
            return Ok(());
        };
        let mut described = *described;
        let admission = match described.admission.take() {
            Some(admission) => admission,
            // It paused, and comes back to what is live now.
            None => match Box::pin(self.rtsp.0.gate.play(&described.ask)).await {
                Ok(admission) => admission,
                Err(refusal) => {
                    self.refuse(&refusal, false);
                    return Ok(());
                }
            },
        };
        if !rtp::Mux::new(&described.tracks).follows(&admission.tracks()) {
            self.session.refuse(404, "the stream is no longer what was described; open it again", &[]);
            self.say_answers().await?;
            return Err(Fault::Changed);
        }
        let class = match parameter(&described.query, "latency").as_deref() {
            Some("low") => Class::Low,
            Some("shared") => Class::Shared,
            Some(_) | None => self.rtsp.0.pace.class,
        };
        let mut player = admission.play_as::<rtp::Mux>();
        let mut first = Vec::new();
        // Without a picture in time it begins with whatever comes.
        let taken = timeout(FIRST_PICTURE, player.take(&mut first)).await;
        if let Ok(Err(_)) = taken {
            self.session.refuse(404, "the stream has ended", &[]);
            return Ok(());
        }
        // What is cached tells how the other tracks begin.
        while next_packets(&first).len() < self.session.ways().iter().flatten().count()
            && first.iter().map(Bytes::len).sum::<usize>() < LOOK_AHEAD_BYTES
            && timeout(Duration::ZERO, player.take(&mut first)).await.is_ok_and(|taken| taken.is_ok())
        {}
        let ways = self.session.ways().to_vec();
        let by_udp = udp_ways(&ways);
        let (mut came, mut registration) = (None, None);
        if let (false, Some(udp)) = (by_udp.is_empty(), &self.rtsp.0.udp) {
            let Some((held, receiver)) = udp.register(self.remote.ip(), &by_udp) else {
                self.session.refuse(461, PORTS_TAKEN, &[]);
                return Ok(());
            };
            (registration, came) = (Some(held), Some(receiver));
        }
        self.session.play(&next_packets(&first));
        self.say_answers().await?;
        described.has_played = true;
        let whole = ways.len() == described.tracks.iter().count();
        if whole && ways.iter().all(|way| matches!(way, Some(Way::Tcp(..)))) {
            for chunk in first {
                self.say(chunk).await?;
            }
            if let Some(write) = self.write.take() {
                self.role = Role::Playing(player.attach(write, class, self.rtsp.0.pace), Box::new(described));
            }
            return Ok(());
        }
        let heard = Instant::now();
        let chunks = first.into();
        self.role = Role::Feeding(Box::new(Feeding {
            described,
            player,
            chunks,
            ways,
            came,
            _registration: registration,
            heard,
        }));
        self.feed().await
    }

    /// Answers that are ready. What the peer said behind its request is looked at after that.
    async fn say_answers(&mut self) -> Result<(), Fault> {
        while let Some(bytes) = self.session.poll_answer() {
            self.say(bytes).await?;
        }
        Ok(())
    }

    /// Sends what was taken to where each track goes.
    pub(super) async fn feed(&mut self) -> Result<(), Fault> {
        let Role::Feeding(feeding) = &mut self.role else { return Ok(()) };
        let (udp, ip, stall) = (self.rtsp.0.udp.clone(), self.remote.ip(), self.rtsp.0.pace.stall);
        let mut burst = 0;
        while let Some(chunk) = feeding.chunks.pop_front() {
            let mut on_connection = Vec::new();
            for packet in framed(&chunk) {
                let rtcp = packet.channel % 2 == 1;
                match feeding.ways.get(usize::from(packet.channel / 2)).copied().flatten() {
                    Some(Way::Udp(media, reports)) => {
                        if let Some(udp) = &udp {
                            let port = if rtcp { reports } else { media };
                            udp.send(SocketAddr::new(ip, port), rtcp, &packet.packet).await;
                        }
                        burst += packet.packet.len();
                        if burst >= BURST_BYTES {
                            burst = 0;
                            sleep(BURST_PAUSE).await;
                        }
                    }
                    Some(Way::Tcp(..)) => on_connection.extend_from_slice(&packet.framed),
                    None => {}
                }
            }
            if let (false, Some(write)) = (on_connection.is_empty(), &mut self.write) {
                match timeout(stall, write.write_all(&on_connection)).await {
                    Ok(written) => written?,
                    Err(_) => return Err(Fault::Stalled(stall)),
                }
            }
        }
        Ok(())
    }

    pub(super) async fn pause(&mut self) {
        self.idle_since = Instant::now();
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Playing(mut attached, described) => {
                attached.close();
                self.write = attached.ended().await.outlet(FAREWELL).await;
                self.role = Role::Described(described);
            }
            Role::Feeding(feeding) => self.role = Role::Described(Box::new(feeding.described)),
            role @ (Role::Idle | Role::Described(_) | Role::Publishing(_)) => self.role = role,
        }
    }
}

/// (track, sequence number, timestamp) of each track: the number of its first packet, and its clock at the moment of the first picture, which
/// the reports before that tell; all timestamps are of one moment (RFC 2326 12.33).
fn next_packets(chunks: &[Bytes]) -> Vec<(usize, u16, u32)> {
    let mut next: Vec<(usize, u16, u32)> = Vec::new();
    let mut moments: Vec<(usize, u32)> = Vec::new();
    for packet in chunks.iter().flat_map(framed) {
        let at = usize::from(packet.channel / 2);
        if packet.channel % 2 == 1 {
            if let Some(Ok(Message::Sender(_, info, _))) = messages(&packet.packet).next()
                && moments.iter().all(|(known, _)| *known != at)
            {
                moments.push((at, info.timestamp));
            }
        } else if next.iter().all(|(known, ..)| *known != at)
            && let Ok(first) = Packet::parse(&packet.packet)
        {
            next.push((at, first.sequence, first.timestamp));
        }
    }
    for (at, _, timestamp) in &mut next {
        if let Some((_, moment)) = moments.iter().find(|(known, _)| known == at) {
            *timestamp = *moment;
        }
    }
    next.sort_by_key(|(at, ..)| *at);
    next
}
