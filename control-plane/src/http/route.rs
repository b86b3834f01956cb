//! The way of a request: `X-Amz-Target` names a JSON service, a form's `Action` means STS, and two
//! paths are sessions of agents. Signatures are proved here, and what the key allows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use protocol::aws_json::{self, ApiError, REQUEST_ID_HEADER, TARGET_HEADER};
use protocol::query::{self, Form};
use protocol::sigv4::{self, sha256_hex};
use protocol::{ecs, logs, percent};
use uuid::Uuid;

use super::answer::{self, Dialect};
use super::{Front, body};
use crate::api::{self, Context};
use crate::auth::{self, Caller, Refused};
use crate::{failpoint, sessions, sts};

/// Where a request goes.
#[derive(Debug)]
enum Route {
    Health,
    /// Prefix of the target, and the operation.
    Json(Service, String),
    /// A form, in the query of a GET or in the body of a POST.
    Query,
    Session(Session),
    Nowhere(ApiError),
}

#[derive(Debug, Clone, Copy)]
enum Service {
    Ecs,
    Logs,
}

impl Service {
    /// In credential scopes and actions.
    fn name(self) -> &'static str {
        match self {
            Self::Ecs => ecs::SIGNING_NAME,
            Self::Logs => "logs",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Session {
    Acs,
    Tcs,
}

impl Session {
    /// What IAM calls it.
    fn operation(self) -> &'static str {
        match self {
            Self::Acs => "Poll",
            Self::Tcs => "StartTelemetrySession",
        }
    }
}

impl Route {
    fn of(parts: &Parts) -> Self {
        let get = parts.method == Method::GET;
        match parts.uri.path() {
            "/healthz" if get || parts.method == Method::HEAD => Self::Health,
            "/acs/ws" if get => Self::Session(Session::Acs),
            "/tcs/ws" if get => Self::Session(Session::Tcs),
            "/" | "" => Self::of_service(parts),
            _ => Self::Nowhere(not_found()),
        }
    }

    fn of_service(parts: &Parts) -> Self {
        if let Some(target) = parts.headers.get(TARGET_HEADER) {
            let target = target.to_str().unwrap_or_default();
            let split = aws_json::split_target(target).filter(|_| parts.method == Method::POST);
            return match split {
                Some((ecs::TARGET, operation)) => Self::Json(Service::Ecs, operation.to_owned()),
                Some((logs::TARGET, operation)) => Self::Json(Service::Logs, operation.to_owned()),
                _ => Self::Nowhere(api::unknown_operation(target)),
            };
        }
        let form = if parts.method == Method::GET {
            let query = parts.uri.query().unwrap_or_default();
            percent::decode_query(query).any(|(name, _)| name == "Action")
        } else {
            parts.method == Method::POST && content_type(&parts.headers) == query::FORM_TYPE
        };
        if form { Self::Query } else { Self::Nowhere(not_found()) }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Self::Health | Self::Json(..) | Self::Nowhere(_) => Dialect::Json,
            Self::Query => Dialect::Xml,
            Self::Session(_) => Dialect::Session,
        }
    }
}

/// Without its parameters.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.split(';').next()).unwrap_or_default().trim()
}

fn not_found() -> ApiError {
    let message = "There is no such resource; operations are named by X-Amz-Target or Action.";
    ApiError { status: 404, ..ApiError::client("UnknownOperationException", message) }
}

/// A request's head as signatures see it.
struct Head<'a> {
    parts: &'a Parts,
    headers: Vec<(&'a str, Cow<'a, str>)>,
}

impl<'a> Head<'a> {
    fn of(parts: &'a Parts) -> Self {
        let headers = parts.headers.iter();
        // A signed header that is not UTF-8 will not match.
        let headers = headers
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        Self { parts, headers }
    }

    fn with<T>(&self, payload_sha256: &str, run: impl FnOnce(&sigv4::Request<'_>) -> T) -> T {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        run(&sigv4::Request {
            method: self.parts.method.as_str(),
            path: self.parts.uri.path(),
            query: self.parts.uri.query().unwrap_or_default(),
            headers: &headers,
            payload_sha256,
        })
    }
}

