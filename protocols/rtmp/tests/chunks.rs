//! The chunk layer from outside: whatever was written is read again, and lies end early and cheaply.

use culvert_rtmp::wire::chunk::{MAX_CHUNK_STREAMS, MAX_MESSAGE_BYTES};
use culvert_rtmp::wire::{ChunkReader, Error, RawMessage, write_message};
use proptest::prelude::*;

const EXTENDED: u32 = 0xff_ffff;

/// Everything in `input`, given in pieces of the sizes in turn.
fn read_with(reader: &mut ChunkReader, input: &[u8], pieces: &[usize]) -> Result<Vec<RawMessage>, Error> {
    let (mut messages, mut rest) = (Vec::new(), input);
    for size in pieces.iter().cycle() {
        let (mut piece, later) = rest.split_at(rest.len().min(*size));
        loop {
            let taken = reader.handle_input(piece)?;
            piece = &piece[taken..];
            let Some(message) = reader.poll_message() else { break };
            messages.push(message);
        }
        assert!(piece.is_empty(), "input is taken whole once no message waits");
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok(messages)
}

fn read(input: &[u8]) -> Result<Vec<RawMessage>, Error> {
    read_with(&mut ChunkReader::new(), input, &[usize::MAX])
}

fn times(input: &[u8]) -> Vec<u32> {
    read(input).expect("well-formed").iter().map(|message| message.timestamp).collect()
}

fn basic(fmt: u8, csid: u32) -> Vec<u8> {
    let fmt = fmt << 6;
    match csid {
        2..=63 => vec![fmt | csid as u8],
        64..=319 => vec![fmt, (csid - 64) as u8],
        _ => vec![fmt | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8],
    }
}

/// A header with as much as `fmt` has.
fn header(fmt: u8, csid: u32, time: u32, length: usize, kind: u8, stream_id: u32) -> Vec<u8> {
    let mut out = basic(fmt, csid);
    let mut fields = time.min(EXTENDED).to_be_bytes()[1..].to_vec();
    fields.extend(&(length as u32).to_be_bytes()[1..]);
    fields.push(kind);
    fields.extend(stream_id.to_le_bytes());
    out.extend(&fields[..[11, 7, 3, 0][usize::from(fmt)]]);
    if time >= EXTENDED {
        out.extend(time.to_be_bytes());
    }
    out
}

fn set_chunk_size(size: u32) -> Vec<u8> {
    [header(0, 2, 0, 4, 1, 0), size.to_be_bytes().to_vec()].concat()
}

/// Writes as other implementations do: with deltas where they can be had, chunks of several chunk streams in turn.
#[derive(Clone, Debug)]
struct Planned {
    csid: u32,
    kind: u8,
    /// A step from the message before on the same chunk stream; may wrap.
    step: u32,
    stream_id: u32,
    length: usize,
    prefer_fmt: u8,
}

fn planned() -> impl Strategy<Value = Planned> {
    let csid = prop_oneof![Just(3u32), Just(4), Just(63), Just(64), Just(319), Just(320), Just(65_599)];
    let step = prop_oneof![Just(0u32), Just(20), Just(40), EXTENDED - 2..EXTENDED + 3, any::<u32>()];
    (csid, prop_oneof![Just(8u8), Just(9), Just(18)], step, 0u32..2, 0usize..700, 0u8..4).prop_map(
        |(csid, kind, step, stream_id, length, prefer_fmt)| Planned {
            csid,
            kind,
            step,
            stream_id,
            length: if length % 3 == 0 { 300 } else { length },
            prefer_fmt,
        },
    )
}

/// A chunk's bytes, and the message that it completes.
type Chunk = (Vec<u8>, Option<RawMessage>);

/// What is on the wire, and what should come out, in order of completion.
fn encode(plan: &[Planned], chunk_size: usize, order: &[usize]) -> (Vec<u8>, Vec<RawMessage>) {
    // One for each chunk stream.
    let mut queues: Vec<(u32, Vec<Chunk>)> = Vec::new();
    let mut last: std::collections::HashMap<u32, (Planned, u32, u32)> = Default::default();
    for (n, plan) in plan.iter().enumerate() {
        let (mut fmt, mut time, mut field) = (0, plan.step, plan.step);
        if let Some((before, before_time, before_field)) = last.get(&plan.csid)
            && before.stream_id == plan.stream_id
        {
            let like = (before.length, before.kind) == (plan.length, plan.kind);
            let can = if like && *before_field == plan.step {
                3
            } else if like {
                2
            } else {
                1
            };
            fmt = plan.prefer_fmt.min(can);
            if fmt > 0 {
                time = before_time.wrapping_add(plan.step);
                field = plan.step;
            }
        }
        last.insert(plan.csid, (plan.clone(), time, field));
        let payload: Vec<u8> = (0..plan.length).map(|byte| (byte * 7 + n) as u8).collect();
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        let parts: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(chunk_size).collect() };
        for (index, part) in parts.into_iter().enumerate() {
            let fmt = if index == 0 { fmt } else { 3 };
            chunks
                .push([header(fmt, plan.csid, field, plan.length, plan.kind, plan.stream_id), part.to_vec()].concat());
        }
        let Planned { csid, kind, stream_id, .. } = *plan;
        let message = RawMessage { csid, kind, timestamp: time, stream_id, payload: payload.into() };
        let position = queues.iter().position(|(id, _)| *id == csid).unwrap_or_else(|| {
            queues.push((csid, Vec::new()));
            queues.len() - 1
        });
        let whole = chunks.len() - 1;
        let chunks = chunks.into_iter().enumerate();
        queues[position].1.extend(chunks.map(|(n, chunk)| (chunk, (n == whole).then(|| message.clone()))));
    }
    queues.iter_mut().for_each(|(_, queue)| queue.reverse());
    let (mut wire, mut messages) = (set_chunk_size(chunk_size as u32), Vec::new());
    for choice in order.iter().cycle() {
        queues.retain(|(_, queue)| !queue.is_empty());
        if queues.is_empty() {
            break;
        }
        let index = choice % queues.len();
        let (chunk, message) = queues[index].1.pop().expect("empty queues are gone");
        wire.extend(chunk);
        messages.extend(message);
    }
    (wire, messages)
}

