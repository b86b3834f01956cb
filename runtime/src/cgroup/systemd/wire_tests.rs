#![allow(clippy::unwrap_used)]

use super::*;

/// What systemd 252's `busctl call … StartTransientUnit 'ssa(sv)a(sa(sv))' …` sends.
const START: &str = "\
    6c0104016001000002000000b600000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64\
    3100000000000000030173001200000053746172745472616e7369656e74556e69740000000000000201730020000000\
    6f72672e667265656465736b746f702e73797374656d64312e4d616e6167657200000000000000000601730018000000\
    6f72672e667265656465736b746f702e73797374656d6431000000000000000008016700107373612873762961287361\
    287376292900000009000000612d622e73636f7065000000070000007265706c616365003801000005000000536c6963\
    650001730000000007000000782e736c69636500000000000800000044656c6567617465000162000100000000000000\
    040000005049447300026175000000000400000067120000090000004d656d6f72794d61780001740000000000000000\
    00000004000000000b000000416c6c6f7765644350557300026179000200000007020000000000000500000057616e74\
    73000261730000000c00000007000000792e736c696365000b000000446576696365416c6c6f77000561287373290000\
    320000000000000008000000636861722d7074730000000002000000727700000d0000002f6465762f636861722f313a\
    33000000010000007200000000000000040000004e69636500016900fbffffff0a000000526573746172745365630001\
    6400000000000000000000000000f83f0000000000000000";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

fn properties() -> Vec<Property> {
    let number = |letter, bits| Value::Number(letter, bits);
    let pair = |first: &str, second: &str| Value::Pair(first.into(), second.into());
    [
        ("Slice", Value::text("x.slice")),
        ("Delegate", number(b'b', 1)),
        ("PIDs", Value::Array("u", vec![number(b'u', 4711)])),
        ("MemoryMax", number(b't', 64 << 20)),
        ("AllowedCPUs", Value::Array("y", vec![number(b'y', 7), number(b'y', 2)])),
        ("Wants", Value::Array("s", vec![Value::text("y.slice")])),
        (
            "DeviceAllow",
            Value::Array("(ss)", vec![pair("char-pts", "rw"), pair("/dev/char/1:3", "r")]),
        ),
        ("Nice", number(b'i', (-5i64).cast_unsigned())),
        ("RestartSec", number(b'd', 1.5f64.to_bits())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[test]
fn a_call_has_the_bytes_of_sd_bus() {
    let mut body = Writer::default();
    body.string("a-b.scope").string("replace").properties(&properties()).nothing();
    const INTERACTIVE: u8 = 4;
    let signature = "ssa(sv)a(sa(sv))";
    let ours = call(2, INTERACTIVE, &super::super::MANAGER, "StartTransientUnit", signature, &body);
    assert_eq!(ours, bytes_of(START));
}

#[test]
fn a_message_is_read() {
    let bytes = bytes_of(START);
    assert_eq!(message_length(&bytes[..FIXED]), Some(bytes.len()));
    let message = parse(&bytes).unwrap();
    assert_eq!((message.kind, message.member.as_str()), (METHOD_CALL, "StartTransientUnit"));
    let mut body = Reader::new(&message.body);
    assert_eq!((body.string(), body.string()), (Some("a-b.scope"), Some("replace")));
}

#[test]
fn no_damage_panics() {
    let bytes = bytes_of(START);
    for length in 0..bytes.len() {
        let _ = parse(&bytes[..length]);
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let _ = message_length(&damaged[..FIXED]);
            if let Some(message) = parse(&damaged) {
                let mut body = Reader::new(&message.body);
                let _ = (body.string(), body.variant_string(), body.u32());
            }
        }
    }
    let mut long = bytes[..FIXED].to_vec();
    long[7] = 0x7f;
    assert_eq!(message_length(&long), None, "too long");
}
