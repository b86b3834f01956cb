//! From environment and `ecs.config` to [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::duration::parse_duration;
use super::ecs::{self, AwsCredentials, Ecs, Metadata, StaticCredentials};
use super::images::Images;
use super::table::{Kind, VARIABLES, Variable};
use crate::api::types::PullPolicy;
use crate::userns::Remap;
use crate::volume::efs::Endpoint;

/// The configuration, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub log_level: LogLevel,
    /// Between stop signal and SIGKILL, where the definition says nothing.
    pub stop_timeout: Duration,
    /// How long a stopped task is kept.
    pub task_cleanup_wait: Duration,
    pub registry_auth: RegistryAuth,
    /// `LIGHTER_REGISTRY_CONFIG_DIR`; `None`: the layout's (`etc/lighter/certs.d` below the root).
    pub registry_config_dir: Option<PathBuf>,
    /// `LIGHTER_SIGNATURE_POLICY`: which images must be signed; `None`: none.
    pub signature_policy: Option<PathBuf>,
    /// `LIGHTER_USERNS_REMAP`: whose ids the containers get; `None`: the host's.
    pub userns_remap: Option<Remap>,
    /// Ports for `hostPort` 0; `None`: the kernel's ephemeral range.
    pub dynamic_host_ports: Option<RangeInclusive<u16>>,
    /// `None`: chosen among what is free.
    pub awsvpc_subnet: Option<Ipv4Net>,
    /// `None`: chosen among what is free.
    pub bridge_subnet: Option<Ipv4Net>,
    pub ecs: Ecs,
    pub metadata: Metadata,
    pub images: Images,
}

/// `ECS_LOGLEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    /// Also Amazon's `crit`, which has no counterpart.
    Error,
    None,
}

/// `ECS_ENGINE_AUTH_TYPE` and `ECS_ENGINE_AUTH_DATA`; the image store reads what is inside.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    pub kind: Option<String>,
    /// Secret.
    pub data: Option<String>,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", join(.0))]
    Bad(Vec<Problem>),
}

/// A variable has a value that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub name: &'static str,
    /// `None` for secrets.
    pub value: Option<String>,
    /// Ends the sentence "must be …".
    pub rule: String,
    /// `the environment`, or the file's path.
    pub origin: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, rule, origin } = self;
        match value {
            Some(value) => write!(f, "{name}={value} in {origin}: must be {rule}"),
            None => write!(f, "{name} in {origin}: must be {rule}"),
        }
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl Config {
    /// Reads `file`, which need not exist, under `environment`. The strings are warnings: what was
    /// set and has no effect.
    ///
    /// # Errors
    /// If the file cannot be read, or any value breaks its rule; then all such values are named.
    pub fn load(
        file: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: file.to_owned(), source }),
        };
        let mut given = Given::default();
        given.take_file(&text, &file.display().to_string());
        given.take_environment(environment);
        let config = given.config();
        if given.problems.is_empty() {
            Ok((config, given.warnings))
        } else {
            Err(ConfigError::Bad(given.problems))
        }
    }
}

