//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` of containers.
//!
//! Contents follow Docker and the ECS agent, and are pure; [`HostResolver::read`] and [`write()`]
//! are the edges. Decisions:
//! - A loopback name server of the host (systemd-resolved's 127.0.0.53) means nothing in another
//!   network namespace: the servers behind systemd-resolved take its place, else it is dropped.
//! - If no server is left there is none. Docker would ask 8.8.8.8; we never send a name to a server
//!   that nobody configured.
//! - `dnsServers` replace the servers, `dnsSearchDomains` the search list; options stay.
//! - A container in the host's network gets the host's files, with its extra hosts added.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// systemd-resolved's list of the real servers.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const LOOPBACK_HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The host's files, as far as containers' follow them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// `/etc/resolv.conf`; empty if there is none.
    pub resolv_conf: String,
    /// systemd-resolved's upstream servers, if it runs.
    pub upstream: Option<String>,
    /// `/etc/hosts`; empty if there is none.
    pub hosts: String,
}

impl HostResolver {
    /// Reads the host's files. They change (DHCP, VPN): read again for each task.
    ///
    /// # Errors
    /// If a file exists but cannot be read.
    pub fn read() -> Result<Self, Error> {
        Ok(Self {
            resolv_conf: read(RESOLV_CONF)?.unwrap_or_default(),
            upstream: read(UPSTREAM)?,
            hosts: read("/etc/hosts")?.unwrap_or_default(),
        })
    }
}

fn read(path: &str) -> Result<Option<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

/// Which network a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The host's.
    Host,
    /// One of its own (awsvpc, bridge) with this address.
    Own(Ipv4Addr),
    /// Loopback only (`none`, `disableNetworking`).
    None,
}

/// What the contents depend on.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub host: &'a HostResolver,
    pub attachment: Attachment,
    pub hostname: &'a str,
    /// `dnsServers`
    pub servers: &'a [IpAddr],
    /// `dnsSearchDomains`
    pub search: &'a [String],
    /// `extraHosts`
    pub extra_hosts: &'a [(String, IpAddr)],
}

/// The three files' contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFiles {
    pub resolv_conf: String,
    pub hosts: String,
    pub hostname: String,
}

/// Where [`write()`] put them: sources of bind mounts to `/etc/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
}

impl Paths {
    /// The files below a directory.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            resolv_conf: dir.join("resolv.conf"),
            hosts: dir.join("hosts"),
            hostname: dir.join("hostname"),
        }
    }
}

/// The host name of a task whose definition names none, in the form of an ENI's: `ip-10-147-0-2`.
pub fn default_hostname(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}")
}

/// The contents for one container, or for all of a task that shares them.
pub fn contents(request: &Request<'_>) -> HostFiles {
    HostFiles {
        resolv_conf: resolv_conf(request),
        hosts: hosts(request),
        hostname: format!("{}\n", request.hostname),
    }
}

fn resolv_conf(request: &Request<'_>) -> String {
    let own = request.attachment != Attachment::Host;
    let mut source = request.host.resolv_conf.as_str();
    if own
        && Parsed::new(source, true).servers.is_empty()
        && let Some(upstream) = &request.host.upstream
    {
        source = upstream;
    }
    if !own && request.servers.is_empty() && request.search.is_empty() {
        return source.to_owned();
    }
    let parsed = Parsed::new(source, own);
    let mut text = String::new();
    // Writing to a String cannot fail.
    if request.servers.is_empty() {
        for server in parsed.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
    } else {
        for server in request.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    if request.search.is_empty() {
        if let Some(search) = parsed.search {
            let _ = writeln!(text, "search {search}");
        }
    } else if request.search != ["."] {
        // Docker: a lone dot means no search list at all.
        let _ = writeln!(text, "search {}", request.search.join(" "));
    }
    for options in parsed.options {
        let _ = writeln!(text, "options {options}");
    }
    text
}

struct Parsed<'a> {
    servers: Vec<&'a str>,
    search: Option<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> Parsed<'a> {
    /// Without loopback servers if asked for: they are the host's.
    fn new(text: &'a str, drop_loopback: bool) -> Self {
        let mut parsed = Self { servers: Vec::new(), search: None, options: Vec::new() };
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once(|c: char| c.is_ascii_whitespace()) else {
                continue;
            };
            let value = value.trim();
            match key {
                "nameserver" => {
                    // A scoped address (fe80::1%eth0) names an interface of the host.
                    let address = value.parse::<IpAddr>();
                    if !drop_loopback || address.is_ok_and(|address| !address.is_loopback()) {
                        parsed.servers.push(value);
                    }
                }
                // Of several the last counts (resolv.conf(5)).
                "search" | "domain" => parsed.search = Some(value),
                "options" => parsed.options.push(value),
                _ => {}
            }
        }
        parsed
    }
}

