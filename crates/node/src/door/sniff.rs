//! What a connection speaks, by its first bytes. Pure.

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    /// Too few to tell.
    More,
    /// A TLS handshake record (RFC 8446 5.1).
    Tls,
    /// RTMP: C0 with version 3, or RTMPE's 6, which the session refuses with a reason.
    Rtmp,
    /// A request line of HTTP/1 (RFC 9112 3).
    Http1,
    /// A request line of RTSP (RFC 2326 6.1).
    Rtsp,
    /// The preface of HTTP/2 (RFC 9113 3.4).
    Http2,
    /// ICE over TCP (RFC 6544).
    Ice,
    /// Nothing that is served here.
    Unknown,
}

/// The most bytes that are needed to tell.
pub const SNIFF_BYTES: usize = 24;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9110 9 and RFC 5789.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// RFC 2326 10, but for `OPTIONS`, which HTTP has, too.
const RTSP_METHODS: [&[u8]; 9] = [
    b"DESCRIBE ",
    b"ANNOUNCE ",
    b"SETUP ",
    b"PLAY ",
    b"RECORD ",
    b"PAUSE ",
    b"GET_PARAMETER ",
    b"SET_PARAMETER ",
    b"TEARDOWN ",
];
/// `OPTIONS` of RTSP is about a URL of its own, or about all.
const RTSP_OPTIONS: [&[u8]; 3] = [b"OPTIONS rtsp://", b"OPTIONS rtsps://", b"OPTIONS * RTSP/"];

/// Tells by what was read so far; more bytes never change an answer other than [`First::More`].
pub fn sniff(bytes: &[u8]) -> First {
    match bytes {
        [] | [0x16] => First::More,
        [0x16, 0x03, ..] => First::Tls,
        [0x03 | 0x06, ..] => First::Rtmp,
        _ if bytes.starts_with(PREFACE) => First::Http2,
        _ if RTSP_OPTIONS.iter().chain(&RTSP_METHODS).any(|start| bytes.starts_with(start)) => First::Rtsp,
        _ if RTSP_OPTIONS.iter().chain(&RTSP_METHODS).any(|start| start.starts_with(bytes)) => First::More,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => First::Http1,
        _ if METHODS.iter().any(|method| method.starts_with(bytes)) || PREFACE.starts_with(bytes) => First::More,
        _ => match culvert_webrtc::begins_ice(bytes) {
            None => First::More,
            Some(true) => First::Ice,
            Some(false) => First::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_protocol_is_told_by_its_first_bytes() {
        for (bytes, what) in [
            (&b"\x16\x03\x01\x02\x00"[..], First::Tls),
            (b"\x03\0\0\0\0", First::Rtmp),
            (b"GET / HTTP/1.1\r\n", First::Http1),
            (b"OPTIONS * HTTP/1.1", First::Http1),
            (b"OPTIONS /rtsp HTTP/1.1", First::Http1),
            (b"OPTIONS rtsp://h/live/a RTSP/1.0", First::Rtsp),
            (b"OPTIONS * RTSP/1.0", First::Rtsp),
            (b"DESCRIBE rtsp://h/live/a RTSP/1.0", First::Rtsp),
            (b"GET_PARAMETER rtsp://h/", First::Rtsp),
            (b"PLAYER", First::Unknown),
            (PREFACE, First::Http2),
            (b"PRI * HTTP/1", First::Unknown),
            (b"\x00", First::More),
            (b"\x00\x54\x00\x01\x00\x40\x21\x12\xa4\x42abcdefghijkl", First::Ice),
            (b"\x00\x54\x00\x01\x00\x40\x21\x12\xa4\x43abcdefghijkl", First::Unknown),
            (b"get / ", First::Unknown),
            (b"SSH-2.0-x", First::Unknown),
            (b"\x16\x02", First::Unknown),
        ] {
            assert_eq!(sniff(bytes), what, "{bytes:?}");
            let told = (0..bytes.len()).map(|n| sniff(&bytes[..n])).find(|first| *first != First::More);
            assert!(told.is_none_or(|told| told == what), "{bytes:?} split");
        }
    }

    proptest! {
        #[test]
        fn an_answer_once_given_stays_and_comes_within_the_bound(bytes in prop::collection::vec(any::<u8>(), 24..64)) {
            let whole = sniff(&bytes);
            prop_assert_ne!(whole, First::More);
            for n in 0..bytes.len() {
                let part = sniff(&bytes[..n]);
                prop_assert!(part == First::More || part == whole);
            }
        }
    }
}
