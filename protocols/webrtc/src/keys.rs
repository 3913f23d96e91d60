//! The keys that DTLS agrees upon for SRTP (RFC 5764 4.2). str0m keeps them to itself; what it calls for DTLS is ours to give, and hears them.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use str0m::crypto::dtls::{
    DtlsCert, DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, ProtocolVersion, SrtpProfile,
};
use str0m::crypto::{CryptoError, CryptoProvider, from_feature_flags};
use str0m::{Rtc, RtcConfig};

use crate::rsa::Rsa;

static LIBRARY: LazyLock<CryptoProvider> = LazyLock::new(from_feature_flags);

thread_local! {
    /// Where the next instance that this thread makes puts what it agrees upon, and whether its peer's certificate may be of RSA.
    static NEXT: RefCell<Option<(Keys, bool)>> = const { RefCell::new(None) };
}

/// What everything here computes with: the library's, and a DTLS that tells its keys.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider { dtls_provider: &Telling, ..LIBRARY.clone() }
}

/// An agent of this configuration, which must have [`provider`]'s DTLS, and the place where its keys will be. `may_be_rsa`: see
/// [`crate::offer::Offer::may_be_rsa`].
pub(crate) fn build(config: RtcConfig, now: Instant, may_be_rsa: bool) -> (Rtc, Keys) {
    let keys = Keys::default();
    NEXT.set(Some((keys.clone(), may_be_rsa)));
    let rtc = config.build(now);
    NEXT.take();
    (rtc, keys)
}

/// The keys of one agent, once they are agreed upon.
#[derive(Clone, Default)]
pub(crate) struct Keys(Arc<Mutex<Option<Agreed>>>);

/// What was agreed upon.
pub(crate) struct Agreed {
    pub(crate) profile: SrtpProfile,
    /// Of who began DTLS, and of the other: key, key, salt, salt.
    pub(crate) material: Vec<u8>,
    /// Whether we began it.
    pub(crate) is_active: bool,
}

impl Keys {
    /// Takes them, once.
    pub(crate) fn take(&self) -> Option<Agreed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, agreed: Agreed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
    }
}

impl std::fmt::Debug for Keys {
    /// Secrets are in no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

#[derive(Debug)]
struct Telling;

impl DtlsProvider for Telling {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        LIBRARY.dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let usual = || LIBRARY.dtls_provider.new_dtls(cert, now, version, mtu);
        let Some((keys, may_be_rsa)) = NEXT.take() else { return usual() };
        let inner = if may_be_rsa { Box::new(Rsa::new(cert, mtu)?) } else { usual()? };
        Ok(Box::new(Tells { inner, keys }))
    }
}

#[derive(Debug)]
struct Tells {
    inner: Box<dyn DtlsInstance>,
    keys: Keys,
}

impl DtlsInstance for Tells {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.inner.poll_output(buf);
        if let DtlsOutput::KeyingMaterial(material, profile) = &output {
            let is_active = self.inner.is_active();
            self.keys.put(Agreed { profile: *profile, material: material.as_ref().to_vec(), is_active });
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
