//! Which NFS mount an EFS volume is. Pure: names are resolved and mounts made by [`super::nfs`].
//!
//! The kernel's client speaks NFSv4.1 with the file system itself, with the options that Amazon
//! recommends for EFS. What needs the TLS tunnel of Amazon's efs-utils (encryption in transit,
//! access points, IAM) is refused where definitions are read.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use protocol::taskdef::{TaskDefinition, VolumeSource};

use super::plan::is_directory_name;

/// The port of NFSv4.
const PORT: u16 = 2049;
/// What `fsconfig` takes as one value, less the NUL at its end.
const LONGEST_SOURCE: usize = 255;

/// An EFS volume cannot be mounted as it is given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error(
        "its host name is not known: set AWS_DEFAULT_REGION to the file system's region, or \
         LIGHTER_EFS_ENDPOINT to the server"
    )]
    NoRegion,
    #[error(
        "host and directory have {length} bytes, more than the {LONGEST_SOURCE} that Linux takes"
    )]
    SourceLength { length: usize },
}

/// `LIGHTER_EFS_ENDPOINT`: the server that is asked for every file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// `None`: NFS's.
    pub port: Option<u16>,
}

impl Endpoint {
    /// Reads `host`, `host:port`, or the same with an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
                (host, port)
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let name = !host.is_empty() && host.len() <= 253 && host.bytes().all(fits);
        if !name && host.parse::<Ipv6Addr>().is_err() {
            return None;
        }
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port: &u16| *port > 0)?),
            None => None,
        };
        Some(Self { host: host.to_owned(), port })
    }
}

/// Where file systems are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// In place of Amazon's.
    pub endpoint: Option<Endpoint>,
    /// Of tasks that do not say theirs.
    pub region: Option<String>,
}

/// An EFS volume that containers of a task mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub file_system_id: String,
    /// Absolute.
    pub root_directory: String,
    /// Where it is mounted for the task.
    pub path: PathBuf,
}

/// The EFS volumes that are mounted by a container. `volumes` is the directory of the task's
/// volumes. A name that cannot be a directory's is left to [`super::plan()`] to refuse.
pub fn volumes(definition: &TaskDefinition, volumes: &Path) -> Vec<Volume> {
    let points = definition.containers.iter().flat_map(|container| &container.mount_points);
    let used: BTreeSet<&str> = points.map(|point| point.source_volume.as_str()).collect();
    let efs = definition.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Efs { file_system_id, root_directory }
            if used.contains(volume.name.as_str()) && is_directory_name(&volume.name) =>
        {
            Some(Volume {
                file_system_id: file_system_id.clone(),
                root_directory: root_directory.clone(),
                path: volumes.join(&volume.name),
            })
        }
        _ => None,
    });
    efs.collect()
}

/// An NFS mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Name or address of the server, without brackets.
    pub host: String,
    pub port: u16,
    /// `host:/directory`, as `/proc/mounts` shows it.
    pub source: String,
}

impl Mount {
    /// The mount of a directory of a file system. `region` is the task's, if it says one.
    ///
    /// # Errors
    /// If the server's name is not known, or the source is longer than Linux takes.
    pub fn plan(volume: &Volume, region: Option<&str>, servers: &Servers) -> Result<Self, Error> {
        let (host, port) = match (&servers.endpoint, region.or(servers.region.as_deref())) {
            (Some(endpoint), _) => (endpoint.host.clone(), endpoint.port.unwrap_or(PORT)),
            (None, Some(region)) => {
                let id = &volume.file_system_id;
                (format!("{id}.efs.{region}.{}", protocol::partition::domain(region)), PORT)
            }
            (None, None) => return Err(Error::NoRegion),
        };
        // A colon in the host would end it.
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let source = format!("{shown}:{}", volume.root_directory);
        if source.len() > LONGEST_SOURCE {
            return Err(Error::SourceLength { length: source.len() });
        }
        Ok(Self { host, port, source })
    }

