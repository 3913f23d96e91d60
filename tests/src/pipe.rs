//! A bad network between two nodes: a TCP proxy in this process that a test makes slow, far, silent, broken or in pieces
//! while it runs.
//!
//! It holds little: its own queue is small and so are its sockets' receive buffers, so a slow pipe pushes back as a slow
//! link does. It does not lose or reorder bytes, whatever is changed in the middle, for TCP would not; it ends connections
//! instead. A side that resets is answered by a reset of the other at once, and so is one that cannot be reached.

mod flow;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use flow::{Course, Flow, Output};

/// The queue of a direction: a home router's is not less, and it is 0.6 s of a 200 kbit/s uplink.
const QUEUE_BYTES: usize = 16 << 10;
/// A deep one, as modems have: 5 s of the same.
const DEEP_QUEUE_BYTES: usize = 128 << 10;
/// What the kernel may receive before it is read, and send before it is taken; Linux doubles it for its own use. With half
/// of it the unlimited pipe has only half its throughput.
const SOCKET_BYTES: u32 = 16 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A way through a [`Pipe`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the side that dials to the target.
    Up,
    /// From the target to the side that dials.
    Down,
}

/// A proxy; dropping it drops all its connections.
pub struct Pipe {
    address: SocketAddr,
    inside: Arc<Inside>,
    driver: JoinHandle<()>,
}

struct Inside {
    target: SocketAddr,
    queue_bytes: usize,
    settings: watch::Sender<Settings>,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// What a test asked for.
#[derive(Clone, Copy, Default)]
struct Settings {
    up_rate: Option<u64>,
    down_rate: Option<u64>,
    delay: Duration,
    blackhole: bool,
    refuse: bool,
    chop: bool,
    orders: Orders,
}

/// How often each was given: a connection obeys those that come after itself.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Orders {
    reset: u64,
    close: u64,
    half_open: u64,
}

/// What ends a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Reset,
    Close,
    HalfOpen,
}

impl Pipe {
    /// Between whoever dials [`Pipe::address`] and `target`, with nothing wrong yet. Must be called within a runtime.
    pub fn to(target: SocketAddr) -> Pipe {
        Pipe::with_queue(target, QUEUE_BYTES)
    }

    /// The same with a queue of 128 KiB in each direction in place of 16: a link that hides what it cannot carry.
    pub fn deep(target: SocketAddr) -> Pipe {
        Pipe::with_queue(target, DEEP_QUEUE_BYTES)
    }

