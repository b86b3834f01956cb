//! Public keys, and what they say of a signature.
//!
//! A key is a PEM file of one `PUBLIC KEY`, as `cosign generate-key-pair` and `openssl` write it:
//! ECDSA on P-256 (cosign's) or P-384, Ed25519, or RSA of 2048 bits and more; each over SHA-256,
//! as cosign signs.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{RawPublicKeyEntity, ring};

use super::Error;

pub(super) const MAX_FILE: u64 = 64 << 10;

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P384_SHA256,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
];

/// A public key whose algorithm is supported.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Where it is from, for messages.
    name: String,
    info: SubjectPublicKeyInfoDer<'static>,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

impl Key {
    pub(super) fn parse(name: &str, pem: &[u8]) -> Result<Self, String> {
        let infos: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("not PEM: {error}"))?;
        let [info] = infos.as_slice() else {
            return Err(format!(
                "holds {} public keys (-----BEGIN PUBLIC KEY-----), expected one",
                infos.len()
            ));
        };
        let entity = RawPublicKeyEntity::try_from(info)
            .map_err(|error| format!("malformed public key: {error}"))?;
        // Which algorithm the key is for is told by what it says of a signature of nothing.
        let algorithm = ALGORITHMS.iter().copied().find(|algorithm| {
            matches!(
                entity.verify_signature(*algorithm, b"", b""),
                Err(webpki::Error::InvalidSignatureForPublicKey)
            )
        });
        let algorithm = algorithm.ok_or(
            "not a kind of key that is supported: expected ECDSA on P-256 or P-384, Ed25519 or RSA",
        )?;
        Ok(Self { name: name.to_owned(), info: info.clone(), algorithm })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Is `signature`, in base64, one of `message` by this key?
    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        // Broken into lines, maybe: so Go's decoder takes it, by which the peers read.
        let signature: String = signature.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let Ok(signature) = base64::engine::general_purpose::STANDARD.decode(signature) else {
            return false;
        };
        RawPublicKeyEntity::try_from(&self.info).is_ok_and(|entity| {
            entity.verify_signature(self.algorithm, message, &signature).is_ok()
        })
    }
}

/// A file of the policy's, of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > limit {
        let reason = format!("larger than {limit} bytes");
        return Err(failed(std::io::Error::other(reason)));
    }
    Ok(text)
}
