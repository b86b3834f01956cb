//! What is read of policies and signatures, see `image/fuzzing.rs`.

use std::path::Path;

use bytes::Bytes;

use super::policy::{ArchiveKind, Requirement};
use super::record::Record;
use super::verify::{Attached, Form, states};
use super::{Error, Policy, bundle, key, listed, referring};
use crate::image::reference::Reference;

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXs/A2JOjQ3Wr4KrpcEbMAlu/aFsd
zJ45ub6tddRxZTfGqmhV9r31UCK0LMUvXs0Uxx1OB7/i3h7OIdAvh+j0sg==
-----END PUBLIC KEY-----
";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A line that is the image's name, a payload, a line of `--`, and a policy; each part alone is a key,
/// a manifest of signatures and a record, too.
///
/// # Panics
/// If what nobody signed is accepted where a signature is required.
pub fn signatures(bytes: &[u8]) {
    let _ = key::Key::parse("key", bytes);
    let _ = listed(bytes);
    let _ = referring(&[Bytes::copy_from_slice(bytes)]);
    let mut attached = bundle::parse(bytes);
    for bundled in &attached {
        let _ = bundle::states(&bundled.payload, &[DIGEST]);
    }
    let text = String::from_utf8_lossy(bytes);
    let Some((name, rest)) = text.split_once('\n') else { return };
    let (payload, policy) = rest.split_once("\n--\n").unwrap_or((rest, rest));
    let record: Record = serde_json::from_str(payload).unwrap_or_default();
    let path = Path::new("/policy.json");
    let read = |path: &Path| match path.ends_with("key") {
        true => Ok(KEY.into()),
        false => {
            Err(Error::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() })
        }
    };
    let (Ok(policy), Ok(name)) =
        (Policy::parse(path, policy.as_bytes(), &read), Reference::parse(name))
    else {
        return;
    };
    let _ = bundle::states(payload.as_bytes(), &[DIGEST]);
    attached.push(Attached {
        form: Form::SimpleSigning,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        signature: String::new(),
    });
    let rule = policy.of(&name);
    let accepted = rule.decide(&name, &[DIGEST], &attached).is_ok();
    assert!(!accepted || !rule.needs_signatures());
    for requirement in rule.requirements {
        if let Requirement::Signed { identity, .. } = requirement {
            let _ = states(payload.as_bytes(), identity, &name, &[DIGEST]);
        }
    }
    let known = policy.check_known(Some(&name), &record).is_ok();
    assert!(!known || accepted || record.archives().iter().any(|kind| policy.lets_in(*kind)));
    for kind in [ArchiveKind::Docker, ArchiveKind::Oci] {
        let _ = policy.check_archive(kind, std::slice::from_ref(&name));
    }
}