    fn with_queue(target: SocketAddr, queue_bytes: usize) -> Pipe {
        let listener = listen().expect("loopback");
        let inside = Arc::new(Inside {
            target,
            queue_bytes,
            settings: watch::Sender::new(Settings::default()),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let address = listener.local_addr().expect("bound");
        Pipe { address, driver: tokio::spawn(accept(listener, inside.clone())), inside }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes per second and connection that pass this way; None is as fast as it goes (the default), and 0 holds all
    /// back. Pieces of 10 ms, and after a pause at most three of them at once.
    pub fn set_rate(&self, direction: Direction, bytes_per_second: Option<u64>) {
        self.set(|s| match direction {
            Direction::Up => s.up_rate = bytes_per_second,
            Direction::Down => s.down_rate = bytes_per_second,
        });
    }

    /// How long each byte, and the end, is on its way, one way; also what is already on its way. Connecting is not delayed.
    /// No more than 4 MiB are on their way in each direction.
    pub fn set_delay(&self, one_way: Duration) {
        self.set(|s| s.delay = one_way);
    }

    /// The cable is out: when this has returned nothing passes, new connections are accepted and not answered, and ends
    /// are not noticed. With `false` all goes on where it was.
    pub fn blackhole(&self, on: bool) {
        self.set(|s| s.blackhole = on);
    }

    /// New connections are closed at once.
    pub fn refuse(&self, on: bool) {
        self.set(|s| s.refuse = on);
    }

    /// Bytes are sent one by one, each in a packet of its own. Who does not read at once finds several all the same.
    pub fn chop(&self, on: bool) {
        self.set(|s| s.chop = on);
    }

    /// Resets both sides of all connections that were accepted so far. What is in the pipe is lost.
    pub fn reset(&self) {
        self.set(|s| s.orders.reset += 1);
    }

    /// Closes both sides of all connections that were accepted so far, properly (FIN). What is in the pipe is lost.
    pub fn close(&self) {
        self.set(|s| s.orders.close += 1);
    }

    /// Resets the dialling side of all connections that were accepted so far, while the target's side stays open and
    /// silent and reads nothing: until the target closes it, or [`Pipe::reset`] or [`Pipe::close`]. A target that closes
    /// with more to send than the socket takes is not noticed.
    pub fn half_open(&self) {
        self.set(|s| s.orders.half_open += 1);
    }

    /// Bytes that came out at the other end, on all connections so far.
    pub fn passed_bytes(&self, direction: Direction) -> u64 {
        self.inside.passed(direction).load(Ordering::Relaxed)
    }

    /// Connections so far, those that were refused too.
    pub fn connections(&self) -> usize {
        self.inside.connections.load(Ordering::Relaxed)
    }

    /// Connections that are there now, half-open ones too.
    pub fn open(&self) -> usize {
        self.inside.open.load(Ordering::Relaxed)
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.inside.settings.send_modify(change);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Inside {
    fn passed(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up_bytes,
            Direction::Down => &self.down_bytes,
        }
    }
}

impl Settings {
    fn course(&self, direction: Direction) -> Course {
        let rate = match direction {
            Direction::Up => self.up_rate,
            Direction::Down => self.down_rate,
        };
        Course { rate, delay: self.delay }
    }
}

/// Buffers are made small before listening and connecting: the window is agreed on then.
fn small(socket: TcpSocket) -> io::Result<TcpSocket> {
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn listen() -> io::Result<TcpListener> {
    let socket = small(TcpSocket::new_v4()?)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(BACKLOG)
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    small(socket?)?.connect(target).await
}

/// Owns the connections.
async fn accept(listener: TcpListener, inside: Arc<Inside>) {
    let mut connections = JoinSet::new();
    loop {
        let (dialled, _) = listener.accept().await.expect("a pipe can accept");
        while connections.try_join_next().is_some() {}
        inside.connections.fetch_add(1, Ordering::Relaxed);
        let settings = inside.settings.subscribe();
        let now = *settings.borrow();
        if now.refuse {
            continue;
        }
        dialled.set_nodelay(true).ok();
        inside.open.fetch_add(1, Ordering::Relaxed);
        let orders = Waiter { settings, obeyed: now.orders };
        connections.spawn(carry(dialled, Open(inside.clone()), orders));
    }
}

/// Counts a connection as long as it is there.
struct Open(Arc<Inside>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for orders that come after those that were obeyed.
#[derive(Clone)]
struct Waiter {
    settings: watch::Receiver<Settings>,
    obeyed: Orders,
}

impl Waiter {
    async fn order(&mut self) -> Order {
        let before = self.obeyed;
        let settings = self.settings.wait_for(|s| s.orders != before).await.expect("its sender is held");
        self.obeyed = settings.orders;
        if self.obeyed.reset != before.reset {
            Order::Reset
        } else if self.obeyed.close != before.close {
            Order::Close
        } else {
            Order::HalfOpen
        }
    }

    /// Waits for this one.
    async fn order_to_reset(&mut self) {
        while self.order().await != Order::Reset {}
    }
}

/// One connection from its beginning to its end. Dropping it drops both sides.
async fn carry(mut dialled: TcpStream, open: Open, mut orders: Waiter) {
    let inside = &open.0;
    let mut settings = inside.settings.subscribe();
    let lifted = async { settings.wait_for(|s| !s.blackhole).await.map(drop).expect("its sender is held") };
    tokio::select! {
        () = lifted => {}
        order = orders.order() => return match order {
            Order::Reset | Order::HalfOpen => reset(dialled),
            Order::Close => close(dialled, orders).await,
        },
    }
    // Orders wait for this: half-open is only what the target knows of.
    let Ok(mut reached) = connect(inside.target).await else { return reset(dialled) };
    let order = {
        let ((from_dialled, to_dialled), (from_reached, to_reached)) = (dialled.split(), reached.split());
        let up = pump(inside, Direction::Up, from_dialled, to_reached);
        let down = pump(inside, Direction::Down, from_reached, to_dialled);
        tokio::select! {
            done = async { tokio::try_join!(up, down) } => match done {
                // Both sides have closed and were told.
                Ok(_) => return,
                Err(_) => Order::Reset,
            },
            order = orders.order() => order,
        }
    };
    match order {
        Order::Reset => {
            reset(dialled);
            reset(reached);
        }
        Order::Close => {
            tokio::join!(close(dialled, orders.clone()), close(reached, orders));
        }
        Order::HalfOpen => {
            reset(dialled);
            hold(reached, orders).await;
        }
    }
}

/// One direction until its end has been passed on. An error is a reset of either side.
async fn pump(inside: &Inside, direction: Direction, from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let mut settings = inside.settings.subscribe();
    let mut flow = Flow::new(inside.queue_bytes, Instant::now());
    let mut buffer = vec![0; inside.queue_bytes];
    loop {
        // Both directions are in one task, and neither may keep the other from its turn.
        yield_now().await;
        let now = *settings.borrow_and_update();
        if now.blackhole {
            settings.changed().await.expect("its sender is held");
            continue;
        }
        let wake = flow.handle_timeout(Instant::now(), now.course(direction));
        let ripe = match flow.poll_output() {
            Some(Output::End) => return to.shutdown().await,
            output => output.is_some(),
        };
        tokio::select! {
            changed = settings.changed() => changed.expect("its sender is held"),
            ready = from.readable(), if flow.room() > 0 => {
                ready?;
                if let Some(n) = done(from.try_read(&mut buffer[..flow.room()]))? {
                    flow.handle_input(&buffer[..n]);
                }
            }
            ready = to.writable(), if ripe => {
                ready?;
                if let Some(n) = write(inside, &to, &flow)? {
                    flow.taken(n);
                    inside.passed(direction).fetch_add(n as u64, Ordering::Relaxed);
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

/// Writes what is ripe. The settings are held meanwhile: whoever changes them waits for this, and after it nothing passes
/// that should not.
fn write(inside: &Inside, to: &WriteHalf<'_>, flow: &Flow) -> io::Result<Option<usize>> {
    let now = inside.settings.borrow();
    match flow.poll_output() {
        Some(Output::Bytes(bytes)) if !now.blackhole => done(to.try_write(if now.chop { &bytes[..1] } else { bytes })),
        Some(Output::Bytes(_) | Output::End) | None => Ok(None),
    }
}

/// A socket that was said to be ready and is not is no error.
fn done(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn reset(socket: TcpStream) {
    // One that is gone already cannot be reset.
    socket.set_zero_linger().ok();
}

/// Closes properly: a socket that is dropped with something unread resets, so all that comes is read until the other side
/// has closed too, or has gone.
async fn close(mut socket: TcpStream, mut orders: Waiter) {
    let closed = async {
        socket.shutdown().await.ok();
        let mut buffer = [0; 4096];
        while matches!(socket.read(&mut buffer).await, Ok(n) if n > 0) {}
    };
    tokio::select! {
        () = closed => {}
        () = orders.order_to_reset() => reset(socket),
    }
}

/// Keeps a socket and does nothing with it.
async fn hold(socket: TcpStream, mut orders: Waiter) {
    let closed = async {
        while let Ok(ready) = socket.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Nothing is read; this makes it wait for the next news.
            socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into())).ok();
        }
    };
    let ordered = async {
        loop {
            match orders.order().await {
                Order::HalfOpen => {}
                order @ (Order::Reset | Order::Close) => return order,
            }
        }
    };
    let order = tokio::select! {
        () = closed => return,
        order = ordered => order,
    };
    if order == Order::Reset { reset(socket) } else { close(socket, orders).await }
}
