//! The sending side of a relay on an uplink that may be weak: which frames go, and when.
//!
//! [`Uplink`] takes frames as the stream brings them and gives out the relay's body in pieces. It keeps little under way
//! (see `path.rs`), so that what is decided about a frame is decided here and not in the buffers of kernels and modems,
//! where control requests would stand behind it; and it leaves out what would come too late (see `queue.rs`).
//!
//! No clock, no socket, no task: `now` is an argument. It does not read the stream, nor acknowledgements off the wire.

mod path;
mod queue;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use culvert_formats::relay::{self, Ending, Record, Report};
use culvert_media::{Frame, Tracks};
use tokio::time::Instant;

use path::{LEAST_PIECE_BYTES, Path};
use queue::{Out, Queue};

/// Largest piece: what one HTTP/2 DATA frame carries by default (RFC 9113 6.5.2).
const PIECE_BYTES: usize = 16 << 10;
/// Largest piece while the path is slow: at 200 kbit/s it holds up a control request by 0.16 s.
const SLOW_PIECE_BYTES: usize = 4 << 10;
/// Data up to here is copied behind its header rather than sent as a piece of its own.
const COPY_BYTES: usize = 4 << 10;
/// Reports are not sent more often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A change of the waiting time by less is not worth a report.
const REPORT_WAIT_STEP: Duration = Duration::from_millis(500);
/// A probe: 0.3 s of a path of 200 kbit/s, and long enough to be told from jitter.
const PROBE_BYTES: u32 = 8 << 10;
/// Probes take a sixth of 200 kbit/s when nothing else can be sent, and no more.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// The sender of one relay.
///
/// The reader is to acknowledge all bytes of the body it has received, every 20 ms while any come, or every 16 KiB if
/// that is sooner: acknowledgements are the clock of all this.
#[derive(Debug)]
pub(crate) struct Uplink {
    epoch: u64,
    queue: Queue,
    path: Path,
    begun: Option<Begun>,
    said_hello: bool,
    done: bool,
    /// When something was last asked or told: the time of a report.
    now: Instant,
    reported: (Instant, Report),
    probed: Option<Instant>,
}

/// A record, or a gap and its key frame, of which a part was given out: the rest must follow before anything else.
#[derive(Debug)]
struct Begun {
    head: Bytes,
    data: Bytes,
    /// Goes out whatever the window is: a few bytes that are to be known.
    urgent: bool,
    last: bool,
    /// Its size, if it is a probe.
    probe: Option<usize>,
}

impl Uplink {
    /// Of this life of the stream, to a reader that acknowledges.
    pub(crate) fn new(now: Instant, epoch: u64) -> Uplink {
        Uplink {
            epoch,
            queue: Queue::default(),
            path: Path::new(now),
            begun: None,
            said_hello: false,
            done: false,
            now,
            reported: (now, Report::default()),
            probed: None,
        }
    }

    /// The reader never acknowledges (curl): then only the caller's own back-pressure paces this, and age decides alone.
    pub(crate) fn without_acks(mut self) -> Uplink {
        self.path.without_acks();
        self
    }

    /// The reader has all that came before the first frame, so pictures need not begin with a key frame.
    pub(crate) fn resumed(mut self) -> Uplink {
        self.queue.resumed();
        self
    }

    /// The frames that follow are of these tracks. Those that no reader takes ([`relay::fits`]) are left out.
    pub(crate) fn handle_tracks(&mut self, tracks: &Tracks) {
        self.queue.handle_tracks(tracks);
    }

    /// The next frame of the stream; `seq` is its number there and rises.
    pub(crate) fn handle_frame(&mut self, now: Instant, seq: u64, frame: Frame) {
        self.now = now;
        self.path.handle_offered(now, frame.data.len());
        self.queue.handle_frame(now, seq, frame);
        self.queue.expire(now, self.path.patience(now));
    }

    /// The stream skipped so many frames; the next one is a key frame.
    pub(crate) fn handle_gap(&mut self, frames: u64) {
        self.queue.handle_gap(frames);
    }

    /// The stream ended. What waits is still sent, as far as it is in time.
    pub(crate) fn handle_end(&mut self, ending: Ending) {
        self.queue.handle_end(ending);
    }

    /// The reader has received so many bytes of the body, from its beginning.
    pub(crate) fn handle_ack(&mut self, now: Instant, received_bytes: u64) {
        self.now = now;
        self.path.handle_ack(now, received_bytes, self.queue.is_restrained());
    }

