#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]

use proptest::prelude::*;

use super::super::resources::default_device_rules;
use super::*;

fn rule(text: &str) -> DeviceRule {
    let mut words = text.split(' ');
    let allow = words.next() == Some("allow");
    let kind = match words.next() {
        Some("a") => DeviceKind::All,
        Some("b") => DeviceKind::Block,
        _ => DeviceKind::Char,
    };
    let number = |word: &str| (word != "*").then(|| word.parse().unwrap());
    let (major, minor) = words.next().unwrap_or("*:*").split_once(':').unwrap();
    let access = DeviceAccess::parse(words.next().unwrap_or("rwm")).unwrap();
    DeviceRule { allow, kind, major: number(major), minor: number(minor), access }
}

fn fold(rules: &[&str]) -> Result<Policy, Error> {
    Policy::fold(&rules.iter().map(|text| rule(text)).collect::<Vec<_>>())
}

/// Runs a device program; the registers as the kernel has them.
fn run(program: &[Insn], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0u64; 11];
    let mut place = 0i64;
    loop {
        let at = program[usize::try_from(place).unwrap()];
        place += 1;
        let (dst, src) = (usize::from(at.registers & 15), usize::from(at.registers >> 4));
        let constant = at.immediate as i64 as u64;
        let mut jump = |holds: bool| place += if holds { i64::from(at.offset) } else { 0 };
        match at.code {
            LDX_MEM_W => registers[dst] = u64::from(context[at.offset as usize / 4]),
            ALU32_MOV_X => registers[dst] = registers[src] & 0xffff_ffff,
            ALU32_AND_K => registers[dst] &= constant & 0xffff_ffff,
            ALU32_RSH_K => registers[dst] = (registers[dst] & 0xffff_ffff) >> constant,
            ALU64_MOV_K => registers[dst] = constant,
            JNE_K => jump(registers[dst] != constant),
            JEQ_K => jump(registers[dst] == constant),
            JNE_X => jump(registers[dst] != registers[src]),
            JNE32_K => jump(registers[dst] as u32 != constant as u32),
            EXIT => return registers[0],
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// The kernel's v1 rule: one exception must cover the whole request, or touch it where the default allows.
fn expected(policy: &Policy, kind: u32, access: u8, major: u32, minor: u32) -> bool {
    let hit = policy.exceptions.iter().any(|e| {
        let same_kind = kind == if e.kind == DeviceKind::Block { 1 } else { 2 };
        let numbers = e.major.is_none_or(|m| m == major) && e.minor.is_none_or(|m| m == minor);
        let bits = e.access.bits();
        let covers = if policy.allow { bits & access != 0 } else { access & !bits == 0 };
        same_kind && numbers && covers
    });
    hit != policy.allow
}

#[test]
fn folding_keeps_what_the_last_rules_leave() {
    let lines = |rules: &[&str]| {
        let policy = fold(rules).unwrap();
        let lines: Vec<String> = policy.exceptions.iter().map(Exception::to_string).collect();
        (policy.allow, lines.join(", "))
    };
    for (rules, allow, exceptions) in [
        (&[] as &[&str], true, ""),
        (&["deny a"], false, ""),
        (&["allow c 1:3 rw", "deny a", "allow c 1:5 r"], false, "c 1:5 r"),
        (&["deny a", "allow c 1:3 r", "allow c 1:3 wm"], false, "c 1:3 rwm"),
        (&["deny a", "allow c 1:3 rwm", "deny c 1:3 w"], false, "c 1:3 rm"),
        (&["deny a", "allow c 1:3 rwm", "deny c 1:3 rwm"], false, ""),
        (&["deny a", "allow c *:* m", "deny b 8:* rwm"], false, "c *:* m"),
        (&["deny b 8:0 w"], true, "b 8:0 w"),
        (&["deny a", "allow a"], true, ""),
    ] {
        assert_eq!(lines(rules), (allow, exceptions.to_owned()), "{rules:?}");
    }
}

#[test]
fn a_hole_in_a_range_is_refused() {
    for rules in [
        &["deny a", "allow c 1:* rwm", "deny c 1:3 w"],
        &["deny a", "allow c 1:3 rwm", "deny c *:* r"],
    ] {
        assert!(matches!(fold(rules), Err(Error::Invalid { field: "devices", .. })), "{rules:?}");
    }
    // No bit in common: nothing is undone.
    assert!(fold(&["deny a", "allow c *:* m", "deny c 1:3 rw"]).is_ok());
}

#[test]
fn v1_gets_only_differences_and_additions_first() {
    let old = fold(&["deny a", "allow c 1:3 rwm", "allow c 1:5 rwm"]).unwrap();
    let new = fold(&["deny a", "allow c 1:5 r", "allow c 1:7 rwm"]).unwrap();
    let lines = |writes: Vec<(&str, String)>| {
        writes.into_iter().map(|(file, line)| format!("{file} {line}")).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(new.v1_writes(Some(&old))),
        ["devices.allow c 1:7 rwm", "devices.deny c 1:3 rwm", "devices.deny c 1:5 wm"]
    );
    assert_eq!(
        lines(new.v1_writes(None)),
        ["devices.deny a", "devices.allow c 1:5 r", "devices.allow c 1:7 rwm"]
    );
    assert!(new.v1_writes(Some(&new)).is_empty());
    assert_eq!(
        lines(fold(&["deny b 8:0 w"]).unwrap().v1_writes(Some(&new))),
        ["devices.allow a", "devices.deny b 8:0 w"]
    );
}

#[test]
fn reads_the_kernel_s_list() {
    let policy = fold(&["deny a", "allow c *:* m", "allow b 8:1 rw"]).unwrap();
    assert_eq!(Policy::parse_list("c *:* m\nb 8:1 rw\n"), Some(policy));
    assert_eq!(Policy::parse_list("a *:* rwm\n"), Some(Policy { allow: true, exceptions: vec![] }));
    assert_eq!(Policy::parse_list("x 1:1 r\n"), None);
}

#[test]
fn default_rules_open_the_promised_devices_only() {
    let program = Policy::fold(&default_device_rules()).unwrap().program();
    for (kind, access, major, minor, allowed) in [
        (2, 7, 1, 3, 1),
        (2, 6, 1, 9, 1),
        (2, 6, 136, 77, 1),
        (2, 6, 5, 2, 1),
        (2, 1, 10, 200, 1),
        (2, 2, 10, 200, 0),
        (2, 6, 5, 1, 0),
        (1, 1, 8, 0, 1),
        (1, 2, 8, 0, 0),
        (1, 3, 8, 0, 0),
        (2, 2, 1, 1, 0),
    ] {
        assert_eq!(
            run(&program, kind, access, major, minor),
            allowed,
            "{kind} {access} {major}:{minor}"
        );
    }
}

fn any_rule() -> impl Strategy<Value = DeviceRule> {
    let kind = prop::sample::select(vec![
        DeviceKind::All,
        DeviceKind::Char,
        DeviceKind::Char,
        DeviceKind::Block,
    ]);
    let number = || prop::option::of(prop_oneof![0u32..3, Just(u32::MAX)]);
    let access = prop::sample::select(vec!["r", "w", "m", "rw", "rwm", "rm"]);
    (any::<bool>(), kind, number(), number(), access).prop_map(
        |(allow, kind, major, minor, access)| {
            let access = DeviceAccess::parse(access).unwrap();
            DeviceRule { allow, kind, major, minor, access }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_decide_as_the_policy_says(rules in prop::collection::vec(any_rule(), 0..12)) {
        let Ok(policy) = Policy::fold(&rules) else { return Ok(()) };
        let program = policy.program();
        for kind in [1, 2] {
            for access in 1u8..8 {
                for major in [0, 1, 2, 3, u32::MAX] {
                    for minor in [0, 1, 2, 3, u32::MAX] {
                        let got = run(&program, kind, u32::from(access), major, minor) == 1;
                        prop_assert_eq!(got, expected(&policy, kind, access, major, minor));
                    }
                }
            }
        }
    }
}
