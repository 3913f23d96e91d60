//! What goes to a player, enciphered, and what it says of that, deciphered (RFC 3711, RFC 7714). What is around the ciphers is here because a packet
//! is to be written once: by the cipher, which reads what all players of a stream share, straight into the burst that it leaves with. That of the
//! oldest profile copies first.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use str0m::crypto::dtls::SrtpProfile;
use str0m::crypto::{
    AeadAes128Gcm, AeadAes256Gcm, Aes128CmSha1_80, Aes128CmSha1_80Cipher, CryptoProvider, Sha1HmacProvider,
    SrtpProvider,
};

use crate::keys::Agreed;
use crate::out::Cut;

/// An index of RTCP.
const INDEX_BYTES: usize = 4;
/// What a key is for (RFC 3711 4.3.2).
const RTP: [u8; 3] = [0, 1, 2];
const RTCP: [u8; 3] = [3, 4, 5];
/// In front of what is enciphered of RTCP: the first header and who sends.
const RTCP_HEAD: usize = 8;
/// Says of an index of RTCP that the packet is enciphered.
const ENCIPHERED: u32 = 1 << 31;
/// Most SSRCs that one peer speaks as: one for each media, and a few to spare. More, and the one that was not heard for the longest is forgotten.
const SPEAKERS: usize = 8;

/// Our half of a session's keys.
pub(crate) struct Srtp {
    rtp: Side,
    rtcp: Side,
    hmac: &'static dyn Sha1HmacProvider,
    /// Of the next RTCP packet.
    index: u32,
}

enum Side {
    /// Of both lengths of a key; all else of the two profiles is the same (RFC 7714 12).
    Gcm {
        cipher: LessSafeKey,
        salt: [u8; 12],
    },
    Cm {
        cipher: Box<dyn Aes128CmSha1_80Cipher>,
        salt: [u8; 14],
        key: [u8; 20],
    },
}

/// Writes `body` and its padding, enciphered, and the tag; as much as there is room for, which must be so much. Whether it could.
fn seal(cipher: &LessSafeKey, iv: [u8; 12], known: &[u8], (body, padding): (&[u8], u8), out: &mut [u8]) -> bool {
    let Some((sealed, rest)) = out.split_at_mut_checked(body.len()) else { return false };
    let (nonce, known) = (Nonce::assume_unique_for_key(iv), Aad::from(known));
    let padding = (padding > 0).then(|| Padding::new(padding));
    let padding = padding.as_ref().map_or(&[][..], Padding::bytes);
    cipher.seal_out_of_place_scatter(nonce, known, body, sealed, padding, rest).is_ok()
}

/// Bytes that mean nothing and say in the last of them how many they are (RFC 3550 5.1).
struct Padding {
    bytes: [u8; u8::MAX as usize],
    count: u8,
}

impl Padding {
    fn new(count: u8) -> Padding {
        let mut bytes = [0; u8::MAX as usize];
        if let Some(last) = usize::from(count).checked_sub(1) {
            bytes[last] = count;
        }
        Padding { bytes, count }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.count)]
    }
}

impl Srtp {
    /// Both halves. None: a profile that is unknown here, or material of another length than it has.
    pub(crate) fn new(crypto: &CryptoProvider, agreed: &Agreed) -> Option<(Srtp, Heard)> {
        let (key, salt) = match agreed.profile {
            SrtpProfile::AEAD_AES_128_GCM => (AeadAes128Gcm::KEY_LEN, AeadAes128Gcm::SALT_LEN),
            SrtpProfile::AEAD_AES_256_GCM => (AeadAes256Gcm::KEY_LEN, AeadAes256Gcm::SALT_LEN),
            SrtpProfile::AES128_CM_SHA1_80 => (Aes128CmSha1_80::KEY_LEN, Aes128CmSha1_80::SALT_LEN),
            _ => return None,
        };
        let (keys, salts) = agreed.material.split_at_checked(2 * key)?;
        (salts.len() == 2 * salt).then_some(())?;
        let master = |of_client: bool| {
            // Who began is the client, and its half comes first (RFC 5764 4.2).
            let half = |both: &[u8]| {
                let (client, server) = both.split_at(both.len() / 2);
                if of_client { client.to_vec() } else { server.to_vec() }
            };
            Master { crypto: crypto.srtp_provider, key: half(keys), salt: half(salts) }
        };
        let (own, theirs) = (master(agreed.is_active), master(!agreed.is_active));
        let hmac = crypto.sha1_hmac_provider;
        let rtcp = own.side(agreed.profile, RTCP, true)?;
        let srtp = Srtp { rtp: own.side(agreed.profile, RTP, true)?, rtcp, hmac, index: 0 };
        Some((srtp, Heard { rtcp: theirs.side(agreed.profile, RTCP, false)?, hmac, windows: Vec::new() }))
    }

