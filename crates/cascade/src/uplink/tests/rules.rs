//! The rules one by one.

use std::time::Duration;

use bytes::Bytes;
use culvert_formats::relay::{Ending, Reader, Record};
use culvert_media::{Codec, Frame, Track, TrackId, Tracks};
use tokio::time::Instant;

use super::super::Uplink;
use super::sim::{Camera, Class, SOUND, VIDEO, frame, tracks};

fn uplink(now: Instant) -> Uplink {
    let mut uplink = Uplink::new(now, 5);
    uplink.handle_tracks(&tracks(&Camera::default()));
    uplink
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// All that is given out now.
fn drain(uplink: &mut Uplink, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| uplink.poll_output(now)).collect()
}

/// A reader of one uplink that says what came, shortly.
#[derive(Default)]
struct Ear(Reader, u64);

impl Ear {
    fn hear(&mut self, pieces: &[Bytes]) -> Vec<String> {
        let mut heard = Vec::new();
        for piece in pieces {
            self.1 += piece.len() as u64;
            self.0.handle_input(piece);
            while let Some(record) = self.0.poll_record().unwrap() {
                heard.push(match record {
                    Record::Hello { epoch, next_seq } => format!("hello {epoch} {next_seq}"),
                    Record::Tracks(tracks) => format!("tracks {}", tracks.len()),
                    Record::Frame { seq, frame } if frame.discontinuity => format!("{seq} bent"),
                    Record::Frame { seq, .. } => seq.to_string(),
                    Record::Gap { frames } => format!("gap {frames}"),
                    Record::Report(report) => format!("report {} {}", report.disposable, report.frames),
                    Record::End(ending) => format!("{ending:?}"),
                });
            }
        }
        heard
    }
}

#[test]
fn the_body_begins_with_hello_and_tracks_and_ends_with_the_reason() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    assert_eq!(uplink.poll_output(now), None, "the number of the first frame is not known yet");
    assert_eq!(uplink.next_timeout(), None);
    uplink.handle_frame(now, 40, frame(Class::Key, 0, 100));
    uplink.handle_frame(now, 41, frame(Class::Sound, 1, 100));
    uplink.handle_frame(now, 42, frame(Class::Inter, 2, 100));
    uplink.handle_end(Ending::Lost);
    uplink.handle_frame(now, 43, frame(Class::Inter, 3, 100));
    assert!(!uplink.is_done() && uplink.queued() == 300);
    let pieces = drain(&mut uplink, now);
    assert_eq!(ear.hear(&pieces), ["hello 5 40", "tracks 2", "40", "41", "42", "Lost"]);
    assert!(uplink.is_done() && uplink.queued() == 0);
    assert_eq!((uplink.poll_output(now), uplink.next_timeout()), (None, None));

    let mut empty = Uplink::new(now, 6);
    empty.handle_end(Ending::Closed);
    assert_eq!(Ear::default().hear(&drain(&mut empty, now)), ["hello 6 0", "Closed"]);
}

#[test]
fn no_more_than_a_window_is_given_out_and_a_frame_of_any_size_comes_whole() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    uplink.handle_frame(now, 0, frame(Class::Key, 0, 300_000));
    let (mut heard, mut at) = (Vec::new(), now);
    for _ in 0..40 {
        let pieces = drain(&mut uplink, at);
        assert!(pieces.iter().all(|piece| piece.len() <= 16 << 10));
        assert!(pieces.iter().map(Bytes::len).sum::<usize>() <= 40 << 10);
        heard.extend(ear.hear(&pieces));
        at += ms(20);
        uplink.handle_ack(at, ear.1);
    }
    assert_eq!(heard, ["hello 5 0", "tracks 2", "0"]);
    assert_eq!(uplink.report().frames, 0);
}

#[test]
fn lying_acknowledgements_do_no_harm() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    uplink.handle_ack(now, u64::MAX);
    uplink.handle_frame(now, 0, frame(Class::Key, 0, 100_000));
    let mut heard = ear.hear(&drain(&mut uplink, now));
    for step in 1..10 {
        uplink.handle_ack(now + ms(step), u64::MAX);
        uplink.handle_ack(now + ms(step), 3);
        heard.extend(ear.hear(&drain(&mut uplink, now + ms(step))));
    }
    assert_eq!(heard, ["hello 5 0", "tracks 2", "0"]);
}

