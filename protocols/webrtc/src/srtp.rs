//! What goes to a player, enciphered, and what it says of that, deciphered (RFC 3711, RFC 7714). What is around the ciphers is here because a packet
//! is to be written once, straight into the burst that it leaves with, and enciphered there: str0m's ciphers want another place to write to.

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
/// The cipher without a tag may write so much more than it is given.
const SLACK: usize = 16;
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

/// Appends `body` and its padding, enciphered where it is then, and its tag. Whether it could.
fn seal(cipher: &LessSafeKey, iv: [u8; 12], known: &[u8], (body, padding): (&[u8], u8), out: &mut Vec<u8>) -> bool {
    let at = out.len();
    out.extend_from_slice(body);
    pad(out, padding);
    let tag = cipher.seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(known), &mut out[at..]);
    tag.map(|tag| out.extend_from_slice(tag.as_ref())).is_ok()
}

/// Says how much it is in its last byte (RFC 3550 5.1).
fn pad(out: &mut Vec<u8>, padding: u8) {
    if padding > 0 {
        out.resize(out.len() + usize::from(padding) - 1, 0);
        out.push(padding);
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

    /// Appends an RTP packet to `out`; no two of an SSRC may have the same index. Nothing where the cipher refuses.
    pub(crate) fn protect_rtp(&mut self, out: &mut Vec<u8>, packet: &Cut<'_>) {
        let Cut { header, body, padding, index } = *packet;
        let [_, _, high, low, _, _, _, _, a, b, c, d, ..] = *header else { return };
        let (sequence, ssrc) = (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d]));
        let roll_overs = (index >> 16) as u32;
        let start = out.len();
        out.extend_from_slice(header);
        let is_done = match &mut self.rtp {
            Side::Gcm { cipher, salt } => {
                seal(cipher, AeadAes128Gcm::rtp_iv(*salt, ssrc, roll_overs, sequence), header, (body, padding), out)
            }
            Side::Cm { cipher, salt, key } => {
                let mut padded = Vec::new();
                let body = match padding {
                    0 => body,
                    // It does not encipher where it is.
                    _ => {
                        padded.extend_from_slice(body);
                        pad(&mut padded, padding);
                        &padded
                    }
                };
                let (at, end) = (out.len(), out.len() + body.len());
                out.resize(end + SLACK, 0);
                let iv = Aes128CmSha1_80::rtp_iv(*salt, ssrc, index);
                let is_done = cipher.encrypt(&iv, body, &mut out[at..]).is_ok();
                out.truncate(end);
                let tag = self.hmac.sha1_hmac(key, &[&out[start..], &roll_overs.to_be_bytes()]);
                out.extend_from_slice(&tag[..Aes128CmSha1_80::HMAC_TAG_LEN]);
                is_done
            }
        };
        if !is_done {
            out.truncate(start);
        }
    }

    /// Appends a compound RTCP packet to `out`. Nothing where the cipher refuses, or the session is 2^31 packets old (RFC 3711 3.4).
    pub(crate) fn protect_rtcp(&mut self, out: &mut Vec<u8>, packet: &[u8]) {
        let Some((head, body)) = packet.split_at_checked(RTCP_HEAD) else { return };
        let [_, _, _, _, a, b, c, d] = *head else { return };
        if self.index >= ENCIPHERED {
            return;
        }
        let (ssrc, index) = (u32::from_be_bytes([a, b, c, d]), self.index);
        self.index += 1;
        let marked = (index | ENCIPHERED).to_be_bytes();
        let start = out.len();
        out.extend_from_slice(head);
        let mut known = [0; AeadAes128Gcm::RTCP_AAD_LEN];
        known[..RTCP_HEAD].copy_from_slice(head);
        known[RTCP_HEAD..].copy_from_slice(&marked);
        let is_done = match &mut self.rtcp {
            Side::Gcm { cipher, salt } => {
                let is_done = seal(cipher, AeadAes128Gcm::rtcp_iv(*salt, ssrc, index), &known, (body, 0), out);
                out.extend_from_slice(&marked);
                is_done
            }
            Side::Cm { cipher, salt, key } => {
                let (at, end) = (out.len(), out.len() + body.len());
                out.resize(end + SLACK, 0);
                let iv = Aes128CmSha1_80::rtp_iv(*salt, ssrc, index.into());
                let is_done = cipher.encrypt(&iv, body, &mut out[at..]).is_ok();
                out.truncate(end);
                out.extend_from_slice(&marked);
                let tag = self.hmac.sha1_hmac(key, &[&out[start..]]);
                out.extend_from_slice(&tag[..Aes128CmSha1_80::HMAC_TAG_LEN]);
                is_done
            }
        };
        if !is_done {
            out.truncate(start);
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
        let mut out = Vec::with_capacity(packet.len() + SLACK);
        out.extend_from_slice(packet);
        out.resize(packet.len() + SLACK, 0);
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
        let mut out = vec![7];
        srtp.protect_rtp(&mut out, &Cut { header: &header, body: &body, padding: 0, index: 0xf17b });
        let wanted = bytes::<66>(
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf
             8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        );
        assert_eq!((out[0], &out[1..]), (7, &wanted[..]));
        let packet = bytes::<52>(
            "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef deadbeef
             deadbeef",
        );
        out.clear();
        srtp.protect_rtcp(&mut out, &packet);
        let wanted = bytes::<72>(
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46 86303ded
             0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        );
        assert_eq!(out, wanted);
        let side = Side::Gcm {
            cipher: gcm(&AES_128_GCM, &bytes::<16>("000102030405060708090a0b0c0d0e0f")).unwrap(),
            salt: bytes("517569642070726f2071756f"),
        };
        let mut heard = Heard { rtcp: side, hmac: crypto.sha1_hmac_provider, windows: Vec::new() };
        assert_eq!(heard.open(&wanted).as_deref(), Some(&packet[..]));
        assert_eq!(heard.open(&wanted), None, "it came before");
        srtp.index = ENCIPHERED;
        srtp.protect_rtcp(&mut out, &packet);
        srtp.protect_rtp(&mut out, &Cut { header: &header[..11], body: &body, padding: 0, index: 1 });
        assert_eq!(out.len(), 72, "nothing was appended");
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
        let mut out = vec![9];
        srtp.protect_rtp(&mut out, &Cut { header: &[0; 12], body: &[0; 32], padding: 0, index: 0 });
        let (packet, tag) = out[1..].split_at(44);
        assert_eq!((&packet[12..], tag.len()), (&stream[..], srtp.rtp_overhead()));
        assert!(Aes128CmSha1_80::rtp_verify(hmac, &key, packet, 0, tag));
        out.clear();
        srtp.protect_rtcp(&mut out, &[0; 40]);
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
            let (mut padded, mut plain) = (Vec::new(), Vec::new());
            let header = [0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
            srtp.protect_rtp(&mut padded, &Cut { header: &header, body: &[7; 40], padding: 4, index: 1 });
            let body = [&[7; 40][..], &[0, 0, 0, 4]].concat();
            srtp.protect_rtp(&mut plain, &Cut { header: &header, body: &body, padding: 0, index: 1 });
            assert_eq!((padded.len(), &padded), (12 + 44 + srtp.rtp_overhead(), &plain), "{profile}");
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
            let sealed: Vec<Vec<u8>> = (0..200)
                .map(|n| {
                    let mut out = Vec::new();
                    srtp.protect_rtcp(&mut out, &packet(n));
                    assert_eq!(out.len(), 32 + srtp.rtcp_overhead());
                    out
                })
                .collect();
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
            // Another SSRC counts by itself; and of many, those that were heard last are known.
            let mut other = end(true).0;
            let by = |ssrc: u8| [&[0x81, 201, 0, 7, 0, 0, 0, ssrc][..], &[1; 24]].concat();
            for ssrc in [8, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17] {
                let mut out = Vec::new();
                other.protect_rtcp(&mut out, &by(ssrc));
                assert_eq!(heard.open(&out), Some(by(ssrc)), "{profile}: {ssrc}");
                assert_eq!((heard.open(&out), heard.windows.len() <= SPEAKERS), (None, true), "{profile}: {ssrc}");
            }
        }
    }
}
