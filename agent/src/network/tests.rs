//! The network on a real kernel: each test makes a host of its own (a network namespace), an outside
//! network behind it, and namespaces for tasks. Needs root and nftables.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use protocol::ids::TaskId;
use protocol::taskdef::TransportProtocol::{Tcp, Udp};

use super::netns::testing::{inside, netns};
use super::*;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const SUFFIX: &str = "0a1b2c3d";

fn command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// The test's thread becomes a host with an uplink; what is returned is the world beyond it.
fn host() -> OwnedFd {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let host = nix::unistd::gettid();
    let outside = netns();
    inside(&outside, || {
        command(&format!(
            "ip link add eth0 mtu 1400 type veth peer name up0 mtu 1400 netns {host}"
        ));
        command("ip addr add 192.0.2.100/24 dev eth0");
        command("ip link set eth0 up");
        command("ip link set lo up");
    });
    command("ip addr add 192.0.2.1/24 dev up0");
    command("ip link set up0 up");
    command("ip link set lo up");
    command("ip route add default via 192.0.2.100");
    outside
}

/// Everything the agent may leave on a host.
fn traces() -> (Vec<String>, String, String, String) {
    let links = command("ip -brief link");
    (
        links.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect(),
        command("ip route"),
        command("nft list ruleset"),
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
    )
}

fn open(live: &[Lease]) -> Network {
    Network::open(Settings { suffix: SUFFIX.to_owned(), ..Settings::default() }, live).unwrap()
}

fn task(network: &Network, number: u8) -> TaskLease {
    let [a, b, c, _] = network.subnets().awsvpc.network().octets();
    let address = Ipv4Addr::new(a, b, c, number);
    TaskLease { task: TaskId::from_random(number.into()), address }
}

fn container(
    network: &Network,
    number: u8,
    ports: &[(TransportProtocol, u16, u16)],
) -> ContainerLease {
    let [a, b, c, _] = network.subnets().bridge.network().octets();
    let port = |&(protocol, host_port, container_port)| PublishedPort {
        protocol,
        host_port,
        container_port,
    };
    ContainerLease {
        task: TaskId::from_random(number.into()),
        container: "web".to_owned(),
        address: Ipv4Addr::new(a, b, c, number),
        ports: ports.iter().map(port).collect(),
    }
}