/// Values by variable, each with its origin; and what was found on the way.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) values: BTreeMap<&'static str, (String, String)>,
    warnings: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Given {
    /// As the agent's supervisor reads it: `KEY=VALUE`, split at the first `=`, no quotes. A line
    /// that begins with `#` sets nothing.
    fn take_file(&mut self, text: &str, origin: &str) {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            let Some((name, value)) = line.split_once('=') else {
                self.warnings.push(format!("{origin}:{number}: not KEY=VALUE, ignored"));
                continue;
            };
            match known(name.trim()) {
                Some(variable) if variable.environment_only => self.warnings.push(format!(
                    "{origin}:{number}: {} is only taken from the environment, ignored",
                    variable.name
                )),
                Some(variable) => self.set(variable, value.trim().to_owned(), origin),
                None => self.warnings.push(format!(
                    "{origin}:{number}: {} has no effect in this version",
                    name.trim()
                )),
            }
        }
    }

    fn take_environment(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        const ORIGIN: &str = "the environment";
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            match known(name) {
                Some(variable) if variable.environment_only => {}
                // A text that is no Unicode breaks every rule; the replacement character shows it.
                Some(variable) => self.set(variable, value.to_string_lossy().into_owned(), ORIGIN),
                None if name.starts_with("ECS_") => {
                    self.warnings.push(format!("{ORIGIN}: {name} has no effect in this version"));
                }
                None => {}
            }
        }
        self.warnings.sort();
    }

    /// The later source wins, unless it has nothing to say.
    fn set(&mut self, variable: &Variable, value: String, origin: &str) {
        if !value.is_empty() {
            self.values.insert(variable.name, (value, origin.to_owned()));
        }
    }

    fn config(&mut self) -> Config {
        let registry_auth = RegistryAuth {
            kind: self.value("ECS_ENGINE_AUTH_TYPE", one_of),
            data: self.value("ECS_ENGINE_AUTH_DATA", |text, _| {
                let object = serde_json::from_str::<serde_json::Map<_, _>>(text);
                object.is_ok().then(|| text.to_owned())
            }),
        };
        if registry_auth.data.is_some()
            && registry_auth.kind.is_none()
            && !self.values.contains_key("ECS_ENGINE_AUTH_TYPE")
        {
            self.problems.push(Problem {
                name: "ECS_ENGINE_AUTH_TYPE",
                value: Some(String::new()),
                rule: "set where ECS_ENGINE_AUTH_DATA is".to_owned(),
                origin: self
                    .values
                    .get("ECS_ENGINE_AUTH_DATA")
                    .map_or_else(String::new, |(_, origin)| origin.clone()),
            });
        }
        let level =
            self.value("ECS_LOGLEVEL", |text, kind| one_of(&text.to_ascii_lowercase(), kind));
        Config {
            log_level: match level.as_deref() {
                Some("debug") => LogLevel::Debug,
                Some("warn") => LogLevel::Warn,
                Some("error" | "crit") => LogLevel::Error,
                Some("none") => LogLevel::None,
                _ => LogLevel::Info,
            },
            stop_timeout: self.duration("ECS_CONTAINER_STOP_TIMEOUT"),
            task_cleanup_wait: self.duration("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"),
            registry_auth,
            registry_config_dir: self.path("LIGHTER_REGISTRY_CONFIG_DIR"),
            signature_policy: self.path("LIGHTER_SIGNATURE_POLICY"),
            userns_remap: self.value("LIGHTER_USERNS_REMAP", |text, _| Remap::parse(text)),
            dynamic_host_ports: self
                .value("ECS_DYNAMIC_HOST_PORT_RANGE", |text, _| port_range(text)),
            awsvpc_subnet: self.value("LIGHTER_AWSVPC_SUBNET", |text, _| subnet(text)),
            bridge_subnet: self.value("LIGHTER_BRIDGE_SUBNET", |text, _| subnet(text)),
            ecs: self.ecs(),
            metadata: self.metadata(),
            images: self.images(),
        }
    }

    fn ecs(&mut self) -> Ecs {
        let region = self.word("AWS_REGION");
        Ecs {
            cluster: self.word("ECS_CLUSTER"),
            backend_host: self.value("ECS_BACKEND_HOST", |text, _| ecs::endpoint(text)),
            region: self.word("AWS_DEFAULT_REGION").or(region),
            external: self.flag("ECS_EXTERNAL"),
            credentials: self.credentials(),
            aws_credentials: match self.value("LIGHTER_AWS_CREDENTIALS", one_of).as_deref() {
                Some("host") => AwsCredentials::Host,
                _ => AwsCredentials::Task,
            },
            ecr_endpoint: self.value("AWS_ENDPOINT_URL_ECR", |text, _| ecs::endpoint(text)),
            secrets_manager_endpoint: self
                .value("AWS_ENDPOINT_URL_SECRETS_MANAGER", |text, _| ecs::endpoint(text)),
            ca_bundle: self.path("LIGHTER_CA_BUNDLE"),
            efs_endpoint: self.value("LIGHTER_EFS_ENDPOINT", |text, _| Endpoint::parse(text)),
            instance_attributes: self.map("ECS_INSTANCE_ATTRIBUTES"),
            instance_tags: self.map("ECS_CONTAINER_INSTANCE_TAGS"),
            reserved_ports: self.ports("ECS_RESERVED_PORTS"),
            reserved_ports_udp: self.ports("ECS_RESERVED_PORTS_UDP"),
            reserved_memory: self
                .value("ECS_RESERVED_MEMORY", |text, _| text.parse().ok())
                .unwrap_or_default(),
            logging_drivers: self
                .value("ECS_AVAILABLE_LOGGING_DRIVERS", |text, kind| {
                    let Kind::Names(known) = kind else { return None };
                    ecs::names(text, known)
                })
                .unwrap_or_default(),
            image_pull: match self.value("ECS_IMAGE_PULL_BEHAVIOR", one_of).as_deref() {
                Some("always") => PullPolicy::Always,
                Some("once") => PullPolicy::Once,
                Some("prefer-cached") => PullPolicy::Missing,
                _ => PullPolicy::Refresh,
            },
            disable_metrics: self.flag("ECS_DISABLE_METRICS"),
            disable_privileged: self.flag("ECS_DISABLE_PRIVILEGED")
                || self.values.contains_key("LIGHTER_USERNS_REMAP"),
        }
    }

    fn metadata(&mut self) -> Metadata {
        let rate = self.value("ECS_TASK_METADATA_RPS_LIMIT", |text, _| ecs::rate(text));
        let (steady_rate, burst) = rate.unwrap_or_default();
        Metadata {
            introspection_port: self.port("LIGHTER_INTROSPECTION_PORT"),
            metadata_port: self.port("LIGHTER_METADATA_PORT"),
            steady_rate,
            burst,
            task_iam_role: self.flag("ECS_ENABLE_TASK_IAM_ROLE"),
            task_iam_role_network_host: self.flag("ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST"),
            audit_log: self.path("ECS_AUDIT_LOGFILE"),
            audit_log_disabled: self.flag("ECS_AUDIT_LOGFILE_DISABLED"),
        }
    }

    /// Both halves of a key, or neither.
    fn credentials(&mut self) -> Option<StaticCredentials> {
        let id = self.word("AWS_ACCESS_KEY_ID");
        let secret = self.word("AWS_SECRET_ACCESS_KEY");
        let session_token = self.word("AWS_SESSION_TOKEN");
        let (missing, there) = match (id, secret) {
            (Some(access_key_id), Some(secret_access_key)) => {
                return Some(StaticCredentials { access_key_id, secret_access_key, session_token });
            }
            (None, None) => return None,
            (None, Some(_)) => ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            (Some(_), None) => ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        };
        // Unless what is missing is there and bad, which is said already.
        if !self.values.contains_key(missing) {
            let origin = self.values.get(there).map(|(_, origin)| origin.clone());
            self.problems.push(Problem {
                name: missing,
                value: None,
                rule: format!("set where {there} is"),
                origin: origin.unwrap_or_default(),
            });
        }
        None
    }

    /// The value that was given, else the default, read by `read`; a problem if it cannot.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str, Kind) -> Option<T>,
    ) -> Option<T> {
        let variable = known(name)?;
        let (text, origin) = match self.values.get(name) {
            Some((text, origin)) => (text.as_str(), origin.as_str()),
            None if variable.default.is_empty() => return None,
            None => (variable.default, "the defaults"),
        };
        let value = read(text, variable.kind);
        if value.is_none() && AMENDED.contains(&name) && variable.kind.is_too_little(text) {
            let (rule, default) = (variable.kind.rule(), variable.default);
            self.warnings.push(format!(
                "{name}={text} in {origin}: must be {rule}; {default} counts instead"
            ));
            return read(default, variable.kind);
        }
        if value.is_none() {
            self.problems.push(Problem {
                name,
                value: (!variable.kind.is_secret()).then(|| text.to_owned()),
                rule: variable.kind.rule(),
                origin: origin.to_owned(),
            });
        }
        value
    }

    fn word(&mut self, name: &'static str) -> Option<String> {
        self.value(name, |text, _| ecs::word(text))
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.value(name, |text, _| Some(PathBuf::from(text)).filter(|path| path.is_absolute()))
    }

    // Those below have a default, so that nothing is there only with a problem, and then nobody
    // sees it.

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        self.value(name, |text, _| ecs::boolean(text)).unwrap_or_default()
    }

    fn ports(&mut self, name: &'static str) -> BTreeSet<u16> {
        self.value(name, |text, _| ecs::ports(text)).unwrap_or_default()
    }

    fn port(&mut self, name: &'static str) -> u16 {
        self.value(name, |text, _| text.parse().ok().filter(|port| *port > 0)).unwrap_or_default()
    }

    fn map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        self.value(name, |text, _| ecs::map(text)).unwrap_or_default()
    }

    pub(super) fn duration(&mut self, name: &'static str) -> Duration {
        let value = self.value(name, |text, kind| {
            let Kind::Duration { least } = kind else { return None };
            parse_duration(text).ok().filter(|duration| *duration >= least)
        });
        value.unwrap_or_default()
    }
}