fn hosts(request: &Request<'_>) -> String {
    let mut text = match request.attachment {
        Attachment::Host if request.host.hosts.is_empty() => LOOPBACK_HOSTS.to_owned(),
        Attachment::Host => request.host.hosts.clone(),
        Attachment::Own(_) | Attachment::None => LOOPBACK_HOSTS.to_owned(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // Writing to a String cannot fail.
    match request.attachment {
        Attachment::Own(address) => {
            let _ = writeln!(text, "{address}\t{}", request.hostname);
        }
        // Programs look up their own name (sudo, JVM); it must not need a server.
        Attachment::None => {
            let _ = writeln!(text, "127.0.0.1\t{}", request.hostname);
        }
        Attachment::Host => {}
    }
    for (name, address) in request.extra_hosts {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// Writes the files into `dir`, which is made if need be. A file that is right already is not
/// touched: it may be mounted into a running container, which a replacement would not reach. Not
/// synced: after a crash of the host no container is left that used them.
///
/// # Errors
/// If the directory or a file cannot be written.
pub fn write(dir: &Path, files: &HostFiles) -> Result<Paths, Error> {
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;
    let paths = Paths::in_dir(dir);
    replace(&paths.resolv_conf, &files.resolv_conf)?;
    replace(&paths.hosts, &files.hosts)?;
    replace(&paths.hostname, &files.hostname)?;
    Ok(paths)
}

fn replace(path: &Path, contents: &str) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|bytes| bytes == contents.as_bytes()) {
        return Ok(());
    }
    let fail = |source| Error::Write { path: path.to_owned(), source };
    let temporary = path.with_added_extension("new");
    let mut file = fs::File::create(&temporary).map_err(fail)?;
    file.write_all(contents.as_bytes()).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 147, 0, 2);

    fn host(resolv_conf: &str, upstream: Option<&str>) -> HostResolver {
        HostResolver {
            resolv_conf: resolv_conf.to_owned(),
            upstream: upstream.map(str::to_owned),
            hosts: "127.0.0.1 localhost\n192.0.2.9 db".to_owned(),
        }
    }

    fn request(host: &HostResolver, attachment: Attachment) -> Request<'_> {
        Request { host, attachment, hostname: "web", servers: &[], search: &[], extra_hosts: &[] }
    }

    #[test]
    fn servers_of_the_host_as_the_container_can_use_them() {
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let real = "nameserver 192.0.2.53\nnameserver fd00::53\nsearch corp\n";
        let own = Attachment::Own(ADDRESS);
        let table: [(&str, Option<&str>, Attachment, &str); 8] = [
            (real, None, own, "nameserver 192.0.2.53\nnameserver fd00::53\nsearch corp\n"),
            (stub, Some(real), own, "nameserver 192.0.2.53\nnameserver fd00::53\nsearch corp\n"),
            (stub, None, own, "search lan\noptions edns0 trust-ad\n"),
            (stub, Some(real), Attachment::Host, stub),
            ("", None, own, ""),
            ("", Some(real), own, real),
            ("nameserver ::1\nnameserver 192.0.2.1\n", Some(real), own, "nameserver 192.0.2.1\n"),
            ("nameserver fe80::1%eth0\ndomain a\nsearch b\n", None, own, "search b\n"),
        ];
        for (resolv_conf, upstream, attachment, wanted) in table {
            let host = host(resolv_conf, upstream);
            assert_eq!(contents(&request(&host, attachment)).resolv_conf, wanted, "{resolv_conf}");
        }
    }

    #[test]
    fn the_container_definition_overrides_servers_and_search() {
        let host = host("nameserver 192.0.2.53\nsearch corp\noptions ndots:2\n", None);
        let servers = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))];
        let search = ["a.example".to_owned(), "b.example".to_owned()];
        for attachment in [Attachment::Own(ADDRESS), Attachment::Host] {
            let request =
                Request { servers: &servers, search: &search, ..request(&host, attachment) };
            assert_eq!(
                contents(&request).resolv_conf,
                "nameserver 192.0.2.7\nsearch a.example b.example\noptions ndots:2\n"
            );
        }
        let none = [".".to_owned()];
        let request = Request { search: &none, ..request(&host, Attachment::Own(ADDRESS)) };
        assert_eq!(contents(&request).resolv_conf, "nameserver 192.0.2.53\noptions ndots:2\n");
    }

    #[test]
    fn hosts_names_the_container_and_extra_hosts() {
        let host = host("", None);
        let extra = [("db".to_owned(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8)))];
        let own = Request { extra_hosts: &extra, ..request(&host, Attachment::Own(ADDRESS)) };
        assert_eq!(
            contents(&own).hosts,
            format!("{LOOPBACK_HOSTS}10.147.0.2\tweb\n192.0.2.8\tdb\n")
        );
        let shared = Request { extra_hosts: &extra, ..request(&host, Attachment::Host) };
        assert_eq!(contents(&shared).hosts, "127.0.0.1 localhost\n192.0.2.9 db\n192.0.2.8\tdb\n");
        let none = contents(&request(&host, Attachment::None));
        assert_eq!(none.hosts, format!("{LOOPBACK_HOSTS}127.0.0.1\tweb\n"));
        assert_eq!(none.hostname, "web\n");
    }

    #[test]
    fn a_right_file_is_not_replaced() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let mut files = contents(&request(&host("", None), Attachment::None));
        let paths = write(&dir.path().join("etc"), &files).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let (hosts, hostname) = (inode(&paths.hosts), inode(&paths.hostname));
        files.hostname = "other\n".to_owned();
        assert_eq!(write(&dir.path().join("etc"), &files).unwrap(), paths);
        assert_eq!(inode(&paths.hosts), hosts);
        assert_ne!(inode(&paths.hostname), hostname);
        assert_eq!(fs::read_to_string(&paths.hostname).unwrap(), "other\n");
        assert_eq!(fs::read_dir(dir.path().join("etc")).unwrap().count(), 3);
    }

    #[test]
    fn host_names_follow_the_address() {
        assert_eq!(default_hostname(ADDRESS), "ip-10-147-0-2");
    }
}
