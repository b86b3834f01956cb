//! The nftables table of an agent: NAT out, published ports, and what must not pass.
//!
//! One table with fixed rules about the bridge and its subnets, and one map with an element per
//! published port. So an awsvpc task costs no transaction at all, and a container with published
//! ports one, however many tasks run. Transactions go through `nft -f -` in nft's own language:
//! its JSON reader (1.0.6 of Debian 12) refuses maps to an address and a port. Every value
//! in a script is an address, a number or a name of [`super::plan::Names`]; text from outside
//! never gets in.
//!
//! - `guard` (before connection tracking): drops what comes from the bridge with a source outside
//!   the subnets, and packets from the bridge to 127.0.0.0/8, which `route_localnet` would let
//!   reach the host's loopback services (CVE-2020-8558).
//! - `forward`: new connections from elsewhere reach a bridge-mode container only by a published
//!   port. awsvpc addresses are routable, as an ENI's are.
//! - `prerouting`, `output`: published ports, from outside, from containers and from the host
//!   itself, at any of the host's addresses, 127.0.0.1 among them.
//! - `postrouting`: masquerades what leaves the bridge; what comes back to the bridge by a published
//!   port (the answer would not pass the host otherwise), and what has a loopback source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use protocol::taskdef::TransportProtocol;

use super::plan::{Names, Subnets};
use super::ports;

/// Where `nft` is, if not on the path: services often run without the sbin directories.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// What failed about the firewall.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the program nft is not installed, and NAT needs it: install the package nftables")]
    Missing,
    #[error("run nft")]
    Run(#[source] io::Error),
    #[error("nft refused to {operation}: {text}")]
    Refused { operation: &'static str, text: String },
}

/// Published ports of an agent: host port to container address and port.
pub type Published = BTreeMap<(TransportProtocol, u16), (Ipv4Addr, u16)>;

/// Makes the table exactly what it should be, in one transaction, whatever was there.
///
/// # Errors
/// If `nft` is missing or refuses.
pub fn replace(names: &Names, subnets: &Subnets, published: &Published) -> Result<(), Error> {
    run("set up the table", &script(names, subnets, published))
}

/// Adds elements to the table's map.
///
/// # Errors
/// If `nft` is missing or refuses, for instance because the table is gone.
pub fn publish(names: &Names, ports: &Published) -> Result<(), Error> {
    run("publish ports", &format!("add {}", elements(names, ports)))
}

/// Removes elements from the table's map.
///
/// # Errors
/// If `nft` is missing or refuses, for instance because an element or the table is gone.
pub fn withdraw(names: &Names, ports: &Published) -> Result<(), Error> {
    run("withdraw ports", &format!("delete {}", elements(names, ports)))
}

/// Removes the table; none is no error.
///
/// # Errors
/// If `nft` is missing or refuses.
pub fn remove(names: &Names) -> Result<(), Error> {
    let table = &names.table;
    run("remove the table", &format!("add table ip {table}\ndelete table ip {table}\n"))
}

fn elements(names: &Names, ports: &Published) -> String {
    format!("element ip {} published {{ {} }}\n", names.table, list(ports))
}

fn list(ports: &Published) -> String {
    let mut text = String::new();
    for ((protocol, host), (address, port)) in ports {
        let separator = if text.is_empty() { "" } else { ", " };
        let protocol = ports::name(*protocol);
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{protocol} . {host} : {address} . {port}");
    }
    text
}

fn script(names: &Names, subnets: &Subnets, published: &Published) -> String {
    let Names { bridge: device, table, .. } = names;
    let Subnets { awsvpc, bridge } = subnets;
    let both = format!("{{ {awsvpc}, {bridge} }}");
    let elements = match list(published) {
        list if list.is_empty() => list,
        list => format!("elements = {{ {list} }};"),
    };
    let translate = "fib daddr type local dnat ip to meta l4proto . th dport map @published";
    format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
  map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; {elements} }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{device}\" ip saddr != {both} drop
    iifname \"{device}\" ip daddr 127.0.0.0/8 drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname != \"{device}\" ip daddr {bridge} ct state new ct status & dnat == 0 drop
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept; {translate}; }}
  chain output {{ type nat hook output priority -100; policy accept; {translate}; }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname != \"{device}\" ip saddr {both} masquerade
    oifname \"{device}\" ip saddr 127.0.0.0/8 masquerade
    oifname \"{device}\" ip saddr {both} ct status dnat masquerade
  }}
}}
"
    )
}

fn run(operation: &'static str, script: &str) -> Result<(), Error> {
    let mut child = spawn()?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(script.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(Error::Run)?;
    if output.status.success() {
        return written.map_err(Error::Run);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    Err(Error::Refused { operation, text: text.join("; ") })
}

fn spawn() -> Result<std::process::Child, Error> {
    for program in PROGRAMS {
        let spawned = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Run(error)),
        }
    }
    Err(Error::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_listed_in_nfts_language() {
        let ports = Published::from([
            ((TransportProtocol::Tcp, 8080), (Ipv4Addr::new(10, 147, 16, 2), 80)),
            ((TransportProtocol::Udp, 2000), (Ipv4Addr::new(10, 147, 16, 3), 2000)),
        ]);
        assert_eq!(
            elements(&Names::new("0a1b2c3d"), &ports),
            "element ip lighter_0a1b2c3d published \
             { tcp . 8080 : 10.147.16.2 . 80, udp . 2000 : 10.147.16.3 . 2000 }\n"
        );
    }
}
