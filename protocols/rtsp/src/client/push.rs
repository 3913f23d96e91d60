//! Pushes a stream: `ANNOUNCE`, `SETUP`, `RECORD`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use culvert_formats::rtp::{self, framed};
use culvert_hub::{Feed, Next};
use culvert_media::{Mux as _, Tracks};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::ClientError;
use super::connection::{Connection, refused};
use crate::wire::transport::Transport;
use crate::wire::{Method, Request};
use crate::{map, sdp};

/// Pushes a feed to `url` on the connection, until one of the two ends; `begun` is called when the server takes it. `silence` bounds each
/// step.
pub async fn push(
    url: &Url,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    feed: &mut impl Feed,
    mut begun: impl FnMut(),
) -> Result<(), ClientError> {
    let tracks = loop {
        match feed.next().await {
            Next::Tracks(tracks) => {
                let carried = rtp::carried(&tracks);
                if carried.iter().next().is_none() {
                    return Err(ClientError::NotCarried);
                }
                break carried;
            }
            Next::Frame(_) | Next::Gap(_) => {}
            Next::End(end) => return Err(ClientError::SourceEnded(end)),
        }
    };
    let mut connection = Connection::open(url, tls, silence).await?;
    connection.options().await?;
    let channels = announce(&mut connection, &tracks).await?;
    begun();
    let every = connection.session_timeout / 2;
    let mut life = Instant::now() + every;
    let mut mux = rtp::Mux::new(&tracks);
    let mut chunks = Vec::new();
    loop {
        let next = tokio::select! {
            next = feed.next() => next,
            // Reports, and answers to signs of life.
            heard = connection.hear() => {
                heard?;
                continue;
            }
            () = sleep_until(life) => {
                connection.sign_of_life().await?;
                life = Instant::now() + every;
                continue;
            }
        };
        match next {
            Next::Tracks(tracks) if mux.follows(&tracks) => mux.set_tracks(&tracks, &mut chunks),
            Next::Tracks(_) => {
                connection.farewell().await;
                return Err(ClientError::Changed);
            }
            Next::Frame(frame) => mux.push(&frame, &mut chunks),
            // The server sees a step in time, and a key frame behind it.
            Next::Gap(_) => {}
            Next::End(end) => {
                connection.farewell().await;
                return Err(ClientError::SourceEnded(end));
            }
        }
        for chunk in chunks.drain(..) {
            let mut out = Vec::with_capacity(chunk.data.len());
            for packet in framed(&chunk.data) {
                // The server may have chosen other channels.
                let rtcp = packet.channel % 2 == 1;
                let Some((media, reports)) = channels.get(usize::from(packet.channel / 2)) else { continue };
                let length = u16::try_from(packet.packet.len()).unwrap_or(u16::MAX).to_be_bytes();
                out.extend_from_slice(&[b'$', if rtcp { *reports } else { *media }, length[0], length[1]]);
                out.extend_from_slice(&packet.packet);
            }
            connection.write(&out).await?;
        }
    }
}

/// Announces the tracks and sets them up; returns the channels of each.
async fn announce(connection: &mut Connection, tracks: &Tracks) -> Result<Vec<(u8, u8)>, ClientError> {
    let url = connection.url.to_string();
    let host: IpAddr = match connection.remote.is_ipv4() {
        true => Ipv4Addr::LOCALHOST.into(),
        false => Ipv6Addr::LOCALHOST.into(),
    };
    let told = map::told(tracks);
    let text = sdp::write(host, "Culvert", &told);
    let request = Request::new(Method::Announce, url.as_str()).with_body("application/sdp", text);
    let response = connection.ask(request).await?;
    if response.status != 200 {
        return Err(refused("ANNOUNCE", &response));
    }
    connection.note_session(&response);
    let mut channels = Vec::new();
    for (at, medium) in told.iter().enumerate() {
        let own = u8::try_from(at * 2).unwrap_or(0);
        let offer = Transport { tcp: true, interleaved: Some((own, own + 1)), record: true, ..Transport::default() };
        let control = format!("{}/{}", url.trim_end_matches('/'), medium.control);
        let response =
            connection.ask(Request::new(Method::Setup, control).with("Transport", offer.to_string())).await?;
        if response.status != 200 {
            return Err(refused("SETUP", &response));
        }
        connection.note_session(&response);
        let answer = response.headers.all("Transport").flat_map(Transport::parse_list).next().unwrap_or_default();
        channels.push(answer.interleaved.unwrap_or((own, own + 1)));
    }
    let response = connection.ask(Request::new(Method::Record, url.as_str()).with("Range", "npt=0.000-")).await?;
    if response.status != 200 {
        return Err(refused("RECORD", &response));
    }
    connection.note_session(&response);
    Ok(channels)
}
