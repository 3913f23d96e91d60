//! RTMP by hand: our sans-IO client on a bare socket, for tests that must see each status or break each rule.

use culvert_formats::flv::TagKind;
use culvert_rtmp::session::{ClientEvent, ClientSession, Goal, Output, Target};
use culvert_rtmp::wire::handshake::RANDOM_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::TestNode;
use crate::wait::soon;

/// A connection to a node.
pub struct Peer {
    /// The socket, to send on it what no session would.
    pub socket: TcpStream,
    session: ClientSession,
}

impl Peer {
    /// Connects to publish or play `path`, which is `app/name` and may have a query.
    pub async fn connect(node: &TestNode, goal: Goal, path: &str) -> Peer {
        let url = format!("rtmp://{}/{path}", node.address());
        let session = ClientSession::new(goal, Target::parse(&url).expect("a URL"), 1, &[7; RANDOM_BYTES]);
        Peer { socket: TcpStream::connect(node.address()).await.expect("the node listens"), session }
    }

    /// The next thing that the server says; None when it closed. RTMP that is broken fails the test.
    pub async fn event(&mut self) -> Option<ClientEvent> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    // A server that has said no may be gone already; what it said is read all the same.
                    Output::Send(bytes) => drop(self.socket.write_all(&bytes).await),
                    Output::Event(event) => return Some(event),
                }
            }
            let n = soon("an RTMP answer", self.socket.read(&mut buffer)).await.unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.session.handle_input(&buffer[..n]).expect("the node speaks RTMP");
        }
    }

    /// Waits to be let in.
    pub async fn ready(mut self) -> Peer {
        assert_eq!(self.event().await, Some(ClientEvent::Ready));
        self
    }

    /// Waits to be refused, and returns code and description.
    pub async fn refused(mut self) -> (String, String) {
        match self.event().await {
            Some(ClientEvent::Ended { code, description }) => (code, description),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Sends a tag body as a media message.
    pub async fn send(&mut self, kind: TagKind, time_ms: u32, body: &[u8]) {
        let mut out = Vec::new();
        self.session.write_media(kind, time_ms, &[], body, &mut out);
        self.socket.write_all(&out).await.expect("the node reads");
    }
}

/// C1 and S1 (RTMP 5.2.3).
const PART_BYTES: usize = 1536;

/// A bare connection whose handshake is done, for what no session would send.
pub async fn shaken(node: &TestNode) -> TcpStream {
    let mut socket = TcpStream::connect(node.address()).await.expect("the node listens");
    let mut hello = vec![0; 1 + PART_BYTES];
    hello[0] = 3;
    socket.write_all(&hello).await.expect("the node reads");
    let mut answer = vec![0; 1 + 2 * PART_BYTES];
    soon("S0, S1 and S2", socket.read_exact(&mut answer)).await.expect("the node answers");
    socket.write_all(&answer[1..=PART_BYTES]).await.expect("the node reads");
    socket
}

/// The head of a chunk of type 0 on chunk stream 3 (RTMP 5.3.1.2.1), with a length of 24 bits that need not be true.
pub fn chunk_head(kind: u8, length: u32) -> [u8; 12] {
    let [_, a, b, c] = length.to_be_bytes();
    [3, 0, 0, 0, a, b, c, kind, 0, 0, 0, 0]
}
