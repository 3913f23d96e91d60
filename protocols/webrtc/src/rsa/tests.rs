//! Both ends, and who stands between them.

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rtc_dtls::crypto_provider::default_provider;
use str0m::crypto::from_feature_flags;

use super::*;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

type Signed = (CertificateDer<'static>, SignatureScheme, Vec<u8>);

fn signed(scheme: SignatureScheme, algorithm: &'static rcgen::SignatureAlgorithm) -> Signed {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    (CertificateParams::default().self_signed(&pair).unwrap().der().clone(), scheme, pair.serialize_der())
}

static OF_RSA: LazyLock<Signed> = LazyLock::new(|| signed(SignatureScheme::RsaPkcs1Sha256, &PKCS_RSA_SHA256));

fn server() -> Rsa {
    Rsa::new(&from_feature_flags().dtls_provider.generate_certificate().unwrap(), None).unwrap()
}

/// One who calls with this certificate and key.
fn client_with(own: Option<(&Signed, &Signed)>) -> (Endpoint, Vec<u8>) {
    let provider = default_provider().unwrap();
    let mut config = ConfigBuilder::default()
        .with_crypto_provider(provider.clone())
        .with_insecure_skip_verify(true)
        .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80]);
    let mut der = Vec::new();
    if let Some(((certificate, ..), (_, scheme, key))) = own {
        der = certificate.to_vec();
        let key = provider.crypto().import_signing_key(*scheme, key).unwrap();
        config = config.with_certificates(vec![Certificate::from_signing_key(vec![certificate.clone()], key)]);
    }
    let mut endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
    let config = Arc::new(config.build(true, Some(SERVER)).unwrap());
    endpoint.connect(Instant::now(), SERVER, config, None).unwrap();
    (endpoint, der)
}

fn client() -> (Endpoint, Vec<u8>) {
    client_with(Some((&OF_RSA, &OF_RSA)))
}

/// The keys that a client has, in words.
fn keys_of(client: &Endpoint) -> Option<String> {
    let keys = client.get_connection_state(SERVER)?.export_keying_material(LABEL, &[], 60).ok()?;
    Some(format!("AES128_CM_SHA1_80 {:?}", keys.as_ref()))
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
    let of_p256 = signed(SignatureScheme::EcdsaP256Sha256, &PKCS_ECDSA_P256_SHA256);
    for own in [&*OF_RSA, &of_p256] {
        let ((mut client, der), mut server) = (client_with(Some((own, own))), server());
        let (words, _) = talk(&mut server, &mut client);
        assert_eq!(words, [format!("certificate {der:?}"), keys_of(&client).unwrap(), "Connected".into()]);
        assert_eq!((server.protocol_version(), server.is_active()), (Some(ProtocolVersion::DTLS1_2), false));
        client.close(Instant::now()).unwrap();
        assert_eq!(talk(&mut server, &mut client).0, ["CloseNotify"]);
        let mut other = client_with(Some((own, own))).0;
        assert!(talk(&mut server, &mut other).0.is_empty(), "it is over");
        server.close().unwrap();
        assert!(server.is_closed());
    }
}

#[test]
fn who_has_no_certificate_or_not_its_key_gets_no_keys() {
    let other = signed(SignatureScheme::RsaPkcs1Sha256, &PKCS_RSA_SHA256);
    for own in [None, Some((&other, &*OF_RSA)), Some((&*OF_RSA, &other))] {
        let ((mut client, _), mut server) = (client_with(own), server());
        let (words, said) = talk(&mut server, &mut client);
        assert!(words.is_empty() && said.len() >= 3, "{words:?}");
    }
}

#[test]
#[allow(clippy::wildcard_enum_match_arm, reason = "the list is another crate's and grows")]
fn what_is_lost_is_said_again() {
    for seed in 1..30u32 {
        let ((mut client, _), mut server) = (client(), server());
        let (mut words, mut now, mut flight, mut random) = (Vec::new(), Instant::now(), Vec::new(), seed);
        for _ in 0..24 {
            // Each third datagram, both ways.
            let mut is_lost = || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 16) % 3 == 0
            };
            now += AGAIN;
            let fresh: Vec<_> = std::iter::from_fn(|| client.poll_transmit()).map(|packet| packet.message).collect();
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
fn strangers_do_not_end_a_session() {
    let ((mut client, _), mut server) = (client(), server());
    // In the clear: an alert, data, a goodbye; enciphered with no key: a change of ciphers, rubbish.
    let strange =
        [(21, 0, &[2, 40][..]), (23, 0, &[7; 30]), (21, 0, &[1, 0]), (20, 1, &[1]), (20, 1, &[2]), (21, 1, &[9; 40])];
    let strange = strange.map(|(kind, epoch, body): (u8, u8, &[u8])| {
        [&[kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, 0, 0, body.len() as u8][..], body].concat()
    });
    let mut words = Vec::new();
    for _ in 0..8 {
        while let Some(packet) = client.poll_transmit() {
            strange.iter().for_each(|strange| server.handle_packet(strange).unwrap());
            server.handle_packet(&packet.message).unwrap();
        }
        words.extend(told(&mut server, &mut client));
    }
    strange.iter().for_each(|strange| server.handle_packet(strange).unwrap());
    words.extend(told(&mut server, &mut client));
    assert_eq!(words.len(), 3, "{words:?}");
    client.close(Instant::now()).unwrap();
    assert_eq!(talk(&mut server, &mut client).0, ["CloseNotify"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is said wrongly, or not whole, brings no keys, or those that the peer has; and rubbish in between changes nothing.
    #[test]
    fn broken_words_do_no_harm(
        at in 0usize..6,
        byte in 0usize..1200,
        bit in 0u8..8,
        how in 0u8..3,
        rubbish in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let ((mut client, _), mut server) = (client(), server());
        let (mut said, mut words) = (0, Vec::new());
        for _ in 0..8 {
            while let Some(packet) = client.poll_transmit() {
                let mut message = packet.message.to_vec();
                let byte = byte % message.len();
                match how {
                    0 if said == at => message.truncate(byte),
                    1 if said == at => message[byte] ^= 1 << bit,
                    _ => server.handle_packet(&rubbish).unwrap(),
                }
                said += 1;
                server.handle_packet(&message).unwrap();
            }
            words.extend(told(&mut server, &mut client));
        }
        if let Some(keys) = words.get(1) {
            prop_assert_eq!(Some(keys.clone()), keys_of(&client));
        }
        prop_assert!(words.len() == 3 || (words.is_empty() && how < 2), "{how}: {words:?}");
    }
}
