//! The changes we ask rtnetlink for, one function each, with the words for their errors.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::Request;

/// Without generated addresses IPv6 is silent on the interface: no duplicate address detection to
/// wait for, no way around the IPv4 rules.
fn no_ipv6() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])])
}

/// Creates a bridge that forwards at once, down. Refused with `EEXIST` if the name is taken.
pub fn create_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::ForwardDelay(0),
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    Request {
        operation: format!("create bridge {name}"),
        message: RouteNetlinkMessage::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerated: None,
    }
}

/// A veth pair whose one end becomes a port of a bridge here and whose other end is born, as
/// `inner_name`, in another network namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    /// Index of the bridge.
    pub bridge: u32,
    pub mtu: u32,
    pub inner_name: &'a str,
    pub inner_mac: [u8; 6],
    pub netns: BorrowedFd<'a>,
}

/// Creates both ends, down. Refused with `EEXIST` if either name is taken.
pub fn create_veth(veth: &Veth<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.inner_name.to_owned()),
        LinkAttribute::Address(veth.inner_mac.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.netns.as_fd().as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(veth.name.to_owned()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Controller(veth.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Request {
        operation: format!("create the veth pair {} and {}", veth.name, veth.inner_name),
        message: RouteNetlinkMessage::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerated: None,
    }
}

/// Sets an interface's alias, its bridge if one is given, and keeps IPv6 off it.
pub fn describe_link(index: u32, name: &str, alias: &str, bridge: Option<u32>) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::IfAlias(alias.to_owned()), no_ipv6()];
    link.attributes.extend(bridge.map(LinkAttribute::Controller));
    set_link(format!("describe interface {name}"), link)
}

/// Makes an interface a port of a bridge.
pub fn enslave(index: u32, name: &str, bridge: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Controller(bridge)];
    set_link(format!("add interface {name} to the bridge"), link)
}

/// Lets a port of a bridge get back what came from it: a container that calls itself by a published
/// port. Without it, the kernel drops that where `bridge-nf-call-iptables` is on.
pub fn set_hairpin(index: u32, name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ])];
    Request {
        operation: format!("set hairpin mode of bridge port {name}"),
        message: RouteNetlinkMessage::NewLink(link),
        flags: 0,
        tolerated: None,
    }
}

/// Keeps IPv6 off an interface that is about to come up.
pub fn silence_ipv6(index: u32, name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![no_ipv6()];
    set_link(format!("turn off IPv6 address generation on {name}"), link)
}

/// Brings an interface up.
pub fn set_up(index: u32, name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    set_link(format!("bring interface {name} up"), link)
}

fn set_link(operation: String, link: LinkMessage) -> Request {
    Request { operation, message: RouteNetlinkMessage::SetLink(link), flags: 0, tolerated: None }
}

/// Deletes an interface by index.
pub fn delete_link(index: u32, name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Request {
        operation: format!("delete interface {name}"),
        message: RouteNetlinkMessage::DelLink(link),
        flags: 0,
        tolerated: Some(Errno::ENODEV),
    }
}

/// Gives an interface an address with the route to its subnet; there already is no error.
pub fn add_address(index: u32, name: &str, address: Ipv4Net) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.addr().into()),
        AddressAttribute::Address(address.addr().into()),
    ];
    Request {
        operation: format!("add address {address} to interface {name}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerated: Some(Errno::EEXIST),
    }
}

/// Gives an interface an address that only this host knows, with a label that says whose it is; an
/// address that is there already stays as it is.
pub fn add_local_address(index: u32, name: &str, address: Ipv4Net, label: &str) -> Request {
    let mut message = local_address(index, address);
    message.attributes.push(AddressAttribute::Label(label.to_owned()));
    Request {
        operation: format!("add address {address} to interface {name}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerated: Some(Errno::EEXIST),
    }
}

/// Takes it away; none is no error.
pub fn delete_local_address(index: u32, name: &str, address: Ipv4Net) -> Request {
    Request {
        operation: format!("delete address {address} of interface {name}"),
        message: RouteNetlinkMessage::DelAddress(local_address(index, address)),
        flags: 0,
        tolerated: Some(Errno::EADDRNOTAVAIL),
    }
}

fn local_address(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Host;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.addr().into()),
        AddressAttribute::Address(address.addr().into()),
    ];
    message
}

/// Sets the default route.
pub fn set_default_route(index: u32, gateway: Ipv4Addr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(index)];
    Request {
        operation: format!("set the default route by {gateway}"),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        tolerated: None,
    }
}
