//! 169.254.170.2:80 in one network namespace: an address, a listening socket and two rules.
//!
//! The socket belongs to the namespace it was made in and is served from the agent's own: no
//! route, no NAT and no bridge leads to it, so only who is in the namespace reaches it, in every
//! network mode alike.
//!
//! - The address is on `lo`, labelled as ours.
//! - The socket listens on the metadata port, not on 80: a socket that listens on 169.254.170.2:80
//!   would refuse port 80 to a container that listens on all addresses, as web servers do. Two
//!   rules without connection tracking change the port: of requests before anybody else on the
//!   output hook looks at them (as priority `raw`), of answers after everybody.
//! - The socket takes connections from `lo` only (`SO_BINDTODEVICE`). Linux accepts packets for any of its
//!   addresses on any interface, so a co-tenant that sends one for 169.254.170.2 to a task's
//!   hardware address would otherwise be let in.
//!
//! What was made in a task's namespace dies with it. In the host's namespace it has to be removed:
//! [`Host`] does so. Who holds the abstract socket [`CLAIM`] owns the endpoint there; it ends with
//! its process, and then the label tells the next agent what to take over or to remove.
//!
//! Rules go to the kernel as raw nfnetlink: one transaction of 0.1 ms, where a run of `nft` costs
//! about 10. Reference: `include/uapi/linux/netfilter/nf_tables.h`.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use ipnet::Ipv4Net;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::netlink::{self, Socket};
use super::netns;

mod rules;

/// What tasks connect to.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);
/// Its port, as seen by tasks.
pub const PORT: u16 = 80;
const LOOPBACK: (u32, &str) = (1, "lo");
/// Marks the address as ours: at most 15 bytes, beginning with the interface's name.
const LABEL: &str = "lo:lighter";
/// Name of the abstract socket whose holder owns the endpoint of the host's namespace.
const CLAIM: &str = "lighter-task-endpoint";
const BACKLOG: i32 = 64;

