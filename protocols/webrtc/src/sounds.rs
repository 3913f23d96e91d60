//! Sound on its way out of the feed: where many watch it waits for the next picture, or for more sound. A datagram by itself costs as much as five that
//! go together, and one packet of two sounds can go as the last of a picture's.

use std::time::Duration;

use culvert_formats::sound::Joiner;
use culvert_media::codec::opus::CLOCK_HZ;
use culvert_media::{Kind, Track};
use tokio::time::Instant;

use crate::unit::{PAYLOAD_BYTES, Packet, Unit};

/// Most sounds that wait.
const AT_ONCE: usize = 8;
/// From so many viewers on sound waits for company, and what each of them adds to that: 125 make 20 ms, which is a packet of Opus, and 250 make 40,
/// which lie between two pictures of 25 a second.
const MANY: usize = 125;
const SHARE: Duration = Duration::from_micros(160);

/// How long sound waits at the most where so many watch. `most` bounds it.
pub(crate) fn wait(viewers: usize, most: Duration) -> Duration {
    match u32::try_from(viewers) {
        Ok(_) if viewers < MANY => Duration::ZERO,
        Ok(many) => SHARE.saturating_mul(many).min(most),
        Err(_) => most,
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Sounds {
    waiting: Vec<Unit>,
    /// When it goes.
    due: Option<Instant>,
    joiner: Option<Joiner>,
}

impl Sounds {
    /// Of this track.
    pub(crate) fn new(track: Option<&Track>) -> Sounds {
        Sounds { joiner: track.and_then(Joiner::new), ..Sounds::default() }
    }

    /// Takes a sound that waits no longer than this. True: it, and what waited before it, is to go now.
    pub(crate) fn push(&mut self, now: Instant, sound: Unit, wait: Duration) -> bool {
        self.waiting.push(sound);
        *self.due.get_or_insert_with(|| now + wait) <= now || self.waiting.len() >= AT_ONCE
    }

    /// When what waits is to go.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All that waits, as few packets as can be.
    pub(crate) fn take(&mut self) -> Vec<Unit> {
        self.due = None;
        let waited = std::mem::take(&mut self.waiting);
        let Some(joiner) = self.joiner.as_mut().filter(|_| waited.len() > 1) else { return waited };
        let (mut taken, mut left) = (Vec::with_capacity(waited.len()), &waited[..]);
        while let [first, others @ ..] = left {
            let runs = (2..=left.len()).filter_map(|count| left.split_at_checked(count));
            let joined = runs.map_while(|(run, rest)| Some((join(joiner, run)?, rest))).last();
            let (unit, rest) = joined.unwrap_or_else(|| (first.clone(), others));
            taken.push(unit);
            left = rest;
        }
        taken
    }
}

/// These as one, where they may be one packet. Each stays by itself, too, for those who do not take that.
fn join(joiner: &mut Joiner, sounds: &[Unit]) -> Option<Unit> {
    let first = sounds.first()?;
    let mut packets = sounds.iter().flat_map(|sound| sound.packets.iter().map(|packet| (sound.pts, packet)));
    let (payload, lasts) = joiner.join(packets.clone().map(|(at, packet)| (at, &packet.payload[..])))?;
    let apart = packets.try_fold(Vec::with_capacity(sounds.len()), |mut apart, (at, packet)| {
        let ticks = u32::try_from((at - first.pts).to_ticks(CLOCK_HZ)).ok()?;
        apart.push(Packet { payload: packet.payload.clone(), ticks, ..*packet });
        Some(apart)
    })?;
    if payload.len() > PAYLOAD_BYTES {
        return None;
    }
    let packets = vec![Packet { payload: payload.into(), marker: false, ticks: 0 }];
    let bytes = sounds.iter().map(|sound| sound.bytes).sum();
    Some(Unit { packets, apart, lasts, bytes, ..Unit::new(Kind::Audio, first.pts, first.shown) })
}

#[cfg(test)]
mod tests {
    use culvert_media::codec::opus::Head;
    use culvert_media::{Audio, Codec, Time, TrackId};

    use super::*;

    /// Of one byte, which is 20 ms of silence, and so many of nothing behind it.
    fn sound(at_ms: i64, bytes: usize) -> Unit {
        let payload = [vec![0x98], vec![7; bytes]].concat();
        let packets = vec![Packet { payload: payload.into(), marker: false, ticks: 0 }];
        Unit { packets, bytes: bytes + 1, ..Unit::new(Kind::Audio, Time::from_millis(at_ms), Instant::now()) }
    }

    fn opus() -> Track {
        Track::new(TrackId(1), Codec::Opus, Head::new(2).unwrap().write()).unwrap()
    }

    #[test]
    fn sound_waits_the_longer_the_more_watch() {
        let most = Duration::from_millis(40);
        let waits = [0, 124, 125, 200, 250, 100_000, usize::MAX].map(|viewers| wait(viewers, most).as_millis());
        assert_eq!(waits, [0, 0, 20, 32, 40, 40, 40]);
        assert_eq!(wait(500, Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_the_first_is_due_or_there_are_enough() {
        let mut sounds = Sounds::new(None);
        let (now, wait) = (Instant::now(), Duration::from_millis(30));
        assert!(sounds.push(now, sound(0, 1), Duration::ZERO));
        assert_eq!((sounds.take().len(), sounds.due()), (1, None));
        assert!(!sounds.push(now, sound(0, 1), wait) && !sounds.push(now + wait / 2, sound(20, 1), wait));
        assert_eq!(sounds.due(), Some(now + wait));
        assert!(sounds.push(now + wait, sound(40, 1), wait));
        let sent = sounds.take();
        assert_eq!(
            (sent.len(), sent.iter().all(|unit| unit.apart.is_empty())),
            (3, true),
            "none is joined of another codec"
        );
        assert!((1..AT_ONCE).all(|_| !sounds.push(now, sound(0, 1), wait)) && sounds.push(now, sound(0, 1), wait));
        assert_eq!((sounds.take().len(), sounds.take().len()), (AT_ONCE, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn two_are_one_packet_for_those_who_take_it_and_two_for_others() {
        let mut sounds = Sounds::new(Some(&opus()));
        let wait = Duration::from_secs(1);
        let mut joined = |packets: &[(i64, usize)]| {
            for (at, bytes) in packets {
                sounds.push(Instant::now(), sound(*at, *bytes), wait);
            }
            sounds.take()
        };
        let sent = joined(&[(0, 3), (20, 4)]);
        let [unit] = &sent[..] else { panic!("{sent:?}") };
        // Two frames of different lengths, that of the first before them (RFC 6716 3.2.4).
        assert_eq!(unit.packets[0].payload[..], [0x9a, 3, 7, 7, 7, 7, 7, 7, 7]);
        assert_eq!((unit.packets.len(), unit.lasts.millis(), unit.bytes), (1, 40, 9));
        let apart: Vec<_> = unit.apart.iter().map(|packet| (packet.payload.len(), packet.ticks)).collect();
        assert_eq!(apart, [(4, 0), (5, 960)]);
        assert_eq!(joined(&[(0, 3)])[0].packets[0].payload.len(), 4, "one is as it came");
        assert_eq!(joined(&[(0, 3), (60, 3)]).len(), 2, "40 ms are missing between them");
        assert_eq!(joined(&[(0, 700), (20, 700)]).len(), 2, "too long for a datagram");
        let mut runs =
            |packets: &[(i64, usize)]| joined(packets).iter().map(|unit| unit.apart.len()).collect::<Vec<_>>();
        let eight: Vec<(i64, usize)> = (0..8).map(|n| (20 * n, 3)).collect();
        assert_eq!(runs(&eight), [6, 2], "120 ms are the most");
        assert_eq!(
            runs(&[(0, 3), (20, 3), (60, 3), (80, 1150), (100, 3), (120, 3)]),
            [2, 0, 0, 2],
            "each that belongs together"
        );
        let audio = Audio { channels: 1, sample_rate_hz: 8000 };
        let mut sounds = Sounds::new(Some(&Track::audio(TrackId(1), Codec::G711A, audio)));
        sounds.push(Instant::now(), sound(0, 3), wait);
        sounds.push(Instant::now(), sound(20, 3), wait);
        assert_eq!(sounds.take().len(), 2);
    }
}
