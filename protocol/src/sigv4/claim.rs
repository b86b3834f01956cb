//! What a request claims about its signer, and the proof.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use subtle::ConstantTimeEq as _;

use super::canonical::{self, Canonical};
use super::{
    ALGORITHM, DATE_FORMAT, DATE_HEADER, Request, Scope, TERMINATOR, TOKEN_HEADER, hmac,
    signing_key, string_to_sign,
};
use crate::percent;

/// How far clocks may be apart.
pub const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Longest life of a presigned request.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Of the header `Authorization`, and of a credential, in bytes.
const LONGEST_AUTHORIZATION: usize = 8192;
const LONGEST_CREDENTIAL: usize = 512;
/// Of a session token, in bytes.
const LONGEST_TOKEN: usize = 8192;
const MOST_HEADERS: usize = 100;

/// Why a request is not accepted. The texts are those of AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing says who signed.
    #[error("Missing Authentication Token")]
    Missing,
    /// Something is left out, unreadable, too large, or contradicts the rest.
    #[error("{0}")]
    Incomplete(String),
    /// Signed too long ago, or in the future.
    #[error("{0}")]
    Skewed(String),
    /// The signature is not that of this request with this key.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check \
         your AWS Secret Access Key and signing method. Consult the service documentation for \
         details."
    )]
    Mismatch,
}

fn incomplete<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Incomplete(message.into()))
}

/// What a request says about its signature. Nothing of it is proved before [`Claim::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub access_key_id: String,
    /// Region and service of the credential scope.
    pub region: String,
    pub service: String,
    /// When it was signed.
    pub at: Timestamp,
    pub session_token: Option<String>,
    /// `X-Amz-Date` as it stands.
    date: String,
    /// Lower-case.
    signed_headers: Vec<String>,
    /// Hex.
    signature: String,
    /// A presigned request's life.
    expires: Option<SignedDuration>,
}

/// Reads the claim of a request: from the header `Authorization`, else from a presigned query.
///
/// # Errors
/// [`Error::Missing`] without a signature, [`Error::Incomplete`] for one that is malformed.
pub fn parse(request: &Request<'_>) -> Result<Claim, Error> {
    let mut authorizations = request.values("authorization");
    match (authorizations.next(), authorizations.next()) {
        (Some(header), None) => from_header(request, header),
        (Some(_), Some(_)) => incomplete("There must be only one Authorization header."),
        (None, _) => from_query(request),
    }
}

fn from_header(request: &Request<'_>, header: &str) -> Result<Claim, Error> {
    if header.len() > LONGEST_AUTHORIZATION {
        return incomplete("The Authorization header is too long.");
    }
    let Some(parameters) =
        header.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with([' ', ',']))
    else {
        return incomplete(format!("Authorization header requires the algorithm {ALGORITHM}."));
    };
    let [mut credential, mut signed_headers, mut signature] = [None; 3];
    for parameter in parameters.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let place = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return incomplete("Authorization header has an unknown parameter."),
        };
        if place.replace(value).is_some() {
            return incomplete(format!("Authorization header has '{name}' twice."));
        }
    }
    let require = |value: Option<&'_ str>, name| {
        value.filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(|| {
            Error::Incomplete(format!("Authorization header requires '{name}' parameter."))
        })
    };
    let mut dates = request.values(DATE_HEADER);
    let (Some(date), None) = (dates.next(), dates.next()) else {
        return incomplete("Authorization header requires existence of one 'X-Amz-Date' header.");
    };
    let mut tokens = request.values(TOKEN_HEADER);
    let token = tokens.next();
    if tokens.next().is_some() {
        return incomplete("There must be only one X-Amz-Security-Token header.");
    }
    Parts {
        credential: require(credential, "Credential")?,
        signed_headers: require(signed_headers, "SignedHeaders")?,
        signature: require(signature, "Signature")?,
        date: date.trim().to_owned(),
        token: token.map(|token| token.trim().to_owned()),
        expires: None,
    }
    .check(request)
}

fn from_query(request: &Request<'_>) -> Result<Claim, Error> {
    const NAMES: [&str; 7] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
    ];
    let mut values: [Option<String>; 7] = Default::default();
    for (name, value) in percent::decode_query(request.query) {
        for (known, place) in NAMES.iter().zip(&mut values) {
            if *known == name && place.replace(value.clone()).is_some() {
                return incomplete(format!("The query has '{name}' twice."));
            }
        }
    }
    let [algorithm, credential, signed_headers, signature, date, expires, token] = values;
    let Some(algorithm) = algorithm else { return Err(Error::Missing) };
    if algorithm != ALGORITHM {
        return incomplete(format!("AWS query-string parameters require {ALGORITHM}."));
    }
    let require = |value: Option<String>, name: &str| {
        value.ok_or_else(|| {
            Error::Incomplete(format!("AWS query-string parameters must include '{name}'."))
        })
    };
    let expires = require(expires, "X-Amz-Expires")?;
    let expires = expires
        .parse()
        .ok()
        .map(SignedDuration::from_secs)
        .filter(|expires| (SignedDuration::from_secs(1)..=LONGEST).contains(expires));
    let Some(expires) = expires else {
        return incomplete("X-Amz-Expires must be a number of seconds from 1 to 604800.");
    };
    Parts {
        credential: require(credential, "X-Amz-Credential")?,
        signed_headers: require(signed_headers, "X-Amz-SignedHeaders")?,
        signature: require(signature, "X-Amz-Signature")?,
        date: require(date, "X-Amz-Date")?,
        token,
        expires: Some(expires),
    }
    .check(request)
}

