//! Signs images and verifies their signatures with the Sigstore project's own crate, as cosign does
//! with a key: a peer that our reading of signatures is tested against.
//!
//! ```text
//! sigstore-peer keys DIRECTORY       makes DIRECTORY/private, encrypted as cosign does, and DIRECTORY/public
//! sigstore-peer sign PRIVATE IMAGE   pushes a signature of IMAGE, which is at a registry without TLS
//! sigstore-peer verify PUBLIC IMAGE  succeeds if one of its signatures was made with the key
//! ```

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sigstore::cosign::constraint::PrivateKeySigner;
use sigstore::cosign::verification_constraint::{PublicKeyVerifier, VerificationConstraintVec};
use sigstore::cosign::{
    Client, ClientBuilder, Constraint as _, CosignCapabilities as _, SignatureLayer,
    verify_constraints,
};
use sigstore::crypto::SigningScheme;
use sigstore::registry::{Auth, ClientConfig, ClientProtocol, OciReference};
use zeroize::Zeroizing;

const PASSWORD: &str = "for tests";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match words.as_slice() {
        ["keys", directory] => keys(Path::new(directory)),
        ["sign", key, image] => runtime.block_on(sign(key, image)),
        ["verify", key, image] => runtime.block_on(verify(key, image)),
        _ => {
            bail!("usage: sigstore-peer keys DIRECTORY | sign PRIVATE IMAGE | verify PUBLIC IMAGE")
        }
    }
}

fn keys(directory: &Path) -> Result<()> {
    let pair = SigningScheme::ECDSA_P256_SHA256_ASN1.create_signer()?.to_sigstore_keypair()?;
    let private = pair.private_key_to_encrypted_pem(PASSWORD.as_bytes())?;
    std::fs::write(directory.join("private"), private.as_bytes())?;
    std::fs::write(directory.join("public"), pair.public_key_to_pem()?)?;
    Ok(())
}

fn client() -> Result<Client> {
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    Ok(ClientBuilder::default().with_oci_client_config(config).build()?)
}

async fn sign(key: &str, image: &str) -> Result<()> {
    let (image, mut client): (OciReference, Client) = (image.parse()?, client()?);
    let (target, digest) = client.triangulate(&image, &Auth::Anonymous).await?;
    let mut layer = SignatureLayer::new_unsigned(&image, &digest)?;
    let key = Zeroizing::new(std::fs::read(key).context("read the private key")?);
    let password = Zeroizing::new(PASSWORD.as_bytes().to_vec());
    let signer =
        PrivateKeySigner::new_with_raw(key, password, &SigningScheme::ECDSA_P256_SHA256_ASN1)?;
    signer.add_constraint(&mut layer)?;
    client.push_signature(None, &Auth::Anonymous, &target, vec![layer]).await?;
    Ok(())
}

async fn verify(key: &str, image: &str) -> Result<()> {
    let (image, mut client): (OciReference, Client) = (image.parse()?, client()?);
    let layers = client.trusted_signature_layers(&Auth::Anonymous, &image).await?;
    let key = std::fs::read(key).context("read the public key")?;
    let verifier = PublicKeyVerifier::try_from(&key)?;
    let constraints: VerificationConstraintVec = vec![Box::new(verifier)];
    match verify_constraints(&layers, constraints.iter()) {
        Ok(()) => Ok(()),
        Err(_unsatisfied) => bail!("none of {} signatures was made with the key", layers.len()),
    }
}