    /// By how many bytes an RTP packet grows.
    pub(crate) fn rtp_overhead(&self) -> usize {
        match &self.rtp {
            Side::Gcm { .. } => AeadAes128Gcm::TAG_LEN,
            Side::Cm { .. } => Aes128CmSha1_80::HMAC_TAG_LEN,
        }
    }

    /// And an RTCP packet.
    pub(crate) fn rtcp_overhead(&self) -> usize {
        self.rtp_overhead() + INDEX_BYTES
    }

    /// Writes an RTP packet, by [`Srtp::rtp_overhead`] longer than what it is made of, to `out`, which is as long; no two of an SSRC may have the same
    /// index. False where there is none: the cipher refuses.
    pub(crate) fn protect_rtp(&mut self, out: &mut [u8], packet: &Cut<'_>) -> bool {
        let Cut { header, body, padding, index } = *packet;
        let [_, _, high, low, _, _, _, _, a, b, c, d, ..] = *header else { return false };
        if out.len() != packet.bytes() + self.rtp_overhead() {
            return false;
        }
        let (sequence, ssrc) = (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d]));
        let roll_overs = (index >> 16) as u32;
        let (head, rest) = out.split_at_mut(header.len());
        head.copy_from_slice(header);
        match &mut self.rtp {
            Side::Gcm { cipher, salt } => {
                seal(cipher, AeadAes128Gcm::rtp_iv(*salt, ssrc, roll_overs, sequence), header, (body, padding), rest)
            }
            Side::Cm { cipher, salt, key } => {
                // It enciphers one piece, and writes no more than that (str0m-aws-lc-rs 0.7; the trait does not say).
                let whole = (padding > 0).then(|| [body, Padding::new(padding).bytes()].concat());
                let body = whole.as_deref().unwrap_or(body);
                let (sealed, tag) = rest.split_at_mut(body.len());
                let is_done = cipher.encrypt(&Aes128CmSha1_80::rtp_iv(*salt, ssrc, index), body, sealed).is_ok();
                let made = self.hmac.sha1_hmac(key, &[head, sealed, &roll_overs.to_be_bytes()]);
                tag.copy_from_slice(&made[..tag.len()]);
                is_done
            }
        }
    }

    /// Writes a compound RTCP packet, by [`Srtp::rtcp_overhead`] longer, to `out`, which is as long. False where there is none: the cipher refuses, or
    /// the session is 2^31 packets old (RFC 3711 3.4).
    pub(crate) fn protect_rtcp(&mut self, out: &mut [u8], packet: &[u8]) -> bool {
        let Some((head, body)) = packet.split_at_checked(RTCP_HEAD) else { return false };
        let [_, _, _, _, a, b, c, d] = *head else { return false };
        if self.index >= ENCIPHERED || out.len() != packet.len() + self.rtcp_overhead() {
            return false;
        }
        let (ssrc, index) = (u32::from_be_bytes([a, b, c, d]), self.index);
        self.index += 1;
        let marked = (index | ENCIPHERED).to_be_bytes();
        let mut known = [0; AeadAes128Gcm::RTCP_AAD_LEN];
        known[..RTCP_HEAD].copy_from_slice(head);
        known[RTCP_HEAD..].copy_from_slice(&marked);
        out[..RTCP_HEAD].copy_from_slice(head);
        match &mut self.rtcp {
            Side::Gcm { cipher, salt } => {
                let (sealed, last) = out[RTCP_HEAD..].split_at_mut(body.len() + AeadAes128Gcm::TAG_LEN);
                last.copy_from_slice(&marked);
                seal(cipher, AeadAes128Gcm::rtcp_iv(*salt, ssrc, index), &known, (body, 0), sealed)
            }
            Side::Cm { cipher, salt, key } => {
                let (all, tag) = out.split_at_mut(packet.len() + INDEX_BYTES);
                let (sealed, last) = all[RTCP_HEAD..].split_at_mut(body.len());
                last.copy_from_slice(&marked);
                let iv = Aes128CmSha1_80::rtp_iv(*salt, ssrc, index.into());
                let is_done = cipher.encrypt(&iv, body, sealed).is_ok();
                let made = self.hmac.sha1_hmac(key, &[all]);
                tag.copy_from_slice(&made[..tag.len()]);
                is_done
            }
        }
    }
}