/// Answers each connection with the address it came from.
fn serve(netns: Option<&OwnedFd>, port: u16) {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let listener = match netns {
        Some(netns) => inside(netns, bind),
        None => bind(),
    };
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

/// Connects and returns what [`serve`] saw as the client's address.
fn reach(netns: Option<&OwnedFd>, address: Ipv4Addr, port: u16) -> io::Result<String> {
    let connect = || {
        let address = SocketAddr::V4(SocketAddrV4::new(address, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut seen = String::new();
        stream.read_to_string(&mut seen)?;
        Ok(seen)
    };
    match netns {
        Some(netns) => inside(netns, connect),
        None => connect(),
    }
}

#[test]
fn tasks_reach_each_other_the_host_and_the_outside_and_leave_no_trace() {
    let outside = host();
    let before = traces();
    let network = open(&[]);
    assert_eq!(traces(), before, "opening makes nothing");
    let (one, two) = (netns(), netns());
    let (first, second) = (task(&network, 2), task(&network, 3));
    let started = Instant::now();
    network.attach_task(&first, one.as_fd()).unwrap();
    let cold = started.elapsed();
    let started = Instant::now();
    network.attach_task(&second, two.as_fd()).unwrap();
    let warm = started.elapsed();
    // A number to look at, not to fail on: the machine may be busy.
    eprintln!("first attach, bridge and table too: {cold:?}; next: {warm:?}");
    network.attach_task(&second, two.as_fd()).unwrap();

    serve(Some(&one), 80);
    serve(None, 81);
    serve(Some(&outside), 82);
    let gateway = ipam::gateway(network.subnets().awsvpc);
    assert_eq!(reach(Some(&one), Ipv4Addr::LOCALHOST, 80).unwrap(), "127.0.0.1");
    assert_eq!(reach(None, first.address, 80).unwrap(), gateway.to_string());
    assert_eq!(reach(Some(&two), first.address, 80).unwrap(), second.address.to_string());
    assert_eq!(reach(Some(&two), gateway, 81).unwrap(), second.address.to_string());
    assert_eq!(reach(Some(&two), HOST, 81).unwrap(), second.address.to_string());
    assert_eq!(reach(Some(&two), OUTSIDE, 82).unwrap(), HOST.to_string());
    let shown = inside(&one, || command("ip addr"));
    assert!(!shown.contains("fe80"), "{shown}");
    assert!(shown.contains("mtu 1400"), "{shown}");
    let mac = ipam::mac(first.address).map(|byte| format!("{byte:02x}")).join(":");
    assert!(shown.contains(&mac), "{shown}");

    network.close().unwrap();
    assert_ne!(traces(), before, "close waits for the leases");
    for lease in [Lease::Task(first), Lease::Task(second)] {
        network.detach(&lease).unwrap();
        network.detach(&lease).unwrap();
    }
    network.close().unwrap();
    network.close().unwrap();
    assert_eq!(traces(), before);
}

#[test]
fn published_ports_are_reached_from_everywhere_and_only_they() {
    let outside = host();
    let network = open(&[]);
    let (web, other, vpc) = (netns(), netns(), netns());
    let lease = container(&network, 2, &[(Tcp, 18080, 80), (Udp, 2000, 2001)]);
    network.attach_container(&lease, web.as_fd()).unwrap();
    let neighbour = container(&network, 3, &[(Tcp, 49153, 80)]);
    network.attach_container(&neighbour, other.as_fd()).unwrap();
    let vpc_lease = task(&network, 2);
    network.attach_task(&vpc_lease, vpc.as_fd()).unwrap();
    for netns in [&web, &other, &vpc] {
        serve(Some(netns), 80);
    }
    let gateway = ipam::gateway(network.subnets().bridge);
    assert_eq!(reach(Some(&outside), HOST, 18080).unwrap(), OUTSIDE.to_string());
    assert_eq!(reach(Some(&outside), HOST, 49153).unwrap(), OUTSIDE.to_string());
    for address in [HOST, gateway, Ipv4Addr::LOCALHOST] {
        reach(None, address, 18080).unwrap_or_else(|error| panic!("host by {address}: {error}"));
    }
    for (who, netns) in [("itself", &web), ("neighbour", &other), ("awsvpc task", &vpc)] {
        for address in [HOST, gateway] {
            reach(Some(netns), address, 18080)
                .unwrap_or_else(|error| panic!("{who} by {address}: {error}"));
        }
    }
    // UDP, to another port number.
    let server = inside(&web, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 2001)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let client = inside(&outside, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    client.send_to(b"segment", (HOST, 2000)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"segment"[..], OUTSIDE.into()));

    // A stranger who routes to the containers: bridge mode hides them, awsvpc addresses are routable.
    let subnets = network.subnets();
    inside(&outside, || {
        for subnet in [subnets.awsvpc, subnets.bridge] {
            command(&format!("ip route add {subnet} via {HOST}"));
        }
    });
    reach(Some(&outside), lease.address, 80).unwrap_err();
    assert_eq!(reach(Some(&outside), vpc_lease.address, 80).unwrap(), OUTSIDE.to_string());

    let clash = container(&network, 9, &[(Tcp, 18080, 80)]);
    let refused = network.attach_container(&clash, netns().as_fd()).unwrap_err();
    assert!(matches!(refused, Error::Published { port: 18080, .. }), "{refused}");

    // Someone flushes the rules: the next transaction restores all of them.
    command("nft flush ruleset");
    network.detach(&Lease::Container(lease)).unwrap();
    reach(Some(&outside), HOST, 18080).unwrap_err();
    assert_eq!(reach(Some(&outside), HOST, 49153).unwrap(), OUTSIDE.to_string());
    network.detach(&Lease::Container(neighbour)).unwrap();
    reach(Some(&outside), HOST, 49153).unwrap_err();
}

#[test]
fn a_udp_client_that_keeps_its_socket_follows_the_port() {
    let outside = host();
    let network = open(&[]);
    // Forwarding, or nothing would track the connection yet.
    network.prepare().unwrap();
    let client = inside(&outside, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client.connect((HOST, 2000)).unwrap();
    let mut buffer = [0; 16];
    client.send(b"early").unwrap();
    client.recv(&mut buffer).unwrap_err();
    for number in 2..4 {
        let netns = netns();
        let lease = container(&network, number, &[(Udp, 2000, 2000)]);
        network.attach_container(&lease, netns.as_fd()).unwrap();
        let server = inside(&netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 2000)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.send(b"segment").unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"segment");
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        network.detach(&Lease::Container(lease)).unwrap();
    }
}

#[test]
fn an_agent_that_was_killed_is_cleaned_up_after_and_its_tasks_stay() {
    let outside = host();
    let before = traces();
    let network = open(&[]);
    let (stays, goes) = (netns(), netns());
    let kept = container(&network, 2, &[(Tcp, 18080, 80)]);
    let lost = container(&network, 3, &[(Tcp, 18081, 80)]);
    network.attach_container(&kept, stays.as_fd()).unwrap();
    network.attach_container(&lost, goes.as_fd()).unwrap();
    serve(Some(&stays), 80);
    serve(Some(&goes), 80);
    let subnets = network.subnets();
    drop(network);

    let kept = Lease::Container(kept);
    let network = open(std::slice::from_ref(&kept));
    assert_eq!(network.subnets(), subnets);
    reach(Some(&outside), HOST, 18080).unwrap();
    reach(Some(&outside), HOST, 18081).unwrap_err();
    let ruleset = command("nft list ruleset");
    assert!(!ruleset.contains("18081"), "{ruleset}");
    let links = inside(&goes, || command("ip -brief link"));
    assert!(!links.contains("eth0"), "{links}");
    network
        .attach_container(
            match &kept {
                Lease::Container(lease) => lease,
                Lease::Task(_) => unreachable!(),
            },
            stays.as_fd(),
        )
        .unwrap();
    drop(network);

    drop(open(&[]));
    assert_eq!(traces(), before);
}

#[test]
fn a_bridge_made_by_half_is_removed_and_a_strangers_is_left_alone() {
    let _outside = host();
    let before = traces();
    let names = Names::new(SUFFIX);
    command(&format!("ip link add {} type bridge", names.bridge));
    drop(open(&[]));
    assert_eq!(traces(), before);

    command(&format!("ip link add {} type ifb", names.bridge));
    let with_stranger = traces();
    let settings = Settings { suffix: SUFFIX.to_owned(), ..Settings::default() };
    let refused = Network::open(settings, &[]).unwrap_err();
    assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
    assert_eq!(traces(), with_stranger);
}

#[test]
fn forwarding_is_restored_by_the_last_agent_and_left_alone_where_it_was_on() {
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let _outside = host();
    let (one, two) = (netns(), netns());
    let first = open(&[]);
    let settings = Settings { suffix: "ffffffff".to_owned(), ..Settings::default() };
    first.attach_task(&task(&first, 2), one.as_fd()).unwrap();
    let second = Network::open(settings, &[]).unwrap();
    second.attach_task(&task(&second, 2), two.as_fd()).unwrap();
    serve(Some(&two), 80);
    reach(Some(&one), task(&second, 2).address, 80).unwrap();
    first.detach(&Lease::Task(task(&first, 2))).unwrap();
    first.close().unwrap();
    assert_eq!(forwarding(), "1\n");
    second.detach(&Lease::Task(task(&second, 2))).unwrap();
    second.close().unwrap();
    assert_eq!(forwarding(), "0\n");

    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    first.attach_task(&task(&first, 2), netns().as_fd()).unwrap();
    first.detach(&Lease::Task(task(&first, 2))).unwrap();
    first.close().unwrap();
    assert_eq!(forwarding(), "1\n");
}

#[test]
fn a_task_cannot_pose_as_another_host_nor_reach_the_hosts_loopback() {
    let _outside = host();
    let network = open(&[]);
    let bad = netns();
    let lease = task(&network, 2);
    network.attach_task(&lease, bad.as_fd()).unwrap();
    let gateway = ipam::gateway(network.subnets().awsvpc);
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap();
    let local = UdpSocket::bind((Ipv4Addr::LOCALHOST, 9001)).unwrap();
    for socket in [&host, &local] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let mut buffer = [0; 16];
    inside(&bad, || {
        command("ip addr add 198.51.100.7/32 dev eth0");
        command("ip addr flush dev lo");
        command(&format!("ip route add 127.0.0.1/32 via {gateway}"));
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
        let spoofed = UdpSocket::bind((Ipv4Addr::new(198, 51, 100, 7), 0)).unwrap();
        spoofed.send_to(b"spoofed", (gateway, 9000)).unwrap();
        let honest = UdpSocket::bind((lease.address, 0)).unwrap();
        honest.send_to(b"loopback", (Ipv4Addr::LOCALHOST, 9001)).unwrap();
    });
    host.recv_from(&mut buffer).unwrap_err();
    local.recv_from(&mut buffer).unwrap_err();
    inside(&bad, || {
        let honest = UdpSocket::bind((lease.address, 0)).unwrap();
        honest.send_to(b"honest", (gateway, 9000)).unwrap();
    });
    let (length, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"honest"[..], lease.address.into()));
}

#[test]
fn a_lease_moves_to_the_namespace_of_a_new_monitor() {
    let _outside = host();
    let network = open(&[]);
    let (old, new) = (netns(), netns());
    let lease = task(&network, 2);
    network.attach_task(&lease, old.as_fd()).unwrap();
    network.attach_task(&lease, new.as_fd()).unwrap();
    serve(Some(&new), 80);
    reach(None, lease.address, 80).unwrap();
    assert!(!inside(&old, || command("ip -brief link")).contains("eth0"));
}

#[test]
fn many_tasks_at_once() {
    let _outside = host();
    let before = traces();
    let network = open(&[]);
    let namespaces: Vec<_> = (2..18).map(|number| (task(&network, number), netns())).collect();
    std::thread::scope(|scope| {
        for (lease, netns) in &namespaces {
            let network = &network;
            scope.spawn(move || network.attach_task(lease, netns.as_fd()).unwrap());
        }
    });
    for (lease, netns) in &namespaces {
        serve(Some(netns), 80);
        reach(None, lease.address, 80).unwrap();
    }
    for (lease, _) in namespaces {
        network.detach(&Lease::Task(lease)).unwrap();
    }
    network.close().unwrap();
    assert_eq!(traces(), before);
}

#[test]
fn unusable_subnets_are_refused_by_name() {
    let _outside = host();
    let with = |awsvpc: &str, bridge: &str| Settings {
        suffix: SUFFIX.to_owned(),
        awsvpc_subnet: Some(awsvpc.parse().unwrap()),
        bridge_subnet: Some(bridge.parse().unwrap()),
    };
    let refused = Network::open(with("10.1.0.0/16", "10.1.2.0/24"), &[]).unwrap_err();
    assert!(matches!(refused, Error::SubnetsOverlap { .. }), "{refused}");
    let refused = Network::open(with("10.1.0.0/30", "10.1.2.0/24"), &[]).unwrap_err();
    assert!(matches!(refused, Error::SubnetSize { .. }), "{refused}");
    let before = traces();
    let network = Network::open(with("192.0.2.0/25", "10.1.2.0/24"), &[]).unwrap();
    let refused = network.attach_task(&task(&network, 2), netns().as_fd()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "subnet 192.0.2.0/25 overlaps 192.0.2.0/24, which this host is attached to: configure another"
    );
    assert_eq!(traces(), before);
}

#[test]
fn the_kernels_reason_is_in_the_error() {
    let _outside = host();
    let mut socket = Socket::open().unwrap();
    let refused = socket
        .apply(vec![netlink::create_bridge(
            "a name too long for the kernel",
            [2, 0, 0, 0, 0, 1],
            1500,
        )])
        .unwrap_err();
    let netlink::Error::Refused { operation, reason, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(operation, "create bridge a name too long for the kernel");
    assert!(reason.as_ref().is_some_and(|text| !text.is_empty()), "{refused:?}");
}
