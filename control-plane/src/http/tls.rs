//! The certificate, which is read again when its files change: those who issue certificates for
//! weeks replace them in place.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::Error;

/// Between looks at the files.
const LOOK: Duration = Duration::from_secs(60);

/// What tells a file from the one that it replaces; `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The present certificate.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    present: Mutex<(TlsAcceptor, [Stamp; 2])>,
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

impl Tls {
    pub(super) fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, Error> {
        let stamps = [stamp(&certificate), stamp(&key)];
        let present = Mutex::new((read(&certificate, &key)?, stamps));
        Ok(Self { certificate, key, present })
    }

    /// For a new connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Looks at the files now and then, for ever.
    pub(super) async fn follow(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// Reads the files again if they have changed since they were read last. The present certificate
    /// stays if they are no pair, as between the replacement of one and of the other.
    fn look(&self) {
        let stamps = [stamp(&self.certificate), stamp(&self.key)];
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.1 == stamps {
            return;
        }
        present.1 = stamps;
        match read(&self.certificate, &self.key) {
            Ok(acceptor) => {
                present.0 = acceptor;
                tracing::info!(certificate = %self.certificate.display(), "a new certificate");
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the certificate has changed and cannot be used; the one before stays"
            ),
        }
    }
}

fn read(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(certificate))?;
    if chain.is_empty() {
        return Err(Error::NoCertificate { path: certificate.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let failed = |source| Error::Certificate {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A certificate and its key, in place of those that are there.
    fn make(directory: &Path) -> (PathBuf, PathBuf) {
        let files = ["cert.pem", "key.pem"].map(|name| directory.join(name));
        let [certificate, key] = files.clone();
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-subj", "/CN=localhost", "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (certificate, key)
    }

    #[test]
    fn a_new_pair_replaces_the_old_one_and_nothing_else_does() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (certificate, key) = make(one.path());
        let tls = Tls::read(certificate.clone(), key.clone()).unwrap();
        let same = |before: &TlsAcceptor| Arc::ptr_eq(before.config(), tls.acceptor().config());
        let first = tls.acceptor();
        tls.look();
        assert!(same(&first));
        let (new_certificate, new_key) = make(other.path());
        std::fs::rename(new_certificate, &certificate).unwrap();
        tls.look();
        assert!(same(&first), "a certificate without its key");
        std::fs::rename(new_key, &key).unwrap();
        tls.look();
        assert!(!same(&first));
        let second = tls.acceptor();
        std::fs::remove_file(&key).unwrap();
        tls.look();
        assert!(same(&second));
    }
}