#[test]
fn sound_overtakes_pictures_but_not_the_first_key_frame() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    for (seq, class) in [(0, Class::Key), (1, Class::Inter), (2, Class::Sound), (3, Class::Inter), (4, Class::Sound)] {
        uplink.handle_frame(now, seq, frame(class, seq, 100));
    }
    assert_eq!(ear.hear(&drain(&mut uplink, now)), ["hello 5 0", "tracks 2", "0", "2", "4", "1", "3"]);
}

#[test]
fn who_has_what_came_before_goes_on_without_a_key_frame() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (Uplink::new(now, 5).resumed(), Ear::default());
    uplink.handle_tracks(&tracks(&Camera::default()));
    uplink.handle_frame(now, 7, frame(Class::Inter, 0, 100));
    uplink.handle_frame(now, 8, frame(Class::Sound, 0, 100));
    assert_eq!(ear.hear(&drain(&mut uplink, now)), ["hello 5 7", "tracks 2", "8", "7"]);
    // But not if the stream had skipped by then.
    let (mut uplink, mut ear) = (Uplink::new(now, 5).resumed(), Ear::default());
    uplink.handle_gap(3);
    uplink.handle_tracks(&tracks(&Camera::default()));
    uplink.handle_frame(now, 7, frame(Class::Inter, 0, 100));
    uplink.handle_frame(now, 8, frame(Class::Key, 1, 100));
    assert_eq!(ear.hear(&drain(&mut uplink, now)), ["hello 5 8", "tracks 2", "gap 4", "8"]);
}

#[test]
fn after_a_gap_of_the_stream_only_a_key_frame_goes_on() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    uplink.handle_frame(now, 0, frame(Class::Inter, 0, 100));
    uplink.handle_frame(now, 1, frame(Class::Key, 0, 100));
    uplink.handle_gap(7);
    for (seq, class) in [(9, Class::Inter), (10, Class::Disposable), (11, Class::Sound), (12, Class::Key)] {
        let bent = Frame { discontinuity: seq == 9, ..frame(class, seq, 100) };
        uplink.handle_frame(now, seq, bent);
    }
    let heard = ear.hear(&drain(&mut uplink, now));
    // Seven, and the inter frame behind them; the bend is not lost with it.
    assert_eq!(heard, ["hello 5 1", "tracks 2", "gap 1", "1", "11", "gap 8", "12 bent"]);
    assert_eq!((uplink.report().frames, uplink.report().disposable, uplink.report().bytes), (2, 1, 300));
}

#[test]
fn a_cut_goes_up_to_the_next_key_frame_of_its_own_track() {
    let now = Instant::now();
    let mut uplink = Uplink::new(now, 5);
    let other = TrackId(2);
    let all = tracks(&Camera::default());
    let with_other = Tracks::new(
        all.iter().cloned().chain([Track { id: other, ..all.video().unwrap().clone() }]).collect::<Vec<_>>(),
    );
    uplink.handle_tracks(&with_other);
    let of_other = |class, at| Frame { track: other, ..frame(class, at, 100) };
    uplink.handle_frame(now, 0, frame(Class::Key, 0, 100));
    uplink.handle_frame(now, 1, of_other(Class::Key, 0));
    let mut ear = Ear::default();
    ear.hear(&drain(&mut uplink, now));
    // Nobody takes anything for 1.2 s: inter frames of the first track become too old, those of the other are young.
    uplink.handle_ack(now + ms(1), ear.1);
    for (seq, at) in [(2, 10), (3, 20)] {
        uplink.handle_frame(now + ms(at), seq, frame(Class::Inter, at, 100));
    }
    uplink.handle_frame(now + ms(900), 4, of_other(Class::Inter, 900));
    uplink.handle_frame(now + ms(1_000), 5, frame(Class::Inter, 1_000, 100));
    let later = now + ms(1_200);
    uplink.handle_frame(later, 6, frame(Class::Inter, 1_200, 100));
    uplink.handle_frame(later, 7, frame(Class::Key, 1_200, 100));
    uplink.handle_frame(later, 8, frame(Class::Inter, 1_200, 100));
    let heard = ear.hear(&drain(&mut uplink, later));
    assert_eq!(heard, ["report 0 4", "4", "gap 4", "7", "8"]);
    assert!(uplink.report().keys_only);
    // The GOP after the cut passes whole, and all is as before.
    uplink.handle_frame(later, 9, frame(Class::Key, 1_300, 100));
    assert_eq!(ear.hear(&drain(&mut uplink, later)), ["9"]);
    assert!(!uplink.report().keys_only);
    // The reports of that wait their time.
    let due = uplink.next_timeout().unwrap();
    assert_eq!(due, later + ms(1_000));
    assert_eq!(uplink.poll_output(due - ms(1)), None);
    assert_eq!(ear.hear(&drain(&mut uplink, due)), ["report 0 4"]);
    assert_eq!(uplink.next_timeout(), None);
}