/// The peer's half, of which only RTCP is of interest.
pub(crate) struct Heard {
    rtcp: Side,
    hmac: &'static dyn Sha1HmacProvider,
    /// What came of each SSRC, for each counts by itself (RFC 3711 3.2.3); the one that was heard last comes last.
    windows: Vec<(u32, Window)>,
}

/// The highest index that came, and which of the 64 up to it (RFC 3711 3.3.2).
#[derive(Clone, Copy, Default)]
struct Window {
    highest: Option<u32>,
    seen: u64,
}

impl Window {
    /// How far behind the highest it is; none: it came before, or so long ago that nobody knows.
    fn behind(self, index: u32) -> Option<u32> {
        let Some(highest) = self.highest.filter(|highest| index <= *highest) else { return Some(0) };
        let back = highest - index;
        (back < u64::BITS && self.seen >> back & 1 == 0).then_some(back)
    }

    fn take(self, index: u32, back: u32) -> Window {
        let ahead = self.highest.map_or(0, |highest| index.saturating_sub(highest));
        let seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1 << back;
        Window { highest: self.highest.max(Some(index)), seen }
    }
}

impl Heard {
    /// A compound RTCP packet, deciphered. None: it is not of this peer, or came before.
    pub(crate) fn open(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (head, rest) = packet.split_at_checked(RTCP_HEAD)?;
        let ssrc = u32::from_be_bytes(*head.last_chunk()?);
        let marked = match self.rtcp {
            Side::Gcm { .. } => rest.last_chunk()?,
            Side::Cm { .. } => rest.split_last_chunk::<{ Aes128CmSha1_80::HMAC_TAG_LEN }>()?.0.last_chunk()?,
        };
        let index = u32::from_be_bytes(*marked).checked_sub(ENCIPHERED)?;
        let at = self.windows.iter().position(|(of, _)| *of == ssrc);
        let window = at.and_then(|at| self.windows.get(at)).map(|(_, window)| *window).unwrap_or_default();
        let back = window.behind(index)?;
        let mut out = packet.to_vec();
        let body = &mut out[RTCP_HEAD..];
        let mut known = [0; AeadAes128Gcm::RTCP_AAD_LEN];
        known[..RTCP_HEAD].copy_from_slice(head);
        known[RTCP_HEAD..].copy_from_slice(marked);
        let length = match &mut self.rtcp {
            Side::Gcm { cipher, salt } => {
                let body = body.get_mut(..rest.len() - INDEX_BYTES)?;
                let nonce = Nonce::assume_unique_for_key(AeadAes128Gcm::rtcp_iv(*salt, ssrc, index));
                cipher.open_in_place(nonce, Aad::from(&known[..]), body).ok()?.len()
            }
            Side::Cm { cipher, salt, key } => {
                let (all, tag) = packet.split_last_chunk::<{ Aes128CmSha1_80::HMAC_TAG_LEN }>()?;
                let hmac = |key: &[u8], parts: &[&[u8]]| self.hmac.sha1_hmac(key, parts);
                Aes128CmSha1_80::rtcp_verify(hmac, key, all, tag).then_some(())?;
                let sealed = all.get(RTCP_HEAD..all.len() - INDEX_BYTES)?;
                let body = body.get_mut(..sealed.len())?;
                cipher.decrypt(&Aes128CmSha1_80::rtp_iv(*salt, ssrc, index.into()), sealed, body).ok()?;
                sealed.len()
            }
        };
        if let Some(at) = at.or_else(|| (self.windows.len() >= SPEAKERS).then_some(0)) {
            self.windows.remove(at);
        }
        self.windows.push((ssrc, window.take(index, back)));
        out.truncate(RTCP_HEAD + length);
        Some(out)
    }
}

