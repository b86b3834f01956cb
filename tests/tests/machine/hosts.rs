//! Two machines of one network.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tests::bundle::within;

use super::in_vm;

const WORDS: &str = "from one machine to the other";

/// Runs on both: the second says something, the first hears it.
#[test]
fn two_machines_reach_each_other() {
    in_vm();
    if std::env::var("LIGHTER_VM_HOST").unwrap() == "2" {
        let connect = || TcpStream::connect("host1:7000").ok();
        let mut stream = within(Duration::from_secs(30), connect).expect("host1 listens");
        stream.write_all(WORDS.as_bytes()).unwrap();
        return;
    }
    let listener = TcpListener::bind("host1:7000").unwrap();
    let (mut stream, peer) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), peer.ip().to_string().as_str()), (WORDS, "10.0.0.2"));
}
