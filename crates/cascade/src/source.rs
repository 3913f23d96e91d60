//! The lower's end of a relay: reads the stream from the hub and sends what the uplink can carry.

use culvert_formats::relay::{Back, BackReader, Ending};
use culvert_hub::{Admission, End, Hub, Next, Subscriber, Wish};
use culvert_link::{Body, Sender, channel};
use http::{Response, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

use crate::uplink::Uplink;

/// Pieces on their way to the link. One: what is given out cannot be left out any more.
const PIECES: usize = 1;

/// The answer to `GET /relay/{stream}`. `resume`: the life of the stream and the frame in it at which a reader goes on.
/// `back`: acknowledgements and wishes; a request without a body never acknowledges. Spawns the task that sends.
pub fn serve_relay(hub: &Hub, admission: Admission, resume: Option<(u64, u64)>, back: Body) -> Response<Body> {
    let mut subscriber = admission.subscribe();
    let resumes = resume.filter(|(epoch, sequence)| *epoch == subscriber.epoch() && subscriber.begin_at(*sequence));
    let (sender, body) = channel(PIECES);
    let resumed = resumes.is_some();
    let source = Source { hub: hub.clone(), subscriber, back, reader: BackReader::new(), resumed };
    hub.spawn(source.run(sender));
    let mut response = Response::new(body);
    let kind = header::HeaderValue::from_static("application/vnd.culvert.relay");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

struct Source {
    hub: Hub,
    subscriber: Subscriber,
    back: Body,
    reader: BackReader,
    /// The reader has what came before the first frame.
    resumed: bool,
}

impl Source {
    async fn run(mut self, sender: Sender) {
        let acknowledging = !hyper::body::Body::is_end_stream(&self.back);
        let mut uplink = Uplink::new(Instant::now(), self.subscriber.epoch());
        if !acknowledging {
            uplink = uplink.without_acks();
        }
        if self.resumed {
            uplink = uplink.resumed();
        }
        let mut ended = false;
        loop {
            let mut blocked = false;
            while !uplink.is_done() {
                let Some(place) = sender.try_reserve() else {
                    blocked = true;
                    break;
                };
                match uplink.poll_output(Instant::now()) {
                    Some(piece) => {
                        if place.send(piece).is_err() {
                            return;
                        }
                    }
                    None => break,
                }
            }
            if uplink.is_done() {
                return;
            }
            let timeout = uplink.next_timeout();
            tokio::select! {
                // What the reader says comes before its silence, or it would not be known whether it left or was lost.
                biased;
                said = self.back.frame(), if acknowledging => match said {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref()
                            && self.listen(&mut uplink, data).is_err()
                        {
                            return;
                        }
                    }
                    // The link was lost; the reader may come back by another one.
                    Some(Err(_)) => return,
                    // It wants no more, and has waited a grace for viewers before.
                    None => return self.subscriber.leave(),
                },
                next = self.subscriber.next(), if !ended => {
                    ended = matches!(next, Next::End(_));
                    // This node ends, not the stream: who reads it may keep its viewers until there is one again.
                    if ended && self.hub.is_draining() {
                        return;
                    }
                    self.take(&mut uplink, next);
                }
                // The place is given back; the loop takes it again with something to put there.
                place = sender.reserve(), if blocked => drop(place),
                () = sender.closed() => return,
                () = sleep_until(timeout.unwrap_or_else(Instant::now)), if timeout.is_some() => {}
            }
        }
    }

    fn take(&self, uplink: &mut Uplink, next: Next) {
        match next {
            Next::Tracks(tracks) => uplink.handle_tracks(&tracks),
            Next::Frame(frame) => uplink.handle_frame(Instant::now(), self.subscriber.sequence(), frame),
            Next::Gap(frames) => uplink.handle_gap(frames),
            Next::End(end) => uplink.handle_end(match end {
                End::Finished => Ending::Finished,
                End::Lost => Ending::Lost,
                End::Closed | End::Stalled | End::Disconnected | End::Changed => Ending::Closed,
            }),
        }
    }

    /// An error: it says what nobody says.
    fn listen(&mut self, uplink: &mut Uplink, data: &[u8]) -> Result<(), culvert_formats::relay::Error> {
        self.reader.handle_input(data);
        while let Some(record) = self.reader.poll_record()? {
            match record {
                Back::Ack { received_bytes } => uplink.handle_ack(Instant::now(), received_bytes),
                Back::KeyFrame => self.subscriber.wish(Wish::KeyFrame),
            }
        }
        Ok(())
    }
}