fn gcm(algorithm: &'static Algorithm, key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
}

/// What the keys of a session are made of.
struct Master {
    crypto: &'static dyn SrtpProvider,
    key: Vec<u8>,
    salt: Vec<u8>,
}

impl Master {
    fn side(&self, profile: SrtpProfile, [key, tag, salt]: [u8; 3], encrypts: bool) -> Option<Side> {
        Some(match profile {
            SrtpProfile::AEAD_AES_128_GCM => {
                Side::Gcm { cipher: gcm(&AES_128_GCM, &self.derive::<16>(key))?, salt: self.derive(salt) }
            }
            SrtpProfile::AEAD_AES_256_GCM => {
                Side::Gcm { cipher: gcm(&AES_256_GCM, &self.derive::<32>(key))?, salt: self.derive(salt) }
            }
            SrtpProfile::AES128_CM_SHA1_80 => Side::Cm {
                cipher: self.crypto.aes_128_cm_sha1_80().create_cipher(self.derive(key), encrypts),
                salt: self.derive(salt),
                key: self.derive(tag),
            },
            _ => return None,
        })
    }

    /// A key for one thing (RFC 3711 4.3.1, and RFC 6188 3 for the longer ones; the rate is 0).
    fn derive<const N: usize>(&self, label: u8) -> [u8; N] {
        let mut block = [0; 16];
        block[..self.salt.len()].copy_from_slice(&self.salt);
        block[7] ^= label;
        let mut out = [0; N];
        for (round, part) in (0u16..).zip(out.chunks_mut(16)) {
            block[14..].copy_from_slice(&round.to_be_bytes());
            // The library pads a block to two.
            let mut made = [0; 32];
            if self.key.len() == AeadAes256Gcm::KEY_LEN {
                self.crypto.srtp_aes_256_ecb_round(&self.key, &block, &mut made);
            } else {
                self.crypto.srtp_aes_128_ecb_round(&self.key, &block, &mut made);
            }
            part.copy_from_slice(&made[..part.len()]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use str0m::crypto::from_feature_flags;

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        assert_eq!(digits.len(), 2 * N);
        std::array::from_fn(|at| u8::from_str_radix(str::from_utf8(&digits[2 * at..2 * at + 2]).unwrap(), 16).unwrap())
    }

    impl Srtp {
        fn rtp(&mut self, packet: &Cut<'_>) -> Option<Vec<u8>> {
            let mut out = vec![0xee; packet.bytes() + self.rtp_overhead()];
            self.protect_rtp(&mut out, packet).then_some(out)
        }

        fn rtcp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
            let mut out = vec![0xee; packet.len() + self.rtcp_overhead()];
            self.protect_rtcp(&mut out, packet).then_some(out)
        }
    }

    /// RFC 3711 B.3.
    #[test]
    fn keys_are_derived_as_the_rfc_shows() {
        let crypto = from_feature_flags();
        let master = Master {
            crypto: crypto.srtp_provider,
            key: bytes::<16>("E1F97A0D3E018BE0D64FA32C06DE4139").to_vec(),
            salt: bytes::<14>("0EC675AD498AFEEBB6960B3AABE6").to_vec(),
        };
        assert_eq!(master.derive(0), bytes::<16>("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(master.derive(2), bytes::<14>("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(master.derive(1), bytes::<20>("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
    }

    /// RFC 7714 16.1.1 (RTP, with the session's key and salt as they are there) and 17.1 (RTCP).
    #[test]
    fn packets_are_enciphered_as_the_rfc_shows() {
        let crypto = from_feature_flags();
        let side = || Side::Gcm {
            cipher: gcm(&AES_128_GCM, &bytes::<16>("000102030405060708090a0b0c0d0e0f")).unwrap(),
            salt: bytes("517569642070726f2071756f"),
        };
        let mut srtp = Srtp { rtp: side(), rtcp: side(), hmac: crypto.sha1_hmac_provider, index: 0x05d4 };
        let header = bytes::<12>("8040f17b 8041f8d3 5501a0b2");
        let body = bytes::<38>("47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465 73207472 6573");
        let cut = Cut { header: &header, body: &body, padding: 0, index: 0xf17b };
        let wanted = bytes::<66>(
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf
             8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        );
        assert_eq!(srtp.rtp(&cut).as_deref(), Some(&wanted[..]));
        for wrong in [0, 65, 67] {
            assert!(!srtp.protect_rtp(&mut vec![0; wrong], &cut), "{wrong} bytes for 66");
        }
        let packet = bytes::<52>(
            "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef deadbeef
             deadbeef",
        );
        for wrong in [0, 71, 73] {
            assert!(!srtp.protect_rtcp(&mut vec![0; wrong], &packet), "{wrong} bytes for 72");
        }
        let wanted = bytes::<72>(
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46 86303ded
             0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        );
        assert_eq!(srtp.rtcp(&packet).as_deref(), Some(&wanted[..]));
        let side = Side::Gcm {
            cipher: gcm(&AES_128_GCM, &bytes::<16>("000102030405060708090a0b0c0d0e0f")).unwrap(),
            salt: bytes("517569642070726f2071756f"),
        };
        let mut heard = Heard { rtcp: side, hmac: crypto.sha1_hmac_provider, windows: Vec::new() };
        assert_eq!(heard.open(&wanted).as_deref(), Some(&packet[..]));
        assert_eq!(heard.open(&wanted), None, "it came before");
        srtp.index = ENCIPHERED;
        assert_eq!(srtp.rtcp(&packet), None, "it is too old");
        assert_eq!(srtp.rtp(&Cut { header: &header[..11], body: &body, padding: 0, index: 1 }), None, "no header");
    }

    /// RFC 3711 B.2: the key stream of SSRC 0 and index 0, which is what zeros become; and a tag that the library takes (3.4 for RTCP).
    #[test]
    fn the_older_profile_is_as_the_rfc_shows() {
        let crypto = from_feature_flags();
        let (key, salt) = ([7; 20], bytes("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"));
        let side = || Side::Cm {
            cipher: crypto
                .srtp_provider
                .aes_128_cm_sha1_80()
                .create_cipher(bytes("2B7E151628AED2A6ABF7158809CF4F3C"), true),
            salt,
            key,
        };
        let mut srtp = Srtp { rtp: side(), rtcp: side(), hmac: crypto.sha1_hmac_provider, index: 0 };
        let stream = bytes::<32>("E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB");
        let hmac = |key: &[u8], parts: &[&[u8]]| crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        let out = srtp.rtp(&Cut { header: &[0; 12], body: &[0; 32], padding: 0, index: 0 }).unwrap();
        let (packet, tag) = out.split_at(44);
        assert_eq!((&packet[12..], tag.len()), (&stream[..], srtp.rtp_overhead()));
        assert!(Aes128CmSha1_80::rtp_verify(hmac, &key, packet, 0, tag));
        let out = srtp.rtcp(&[0; 40]).unwrap();
        let (packet, tag) = out.split_at(44);
        assert_eq!((&packet[8..40], &packet[40..]), (&stream[..], &[0x80, 0, 0, 0][..]));
        assert!(out.len() == 40 + srtp.rtcp_overhead() && Aes128CmSha1_80::rtcp_verify(hmac, &key, packet, tag));
    }

    #[test]
    fn padding_is_enciphered_and_says_how_much_it_is() {
        let crypto = from_feature_flags();
        for profile in SrtpProfile::ALL.iter().copied() {
            let material = (0..profile.keying_material_len()).map(|at| at as u8).collect();
            let mut srtp = Srtp::new(&crypto, &Agreed { profile, material, is_active: true }).unwrap().0;
            let header = [0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
            // Within a block of the cipher, over its end, and the most that there may be.
            for (length, padding) in [(40, 4), (45, 20), (0, 1), (1200, u8::MAX)] {
                let body = vec![7; length];
                let padded = srtp.rtp(&Cut { header: &header, body: &body, padding, index: 1 });
                let body = [body, vec![0; usize::from(padding) - 1], vec![padding]].concat();
                let plain = srtp.rtp(&Cut { header: &header, body: &body, padding: 0, index: 1 });
                assert!(plain.is_some() && padded == plain, "{profile}: {length} bytes and {padding}");
            }
        }
    }

    /// Of both ends of a session, in each profile.
    #[test]
    fn what_one_says_the_other_hears_once() {
        let crypto = from_feature_flags();
        for profile in SrtpProfile::ALL.iter().copied() {
            let end = |is_active| {
                let material = (0..profile.keying_material_len()).map(|at| at as u8).collect();
                Srtp::new(&crypto, &Agreed { profile, material, is_active }).unwrap()
            };
            let ((mut srtp, mut own), (_, mut heard)) = (end(true), end(false));
            let packet = |n: u8| [&[0x81, 201, 0, 7, 0, 0, 0, 9][..], &[n; 24]].concat();
            let sealed: Vec<Vec<u8>> = (0..200).map(|n| srtp.rtcp(&packet(n)).unwrap()).collect();
            for n in [3, 1, 2, 70, 7, 69, 0, 6, 199] {
                // Out of order within 64, and nothing older than that.
                let wanted = (n != 0 && n != 6).then(|| packet(n));
                assert_eq!(heard.open(&sealed[usize::from(n)]), wanted, "{profile}: {n}");
                assert_eq!(heard.open(&sealed[usize::from(n)]), None, "{profile}: {n} again");
            }
            assert_eq!(own.open(&sealed[150]), None, "its own");
            for at in 0..sealed[180].len() {
                let mut broken = sealed[180].clone();
                broken[at] ^= 1;
                assert_eq!(heard.open(&broken), None, "{profile}: byte {at}");
                assert_eq!(heard.open(&sealed[180][..at]), None, "{profile}: {at} bytes");
            }
            assert_eq!(heard.open(&sealed[180]), Some(packet(180)), "{profile}");
            let bye = [0x81, 203, 0, 1, 0, 0, 0, 9];
            assert_eq!(srtp.rtcp(&bye).and_then(|sealed| heard.open(&sealed)).as_deref(), Some(&bye[..]), "{profile}");
            // Another SSRC counts by itself; and of many, those that were heard last are known.
            let mut other = end(true).0;
            let by = |ssrc: u8| [&[0x81, 201, 0, 7, 0, 0, 0, ssrc][..], &[1; 24]].concat();
            for ssrc in [8, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17] {
                let out = other.rtcp(&by(ssrc)).unwrap();
                assert_eq!(heard.open(&out), Some(by(ssrc)), "{profile}: {ssrc}");
                assert_eq!((heard.open(&out), heard.windows.len() <= SPEAKERS), (None, true), "{profile}: {ssrc}");
            }
        }
    }
}
