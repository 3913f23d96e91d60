//! DTLS with a peer whose certificate is of RSA. GStreamer makes such ones, and the DTLS of str0m has no RSA; so who looks like GStreamer is served by
//! that of webrtc-rs. What is asked of the peer is the same: its certificate is the one that its offer names, and it has the key to it.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
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

/// The library tells peers apart by their addresses. Here there is one.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// What keys are made for (RFC 5764 4.2).
const LABEL: &str = "EXTRACTOR-dtls_srtp";
/// Bytes that are taken of a peer. Keys are agreed upon within 6 KB; beyond what repeats need, somebody fills the library's queues, some of which have
/// no end.
const MOST_BYTES: usize = 256 << 10;
/// When what was said last is said again to a peer that says nothing new (RFC 6347 4.2.4.1), how often, and how soon after it has repeated itself.
const AGAIN: Duration = Duration::from_millis(700);
const AGAIN_SOON: Duration = Duration::from_millis(50);
const AGAIN_MOST: u8 = 24;
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
    /// Of [`MOST_BYTES`].
    left: usize,
    is_agreed: bool,
    is_closing: bool,
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
            left: MOST_BYTES,
            is_agreed: false,
            is_closing: false,
        })
    }

    fn endpoint(&mut self) -> &mut Endpoint {
        self.endpoint.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the library has to say; where that is nothing, what was said last may be said again.
    fn say(&mut self, now: Instant, pause: Duration) {
        let fresh: Vec<_> =
            std::iter::from_fn(|| self.endpoint().poll_transmit()).map(|packet| packet.message).collect();
        if !fresh.is_empty() {
            (self.flight, self.said, self.repeated) = (fresh, now, 0);
        } else if !self.is_agreed && self.repeated < AGAIN_MOST && now >= self.said + pause {
            (self.said, self.repeated) = (now, self.repeated + 1);
        } else {
            return;
        }
        self.packets.extend(self.flight.iter().cloned());
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
        // By no authority: str0m compares it with the fingerprint of the offer, before it takes the keys.
        .with_client_auth(ClientAuthType::RequireAnyClientCert)
        .with_extended_master_secret(ExtendedMasterSecretType::Require)
        .with_srtp_protection_profiles(PROFILES.map(|(theirs, _)| theirs).to_vec())
        .with_mtu(mtu.unwrap_or_default())
        .build(false, None)
}

/// Of SRTP, as both libraries name them, the best first.
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
        let Some(left) = self.left.checked_sub(packet.len()) else { return Ok(()) };
        self.left = left;
        let now = Instant::now();
        let events = self.endpoint().read(now, PEER, None, BytesMut::from(packet)).unwrap_or_else(|why| {
            // Anybody can send something that is none (security.md S21).
            tracing::debug!(%why, "a datagram of DTLS was dropped");
            Vec::new()
        });
        self.say(now, AGAIN_SOON);
        for event in events {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
            match event {
                EndpointEvent::HandshakeComplete => self.agree(),
                EndpointEvent::PeerClosed => self.events.push_back(Event::Closed),
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
                let length = certificate.len().min(buf.len());
                buf[..length].copy_from_slice(&certificate[..length]);
                DtlsOutput::PeerCert(&buf[..length])
            }
            Some(Event::Keys(keys, profile)) => DtlsOutput::KeyingMaterial(KeyingMaterial::new(&keys), profile),
            Some(Event::Connected) => DtlsOutput::Connected,
            Some(Event::Closed) => DtlsOutput::CloseNotify,
            None => {
                let repeats = !self.is_agreed && !self.flight.is_empty() && self.repeated < AGAIN_MOST;
                let own = repeats.then(|| self.said + AGAIN);
                let due = self.endpoint().poll_timeout(&PEER).into_iter().chain(own).min();
                DtlsOutput::Timeout(due.unwrap_or_else(|| Instant::now() + LONG))
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        // Without a first packet of the peer there is nobody to send to again.
        if let Err(why) = self.endpoint().handle_timeout(PEER, now) {
            tracing::trace!(%why, "DTLS has nothing to repeat");
        }
        self.say(now, AGAIN);
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
        self.is_closing = true;
        let now = Instant::now();
        self.endpoint().close(now).ok();
        self.say(now, LONG);
        Ok(())
    }
}

impl fmt::Debug for Rsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rsa")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
    use rtc_dtls::crypto_provider::default_provider;
    use str0m::crypto::from_feature_flags;

    use super::*;

    const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

    static OF_RSA: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        (CertificateParams::default().self_signed(&pair).unwrap().der().clone(), pair.serialize_der())
    });

    fn server() -> Rsa {
        Rsa::new(&from_feature_flags().dtls_provider.generate_certificate().unwrap(), None).unwrap()
    }

    /// One who calls, with a certificate of RSA or none.
    fn client(has_certificate: bool) -> (Endpoint, Vec<u8>) {
        let provider = default_provider().unwrap();
        let mut config = ConfigBuilder::default()
            .with_crypto_provider(provider.clone())
            .with_insecure_skip_verify(true)
            .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80]);
        let mut der = Vec::new();
        if has_certificate {
            let (certificate, key) = &*OF_RSA;
            der = certificate.to_vec();
            let key = provider.crypto().import_signing_key(SignatureScheme::RsaPkcs1Sha256, key).unwrap();
            config = config.with_certificates(vec![Certificate::from_signing_key(vec![certificate.clone()], key)]);
        }
        let mut endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
        let config = Arc::new(config.build(true, Some(SERVER)).unwrap());
        endpoint.connect(Instant::now(), SERVER, config, None).unwrap();
        (endpoint, der)
    }

    /// What one says, in words.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
    fn told(server: &mut Rsa, to: &mut Endpoint) -> Vec<String> {
        let (mut buffer, mut told) = (vec![0; 2048], Vec::new());
        loop {
            match server.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => drop(to.read(Instant::now(), SERVER, None, BytesMut::from(packet))),
                DtlsOutput::Timeout(_) => return told,
                DtlsOutput::PeerCert(der) => told.push(format!("certificate {der:?}")),
                DtlsOutput::KeyingMaterial(keys, profile) => told.push(format!("{profile:?} {:?}", &keys[..])),
                DtlsOutput::Connected => told.push("Connected".into()),
                DtlsOutput::CloseNotify => told.push("CloseNotify".into()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lets both speak, and returns what the server tells and what the client said.
    fn talk(server: &mut Rsa, client: &mut Endpoint) -> (Vec<String>, Vec<Vec<u8>>) {
        let (mut words, mut said) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            while let Some(packet) = client.poll_transmit() {
                server.handle_packet(&packet.message).unwrap();
                said.push(packet.message.to_vec());
            }
            words.extend(told(server, client));
        }
        (words, said)
    }

    #[test]
    fn whose_certificate_it_is_comes_before_the_keys() {
        let ((mut client, der), mut server) = (client(true), server());
        let (words, _) = talk(&mut server, &mut client);
        let keys = client.get_connection_state(SERVER).unwrap().export_keying_material(LABEL, &[], 60).unwrap();
        let keys = format!("AES128_CM_SHA1_80 {:?}", keys.as_ref());
        assert_eq!(words, [format!("certificate {der:?}"), keys, "Connected".into()]);
        assert_eq!((server.protocol_version(), server.is_active()), (Some(ProtocolVersion::DTLS1_2), false));
        client.close(Instant::now()).unwrap();
        assert_eq!(talk(&mut server, &mut client).0, ["CloseNotify"]);
        server.close().unwrap();
        assert!(server.is_closed());
    }

    #[test]
    fn who_has_no_certificate_gets_no_keys() {
        let ((mut client, _), mut server) = (client(false), server());
        let (words, said) = talk(&mut server, &mut client);
        assert!(words.is_empty() && said.len() >= 3, "{words:?}");
    }

    #[test]
    #[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
    fn what_is_lost_is_said_again() {
        for seed in 1..30u32 {
            let ((mut client, _), mut server) = (client(true), server());
            let (mut words, mut now, mut flight, mut random) = (Vec::new(), Instant::now(), Vec::new(), seed);
            for _ in 0..24 {
                // Each third datagram, both ways.
                let mut is_lost = || {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 16) % 3 == 0
                };
                now += AGAIN;
                let fresh: Vec<_> =
                    std::iter::from_fn(|| client.poll_transmit()).map(|packet| packet.message).collect();
                // As the library's own client may fall silent, too.
                flight = if fresh.is_empty() { flight } else { fresh };
                flight.iter().filter(|_| !is_lost()).for_each(|packet| server.handle_packet(packet).unwrap());
                server.handle_timeout(now).unwrap();
                let mut buffer = vec![0; 2048];
                loop {
                    match server.poll_output(&mut buffer) {
                        DtlsOutput::Packet(_) if is_lost() => {}
                        DtlsOutput::Packet(packet) => drop(client.read(now, SERVER, None, BytesMut::from(packet))),
                        DtlsOutput::Timeout(_) => break,
                        other => words.push(matches!(other, DtlsOutput::Connected)),
                    }
                }
            }
            assert_eq!(words, [false, false, true], "{seed}");
        }
    }

    #[test]
    fn a_peer_that_says_a_lot_is_not_heard_any_more() {
        let ((mut client, _), mut server) = (client(true), server());
        // A record of the next epoch, which is kept until there are keys.
        let record = [&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 4, 0][..], &[7; 1024]].concat();
        (0..10_000).for_each(|_| server.handle_packet(&record).unwrap());
        assert!(server.left < record.len());
        assert!(talk(&mut server, &mut client).0.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What somebody says in between, at any point, is dropped.
        #[test]
        fn garbage_does_no_harm(
            at in 0usize..6,
            kind in 20u8..26,
            epoch in 0u8..3,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            whole in any::<bool>(),
        ) {
            let ((mut client, _), mut server) = (client(true), server());
            let head = [kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, 0, 0, bytes.len() as u8];
            let garbage = if whole { [&head[..], &bytes].concat() } else { bytes };
            let (mut words, mut said) = (Vec::new(), 0);
            for _ in 0..8 {
                while let Some(packet) = client.poll_transmit() {
                    if said == at {
                        server.handle_packet(&garbage).unwrap();
                    }
                    said += 1;
                    server.handle_packet(&packet.message).unwrap();
                }
                words.extend(told(&mut server, &mut client));
            }
            prop_assert!(words.len() <= 4, "{words:?}");
        }

        /// What is said wrongly brings no keys, or those of both.
        #[test]
        fn broken_words_do_no_harm(at in 0usize..6, byte in 0usize..1200, bit in 0u8..8, cut in any::<bool>()) {
            let ((mut client, _), mut server) = (client(true), server());
            let mut said = 0;
            for _ in 0..8 {
                while let Some(packet) = client.poll_transmit() {
                    let mut message = packet.message.to_vec();
                    let byte = byte % message.len();
                    if said == at && cut {
                        message.truncate(byte);
                    } else if said == at {
                        message[byte] ^= 1 << bit;
                    }
                    said += 1;
                    server.handle_packet(&message).unwrap();
                }
                told(&mut server, &mut client);
            }
        }
    }
}