proptest! {
    #[test]
    fn what_others_write_is_read_whatever_the_split_and_the_interleaving(
        plan in prop::collection::vec(planned(), 1..20),
        chunk_size in 1usize..400,
        order in prop::collection::vec(any::<usize>(), 1..10),
        pieces in prop::collection::vec(1usize..300, 1..10),
    ) {
        let (wire, messages) = encode(&plan, chunk_size, &order);
        prop_assert_eq!(&read(&wire).expect("well-formed"), &messages);
        prop_assert_eq!(&read_with(&mut ChunkReader::new(), &wire, &pieces).expect("well-formed"), &messages);
        prop_assert_eq!(&read_with(&mut ChunkReader::new(), &wire, &[1]).expect("well-formed"), &messages);
    }

    #[test]
    fn what_we_write_is_read(
        chunk_size in 1u32..70_000,
        csid in 3u8..64,
        kind in 8u8..=9,
        time in prop_oneof![any::<u32>(), EXTENDED - 2..EXTENDED + 3],
        prefix in prop::collection::vec(any::<u8>(), 0..9),
        payload in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut wire = set_chunk_size(chunk_size);
        write_message(&mut wire, chunk_size, csid, kind, time, 1, &prefix, &payload);
        write_message(&mut wire, chunk_size, csid, kind, time, 1, &[], &[]);
        let payload = [prefix, payload].concat();
        let whole = RawMessage { csid: csid.into(), kind, timestamp: time, stream_id: 1, payload: payload.into() };
        let empty = RawMessage { payload: Default::default(), ..whole.clone() };
        prop_assert_eq!(read(&wire), Ok(vec![whole, empty]));
    }

    #[test]
    fn noise_is_read_alike_in_any_split_and_never_panics(
        noise in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..8], 0..600),
        pieces in prop::collection::vec(1usize..50, 1..5),
    ) {
        prop_assert_eq!(read(&noise), read_with(&mut ChunkReader::new(), &noise, &pieces));
    }
}

#[test]
fn timestamps_run_on_through_every_wrap_point() {
    // faults.md M1 to M3: 4 h 39 m, 24 days, 49 days; absolute, then by deltas.
    for top in [1u64 << 24, 1 << 31, 1 << 32] {
        let expected: Vec<u32> = (0..6).map(|n| (top - 60 + n * 20) as u32).collect();
        let (mut absolute, mut deltas) = (set_chunk_size(4), set_chunk_size(4));
        for (n, time) in expected.iter().enumerate() {
            write_message(&mut absolute, 4, 6, 9, *time, 1, &[], b"0123456789");
            deltas.extend(match n {
                0 => header(0, 6, *time, 2, 9, 1),
                1 => header(1, 6, 20, 2, 9, 1),
                _ => header(3, 6, 20, 2, 9, 1),
            });
            deltas.extend(b"ab");
        }
        assert_eq!(times(&absolute), expected);
        assert_eq!(times(&deltas), expected);
    }
}

