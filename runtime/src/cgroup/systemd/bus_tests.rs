#![allow(clippy::unwrap_used)]

use std::thread;

use super::super::wire::{ENDIAN, VERSION};
use super::*;

/// A message of systemd's: kind, serial it answers, member or error, body.
fn message(kind: u8, reply_to: u32, name: &str, signature: &str, body: &Writer) -> Vec<u8> {
    let mut message = Writer(vec![ENDIAN, kind, 1, VERSION]);
    message.length(body.0.len());
    message.number(b'u', 99);
    message.array(8, &mut |writer| {
        let text = |writer: &mut Writer, field, name: &str| {
            writer.align(8);
            writer.0.push(field);
            writer.signature("s");
            writer.string(name);
        };
        match kind {
            SIGNAL => text(writer, 3, name),
            ERROR => text(writer, 4, name),
            _ => {}
        }
        text(writer, 7, ":1.0");
        if reply_to != 0 {
            writer.align(8);
            writer.0.push(5);
            writer.signature("u");
            writer.number(b'u', reply_to.into());
        }
        writer.align(8);
        writer.0.push(8);
        writer.signature("g");
        writer.signature(signature);
    });
    message.align(8);
    message.0.extend_from_slice(&body.0);
    message.0
}

fn text_body(texts: &[&str]) -> Writer {
    let mut body = Writer::default();
    for text in texts {
        body.string(text);
    }
    body
}

fn job_removed(job: &str, result: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.number(b'u', 7);
    body.string(job).string("a.scope").string(result);
    message(SIGNAL, 0, "JobRemoved", "uoss", &body)
}

/// A bus whose other end says all this, whatever it is asked.
fn bus(said: Vec<Vec<u8>>, time: Duration) -> Bus {
    let (stream, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        for part in said {
            theirs.write_all(&part).unwrap();
        }
        let mut rest = Vec::new();
        let _ = theirs.read_to_end(&mut rest);
    });
    Bus::new(stream, Instant::now() + time)
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_end_of_a_job_may_come_before_the_answer_that_names_it() {
    let mut bus = bus(
        vec![
            job_removed("/job/1", "canceled"),
            job_removed("/job/2", "done"),
            message(METHOD_RETURN, 7, "", "s", &text_body(&["of another call"])),
            message(METHOD_RETURN, 1, "", "o", &text_body(&["/job/2"])),
            message(SIGNAL, 0, "UnitNew", "so", &text_body(&["a.scope", "/a"])),
            job_removed("/job/3", "failed"),
        ],
        LONG,
    );
    let answer = bus.call(&BUS, "Any", "", &Writer::default()).unwrap();
    assert_eq!(answer.reader().string(), Some("/job/2"));
    assert_eq!(bus.job("/job/2").unwrap(), "done");
    assert_eq!(bus.job("/job/3").unwrap(), "failed");
}

#[test]
fn an_error_is_told_in_its_words() {
    let said = message(ERROR, 1, "org.x.NoSuchUnit", "s", &text_body(&["Unit a is not loaded."]));
    let error = bus(vec![said], LONG).call(&BUS, "Stop", "", &Writer::default()).unwrap_err();
    assert_eq!(error.to_string(), "systemd refuses Stop: Unit a is not loaded. (org.x.NoSuchUnit)");
}

#[test]
fn silence_and_nonsense_end_the_conversation() {
    let call = |said, time| bus(said, time).call(&BUS, "Any", "", &Writer::default()).unwrap_err();
    assert!(matches!(call(vec![], Duration::from_millis(20)), Error::Timeout));
    assert!(matches!(call(vec![], Duration::ZERO), Error::Timeout));
    assert!(matches!(call(vec![b"HTTP/1.1 400 Bad Request".to_vec()], LONG), Error::Malformed));
}

#[test]
fn a_refused_identity_is_told() {
    for said in ["OK 0123\r\n", "DATA\r\nOK 0123\r\n"] {
        assert!(bus(vec![said.into()], LONG).authenticate("x").is_ok(), "{said}");
    }
    let mut endless = bus(vec![vec![b'x'; 64 << 10]], LONG);
    assert!(matches!(endless.authenticate("x"), Err(Error::Malformed)));
    let mut no = bus(vec![b"REJECTED EXTERNAL\r\n".to_vec()], LONG);
    let error = no.authenticate("unix:path=/x").unwrap_err();
    assert_eq!(error.to_string(), "the bus at unix:path=/x refuses us: REJECTED EXTERNAL");
}

#[test]
fn signals_may_follow_the_authentication_at_once() {
    let answer = message(METHOD_RETURN, 1, "", "o", &text_body(&["/job/1"]));
    for cut in [0, 1, 20] {
        let signal = job_removed("/job/1", "done");
        let (first, rest) = signal.split_at(cut.min(signal.len()));
        let ok = [b"DATA\r\nOK 0123\r\n", first].concat();
        let mut bus = bus(vec![ok, [rest, answer.as_slice()].concat()], LONG);
        bus.authenticate("x").unwrap();
        bus.call(&BUS, "Any", "", &Writer::default()).unwrap();
        assert_eq!(bus.job("/job/1").unwrap(), "done", "{cut}");
    }
}

#[test]
fn addresses() {
    let path = |address| address_of(address).and_then(|a| Some(a.path()?.to_bytes().to_owned()));
    assert_eq!(path("unix:path=/run/a%20b,guid=1"), Some(b"/run/a b".to_vec()));
    assert_eq!(path("unix:guid=1,path=/x"), Some(b"/x".to_vec()));
    let name = address_of("unix:abstract=a/b").unwrap();
    assert_eq!(name.abstract_name(), Some(&b"a/b"[..]));
    for none in ["tcp:host=x,port=1", "unix:tmpdir=/tmp", "unix:path=%zz", "unix:path=%2", ""] {
        assert!(address_of(none).is_none(), "{none}");
    }
    let error = Bus::connect("tcp:host=x;unixexec:path=/x", false).unwrap_err();
    assert!(error.to_string().contains("tcp:host=x"), "{error}");
}
