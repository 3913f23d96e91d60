//! What is set on TCP sockets, each best effort: not every system has all of it, and none of it decides whether a
//! connection works.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// What a link's kernel may hold unsent. With the kernel's own default a 200 kbit/s uplink hides 8.9 s of video, with
/// this 0.7 s (DESIGN section 3).
const LINK_UNSENT_BYTES: u32 = 16_384;
/// A link whose bytes are not acknowledged for so long is dead (DESIGN section 3).
const LINK_UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// At 30 % loss it carries 25 times what cubic does (DESIGN section 3).
const FOR_WEAK_PATHS: &[u8] = b"bbr";
/// BBR sends by a clock, a timer for each packet or two, and a path of some hundred megabytes a second costs twice as much with it
/// (bench/NUMBERS.md). This one every Linux has.
const FOR_FAST_PATHS: &[u8] = b"cubic";

/// Asks after a silent peer after 60 s, then each 15 s, 4 times.
pub(crate) fn set_keepalive(tcp: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive).ok();
}

/// `TCP_NOTSENT_LOWAT`.
pub(crate) fn set_notsent_lowat(tcp: &TcpStream, bytes: u32) {
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_notsent_lowat(bytes).ok();
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, bytes);
}

/// What a link wants of its socket, at either end.
pub(crate) fn set_link_options(tcp: &TcpStream) {
    tcp.set_nodelay(true).ok();
    set_keepalive(tcp);
    set_notsent_lowat(tcp, LINK_UNSENT_BYTES);
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(tcp);
        socket.set_tcp_user_timeout(Some(LINK_UNACKNOWLEDGED)).ok();
    }
}

/// What suits a path that is fast, or one that is slow: BBR where the kernel has it. To be asked for once that is known: a socket that
/// had BBR once keeps its timers.
pub(crate) fn set_congestion_control(tcp: &TcpStream, fast: bool) {
    // Refused where the kernel has no BBR, or does not allow it to this user: then it stays as it is.
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_congestion(if fast { FOR_FAST_PATHS } else { FOR_WEAK_PATHS }).ok();
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, fast);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_link_s_socket_holds_little_and_gives_up_after_20_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_link_options(&tcp);
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), LINK_UNSENT_BYTES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(LINK_UNACKNOWLEDGED));
        assert!(tcp.nodelay().unwrap() && socket.keepalive().unwrap());
        set_congestion_control(&tcp, false);
        let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
        if allowed.split_whitespace().any(|name| name == "bbr") {
            assert!(socket.tcp_congestion().unwrap().starts_with(b"bbr\0"));
            set_congestion_control(&tcp, true);
            assert!(socket.tcp_congestion().unwrap().starts_with(b"cubic\0"));
        }
    }
}