    /// The next piece of the body, at most 16 KiB. None: nothing to be sent before an acknowledgement, a frame, or
    /// [`Uplink::next_timeout`].
    ///
    /// Ask only when the piece can be passed on at once: what was given out cannot be left out any more.
    pub(crate) fn poll_output(&mut self, now: Instant) -> Option<Bytes> {
        self.now = now;
        if self.begun.is_none() {
            self.queue.expire(now, self.path.patience(now));
            self.begun = self.begin(now);
        }
        let urgent = self.begun.as_ref()?.urgent;
        let room = if urgent { usize::MAX } else { self.path.room(now) };
        let most = if self.path.is_slow(now) { SLOW_PIECE_BYTES } else { PIECE_BYTES };
        let piece = self.begun.as_mut()?.cut(room.min(most));
        let Some(piece) = piece else {
            self.path.handle_held(now, true);
            return None;
        };
        self.path.handle_sent(now, piece.len());
        if let Some(begun) = self.begun.take_if(|begun| begun.is_empty()) {
            self.done = begun.last;
            if let Some(bytes) = begun.probe {
                self.path.handle_probe(now, bytes);
            }
        }
        Some(piece)
    }

    /// What to send next, when nothing is begun.
    fn begin(&mut self, now: Instant) -> Option<Begun> {
        if self.done {
            return None;
        }
        if !self.said_hello {
            // The number of the first frame is to be said, so there must be one, or none ever.
            let next_seq = self.queue.first_seq().or(self.queue.has_ended().then_some(0))?;
            self.said_hello = true;
            return Some(Begun::record(&Record::Hello { epoch: self.epoch, next_seq }));
        }
        if self.report_due().is_some_and(|due| due <= now) {
            let report = self.queue.report(now);
            self.reported = (now, report);
            return Some(Begun { urgent: true, ..Begun::record(&Record::Report(report)) });
        }
        if self.queue.is_empty() {
            self.path.handle_held(now, false);
            return self.probe(now);
        }
        // Not before there is room: until then better is known about what is worth sending.
        let (bytes, key) = self.queue.next_size();
        if !self.path.may_begin(now, bytes, key) {
            self.path.handle_held(now, true);
            return None;
        }
        match self.queue.poll(now, &self.path) {
            None => self.probe(now),
            Some(Out::Tracks(tracks)) => Some(Begun::record(&Record::Tracks(tracks))),
            Some(Out::End(ending)) => Some(Begun { last: true, urgent: true, ..Begun::record(&Record::End(ending)) }),
            Some(Out::Frame { seq, frame, gap }) => {
                let mut head = BytesMut::new();
                if gap > 0 {
                    relay::write(&Record::Gap { frames: gap }, &mut head);
                }
                let header = relay::frame_header(&frame, seq).expect("larger frames are not taken into the queue");
                head.extend_from_slice(&header);
                Some(Begun { head: head.freeze(), data: frame.data, urgent: false, last: false, probe: None })
            }
        }
    }

    /// Something that nobody needs, to see whether the path is still as slow as it was.
    fn probe(&mut self, now: Instant) -> Option<Begun> {
        let wanted = self.queue.is_hopeless() && self.path.in_flight() < SLOW_PIECE_BYTES;
        let rested = self.probed.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_EVERY);
        if !wanted || !rested || self.path.lateness(now).is_some() {
            return None;
        }
        self.probed = Some(now);
        let head = relay::padding(PROBE_BYTES);
        Some(Begun { probe: Some(head.len()), ..Begun::new(head) })
    }

    /// When to ask for output again, though nothing happened: a report is due then.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if self.begun.is_some() || self.done || !self.said_hello { None } else { self.report_due() }
    }

    fn report_due(&self) -> Option<Instant> {
        let (at, last) = self.reported;
        let coarse = |report: Report| Report {
            queued: REPORT_WAIT_STEP * (report.queued.as_millis() / REPORT_WAIT_STEP.as_millis()).min(60) as u32,
            ..report
        };
        (coarse(self.report()) != coarse(last)).then(|| at + REPORT_EVERY)
    }

    /// What was left out so far.
    pub(crate) fn report(&self) -> Report {
        self.queue.report(self.now)
    }

    /// Bytes of media that wait here, without those under way.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.bytes() + self.begun.as_ref().map_or(0, |begun| begun.data.len())
    }

    /// The end was given out; there is nothing more.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

impl Begun {
    fn new(head: Bytes) -> Begun {
        Begun { head, data: Bytes::new(), urgent: false, last: false, probe: None }
    }

    fn record(record: &Record) -> Begun {
        let mut head = BytesMut::new();
        relay::write(record, &mut head);
        Begun::new(head.freeze())
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty()
    }

    /// The next piece, if there is room for one that is worth it.
    fn cut(&mut self, most: usize) -> Option<Bytes> {
        let left = self.head.len() + self.data.len();
        if most < left.min(LEAST_PIECE_BYTES) {
            return None;
        }
        if self.head.is_empty() {
            return Some(self.data.split_to(most.min(self.data.len())));
        }
        let head = self.head.split_to(most.min(self.head.len()));
        if !self.head.is_empty() || self.data.is_empty() {
            return Some(head);
        }
        let more = self.data.split_to((most - head.len()).min(COPY_BYTES).min(self.data.len()));
        let mut piece = BytesMut::with_capacity(head.len() + more.len());
        piece.extend_from_slice(&head);
        piece.extend_from_slice(&more);
        Some(piece.freeze())
    }
}
