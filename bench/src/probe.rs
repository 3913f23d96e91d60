//! A viewer that looks at every tag: what it saw first and when, how far behind each was, which were missing.

use anyhow::Result;

use crate::receiver::{Got, Receiver};
use crate::stamp::Stamp;
use crate::stream::is_key_frame;

/// Most delays that one probe keeps: an hour and a half of tags.
const MAX_DELAYS: usize = 400_000;

/// A probe, or any viewer while it joins.
pub(crate) struct Probe {
    receiver: Receiver,
    /// When the stream was asked for, in microseconds of the machine's clock.
    asked_micros: u64,
    has_asked: bool,
    first_key_micros: Option<u64>,
    last_seq: Option<u32>,
    missing: u64,
    /// Of each tag of the window: its number, and how far behind it was.
    delays_micros: Vec<(u32, u32)>,
}

/// What probes have seen together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From the request to the first key frame, in microseconds; one for each probe that had it.
    pub(crate) first_key_micros: Vec<u32>,
    /// From publisher to probe, in microseconds; one for each tag of the window.
    pub(crate) delays_micros: Vec<u32>,
    /// Tags that did not come, in the window.
    pub(crate) missing: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, probe: &Probe) {
        self.first_key_micros.extend(probe.first_key_micros());
        self.delays_micros.extend(probe.delays_micros.iter().map(|(_, delay)| delay));
        self.missing += probe.missing;
    }
}

impl Probe {
    /// Has just connected, now.
    pub(crate) fn new(receiver: Receiver, now_micros: u64) -> Probe {
        let has_asked = receiver.has_asked();
        Probe {
            receiver,
            asked_micros: now_micros,
            has_asked,
            first_key_micros: None,
            last_seq: None,
            missing: 0,
            delays_micros: Vec::new(),
        }
    }

    /// From the request to the first key frame.
    pub(crate) fn first_key_micros(&self) -> Option<u32> {
        self.first_key_micros.map(|at| micros_since(self.asked_micros, at))
    }

    /// Number and delay of each tag, in the order in which they came.
    pub(crate) fn delays_micros(&self) -> &[(u32, u32)] {
        &self.delays_micros
    }

    /// Here the window begins.
    pub(crate) fn mark(&mut self) {
        self.delays_micros.clear();
        self.missing = 0;
    }

    /// Takes what came; whether the server began to play by that, how many key frames there were, and what is to be
    /// sent. `got` is scratch.
    pub(crate) fn handle_input(&mut self, now: u64, input: &[u8], got: &mut Vec<Got>) -> Result<(bool, u64, Vec<u8>)> {
        let (mut opened, mut keys, mut reply) = (false, 0, Vec::new());
        got.clear();
        self.receiver.handle_input(input, got, &mut reply)?;
        if !self.has_asked && self.receiver.has_asked() {
            // The request goes out with this reply.
            (self.has_asked, self.asked_micros) = (true, now);
        }
        for got in got.drain(..) {
            let (kind, body) = match got {
                Got::Open => {
                    opened = true;
                    continue;
                }
                Got::Tag(kind, body) => (kind, body),
            };
            if is_key_frame(kind, &body) {
                keys += 1;
                self.first_key_micros.get_or_insert(now);
            }
            if let Some(stamp) = Stamp::read(&body) {
                self.take_stamp(now, stamp);
            }
        }
        Ok((opened, keys, reply))
    }

    fn take_stamp(&mut self, now: u64, stamp: Stamp) {
        let expected = self.last_seq.map_or(stamp.seq, |last| last.wrapping_add(1));
        self.missing += u64::from(stamp.seq.wrapping_sub(expected));
        self.last_seq = Some(stamp.seq);
        if self.delays_micros.len() < MAX_DELAYS {
            self.delays_micros.push((stamp.seq, micros_since(stamp.micros, now)));
        }
    }
}

fn micros_since(earlier: u64, later: u64) -> u32 {
    u32::try_from(later.saturating_sub(earlier)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use culvert_formats::flv::{self, TagKind};

    use super::*;
    use crate::args::{Class, Protocol};
    use crate::receiver::STREAM;

    fn tag(seq: u32, micros: u64, key: bool, out: &mut Vec<u8>) {
        let first = if key { 0x17 } else { 0x27 };
        flv::write_tag(TagKind::Video, 0, &[first, 1, 0, 0, 0], &Stamp { seq, micros }.write(), out);
    }

    #[test]
    fn delays_and_missing_tags_are_those_of_the_window_and_the_first_key_frame_is_kept() {
        let (receiver, _) = Receiver::new(Protocol::Tcp, Class::Low, 1, STREAM).unwrap();
        let (mut probe, mut got) = (Probe::new(receiver, 1_000), Vec::new());
        let mut bytes = flv::file_header(true, true).to_vec();
        tag(7, 900, false, &mut bytes);
        assert_eq!(probe.handle_input(1_500, &bytes, &mut got).unwrap(), (true, 0, vec![]));
        bytes.clear();
        tag(9, 1_900, true, &mut bytes);
        assert_eq!(probe.handle_input(2_000, &bytes, &mut got).unwrap(), (false, 1, vec![]));
        let mut seen = Seen::default();
        seen.add(&probe);
        assert_eq!((seen.first_key_micros, seen.delays_micros, seen.missing), (vec![1_000], vec![600, 100], 1));

        probe.mark();
        bytes.clear();
        tag(10, 3_000, true, &mut bytes);
        probe.handle_input(3_050, &bytes, &mut got).unwrap();
        let mut seen = Seen::default();
        seen.add(&probe);
        assert_eq!((seen.first_key_micros, seen.delays_micros, seen.missing), (vec![1_000], vec![50], 0));
    }
}
