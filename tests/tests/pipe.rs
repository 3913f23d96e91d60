//! The bad network itself: what a test asks of a pipe is what two nodes get.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use culvert_tests::node::free_port;
use culvert_tests::pipe::{Direction, Pipe};
use culvert_tests::wait::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Long enough for anything that would pass to have passed.
const A_WHILE: Duration = Duration::from_millis(100);

/// A pipe and a connection through it.
struct Ends {
    pipe: Pipe,
    target: TcpListener,
    dialled: TcpStream,
    reached: TcpStream,
}

impl Ends {
    async fn new(pipe: impl FnOnce(SocketAddr) -> Pipe) -> Ends {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pipe = pipe(target.local_addr().unwrap());
        let (dialled, reached) = connect(&pipe, &target).await;
        Ends { pipe, target, dialled, reached }
    }

    /// Bytes go up and an answer comes down; returns how long it took.
    async fn ping(&mut self) -> Duration {
        let begun = Instant::now();
        pass(&mut self.dialled, &mut self.reached, b"ping").await;
        pass(&mut self.reached, &mut self.dialled, b"pong").await;
        begun.elapsed()
    }

    /// Nothing comes, and nothing has ended.
    async fn silent(&mut self) {
        assert!(timeout(A_WHILE, self.dialled.read_u8()).await.is_err());
        assert!(timeout(A_WHILE, self.reached.read_u8()).await.is_err());
    }
}

async fn connect(pipe: &Pipe, target: &TcpListener) -> (TcpStream, TcpStream) {
    let both = async { tokio::try_join!(TcpStream::connect(pipe.address()), async { Ok(target.accept().await?.0) }) };
    let (dialled, reached) = soon("a connection", both).await.unwrap();
    dialled.set_nodelay(true).unwrap();
    reached.set_nodelay(true).unwrap();
    (dialled, reached)
}

/// Sends these bytes and sees that they are what comes.
async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    let both = async { tokio::try_join!(from.write_all(bytes), to.read_exact(&mut read)) };
    soon("bytes to pass", both).await.unwrap();
    assert!(read == bytes, "{} bytes, not those that were sent", bytes.len());
}

/// Bytes whose order can be seen: no two places nearby look alike.
fn pattern(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_be_bytes).take(bytes).collect()
}

async fn is_reset(socket: &mut TcpStream) -> bool {
    let fault = soon("a reset", socket.read_u8()).await.unwrap_err();
    fault.kind() == ErrorKind::ConnectionReset
}

async fn is_closed(socket: &mut TcpStream) -> bool {
    soon("an end", socket.read(&mut [0])).await.unwrap() == 0
}

