//! Players: what they begin with, and those that are served by themselves, because they take a part, or take it in datagrams.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use culvert_formats::rtp::{self, Packet, framed};
use culvert_hub::{Class, parameter};
use culvert_media::Mux as _;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::{Fault, Feeding, Peer, Role, interleaved, udp_ways};
use crate::session::{Event, Output, Way};

/// How long `PLAY` waits for a first picture, to say which packet it begins with.
const FIRST_PICTURE: Duration = Duration::from_secs(2);

/// Most of it that is looked through for the first packets of all tracks.
const LOOK_AHEAD_BYTES: usize = 512 << 10;

impl Peer {
    pub(super) async fn play(&mut self) -> Result<(), Fault> {
        let Role::Described(described) = std::mem::replace(&mut self.role, Role::Idle) else {
            return Ok(self.session.refuse(455, "", &[])?);
        };
        let mut described = *described;
        let admission = match described.admission.take() {
            Some(admission) => admission,
            // It paused, and comes back to what is live now.
            None => match Box::pin(self.rtsp.0.gate.play(&described.ask)).await {
                Ok(admission) => admission,
                Err(refusal) => return self.refuse(&refusal),
            },
        };
        if !rtp::Mux::new(&described.tracks).follows(&admission.tracks()) {
            self.session.refuse(404, "the stream is no longer what was described; open it again", &[])?;
            self.flush_sends().await?;
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
            return Ok(self.session.refuse(404, "the stream has ended", &[])?);
        }
        // What is cached tells how the other tracks begin.
        while next_packets(&first).len() < self.session.ways().iter().flatten().count()
            && first.iter().map(Bytes::len).sum::<usize>() < LOOK_AHEAD_BYTES
            && timeout(Duration::ZERO, player.take(&mut first)).await.is_ok_and(|taken| taken.is_ok())
        {}
        self.session.play(&next_packets(&first))?;
        let ways = self.session.ways().to_vec();
        let whole = ways.len() == described.tracks.iter().count();
        if whole && ways.iter().all(|way| matches!(way, Some(Way::Tcp(..)))) {
            self.flush_sends().await?;
            for chunk in first {
                self.say(chunk).await?;
            }
            if let Some(write) = self.write.take() {
                self.role = Role::Playing(player.attach(write, class, self.rtsp.0.pace));
            }
            return Ok(());
        }
        let (mut came, mut registration) = (None, None);
        let by_udp = udp_ways(&ways);
        if let (false, Some(udp)) = (by_udp.is_empty(), &self.rtsp.0.udp) {
            let (held, receiver) = udp.register(self.remote.ip(), &by_udp);
            (registration, came) = (Some(held), Some(receiver));
        }
        self.flush_sends().await?;
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

    /// Answers that the session has ready; events stay.
    pub(super) async fn flush_sends(&mut self) -> Result<(), Fault> {
        let mut aside = Vec::new();
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.say(bytes).await?,
                Output::Event(event) => aside.push(event),
            }
        }
        // A player has no more to say in one read than what an answer lets through.
        for event in aside {
            if let Event::Teardown = event {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what was taken to where each track goes.
    pub(super) async fn feed(&mut self) -> Result<(), Fault> {
        let Role::Feeding(feeding) = &mut self.role else { return Ok(()) };
        let (udp, ip, stall) = (self.rtsp.0.udp.clone(), self.remote.ip(), self.rtsp.0.pace.stall);
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
                    }
                    Some(Way::Tcp(..)) => on_connection.extend_from_slice(&interleaved(packet.channel, &packet.packet)),
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
            Role::Playing(mut attached) => {
                let figures = attached.session().clone();
                attached.close();
                self.write = attached.ended().await.outlet;
                tracing::debug!(session = figures.id, "paused");
            }
            Role::Feeding(feeding) => self.role = Role::Described(Box::new(feeding.described)),
            role @ (Role::Idle | Role::Described(_) | Role::Publishing(_)) => self.role = role,
        }
    }
}

/// (track, sequence number, timestamp) of the first packet of each track.
fn next_packets(chunks: &[Bytes]) -> Vec<(usize, u16, u32)> {
    let mut next: Vec<(usize, u16, u32)> = Vec::new();
    for packet in chunks.iter().flat_map(framed).filter(|packet| packet.channel % 2 == 0) {
        let at = usize::from(packet.channel / 2);
        if next.iter().any(|(known, ..)| *known == at) {
            continue;
        }
        if let Ok(first) = Packet::parse(&packet.packet) {
            next.push((at, first.sequence, first.timestamp));
        }
    }
    next.sort_by_key(|(at, ..)| *at);
    next
}