impl Front {
    /// Answers a request, whatever happens.
    pub(super) async fn respond(&self, request: http::Request<Incoming>) -> Response {
        let started = Instant::now();
        let request_id = Uuid::new_v4().to_string();
        let (parts, body) = request.into_parts();
        let route = Route::of(&parts);
        let dialect = route.dialect();
        let told = format!("{route:?}");
        let answered = AssertUnwindSafe(self.act(route, parts, body, &request_id));
        let refused = match answered.catch_unwind().await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(error),
            Err(_panic) => {
                tracing::error!(request = told, id = request_id, "a handler panicked");
                Err(ApiError::server("The request could not be handled; the log says more."))
            }
        };
        let mut response =
            refused.unwrap_or_else(|error| answer::error(dialect, &error, &request_id));
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID_HEADER, id);
        }
        tracing::debug!(
            request = told,
            id = request_id,
            status = response.status().as_u16(),
            micros = started.elapsed().as_micros(),
            "answered"
        );
        response
    }

    async fn act(
        &self,
        route: Route,
        parts: Parts,
        body: Incoming,
        request_id: &str,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Health => self.health(),
            Route::Json(service, operation) => self.json(service, &operation, &parts, body).await,
            Route::Query => self.query(&parts, body, request_id).await,
            Route::Session(session) => self.session(session, parts).await,
            Route::Nowhere(error) => {
                body::discard(body).await;
                Err(error)
            }
        }
    }

    fn health(&self) -> Result<Response, ApiError> {
        if self.state.follows() {
            return Ok(answer::ok("application/json", b"{\"status\":\"ok\"}".to_vec()));
        }
        let error = ApiError::server("the state is lost; the process ends");
        Err(ApiError { status: 503, ..error })
    }

    async fn json(
        &self,
        service: Service,
        operation: &str,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Response, ApiError> {
        let (caller, body) = self.signed(service.name(), parts, body, Refused::json).await?;
        caller.authorize(service.name(), operation).map_err(|refused| refused.json())?;
        let context = self.context(&caller, parts)?;
        failpoint::hit("call.before");
        let answer = match service {
            Service::Ecs => api::ecs(&context, operation, &body.bytes).await,
            Service::Logs => {
                crate::logs::handle(&context, &self.logs, operation, &body.bytes).await
            }
        };
        failpoint::hit("call.after");
        Ok(answer::ok(aws_json::CONTENT_TYPE, answer?))
    }

    async fn query(
        &self,
        parts: &Parts,
        body: Incoming,
        request_id: &str,
    ) -> Result<Response, ApiError> {
        let (caller, body) = self.signed(sts::SIGNING_NAME, parts, body, Refused::query).await?;
        let form = if parts.method == Method::GET {
            Form::read(parts.uri.query().unwrap_or_default().as_bytes())?
        } else {
            Form::read(&body.bytes)?
        };
        let answer = sts::handle(self.config.account.as_str(), &caller, &form, request_id)?;
        Ok(answer::ok(query::CONTENT_TYPE, answer))
    }

    async fn session(&self, session: Session, mut parts: Parts) -> Result<Response, ApiError> {
        let caller = {
            let view = self.state.view();
            Head::of(&parts).with(&sha256_hex(b""), |request| {
                auth::authenticate(&view, request, ecs::SIGNING_NAME, Timestamp::now())
            })
        };
        let caller = caller.map_err(|refused| refused.json())?;
        let allowed = caller.authorize(ecs::SIGNING_NAME, session.operation());
        allowed.map_err(|refused| refused.json())?;
        let context = self.context(&caller, &parts)?;
        let query: BTreeMap<String, String> =
            percent::decode_query(parts.uri.query().unwrap_or_default()).collect();
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        let upgrade = upgrade.map_err(|rejected| ApiError {
            status: rejected.status().as_u16(),
            ..ApiError::client("InvalidParameterException", rejected.body_text())
        })?;
        Ok(match session {
            Session::Acs => sessions::acs(context, query, upgrade).await,
            Session::Tcs => sessions::tcs(context, query, upgrade).await,
        })
    }

    /// Who signed a request, and its body. Who names no key that there is does not get the body
    /// read into memory.
    async fn signed(
        &self,
        service: &'static str,
        parts: &Parts,
        body: Incoming,
        tell: fn(&Refused) -> ApiError,
    ) -> Result<(Caller, body::Held), ApiError> {
        let head = Head::of(parts);
        let unknown = {
            let view = self.state.view();
            head.with("", |request| auth::recognize(&view, request, service).map(drop).err())
        };
        if let Some(refused) = unknown {
            body::discard(body).await;
            return Err(tell(&refused));
        }
        let body = body::read(body, &self.bodies).await?;
        let payload = sha256_hex(&body.bytes);
        let view = self.state.view();
        let caller = head.with(&payload, |request| {
            auth::authenticate(&view, request, service, Timestamp::now())
        });
        Ok((caller.map_err(|refused| tell(&refused))?, body))
    }

    fn context(&self, caller: &Caller, parts: &Parts) -> Result<Context, ApiError> {
        let origin = match &self.config.advertise {
            Some(url) => url.clone(),
            None => format!("{}://{}", self.scheme, host(&parts.headers)?),
        };
        Ok(Context {
            state: self.state.clone(),
            config: self.config.clone(),
            principal: caller.principal.clone(),
            region: caller.region.clone(),
            origin,
            now: Timestamp::now(),
        })
    }
}

/// The header `Host`, which is told to agents.
fn host(headers: &HeaderMap) -> Result<&str, ApiError> {
    let value = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    value
        .filter(|host| {
            (1..=262).contains(&host.len())
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        })
        .ok_or_else(|| ApiError::client("ValidationError", "The Host header is no host."))
}