async fn until_open(pipe: &Pipe, count: usize) {
    until(&format!("{count} to be open"), async || (pipe.open() == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_are_counted() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    let many = pattern(3 << 20);
    pass(&mut ends.dialled, &mut ends.reached, &many).await;
    let passed = |direction| ends.pipe.passed_bytes(direction);
    // The last piece is counted just after it has passed.
    until("bytes to be counted", async || (passed(Direction::Up) == 4 + (3 << 20)).then_some(())).await;
    until("bytes to be counted", async || (passed(Direction::Down) == 4).then_some(())).await;
    assert_eq!((ends.pipe.connections(), ends.pipe.open()), (1, 1));
    let (_second, _) = connect(&ends.pipe, &ends.target).await;
    assert_eq!((ends.pipe.connections(), ends.pipe.open()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_side_may_end_and_still_be_answered() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.set_delay(A_WHILE);
    ends.dialled.write_all(b"last").await.unwrap();
    ends.dialled.shutdown().await.unwrap();
    let mut read = Vec::new();
    soon("the end", ends.reached.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read, b"last");
    pass(&mut ends.reached, &mut ends.dialled, b"answer").await;
    assert_eq!(ends.pipe.open(), 1);
    ends.reached.shutdown().await.unwrap();
    assert!(is_closed(&mut ends.dialled).await);
    until_open(&ends.pipe, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_while_everything_changes() {
    let Ends { pipe, target: _target, mut dialled, mut reached } = Ends::new(Pipe::to).await;
    let change = async {
        for round in 0u64..30 {
            pipe.set_rate(Direction::Up, [None, Some(50_000), Some(20_000_000), Some(0)][round as usize % 4]);
            pipe.set_rate(Direction::Down, [Some(3_000_000), None, Some(1)][round as usize % 3]);
            pipe.set_delay(Duration::from_millis([0, 30, 5, 0, 1][round as usize % 5]));
            pipe.chop(round % 2 == 0);
            pipe.blackhole(round % 7 == 3);
            sleep(Duration::from_millis(20)).await;
        }
        pipe.set_rate(Direction::Up, None);
        pipe.set_rate(Direction::Down, None);
        pipe.chop(false);
        pipe.blackhole(false);
    };
    let many = pattern(2 << 20);
    let ((up, down), (from_up, from_down)) = (dialled.split(), reached.split());
    let way = async |mut from: tokio::net::tcp::WriteHalf<'_>, mut to: tokio::net::tcp::ReadHalf<'_>| {
        let mut read = vec![0; many.len()];
        tokio::try_join!(from.write_all(&many), to.read_exact(&mut read)).unwrap();
        assert!(read == many);
    };
    soon("all of it", async { tokio::join!(way(down, from_up), way(from_down, up), change) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_its_direction() {
    for direction in [Direction::Up, Direction::Down] {
        let mut ends = Ends::new(Pipe::to).await;
        ends.pipe.set_rate(direction, Some(200_000));
        let begun = Instant::now();
        let (slow, fast) = match direction {
            Direction::Up => ((&mut ends.dialled, &mut ends.reached), Direction::Down),
            Direction::Down => ((&mut ends.reached, &mut ends.dialled), Direction::Up),
        };
        pass(slow.0, slow.1, &pattern(100_000)).await;
        let took = begun.elapsed();
        // 500 ms without the first pieces; the rest is a busy machine's.
        assert!(took > Duration::from_millis(460) && took < Duration::from_secs(2), "{direction:?}: {took:?}");
        let begun = Instant::now();
        pass(slow.1, slow.0, &pattern(100_000)).await;
        assert!(begun.elapsed() < Duration::from_millis(400), "{fast:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_high_rate_is_reached() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.set_rate(Direction::Up, Some(10_000_000));
    let begun = Instant::now();
    pass(&mut ends.dialled, &mut ends.reached, &pattern(3_000_000)).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(270) && took < Duration::from_secs(2), "{took:?}");
}

/// How many bytes a pipe that passes none takes from a sender that has next to no buffer of its own.
async fn held_bytes(pipe: impl FnOnce(SocketAddr) -> Pipe) -> usize {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pipe = pipe(target.local_addr().unwrap());
    pipe.set_rate(Direction::Up, Some(0));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let socket = socket.connect(pipe.address()).await.unwrap();
    let mut held = 0;
    while let Ok(ready) = timeout(2 * A_WHILE, socket.writable()).await {
        ready.unwrap();
        held += socket.try_write(&[7; 1000]).unwrap_or(0);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pipe_holds_little_and_a_deep_one_more() {
    let (little, deep) = tokio::join!(held_bytes(Pipe::to), held_bytes(Pipe::deep));
    // The queue, and what kernels make of their part.
    assert!((16 << 10..80 << 10).contains(&little), "{little}");
    assert!((128 << 10..200 << 10).contains(&deep), "{deep}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_one_way_and_is_no_rate() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.set_delay(A_WHILE);
    let took = ends.ping().await;
    assert!(took >= 2 * A_WHILE && took < 6 * A_WHILE, "{took:?}");
    let begun = Instant::now();
    // By the queue alone it would take 64 times the delay.
    pass(&mut ends.dialled, &mut ends.reached, &pattern(1 << 20)).await;
    assert!(begun.elapsed() >= A_WHILE && begun.elapsed() < 16 * A_WHILE, "{:?}", begun.elapsed());
    ends.pipe.set_delay(Duration::ZERO);
    assert!(ends.ping().await < 2 * A_WHILE);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_black_hole_nothing_passes_and_nothing_ends_until_it_is_lifted() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    ends.pipe.blackhole(true);
    ends.dialled.write_all(b"up").await.unwrap();
    ends.reached.write_all(b"down").await.unwrap();
    let mut late = soon("to be accepted", TcpStream::connect(ends.pipe.address())).await.unwrap();
    late.write_all(b"new").await.unwrap();
    ends.silent().await;
    assert!(timeout(A_WHILE, ends.target.accept()).await.is_err(), "not answered");
    ends.reached.shutdown().await.unwrap();
    ends.silent().await;
    ends.pipe.blackhole(false);
    let mut read = [0; 3];
    soon("what waited", ends.reached.read_exact(&mut read[..2])).await.unwrap();
    assert_eq!(&read[..2], b"up");
    let mut down = Vec::new();
    soon("what waited", ends.dialled.read_to_end(&mut down)).await.unwrap();
    assert_eq!(down, b"down");
    let (mut answered, _) = soon("the new one", ends.target.accept()).await.unwrap();
    soon("what waited", answered.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_black_hole_begins_the_last_byte_has_passed() {
    let mut ends = Ends::new(Pipe::to).await;
    let many = vec![7; 64 << 20];
    let mut buffer = vec![0; 64 << 10];
    tokio::select! {
        _ = ends.dialled.write_all(&many) => panic!("it does not get rid of all"),
        () = async {
            for _ in 0..20 {
                ends.reached.read_exact(&mut buffer).await.unwrap();
            }
            ends.pipe.blackhole(true);
            let passed = ends.pipe.passed_bytes(Direction::Up);
            // One piece may have passed and not have been counted yet.
            while timeout(A_WHILE, ends.reached.read(&mut buffer)).await.is_ok() {}
            assert!(ends.pipe.passed_bytes(Direction::Up) <= passed + (16 << 10));
        } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_reaches_both_sides_and_no_later_connection() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    ends.pipe.reset();
    assert!(is_reset(&mut ends.dialled).await && is_reset(&mut ends.reached).await);
    until_open(&ends.pipe, 0).await;
    (ends.dialled, ends.reached) = connect(&ends.pipe, &ends.target).await;
    ends.ping().await;
    assert_eq!((ends.pipe.connections(), ends.pipe.open()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    ends.dialled.set_zero_linger().unwrap();
    drop(ends.dialled);
    assert!(is_reset(&mut ends.reached).await);
    until_open(&ends.pipe, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_there_is_a_reset() {
    let pipe = Pipe::to(SocketAddr::from(([127, 0, 0, 1], free_port())));
    // It may come before the caller has seen that it was connected.
    let reset = match TcpStream::connect(pipe.address()).await {
        Ok(mut dialled) => is_reset(&mut dialled).await,
        Err(fault) => fault.kind() == ErrorKind::ConnectionReset,
    };
    assert!(reset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_proper_also_with_something_unread() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    ends.pipe.set_rate(Direction::Up, Some(0));
    ends.dialled.write_all(&[7; 10_000]).await.unwrap();
    ends.pipe.close();
    assert!(is_closed(&mut ends.dialled).await && is_closed(&mut ends.reached).await);
    // Until they close too the sockets are there; that is no reset.
    ends.dialled.write_all(b"more").await.unwrap();
    assert_eq!(ends.pipe.open(), 1);
    drop((ends.dialled, ends.reached));
    until_open(&ends.pipe, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_closed_at_once_and_those_who_are_in_stay() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.refuse(true);
    let mut refused = TcpStream::connect(ends.pipe.address()).await.unwrap();
    assert!(is_closed(&mut refused).await);
    ends.ping().await;
    assert_eq!((ends.pipe.connections(), ends.pipe.open()), (2, 1));
    ends.pipe.refuse(false);
    (ends.dialled, ends.reached) = connect(&ends.pipe, &ends.target).await;
    ends.ping().await;
}

// One thread: reader and pipe take turns.
#[tokio::test]
async fn chopped_bytes_come_in_pieces() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.chop(true);
    let sent = pattern(2000);
    ends.dialled.write_all(&sent).await.unwrap();
    let (mut read, mut reads) = (Vec::new(), 0);
    while read.len() < sent.len() {
        assert!(soon("a byte", ends.reached.read_buf(&mut read)).await.unwrap() > 0);
        reads += 1;
    }
    assert!(read == sent);
    assert!(reads > 200, "{reads} reads of {} bytes", sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_the_target_holds_what_the_dialling_side_has_lost() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.ping().await;
    ends.pipe.half_open();
    assert!(is_reset(&mut ends.dialled).await);
    assert!(timeout(A_WHILE, ends.reached.read_u8()).await.is_err(), "open and silent");
    ends.reached.write_all(b"nobody reads this").await.unwrap();
    // The next one is not touched by it.
    let (dialled, reached) = connect(&ends.pipe, &ends.target).await;
    let old = std::mem::replace(&mut ends.reached, reached);
    ends.dialled = dialled;
    ends.ping().await;
    assert_eq!(ends.pipe.open(), 2);
    drop(old);
    until_open(&ends.pipe, 1).await;
    ends.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_can_be_ended() {
    let mut ends = Ends::new(Pipe::to).await;
    ends.pipe.half_open();
    assert!(is_reset(&mut ends.dialled).await);
    ends.pipe.half_open();
    assert!(timeout(A_WHILE, ends.reached.read_u8()).await.is_err(), "twice is the same");
    ends.pipe.close();
    assert!(is_closed(&mut ends.reached).await);
    assert_eq!(ends.pipe.open(), 1);
    ends.pipe.reset();
    until_open(&ends.pipe, 0).await;
}