#[test]
fn a_change_of_tracks_keeps_its_place_and_asks_for_a_key_frame_only_where_something_changed() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    let all = tracks(&Camera::default());
    let video_only = Tracks::new(vec![all.video().unwrap().clone()]);
    uplink.handle_frame(now, 0, frame(Class::Key, 0, 100));
    uplink.handle_frame(now, 1, frame(Class::Sound, 0, 100));
    uplink.handle_tracks(&all);
    uplink.handle_tracks(&video_only);
    uplink.handle_frame(now, 2, frame(Class::Inter, 1, 100));
    uplink.handle_frame(now, 3, frame(Class::Sound, 1, 100));
    uplink.handle_tracks(&all);
    uplink.handle_frame(now, 4, frame(Class::Inter, 2, 100));
    uplink.handle_frame(now, 5, frame(Class::Sound, 2, 100));
    let other =
        Tracks::new(vec![Track::new(VIDEO, Codec::Vp8, Bytes::new()).unwrap(), all.track(SOUND).unwrap().clone()]);
    uplink.handle_tracks(&other);
    uplink.handle_frame(now, 6, frame(Class::Inter, 3, 100));
    uplink.handle_frame(now, 7, frame(Class::Key, 4, 100));
    let heard = ear.hear(&drain(&mut uplink, now));
    let expected = ["hello 5 0", "tracks 2", "0", "1", "tracks 1", "2", "tracks 2", "5", "4", "tracks 2", "gap 1", "7"];
    assert_eq!(heard, expected);
}

#[test]
fn what_no_reader_takes_is_left_out() {
    let now = Instant::now();
    let (mut uplink, mut ear) = (uplink(now), Ear::default());
    uplink.handle_tracks(&Tracks::new(Vec::new()));
    uplink.handle_frame(now, 0, frame(Class::Key, 0, 100));
    uplink.handle_frame(now, 1, Frame { track: TrackId(9), ..frame(Class::Inter, 0, 100) });
    uplink.handle_frame(now, 2, Frame { data: Bytes::new(), ..frame(Class::Sound, 0, 100) });
    uplink.handle_frame(now, 3, frame(Class::Inter, 0, culvert_formats::relay::MAX_FRAME_BYTES + 1));
    uplink.handle_frame(now, 4, frame(Class::Inter, 0, 100));
    uplink.handle_frame(now, 5, frame(Class::Key, 0, 100));
    assert_eq!(ear.hear(&drain(&mut uplink, now)), ["hello 5 0", "tracks 2", "0", "gap 2", "5"]);
}

#[test]
fn the_queue_is_bounded_in_frames_and_in_bytes() {
    let now = Instant::now();
    let mut uplink = uplink(now);
    for seq in 0..10_000 {
        uplink.handle_frame(now, seq, frame(Class::Sound, seq, 10));
    }
    assert_eq!(uplink.queued(), 40_960);
    for seq in 0..30 {
        uplink.handle_frame(now, 10_000 + seq, frame(Class::Key, seq, 1 << 20));
        assert!(uplink.queued() <= 8 << 20);
    }
    assert!(uplink.queued() >= 7 << 20);
}
