//! What a session brings, to the hub.

use std::time::Instant;

use bytes::Bytes;
use culvert_formats::Event;
use culvert_formats::rtp::{Receiver, is_rtcp};
use culvert_hub::{Publisher, Replaced};

use crate::map;
use crate::sdp::Description;

/// The packets of a session on their way to frames.
#[derive(Debug)]
pub(crate) struct Intake {
    receiver: Receiver,
    /// Where each medium of the session is among those that are received.
    places: Vec<Option<usize>>,
    announced: bool,
}

impl Intake {
    /// Of a session. None: it has nothing that the hub could take.
    pub(crate) fn new(now: Instant, session: &Description) -> Option<Intake> {
        let (mut taken, mut places) = (Vec::new(), Vec::new());
        for medium in &session.media {
            let media = map::media(medium);
            places.push(media.is_some().then_some(taken.len()));
            taken.extend(media);
        }
        (!taken.is_empty()).then(|| Intake { receiver: Receiver::new(now, taken), places, announced: false })
    }

    /// Whether the medium at this place is received.
    pub(crate) fn takes(&self, at: usize) -> bool {
        self.places.get(at).is_some_and(Option::is_some)
    }

    /// What the server says comes first of a medium.
    pub(crate) fn begin(&mut self, at: usize, timestamp: u32) {
        if let Some(at) = self.places.get(at).copied().flatten() {
            self.receiver.begin(at, timestamp);
        }
    }

    /// Takes a packet. True: its sender says that it is done.
    pub(crate) fn handle(&mut self, now: Instant, at: usize, rtcp: bool, data: Bytes, in_order: bool) -> bool {
        let Some(at) = self.places.get(at).copied().flatten() else { return false };
        if rtcp || is_rtcp(&data) {
            return self.receiver.handle_rtcp(now, at, &data);
        }
        // What is broken is counted there, and is the sender's business.
        self.receiver.handle_rtp(now, at, data, in_order).ok();
        false
    }

    /// What waited long enough for something before it.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.receiver.handle_timeout(now);
    }

    /// When to call [`Intake::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.receiver.poll_timeout()
    }

    /// Reports to send: (medium, RTCP).
    pub(crate) fn poll_reports(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        let reports = self.receiver.poll_reports(now).into_iter();
        let place = |own: usize| self.places.iter().position(|place| *place == Some(own));
        reports.filter_map(|(own, report)| Some((place(own)?, report))).collect()
    }

    /// Frames to the hub. True: for the first time, there are tracks.
    pub(crate) fn pass_on(&mut self, publisher: &Publisher) -> Result<bool, Replaced> {
        let mut begun = false;
        while let Some(event) = self.receiver.poll_event() {
            match event {
                Event::Tracks(tracks) => {
                    publisher.set_tracks(tracks);
                    begun |= !std::mem::replace(&mut self.announced, true);
                }
                Event::Frame(frame) => publisher.write(frame)?,
                Event::Gap => publisher.gap(),
            }
        }
        Ok(begun)
    }

    /// Packets that never came, and what was broken.
    pub(crate) fn losses(&self) -> (u64, u64) {
        (self.receiver.lost(), self.receiver.damaged())
    }
}