/// The parts of a signature, from wherever.
struct Parts {
    credential: String,
    signed_headers: String,
    signature: String,
    date: String,
    token: Option<String>,
    expires: Option<SignedDuration>,
}

impl Parts {
    fn check(self, request: &Request<'_>) -> Result<Claim, Error> {
        if self.credential.len() > LONGEST_CREDENTIAL {
            return incomplete("The credential is too long.");
        }
        let parts: Vec<&str> = self.credential.split('/').collect();
        let [id, day, region, service, TERMINATOR] = parts.as_slice() else {
            return incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. \
                 keyid/date/region/service/aws4_request.",
            );
        };
        if id.is_empty() || !is_name(region) || !is_name(service) {
            return incomplete("Credential must name a key, a region and a service.");
        }
        let Some(at) = moment(&self.date) else {
            return incomplete("Date must be in ISO-8601 'basic format', e.g. 20260101T000000Z.");
        };
        if self.date.get(..8) != Some(day) {
            return incomplete("Date in Credential scope does not match the day of X-Amz-Date.");
        }
        if self.token.as_ref().is_some_and(|token| token.len() > LONGEST_TOKEN) {
            return incomplete("The security token is too long.");
        }
        if self.signed_headers.len() > LONGEST_AUTHORIZATION {
            return incomplete("SignedHeaders is too long.");
        }
        let signed: Vec<String> =
            self.signed_headers.split(';').map(str::to_ascii_lowercase).collect();
        if signed.len() > MOST_HEADERS {
            return incomplete("Too many headers are signed.");
        }
        let is_signed = |name: &str| signed.iter().any(|signed| name.eq_ignore_ascii_case(signed));
        if !is_signed("host") || request.values("host").count() != 1 {
            return incomplete("'Host' must be a header, and in SignedHeaders.");
        }
        let is_amz =
            |name: &str| name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
        let unsigned = request.headers.iter().find(|(name, _)| is_amz(name) && !is_signed(name));
        if let Some((name, _)) = unsigned {
            return incomplete(format!("'{name}' must be a 'SignedHeader' in the AWS Request."));
        }
        Ok(Claim {
            access_key_id: (*id).to_owned(),
            region: (*region).to_owned(),
            service: (*service).to_owned(),
            at,
            session_token: self.token.filter(|token| !token.is_empty()),
            date: self.date,
            signed_headers: signed,
            signature: self.signature,
            expires: self.expires,
        })
    }
}

/// Regions and services become parts of keys and ARNs.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn moment(date: &str) -> Option<Timestamp> {
    // The format alone would take shorter numbers.
    let exact = date.len() == 16;
    let time = civil::DateTime::strptime(DATE_FORMAT, date).ok().filter(|_| exact)?;
    TimeZone::UTC.to_timestamp(time).ok()
}

impl Claim {
    /// Proves that the request was signed with `secret`, lately. `request` is the one that was
    /// parsed, with the hash of the body that was received. The session token is for the caller to
    /// compare.
    ///
    /// # Errors
    /// [`Error::Skewed`] by the clock, else [`Error::Mismatch`].
    pub fn verify(&self, request: &Request<'_>, secret: &str, now: Timestamp) -> Result<(), Error> {
        self.is_current(now)?;
        let payload = canonical::payload(request, &self.signed_headers);
        let presigned = self.expires.is_some();
        let canonical = Canonical { request, signed: &self.signed_headers, payload, presigned };
        let day = self.date.get(..8).unwrap_or_default();
        let credential = format!("{day}/{}/{}/{TERMINATOR}", self.region, self.service);
        let text = string_to_sign(&self.date, &credential, &canonical);
        let scope = Scope { region: &self.region, service: &self.service };
        let expected = hex::encode(hmac(&signing_key(secret, day, &scope), text.as_bytes()));
        let equal = expected.as_bytes().ct_eq(self.signature.as_bytes());
        if bool::from(equal) { Ok(()) } else { Err(Error::Mismatch) }
    }

    fn is_current(&self, now: Timestamp) -> Result<(), Error> {
        let text = |at: Timestamp| at.strftime(DATE_FORMAT).to_string();
        let age = now.duration_since(self.at);
        if age < -SKEW {
            let latest = text(now.saturating_add(SKEW).unwrap_or(now));
            return Err(Error::Skewed(format!(
                "Signature not yet current: {} is still later than {latest} ({} + 5 min.)",
                self.date,
                text(now)
            )));
        }
        if age > self.expires.unwrap_or(SKEW) {
            let life = self.expires.unwrap_or(SKEW);
            let earliest = text(now.saturating_sub(life).unwrap_or(now));
            return Err(Error::Skewed(format!(
                "Signature expired: {} is now earlier than {earliest} ({} - {} min.)",
                self.date,
                text(now),
                life.as_mins()
            )));
        }
        Ok(())
    }
}
