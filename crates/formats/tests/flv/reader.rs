use culvert_formats::flv::{Error, MAX_TAG_BYTES, Reader, Tag, TagKind, file_header, write_tag};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::sample::{H264_AAC, H265_PCMA, tags};

fn tag(kind: TagKind, time_ms: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (prefix, payload) = body.split_at(body.len() / 2);
    write_tag(kind, time_ms, prefix, payload, &mut out);
    out
}

fn file(parts: &[&[u8]]) -> Vec<u8> {
    [&file_header(true, true), &parts.concat()[..]].concat()
}

/// All tags of an input that comes in pieces, and how it ended.
fn in_pieces(bytes: &[u8], mut cuts: Vec<usize>) -> (Vec<Tag>, Option<Error>, u64, u64) {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let (mut reader, mut tags, mut from) = (Reader::new(), Vec::new(), 0);
    for to in cuts {
        reader.handle_input(&bytes[from..to]);
        from = to;
        loop {
            match reader.poll_tag() {
                Ok(Some(tag)) => tags.push(tag),
                Ok(None) => break,
                Err(error) => return (tags, Some(error), 0, 0),
            }
        }
    }
    (tags, None, reader.skipped(), reader.wrong_sizes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_tags(cuts in prop::collection::vec(any::<Index>(), 0..200), first in any::<bool>()) {
        let bytes = if first { H264_AAC } else { H265_PCMA };
        let split = in_pieces(bytes, cuts.iter().map(|cut| cut.index(bytes.len())).collect());
        prop_assert_eq!(split, in_pieces(bytes, Vec::new()));
    }

    #[test]
    fn any_split_of_garbage_ends_the_same(
        tail in prop::collection::vec(prop_oneof![Just(0u8), Just(9), Just(8), any::<u8>()], 0..400),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
        headed in prop::bool::weighted(0.9),
    ) {
        let bytes = if headed { file(&[&tail]) } else { tail };
        let split = in_pieces(&bytes, cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect());
        prop_assert_eq!(split, in_pieces(&bytes, Vec::new()));
    }

    #[test]
    fn what_is_written_is_read(
        written in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)), 0..10)
    ) {
        let parts: Vec<_> = written.iter().map(|(time, body)| tag(TagKind::Audio, *time, body)).collect();
        let read = tags(&file(&[&parts.concat()])).unwrap();
        let read: Vec<_> = read.into_iter().map(|tag| (tag.time_ms, tag.body.to_vec())).collect();
        prop_assert_eq!(read, written);
    }
}

#[test]
fn real_files_are_read_whole() {
    for (bytes, count) in [(H264_AAC, 140), (H265_PCMA, 181)] {
        let (tags, error, skipped, wrong) = in_pieces(bytes, Vec::new());
        assert_eq!((tags.len(), error, skipped, wrong), (count, None, 0, 0));
    }
}

#[test]
fn wrong_previous_tag_sizes_are_counted_and_borne() {
    let mut first = tag(TagKind::Audio, 1, b"one");
    let end = first.len();
    first[end - 4..].copy_from_slice(&[9, 9, 9, 9]);
    let mut bytes = file(&[&first, &tag(TagKind::Video, 2, b"two")]);
    bytes[12] = 1;
    let (tags, error, skipped, wrong) = in_pieces(&bytes, Vec::new());
    assert_eq!((tags.len(), error, skipped, wrong), (2, None, 0, 2));
}

#[test]
fn unknown_and_encrypted_tags_are_skipped_and_counted() {
    let (mut unknown, mut encrypted) = (tag(TagKind::Audio, 1, b"one"), tag(TagKind::Audio, 1, b"two"));
    unknown[0] = 15;
    encrypted[0] |= 0x20;
    let bytes = file(&[&unknown, &tag(TagKind::Script, u32::MAX, b""), &encrypted, &tag(TagKind::Video, 3, b"x")]);
    let (tags, error, skipped, wrong) = in_pieces(&bytes, Vec::new());
    let times: Vec<_> = tags.iter().map(|tag| (tag.kind, tag.time_ms, tag.body.len())).collect();
    assert_eq!(times, [(TagKind::Script, u32::MAX, 0), (TagKind::Video, 3, 1)]);
    assert_eq!((error, skipped, wrong), (None, 2, 0));
}

#[test]
fn a_tag_comes_out_before_its_previous_tag_size_is_there() {
    let bytes = file(&[&tag(TagKind::Audio, 1, b"one")]);
    assert_eq!(tags(&bytes[..bytes.len() - 4]).unwrap().len(), 1);
    assert_eq!(tags(&bytes[..bytes.len() - 5]).unwrap().len(), 0);
}

#[test]
fn a_longer_file_header_is_skipped_and_an_absurd_one_is_not() {
    let bytes = file(&[&tag(TagKind::Audio, 1, b"one")]);
    let longer = [&bytes[..8], &[12, 1, 2, 3], &bytes[9..]].concat();
    assert_eq!(tags(&longer).unwrap().len(), 1);
    for size in [8u32, 1025, u32::MAX] {
        let absurd = [&bytes[..5], &size.to_be_bytes(), &bytes[9..]].concat();
        assert_eq!(tags(&absurd), Err(Error::HeaderSize(size)));
    }
}

#[test]
fn what_is_no_flv_or_too_large_is_an_error_for_good() {
    assert_eq!(tags(b"GET / HTTP/1.1"), Err(Error::Signature(*b"GET")));
    let mut reader = Reader::new();
    reader.handle_input(&file(&[&[9, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0]]));
    for _ in 0..2 {
        assert_eq!(reader.poll_tag(), Err(Error::TooLarge(MAX_TAG_BYTES + 1)));
        reader.handle_input(&file(&[&tag(TagKind::Audio, 1, b"one")]));
    }
}

#[test]
fn a_body_too_large_is_not_written() {
    let mut out = Vec::new();
    write_tag(TagKind::Video, 0, &[0], &vec![0; MAX_TAG_BYTES], &mut out);
    assert!(out.is_empty());
    write_tag(TagKind::Video, 0, &[0], &vec![0; MAX_TAG_BYTES - 1], &mut out);
    assert_eq!(tags(&file(&[&out])).unwrap()[0].body.len(), MAX_TAG_BYTES);
}
