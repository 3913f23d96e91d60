//! The relay between our own nodes, both directions.

use bytes::{Bytes, BytesMut};
use culvert_formats::relay::{Back, BackReader, Error, Reader, Record, write};

use crate::split::splits;

/// The same records however the bytes are split; what we write of them is read as the same, and the second time written
/// as the first. The same bytes are tried as what flows back.
pub(crate) fn relay(data: &[u8]) {
    let mut ways = splits(data).into_iter().map(|pieces| records(&pieces));
    let (records_read, error) = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, (records_read.clone(), error.clone()));
    }
    let media = |record: &Record| if let Record::Frame { frame, .. } = record { frame.data.len() } else { 0 };
    assert!(records_read.iter().map(media).sum::<usize>() <= data.len());

    let written = written(&records_read);
    assert_eq!(records(&[&written]), (records_read, None));

    let mut ways = splits(data).into_iter().map(|pieces| backs(&pieces));
    let (all, error) = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, (all.clone(), error.clone()));
    }
    let again: Vec<u8> = all.iter().flat_map(|back| back.to_bytes()).collect();
    assert_eq!(backs(&[&again]), (all, None));
}

fn written(records: &[Record]) -> Bytes {
    let mut out = BytesMut::new();
    records.iter().for_each(|record| write(record, &mut out));
    out.freeze()
}

fn records(pieces: &[&[u8]]) -> (Vec<Record>, Option<Error>) {
    let mut reader = Reader::new();
    all(pieces, |piece| {
        piece.iter().for_each(|piece| reader.handle_input(piece));
        reader.poll_record()
    })
}

fn backs(pieces: &[&[u8]]) -> (Vec<Back>, Option<Error>) {
    let mut reader = BackReader::new();
    all(pieces, |piece| {
        piece.iter().for_each(|piece| reader.handle_input(piece));
        reader.poll_record()
    })
}

/// Gives each piece once, then polls until there is no more.
fn all<T>(
    pieces: &[&[u8]],
    mut next: impl FnMut(Option<&[u8]>) -> Result<Option<T>, Error>,
) -> (Vec<T>, Option<Error>) {
    let mut found = Vec::new();
    for piece in pieces {
        let mut input = Some(*piece);
        loop {
            match next(input.take()) {
                Ok(Some(record)) => found.push(record),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}