/// What failed about an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("enter the network namespace to open the metadata endpoint in it")]
    Enter(#[source] io::Error),
    #[error("set up {ADDRESS}")]
    Netlink(#[from] netlink::Error),
    #[error("listen on {ADDRESS}:{port}")]
    Listen { port: u16, source: io::Error },
    #[error("another agent on this host serves {ADDRESS} already")]
    Taken,
    #[error("claim {ADDRESS} on this host")]
    Claim(#[source] io::Error),
}

fn network() -> Ipv4Net {
    Ipv4Net::from(ADDRESS)
}

/// Opens the endpoint in a network namespace and hands out its socket, which does not block.
/// Repeating it after the socket was closed takes up what is there. The calling thread stays in
/// its own namespace.
///
/// # Errors
/// If the namespace cannot be entered, the kernel refuses, or something in the namespace listens
/// on the port.
pub fn listen_in(netns: BorrowedFd<'_>, port: u16) -> Result<TcpListener, Error> {
    netns::inside(netns, || listen(port)).map_err(Error::Enter)?
}

/// In the calling thread's namespace.
fn listen(port: u16) -> Result<TcpListener, Error> {
    let (index, name) = LOOPBACK;
    Socket::open()?.apply(vec![
        netlink::set_up(index, name),
        netlink::add_local_address(index, name, network(), LABEL),
    ])?;
    let listener = bind(port).map_err(|source| Error::Listen { port, source })?;
    rules::install(ADDRESS, PORT, port)?;
    Ok(listener)
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Connections of an agent before this one may still linger.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    let device = LOOPBACK.1.into();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &device)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ADDRESS, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The endpoint of the host's own namespace, for tasks in network mode `host`.
#[derive(Debug)]
pub struct Host {
    /// Held for as long as it is ours.
    _claim: UnixListener,
}

impl Host {
    /// Opens it in the calling thread's namespace, or takes it over from an agent that died.
    ///
    /// # Errors
    /// [`Error::Taken`] if another agent serves it; else as [`listen_in`].
    pub fn open(port: u16) -> Result<(Self, TcpListener), Error> {
        let host = Self { _claim: claim()? };
        match listen(port) {
            Ok(listener) => Ok((host, listener)),
            Err(error) => {
                // The first error says more than one about clearing up after it.
                let _ = host.close();
                Err(error)
            }
        }
    }

    /// Removes it. The socket may close before or after.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn close(self) -> Result<(), Error> {
        remove()
    }
}

/// Removes what an agent that died left in the calling thread's namespace. Does nothing where
/// nothing is left, or where another agent serves it.
///
/// # Errors
/// If the kernel refuses.
pub fn sweep() -> Result<(), Error> {
    let left = Socket::open()?
        .addresses()?
        .iter()
        .any(|address| address.network == network() && address.label == LABEL);
    if !left {
        return Ok(());
    }
    match claim() {
        Ok(_claim) => remove(),
        Err(Error::Taken) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The rules first: while the address stands, a later start looks for both.
fn remove() -> Result<(), Error> {
    rules::remove()?;
    let mut socket = Socket::open()?;
    let ours = socket
        .addresses()?
        .iter()
        .any(|address| address.network == network() && address.label == LABEL);
    if ours {
        let (index, name) = LOOPBACK;
        socket.apply(vec![netlink::delete_local_address(index, name, network())])?;
    }
    Ok(())
}

fn claim() -> Result<UnixListener, Error> {
    let address = SocketAddr::from_abstract_name(CLAIM).map_err(Error::Claim)?;
    match UnixListener::bind_addr(&address) {
        Ok(claim) => Ok(claim),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::Taken),
        Err(error) => Err(Error::Claim(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::netns::testing::{inside, netns};
    use super::*;

    const METADATA: u16 = 51679;

    /// What a client in the calling thread's namespace is told at 169.254.170.2:80.
    fn fetch() -> io::Result<String> {
        let address = SocketAddr::from((ADDRESS, PORT));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        assert_eq!(stream.peer_addr()?, address);
        stream.write_all(b"?")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn serve(listener: TcpListener, text: &'static str) {
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut byte = [0];
                let _ = stream.read(&mut byte);
                let _ = stream.write_all(text.as_bytes());
            }
        });
    }

    #[test]
    fn it_leaves_port_80_to_the_task() {
        for web_first in [true, false] {
            let netns = netns();
            let web = || inside(&netns, || TcpListener::bind("0.0.0.0:80").unwrap());
            let early = web_first.then(web);
            serve(listen_in(netns.as_fd(), METADATA).unwrap(), "metadata");
            serve(early.unwrap_or_else(web), "web");
            assert_eq!(inside(&netns, fetch).unwrap(), "metadata");
            let mut page = String::new();
            inside(&netns, || {
                let mut stream = TcpStream::connect("127.0.0.1:80").unwrap();
                stream.write_all(b"?").unwrap();
                stream.read_to_string(&mut page).unwrap();
            });
            assert_eq!(page, "web");
        }
    }

    #[test]
    fn it_is_taken_up_after_its_socket_closed() {
        let netns = netns();
        let first = listen_in(netns.as_fd(), METADATA).unwrap();
        let again = listen_in(netns.as_fd(), METADATA).unwrap_err();
        assert!(matches!(again, Error::Listen { .. }), "{again}");
        drop(first);
        let refused = inside(&netns, fetch).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Another port than before, as after a change of the configuration.
        serve(listen_in(netns.as_fd(), METADATA + 1).unwrap(), "second");
        assert_eq!(inside(&netns, fetch).unwrap(), "second");
    }

    #[test]
    fn the_hosts_has_one_owner_and_leaves_nothing() {
        let netns = netns();
        inside(&netns, || {
            sweep().unwrap();
            let (host, listener) = Host::open(METADATA).unwrap();
            assert!(matches!(Host::open(METADATA + 1), Err(Error::Taken)));
            serve(listener, "host");
            assert_eq!(fetch().unwrap(), "host");
            // Another agent that starts leaves it alone.
            sweep().unwrap();
            assert_eq!(fetch().unwrap(), "host");
            host.close().unwrap();
            assert!(fetch().is_err());
            assert!(Socket::open().unwrap().addresses().unwrap().iter().all(|a| a.label != LABEL));
            // What a dead one left goes.
            drop(Host::open(METADATA + 2).unwrap());
            sweep().unwrap();
            assert!(Socket::open().unwrap().addresses().unwrap().iter().all(|a| a.label != LABEL));
        });
    }
}