#[test]
fn a_peer_may_leave_the_extended_timestamp_out_on_type_3() {
    let time = 0x0102_0304u32;
    // Payloads that differ from the timestamp at each of its bytes, and one that ends within it.
    for payload in
        [&b"\x00bcdefgh"[..], b"abcd\x01\x00gh", b"abcd\x01\x02\x00h", b"abcd\x01\x02\x03\x00", b"abcd\x01\x02"]
    {
        let mut wire = set_chunk_size(4);
        wire.extend(header(0, 6, time, payload.len(), 9, 1));
        wire.extend(&payload[..4]);
        wire.extend(basic(3, 6));
        wire.extend(&payload[4..]);
        wire.extend(header(0, 4, 7, 1, 8, 1));
        wire.push(1);
        for pieces in [usize::MAX, 1, 2, 3] {
            let messages = read_with(&mut ChunkReader::new(), &wire, &[pieces]).expect("tolerated");
            assert_eq!(messages.len(), 2);
            assert_eq!((messages[0].timestamp, &messages[0].payload[..]), (time, payload));
            assert_eq!((messages[1].timestamp, messages[1].csid), (7, 4));
        }
    }
}

#[test]
fn what_was_aborted_is_gone_and_others_go_on() {
    let mut wire = [header(0, 6, 1, 200, 9, 1), vec![1; 128], header(0, 4, 1, 200, 8, 1), vec![2; 128]].concat();
    wire.extend([header(0, 2, 0, 4, 2, 0), vec![0, 0, 0, 6]].concat());
    wire.extend([basic(3, 4), vec![2; 72], header(0, 6, 2, 3, 9, 1), vec![3; 3]].concat());
    let messages = read(&wire).expect("well-formed");
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].payload, vec![2; 200]);
    assert_eq!((messages[1].timestamp, messages[1].payload.len()), (2, 3));
}

#[test]
fn a_repeated_header_in_mid_message_continues_it_and_another_one_is_an_error() {
    let begin = [header(0, 6, 1, 200, 9, 1), vec![1; 128]].concat();
    let again = [begin.clone(), header(1, 6, 0, 200, 9, 1), vec![1; 72]].concat();
    assert_eq!(read(&again).expect("tolerated")[0].payload, vec![1; 200]);
    for other in
        [header(0, 6, 1, 201, 9, 1), header(1, 6, 0, 20, 9, 1), header(1, 6, 0, 200, 8, 1), header(0, 6, 1, 200, 9, 2)]
    {
        assert_eq!(read(&[begin.clone(), other].concat()), Err(Error::Interrupted(6)));
    }
}

#[test]
fn lengths_and_counts_beyond_the_bounds_end_it_at_the_header() {
    let long = |length| header(0, 6, 0, length, 9, 1);
    let too_long = |length, limit| Err(Error::TooLong { kind: 9, length, limit });
    assert_eq!(read(&long(65_537)), too_long(65_537, 65_536));
    let mut reader = ChunkReader::new();
    reader.set_message_limit(usize::MAX);
    assert_eq!(read_with(&mut reader, &long(0xff_ffff), &[1]), too_long(0xff_ffff, MAX_MESSAGE_BYTES));
    for size in [0, 0x0100_0000, 0x8000_0080, u32::MAX] {
        assert_eq!(read(&set_chunk_size(size)), Err(Error::ChunkSize(size)));
    }
    assert_eq!(read(&[header(0, 2, 0, 3, 1, 0), vec![0; 3]].concat()), Err(Error::Malformed(1)));
    assert_eq!(read(&basic(3, 9)), Err(Error::NoEarlierChunk { csid: 9, fmt: 3 }));
    let many: Vec<u8> = (0..=MAX_CHUNK_STREAMS as u32).flat_map(|n| header(0, 3 + n, 0, 0, 9, 1)).collect();
    assert_eq!(read(&many), Err(Error::ChunkStreams(35)));
}

#[test]
fn promises_take_no_memory() {
    let mut reader = ChunkReader::new();
    reader.set_message_limit(MAX_MESSAGE_BYTES);
    let mut wire = set_chunk_size(1);
    for csid in 3..34 {
        wire.extend(header(0, csid, 0, MAX_MESSAGE_BYTES, 9, 1));
        wire.push(0);
    }
    assert_eq!(read_with(&mut reader, &wire, &[1]), Ok(vec![]));
    assert!(reader.held_bytes() <= 128 * 1024, "31 bytes came, {} are held", reader.held_bytes());
}

#[test]
fn all_chunk_streams_together_are_bounded_too() {
    let mut reader = ChunkReader::new();
    reader.set_message_limit(MAX_MESSAGE_BYTES);
    let mut wire = set_chunk_size(7 << 20);
    for csid in 3..6 {
        wire.extend(header(0, csid, 0, MAX_MESSAGE_BYTES, 9, 1));
        wire.extend(vec![0; 7 << 20]);
    }
    assert_eq!(read_with(&mut reader, &wire, &[65_536]), Err(Error::Partial(16 << 20)));
    assert!(reader.held_bytes() <= 24 << 20);
}