    /// The options of a mount from the server at `address`, each with its value if it has one.
    /// Those after `port` are Amazon's recommendation for EFS. Without `clientaddr` the kernel
    /// finds the address by itself.
    pub fn options(&self, address: IpAddr) -> Vec<(&'static str, Option<String>)> {
        let protocol = if address.is_ipv4() { "tcp" } else { "tcp6" };
        let with = |name, value: &str| (name, Some(value.to_owned()));
        vec![
            with("source", &self.source),
            with("vers", "4.1"),
            with("proto", protocol),
            with("addr", &address.to_string()),
            with("port", &self.port.to_string()),
            with("rsize", "1048576"),
            with("wsize", "1048576"),
            ("hard", None),
            with("timeo", "600"),
            with("retrans", "2"),
            ("noresvport", None),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn volume(directory: &str) -> Volume {
        Volume {
            file_system_id: "fs-0123".to_owned(),
            root_directory: directory.to_owned(),
            path: "/v/data".into(),
        }
    }

    fn endpoint(text: &str) -> Servers {
        Servers { endpoint: Some(Endpoint::parse(text).unwrap()), region: None }
    }

    fn options(mount: &Mount, address: &str) -> String {
        let options = mount.options(address.parse().unwrap()).into_iter();
        let options = options
            .map(|(name, value)| value.map_or(name.to_owned(), |value| format!("{name}={value}")));
        options.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn endpoints() {
        for (text, host, port) in [
            ("nas", "nas", None),
            ("nas.example:20049", "nas.example", Some(20049)),
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:1", "10.0.0.1", Some(1)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1]:20049", "fd00::1", Some(20049)),
        ] {
            let expected = Endpoint { host: host.to_owned(), port };
            assert_eq!(Endpoint::parse(text), Some(expected), "{text}");
        }
        for text in [
            "", ":1", "a:", "a:0", "a:65536", "a:b", "a/b", "a,b", "[a]", "[::1", "[::1]1", "1:2:3",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_system_of_amazon_is_found_by_its_name_in_the_tasks_region() {
        let own = Servers { endpoint: None, region: Some("cn-north-1".to_owned()) };
        let mount = Mount::plan(&volume("/"), Some("eu-west-1"), &own).unwrap();
        assert_eq!(mount.source, "fs-0123.efs.eu-west-1.amazonaws.com:/");
        assert_eq!(
            options(&mount, "10.1.2.3"),
            "source=fs-0123.efs.eu-west-1.amazonaws.com:/,vers=4.1,proto=tcp,addr=10.1.2.3,port=2049,\
             rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
        );
        let mount = Mount::plan(&volume("/a b"), None, &own).unwrap();
        assert_eq!(mount.source, "fs-0123.efs.cn-north-1.amazonaws.com.cn:/a b");
        let none = Mount::plan(&volume("/"), None, &Servers::default());
        assert_eq!(none, Err(Error::NoRegion));
    }

    #[test]
    fn an_endpoint_stands_for_every_file_system() {
        let mount = Mount::plan(&volume("/x"), Some("eu-west-1"), &endpoint("nas:20049")).unwrap();
        assert_eq!((mount.host.as_str(), mount.port), ("nas", 20049));
        assert_eq!(mount.source, "nas:/x");
        let mount = Mount::plan(&volume("/x"), None, &endpoint("[fd00::1]")).unwrap();
        assert_eq!((mount.host.as_str(), mount.port), ("fd00::1", 2049));
        assert_eq!(
            options(&mount, "fd00::1"),
            "source=[fd00::1]:/x,vers=4.1,proto=tcp6,addr=fd00::1,port=2049,\
             rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
        );
        let longest = format!("/{}", "d".repeat(LONGEST_SOURCE - "nas:/".len()));
        assert!(Mount::plan(&volume(&longest), None, &endpoint("nas")).is_ok());
        let refused = Mount::plan(&volume(&format!("{longest}d")), None, &endpoint("nas"));
        assert_eq!(refused, Err(Error::SourceLength { length: 256 }));
    }

    #[test]
    fn only_what_a_container_mounts_is_mounted() {
        let volume_of = |name: &str| {
            serde_json::json!({"name": name, "efsVolumeConfiguration":
                {"fileSystemId": "fs-0123", "rootDirectory": "/x"}})
        };
        let definition = protocol::taskdef::from_value(&serde_json::json!({
            "family": "f",
            "containerDefinitions": [{"name": "a", "image": "i", "memory": 9, "mountPoints": [
                {"sourceVolume": "data", "containerPath": "/a"},
                {"sourceVolume": "data", "containerPath": "/b"},
                {"sourceVolume": "own", "containerPath": "/c"},
            ]}],
            "volumes": [volume_of("data"), volume_of("unused"), {"name": "own"}],
        }))
        .unwrap();
        assert_eq!(volumes(&definition, Path::new("/v")), [volume("/x")]);
    }
}
