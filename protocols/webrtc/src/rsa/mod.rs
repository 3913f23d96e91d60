//! DTLS with a peer whose certificate is of RSA. GStreamer makes such ones, and the DTLS of str0m has no RSA; so who looks like GStreamer is served by
//! that of webrtc-rs. What is asked of the peer is the same: its certificate is the one that its offer names, and it has the key to it.

mod gate;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::crypto_provider::{SignatureScheme, default_provider};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;
use rustls_pki_types::CertificateDer;
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsCert, DtlsImplError, DtlsInstance, DtlsOutput, KeyingMaterial, ProtocolVersion, SrtpProfile,
};

use self::gate::{Gate, HANDSHAKE};

/// The library tells peers apart by their addresses. Here there is one.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// What keys are made for (RFC 5764 4.2).
const LABEL: &str = "EXTRACTOR-dtls_srtp";
/// The certificate is P-256's. Both ends make the keys anew for each session.
const SUITES: [CipherSuiteId; 2] = [
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
];
/// After so long what was said is said again (RFC 6347 4.2.4.1), so often at the most.
const AGAIN: Duration = Duration::from_millis(700);
const AGAIN_MOST: u8 = 24;
/// The library does that by itself a few times and then gives up, which a bad line should not lead to.
const THEIR_AGAIN: Duration = Duration::from_secs(5);
/// Where nothing is to be done, until then.
const LONG: Duration = Duration::from_secs(3600);

/// The end that is called.
pub(crate) struct Rsa {
    // Parts of it may not be shared between threads, and nobody does: all that is called here has it alone.
    endpoint: AssertUnwindSafe<Mutex<Endpoint>>,
    /// What goes out, and of it what was said last: the library does not say that again where it heard only a part of the answer, or what came before.
    packets: VecDeque<BytesMut>,
    flight: Vec<BytesMut>,
    /// When that was said, and how often again.
    said: Instant,
    repeated: u8,
    events: VecDeque<Event>,
    gate: Gate,
    is_agreed: bool,
    is_closing: bool,
    /// One of both has said goodbye: what comes would be the beginning of another session to the library.
    is_over: bool,
}

/// What is still to be told.
enum Event {
    Certificate(Vec<u8>),
    Keys(Vec<u8>, SrtpProfile),
    Connected,
    Closed,
}

impl Rsa {
    /// With this certificate, of P-256.
    pub(crate) fn new(own: &DtlsCert, mtu: Option<usize>) -> Result<Rsa, CryptoError> {
        let config = config(own, mtu).map_err(|why| CryptoError::Other(why.to_string()))?;
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, Some(Arc::new(config)));
        let endpoint = AssertUnwindSafe(Mutex::new(endpoint));
        Ok(Rsa {
            endpoint,
            packets: VecDeque::new(),
            flight: Vec::new(),
            said: Instant::now(),
            repeated: 0,
            events: VecDeque::new(),
            gate: Gate::new(),
            is_agreed: false,
            is_closing: false,
            is_over: false,
        })
    }

    fn endpoint(&mut self) -> &mut Endpoint {
        self.endpoint.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the library has to say; where that is nothing, what was said last may be said again. The same records: a peer that has them leaves
    /// them out by their numbers.
    fn say(&mut self, now: Instant) {
        let fresh: Vec<_> =
            std::iter::from_fn(|| self.endpoint().poll_transmit()).map(|packet| packet.message).collect();
        // Not what says that something was wrong.
        if fresh.first().is_some_and(|first| first.first() == Some(&HANDSHAKE)) {
            (self.flight, self.said, self.repeated) = (fresh.clone(), now, 0);
        }
        if fresh.is_empty() && self.repeats() && now >= self.said + AGAIN {
            (self.said, self.repeated) = (now, self.repeated + 1);
            self.packets.extend(self.flight.iter().cloned());
        }
        self.packets.extend(fresh);
    }

    fn repeats(&self) -> bool {
        !self.is_agreed && !self.is_over && !self.flight.is_empty() && self.repeated < AGAIN_MOST
    }

    /// The keys are there: whose they are comes first.
    fn agree(&mut self) {
        let Some(state) = self.endpoint().get_connection_state(PEER) else { return };
        let profile = state.srtp_protection_profile();
        let Some((_, profile)) = PROFILES.into_iter().find(|(theirs, _)| *theirs == profile) else { return };
        let certificate = state.peer_certificates.first().cloned();
        let keys = state.export_keying_material(LABEL, &[], profile.keying_material_len());
        if let (Some(certificate), Ok(keys)) = (certificate, keys) {
            let keys = Event::Keys(keys.as_ref().to_vec(), profile);
            self.events.extend([Event::Certificate(certificate), keys, Event::Connected]);
            self.is_agreed = true;
        }
    }
}