/// Variables whose default counts where they say too little: files that are good for Amazon's agent
/// have such values.
const AMENDED: [&str; 6] = [
    "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION",
    "ECS_IMAGE_CLEANUP_INTERVAL",
    "ECS_IMAGE_MINIMUM_CLEANUP_AGE",
    "ECS_IMAGE_PULL_INACTIVITY_TIMEOUT",
    "ECS_NUM_IMAGES_DELETE_PER_CYCLE",
    "NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE",
];

fn known(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

pub(super) fn one_of(text: &str, kind: Kind) -> Option<String> {
    let Kind::OneOf(values) = kind else { return None };
    values.contains(&text).then(|| text.to_owned())
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let first: u16 = first.trim().parse().ok()?;
    let last: u16 = last.trim().parse().ok()?;
    (first > 0 && first <= last).then_some(first..=last)
}

fn subnet(text: &str) -> Option<Ipv4Net> {
    let net: Ipv4Net = text.parse().ok()?;
    ((8..=29).contains(&net.prefix_len()) && net.addr() == net.network()).then_some(net)
}

/// The contents of `ecs.config.example`.
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of the Lighter agent, /etc/ecs/ecs.config: one KEY=VALUE per line, no\n\
         # quotes. A line that begins with # sets nothing; a variable of the same name in the\n\
         # agent's environment wins. Generated from the agent's table of variables.\n",
    );
    for variable in VARIABLES.iter().filter(|variable| !variable.environment_only) {
        let Variable { name, kind, default, doc, since, .. } = variable;
        text.push('\n');
        for line in wrap(doc, 96) {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# Value: {}. Since {since}.", kind.rule());
        let _ = writeln!(text, "#{name}={default}");
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Cleanup, Limits};
    use crate::image::{Mark, Marks, Rules};

    fn load(
        file: &str,
        environment: &[(&str, &str)],
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ecs.config");
        std::fs::write(&path, file).unwrap();
        Config::load(&path, environment.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn defaults() {
        let missing = Path::new("/nonexistent/ecs.config");
        let (config, warnings) = Config::load(missing, []).unwrap();
        assert_eq!(
            config,
            Config {
                log_level: LogLevel::Info,
                stop_timeout: Duration::from_secs(30),
                task_cleanup_wait: Duration::from_secs(3 * 3600),
                registry_auth: RegistryAuth::default(),
                registry_config_dir: None,
                signature_policy: None,
                userns_remap: None,
                dynamic_host_ports: None,
                awsvpc_subnet: None,
                bridge_subnet: None,
                ecs: Ecs {
                    cluster: None,
                    backend_host: None,
                    region: None,
                    external: false,
                    credentials: None,
                    aws_credentials: AwsCredentials::Task,
                    ecr_endpoint: None,
                    secrets_manager_endpoint: None,
                    ca_bundle: None,
                    efs_endpoint: None,
                    instance_attributes: BTreeMap::new(),
                    instance_tags: BTreeMap::new(),
                    reserved_ports: BTreeSet::from([22, 2375, 2376, 51678, 51679]),
                    reserved_ports_udp: BTreeSet::new(),
                    reserved_memory: 0,
                    logging_drivers: ["awslogs", "json-file"].map(str::to_owned).into(),
                    image_pull: PullPolicy::Refresh,
                    disable_metrics: false,
                    disable_privileged: false,
                },
                metadata: Metadata {
                    introspection_port: 51678,
                    metadata_port: 51679,
                    steady_rate: 40,
                    burst: 60,
                    task_iam_role: true,
                    task_iam_role_network_host: true,
                    audit_log: None,
                    audit_log_disabled: false,
                },
                images: Images {
                    pulls: Limits {
                        manifest: Duration::from_secs(60),
                        whole: Duration::from_secs(2 * 3600),
                        inactivity: Duration::from_secs(60),
                        parallel: 4,
                    },
                    cleanup: Some(Cleanup {
                        interval: Duration::from_secs(30 * 60),
                        rules: Rules {
                            minimum_age: Duration::from_secs(3600),
                            untracked_minimum_age: Duration::from_secs(3600),
                            untracked: false,
                            per_cycle: 5,
                        },
                        marks: Some(Marks { high: Mark::Percent(85), low: Mark::Percent(75) }),
                        excluded: BTreeSet::new(),
                    }),
                    prepull: BTreeSet::new(),
                },
            }
        );
        assert!(!config.ecs.joins());
        assert!(warnings.is_empty());
    }

    #[test]
    fn environment_wins_over_file_and_empty_values_say_nothing() {
        let file = "# ECS_LOGLEVEL=none\nECS_CONTAINER_STOP_TIMEOUT=10s\r\n\
                    ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION = 1m\nECS_LOGLEVEL=\n";
        let (config, warnings) = load(
            file,
            &[
                ("ECS_CONTAINER_STOP_TIMEOUT", "20s"),
                ("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", ""),
                ("LIGHTER_ROOT", "/x"),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!(config.stop_timeout, Duration::from_secs(20));
        assert_eq!(config.task_cleanup_wait, Duration::from_secs(60));
        assert_eq!(config.log_level, LogLevel::Info);
        assert!(warnings.is_empty());
    }

    #[test]
    fn values() {
        let (config, _) = load(
            "ECS_LOGLEVEL=WARN\nECS_DYNAMIC_HOST_PORT_RANGE=50000-50100\n\
             LIGHTER_AWSVPC_SUBNET=10.9.0.0/24\nECS_ENGINE_AUTH_TYPE=docker\n\
             ECS_ENGINE_AUTH_DATA={\"r\":{\"username\":\"a=b\",\"password\":\"c\"}}\n",
            &[],
        )
        .unwrap();
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.dynamic_host_ports, Some(50000..=50100));
        assert_eq!(config.awsvpc_subnet, Some("10.9.0.0/24".parse().unwrap()));
        assert!(config.registry_auth.data.as_deref().unwrap().contains("a=b"));
        assert!(!format!("{config:?}").contains("a=b"), "secrets are not printed");
    }

    #[test]
    fn every_bad_value_is_named_with_its_rule() {
        for (name, value) in [
            ("ECS_CONTAINER_STOP_TIMEOUT", "soon"),
            ("ECS_CONTAINER_STOP_TIMEOUT", "500ms"),
            ("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", "0 s"),
            ("ECS_LOGLEVEL", "loud"),
            ("ECS_ENGINE_AUTH_TYPE", "kerberos"),
            ("ECS_DYNAMIC_HOST_PORT_RANGE", "2-1"),
            ("ECS_DYNAMIC_HOST_PORT_RANGE", "0-1"),
            ("ECS_DYNAMIC_HOST_PORT_RANGE", "1-65536"),
            ("LIGHTER_AWSVPC_SUBNET", "10.9.0.1/24"),
            ("LIGHTER_BRIDGE_SUBNET", "10.9.0.0/30"),
            ("LIGHTER_BRIDGE_SUBNET", "fd00::/64"),
            ("ECS_CLUSTER", "two words"),
            ("ECS_BACKEND_HOST", "ws://x"),
            ("ECS_EXTERNAL", "yes"),
            ("ECS_RESERVED_PORTS", "22"),
            ("ECS_RESERVED_MEMORY", "-1"),
            ("ECS_INSTANCE_ATTRIBUTES", "[]"),
            ("ECS_AVAILABLE_LOGGING_DRIVERS", "[\"telex\"]"),
            ("ECS_TASK_METADATA_RPS_LIMIT", "40"),
            ("LIGHTER_METADATA_PORT", "0"),
            ("LIGHTER_CA_BUNDLE", "ca.pem"),
            ("ECS_IMAGE_CLEANUP_INTERVAL", "9"),
            ("ECS_IMAGE_PULL_BEHAVIOR", "never"),
            ("ECS_MANIFEST_PULL_TIMEOUT", "29s"),
            ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "few"),
            ("ECS_EXCLUDE_UNTRACKED_IMAGE", "Alpine"),
            ("LIGHTER_IMAGE_DISK_HIGH", "101%"),
            ("LIGHTER_IMAGE_DISK_HIGH", "85"),
            ("LIGHTER_IMAGE_DISK_LOW", "90%"),
            ("LIGHTER_IMAGE_PULL_PARALLEL", "-1"),
        ] {
            let error = load("", &[(name, value)]).unwrap_err().to_string();
            let start = format!("{name}={value} in the environment: must be ");
            assert!(error.starts_with(&start), "{error}");
        }
        let error = load("ECS_LOGLEVEL=loud\nLIGHTER_AWSVPC_SUBNET=x", &[]).unwrap_err();
        let ConfigError::Bad(problems) = error else { unreachable!("a bad value") };
        assert_eq!(problems.len(), 2);
        let secret =
            load("", &[("ECS_ENGINE_AUTH_TYPE", "docker"), ("ECS_ENGINE_AUTH_DATA", "pw")]);
        assert!(!secret.unwrap_err().to_string().contains("pw"));
        let untyped = load("", &[("ECS_ENGINE_AUTH_DATA", "{}")]).unwrap_err().to_string();
        assert!(untyped.contains("ECS_ENGINE_AUTH_TYPE"), "{untyped}");
    }

    #[test]
    fn a_control_plane_and_its_keys() {
        let (config, warnings) = load(
            "ECS_CLUSTER=prod\nECS_BACKEND_HOST=http://127.0.0.1:4780/\nAWS_REGION=eu-x-1\n\
             AWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY=hush\n\
             ECS_INSTANCE_ATTRIBUTES={\"rack\":\"7\"}\n",
            &[("ECS_EXTERNAL", "T"), ("AWS_SESSION_TOKEN", "hush-too")],
        )
        .unwrap();
        assert!(config.ecs.joins() && config.ecs.external && warnings.is_empty());
        assert_eq!(config.ecs.backend_host.as_deref(), Some("http://127.0.0.1:4780"));
        assert_eq!(config.ecs.region.as_deref(), Some("eu-x-1"));
        assert_eq!(config.ecs.instance_attributes.get("rack").map(String::as_str), Some("7"));
        assert!(!format!("{config:?}").contains("hush"), "secrets are not printed");
        let (config, _) = load("AWS_REGION=a\n", &[("AWS_DEFAULT_REGION", "b")]).unwrap();
        assert_eq!(config.ecs.region.as_deref(), Some("b"));
        let half = load("", &[("AWS_SECRET_ACCESS_KEY", "hush")]).unwrap_err().to_string();
        assert!(half.contains("AWS_ACCESS_KEY_ID") && !half.contains("hush"), "{half}");
        let bad = load("", &[("AWS_SECRET_ACCESS_KEY", "hu sh")]).unwrap_err().to_string();
        assert!(!bad.contains("hu sh"), "{bad}");
    }

    #[test]
    fn where_amazons_agent_takes_its_default_for_too_little_so_do_we() {
        let defaults = load("", &[]).unwrap().0;
        for (name, little) in [
            ("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", "0"),
            ("ECS_IMAGE_CLEANUP_INTERVAL", "9m"),
            ("ECS_IMAGE_MINIMUM_CLEANUP_AGE", "0s"),
            ("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", "59s"),
            ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "0"),
            ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "-1"),
            ("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "0"),
        ] {
            let (config, warnings) = load(&format!("{name}={little}"), &[]).unwrap();
            assert_eq!(config, defaults, "{name}");
            let start = format!("{name}={little} in ");
            assert!(warnings.len() == 1 && warnings[0].starts_with(&start), "{warnings:?}");
            assert!(warnings[0].ends_with(" counts instead"), "{warnings:?}");
        }
        let (config, warnings) = load("ECS_IMAGE_MINIMUM_CLEANUP_AGE=10s", &[]).unwrap();
        assert!(config != defaults && warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let (_, warnings) = load(
            "ECS_DATADIR=/data\nnonsense\nLIGHTER_ROOT=/x\n",
            &[("ECS_FUTURE", "1"), ("LIGHTER_TEST", "1")],
        )
        .unwrap();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for word in ["ECS_DATADIR", "not KEY=VALUE", "only taken from", "ECS_FUTURE"] {
            assert!(warnings.iter().any(|warning| warning.contains(word)), "{word}");
        }
    }

    #[test]
    fn the_committed_example_is_generated_from_the_table() {
        let committed = include_str!("../../../ecs.config.example");
        assert_eq!(committed, example(), "run: lighter config-example > ecs.config.example");
        // Taking out every mark of a comment before a variable gives a configuration that loads.
        let uncommented: String = committed
            .lines()
            .map(|line| {
                let assignment =
                    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
                format!("{assignment}\n")
            })
            .collect();
        let (config, warnings) = load(&uncommented, &[]).unwrap();
        assert_eq!(config, load("", &[]).unwrap().0);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
