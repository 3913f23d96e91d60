//! Two ends on a pipe, and one end against bare bytes.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn ends(buffer: usize) -> (Carrier, Carrier, Arc<Shared>) {
    let (a, b) = duplex(buffer);
    let remote = ([127, 0, 0, 1], 1).into();
    let shared = Arc::new(Shared::new());
    let client = Carrier::new(Conn::other(a, remote, false), Role::Client, shared.clone());
    (client, Carrier::new(Conn::other(b, remote, false), Role::Server, Arc::new(Shared::new())), shared)
}

/// A server's end and the bare bytes of its client.
fn bare() -> (Carrier, DuplexStream, Arc<Shared>) {
    let (a, b) = duplex(1 << 20);
    let shared = Arc::new(Shared::new());
    (Carrier::new(Conn::other(a, ([127, 0, 0, 1], 1).into(), false), Role::Server, shared.clone()), b, shared)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_one_end_writes_is_what_the_other_reads(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40_000), 1..6),
        buffer in 1usize..5000,
        from_client in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (client, server, _) = ends(buffer);
            let (mut write, mut read) = if from_client { (client, server) } else { (server, client) };
            let sent = parts.concat();
            let writing = async {
                for part in &parts {
                    write.write_all(part).await.unwrap();
                }
                write.flush().await.unwrap();
                // Answers to pings must not stand still for want of a reader.
                let _ = write.read(&mut [0; 1]).await;
            };
            let mut seen = vec![0; sent.len()];
            tokio::select! {
                () = writing => panic!("nothing ends here"),
                read = read.read_exact(&mut seen) => { read.unwrap(); }
            }
            assert!(seen == sent);
        });
    }
}

#[tokio::test]
async fn the_first_ping_tells_the_round_trip_and_close_is_said_to_the_other_end() {
    let (mut client, mut server, shared) = ends(4096);
    let (mut a, mut b) = ([0; 1], [0; 1]);
    let reading = async { tokio::join!(client.read(&mut a), server.read(&mut b)) };
    let closing = async {
        while shared.figures().round_trip.is_none() {
            tokio::task::yield_now().await;
        }
        shared.close(4001, "replaced");
    };
    let ((first, second), ()) = tokio::join!(reading, closing);
    assert_eq!((first.unwrap(), second.unwrap()), (0, 0));
    assert_eq!(server.shared.closed(), Some((4001, "replaced".into())));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_within_25_seconds_and_a_live_one_is_not() {
    let begun = Instant::now();
    let (mut server, _silent, _) = bare();
    let error = server.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!((Duration::from_secs(20)..Duration::from_secs(25)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let (mut client, mut server, _) = ends(4096);
    let (mut a, mut b) = ([0; 1], [0; 1]);
    let both = async { tokio::join!(client.read(&mut a), server.read(&mut b)) };
    assert!(tokio::time::timeout(Duration::from_secs(600), both).await.is_err(), "they answer each other's pings");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_link() {
    for (bytes, what) in [
        (&b"\x82\x01x"[..], "bare frame of a client"),
        (b"\xc2\x80\0\0\0\0", "reserved bit"),
        (b"\x81\xfe\0\x7e\0\0\0\0", "long text"),
        (b"\x01\x80\0\0\0\0", "fragmented text"),
        (b"\x09\x80\0\0\0\0", "fragmented ping"),
        (b"\x89\xfe\x00\x7e\0\0\0\0", "long ping"),
        (b"\x83\x80\0\0\0\0", "opcode 3"),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", "length with its top bit set"),
    ] {
        let (mut server, mut client, _) = bare();
        client.write_all(bytes).await.unwrap();
        let error = server.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}");
    }
}

#[tokio::test]
async fn a_peer_that_pings_without_reading_is_given_up() {
    let (a, mut b) = duplex(1 << 10);
    let remote = ([127, 0, 0, 1], 1).into();
    let mut server = Carrier::new(Conn::other(a, remote, false), Role::Server, Arc::new(Shared::new()));
    let pinging = async {
        let ping = [&b"\x89\xfd\0\0\0\0"[..], &[0; 125]].concat();
        while b.write_all(&ping).await.is_ok() {}
    };
    let mut byte = [0];
    tokio::select! {
        ended = server.read(&mut byte) => assert!(ended.is_err()),
        () = pinging => panic!("it was never told"),
    }
}

// Two threads: on one, the ends keep each other from hearing for seconds when the machine is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_are_heard_by_an_end_that_is_writing_all_the_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(tokio::net::TcpStream::connect(remote), listener.accept());
    let shared = Arc::new(Shared::new());
    let mut server = Carrier::new(Conn::tcp(server.unwrap().0, remote), Role::Server, shared.clone());
    let heard = Arc::new(Shared::new());
    let client = Carrier::new(Conn::tcp(client.unwrap(), remote), Role::Client, heard.clone());
    let (mut read, mut write) = tokio::io::split(client);
    let client = tokio::spawn(async move {
        // The end is for both halves; which of them is asked first is select's choice.
        let writing = async {
            while write.write_all(&[7; 10_000]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let mut byte = [0];
        tokio::select! {
            read = read.read(&mut byte) => read,
            () = writing => unreachable!("it is pending for ever"),
        }
    });
    let mut bytes = vec![0; 100_000];
    for _ in 0..10 {
        assert!(server.read(&mut bytes).await.unwrap() > 0);
    }
    shared.close(4001, "replaced");
    while server.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    drop(server);
    assert_eq!(client.await.unwrap().unwrap(), 0);
    assert_eq!(heard.closed(), Some((4001, "replaced".into())));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_does_not_hear_last_words_is_left_after_two_seconds() {
    let (mut server, _deaf, shared) = bare();
    let begun = Instant::now();
    shared.close(4001, "replaced");
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(begun.elapsed(), FAREWELL);
}