fn config(own: &DtlsCert, mtu: Option<usize>) -> Result<HandshakeConfig, Error> {
    let provider = default_provider().map_err(|why| Error::Crypto(why.to_string()))?;
    let key = provider.crypto().import_signing_key(SignatureScheme::EcdsaP256Sha256, &own.private_key);
    let key = key.map_err(|why| Error::Crypto(why.to_string()))?;
    let certificate = CertificateDer::from(own.certificate.clone());
    ConfigBuilder::default()
        .with_crypto_provider(provider)
        .with_certificates(vec![Certificate::from_signing_key(vec![certificate], key)])
        .with_cipher_suites(SUITES.to_vec())
        // By no authority: str0m compares it with the fingerprint of the offer, before it takes the keys.
        .with_client_auth(ClientAuthType::RequireAnyClientCert)
        // Else it makes authorities, of which only clients ask.
        .with_insecure_skip_verify(true)
        // Without it the library would have to compare what is in Finished (RFC 5246 7.4.9), and does not.
        .with_extended_master_secret(ExtendedMasterSecretType::Require)
        .with_srtp_protection_profiles(PROFILES.map(|(theirs, _)| theirs).to_vec())
        .with_flight_interval(THEIR_AGAIN)
        .with_mtu(mtu.unwrap_or_default())
        .build(false, None)
}

/// Of SRTP, as both libraries name them. The peer has the choice.
const PROFILES: [(SrtpProtectionProfile, SrtpProfile); 3] = [
    (SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm, SrtpProfile::AEAD_AES_256_GCM),
    (SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm, SrtpProfile::AEAD_AES_128_GCM),
    (SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80, SrtpProfile::AES128_CM_SHA1_80),
];

impl DtlsInstance for Rsa {
    /// Who offers may choose to call, and this is taken of those alone who do (`Offer::may_be_rsa`).
    fn set_active(&mut self, active: bool) {
        if active {
            tracing::debug!("a peer that wants to be called, and whose certificate may be of RSA, is not");
        }
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        let passed = self.gate.pass(packet, self.is_agreed);
        if passed.is_empty() || self.is_over {
            return Ok(());
        }
        let now = Instant::now();
        let events = self.endpoint().read(now, PEER, None, BytesMut::from(&passed[..])).unwrap_or_else(|why| {
            // Anybody can send something that is none (security.md S21).
            tracing::debug!(%why, "a datagram of DTLS was dropped");
            Vec::new()
        });
        self.say(now);
        for event in events {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
            match event {
                EndpointEvent::HandshakeComplete => self.agree(),
                EndpointEvent::PeerClosed => {
                    self.is_over = true;
                    self.events.push_back(Event::Closed);
                }
                // Data channels are none of ours.
                _ => {}
            }
        }
        Ok(())
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        while let Some(packet) = self.packets.pop_front() {
            // One that is longer is lost on its way.
            if let Some(out) = buf.get_mut(..packet.len()) {
                out.copy_from_slice(&packet);
                return DtlsOutput::Packet(&buf[..packet.len()]);
            }
        }
        match self.events.pop_front() {
            Some(Event::Certificate(certificate)) => {
                let needed = certificate.len();
                // To str0m an error, which says so and ends the session.
                let Some(out) = buf.get_mut(..needed) else { return DtlsOutput::BufferTooSmall { needed } };
                out.copy_from_slice(&certificate);
                DtlsOutput::PeerCert(out)
            }
            Some(Event::Keys(keys, profile)) => DtlsOutput::KeyingMaterial(KeyingMaterial::new(&keys), profile),
            Some(Event::Connected) => DtlsOutput::Connected,
            Some(Event::Closed) => DtlsOutput::CloseNotify,
            None => {
                let own = self.repeats().then(|| self.said + AGAIN);
                let due = self.endpoint().poll_timeout(&PEER).into_iter().chain(own).min();
                DtlsOutput::Timeout(due.unwrap_or_else(|| Instant::now() + LONG))
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        if self.is_over {
            return Ok(());
        }
        // Without a first packet of the peer there is nobody to send to again.
        if let Err(why) = self.endpoint().handle_timeout(PEER, now) {
            tracing::trace!(%why, "DTLS has nothing to repeat");
        }
        self.say(now);
        Ok(())
    }

    fn send_application_data(&mut self, _data: &[u8]) -> Result<usize, DtlsImplError> {
        Ok(0)
    }

    fn is_active(&self) -> bool {
        false
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.is_agreed.then_some(ProtocolVersion::DTLS1_2)
    }

    fn is_closing(&self) -> bool {
        self.is_closing
    }

    fn is_closed(&self) -> bool {
        self.is_closing && self.packets.is_empty()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        (self.is_closing, self.is_over) = (true, true);
        let now = Instant::now();
        self.endpoint().close(now).ok();
        self.say(now);
        Ok(())
    }
}

impl fmt::Debug for Rsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rsa")
    }
}
