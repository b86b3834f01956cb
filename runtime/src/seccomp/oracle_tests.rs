//! The same profiles through libseccomp, on the names that its version knows.
//!
//! Left out on purpose: a call newer than the profile (libseccomp alone has no rule for that; ours is
//! checked against the specification of runc's); conditional rules for calls that i386 multiplexes
//! (libseccomp drops their conditions there); a masked comparison with an empty mask or with bits
//! outside of it; and several rules for one call but those that compare one argument with numbers:
//! its merged tree of conditions answers wrongly for some others (2.5.4 on i386 allows
//! `write(0xffffffff, 0, 0x56a8786d, 0, 0)` under "fourth != 0", "fifth < 0 and first != 0", "first <= 3
//! and third != 0", none of which holds).

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};

use super::*;

fn foreign_arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::X86_64 => ScmpArch::X8664,
        Arch::X86 => ScmpArch::X86,
        Arch::X32 => ScmpArch::X32,
        Arch::Aarch64 => ScmpArch::Aarch64,
        Arch::Arm => ScmpArch::Arm,
    }
}

fn foreign_action(action: Action, errno: Option<u32>) -> ScmpAction {
    let data = errno.unwrap_or(1);
    match action {
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Trap => ScmpAction::Trap,
        Action::Errno => ScmpAction::Errno(data as i32),
        Action::Trace => ScmpAction::Trace(data as u16),
        Action::Notify => ScmpAction::Notify,
        Action::Log => ScmpAction::Log,
        Action::Allow => ScmpAction::Allow,
    }
}

fn foreign_argument(argument: &Argument) -> ScmpArgCompare {
    let (op, value) = match argument.op {
        Operator::NotEqual => (ScmpCompareOp::NotEqual, argument.value),
        Operator::Less => (ScmpCompareOp::Less, argument.value),
        Operator::LessEqual => (ScmpCompareOp::LessOrEqual, argument.value),
        Operator::Equal => (ScmpCompareOp::Equal, argument.value),
        Operator::GreaterEqual => (ScmpCompareOp::GreaterEqual, argument.value),
        Operator::Greater => (ScmpCompareOp::Greater, argument.value),
        Operator::MaskedEqual => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
    };
    ScmpArgCompare::new(argument.index, op, value)
}

/// What runc does with a profile.
fn foreign_program(profile: &Profile, native: Arch) -> Vec<libc::sock_filter> {
    let default = foreign_action(profile.default_action, profile.default_errno_ret);
    let mut context = ScmpFilterContext::new(default).unwrap();
    if native != Arch::NATIVE {
        context.remove_arch(ScmpArch::Native).unwrap();
        context.add_arch(foreign_arch(native)).unwrap();
    }
    for arch in profile.architectures.iter().filter_map(|name| Arch::parse(name)) {
        context.add_arch(foreign_arch(arch)).unwrap();
    }
    for rule in &profile.syscalls {
        let action = foreign_action(rule.action, rule.errno_ret);
        if action == default {
            continue;
        }
        for name in &rule.names {
            let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
            let mut indices: Vec<u32> = rule.args.iter().map(|one| one.index).collect();
            indices.sort_unstable();
            indices.dedup();
            let rules: Vec<Vec<ScmpArgCompare>> = if rule.args.is_empty() {
                vec![vec![]]
            } else if indices.len() < rule.args.len() {
                rule.args.iter().map(|one| vec![foreign_argument(one)]).collect()
            } else {
                vec![rule.args.iter().map(foreign_argument).collect()]
            };
            for conditions in rules {
                // "Exists already" is no failure: the first counts.
                let _ = context.add_rule_conditional(action, syscall, &conditions);
            }
        }
    }
    let bytes = {
        use std::io::{Read as _, Seek as _};
        let mut file = tempfile::tempfile().unwrap();
        context.export_bpf(&file).unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    bytes
        .chunks_exact(8)
        .map(|word| libc::sock_filter {
            code: u16::from_ne_bytes([word[0], word[1]]),
            jt: word[2],
            jf: word[3],
            k: u32::from_ne_bytes([word[4], word[5], word[6], word[7]]),
        })
        .collect()
}

/// Numbers that both tables give the same name.
fn common(arch: Arch) -> Vec<u32> {
    crate::seccomp::tables::names()
        .filter_map(|name| {
            let ours = tables::numbers(name)?.on(arch)?;
            let theirs = ScmpSyscall::from_name_by_arch(name, foreign_arch(arch)).ok()?;
            (theirs.as_raw_syscall() == ours as i32).then_some(ours)
        })
        .collect()
}

#[test]
fn the_tables_agree() {
    for arch in ARCHES {
        let mut compared = 0;
        for name in crate::seccomp::tables::names() {
            let ours = tables::numbers(name).unwrap().on(arch);
            let theirs = ScmpSyscall::from_name_by_arch(name, foreign_arch(arch))
                .ok()
                .map(|syscall| syscall.as_raw_syscall())
                // Negative are calls that it only knows from elsewhere.
                .filter(|&number| number >= 0);
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    assert_eq!(ours as i32, theirs, "{name} on {arch:?}");
                    compared += 1;
                }
                // Its table is older.
                (Some(_), None) | (None, None) => {}
                (None, Some(theirs)) => panic!("{name} on {arch:?}: we lack {theirs:#x}"),
            }
        }
        assert!(compared > 300, "{arch:?}: {compared}");
    }
}

fn compare(profile: &Profile, native: Arch, arguments: &[[u64; 6]], only: Option<&[&str]>) {
    let ours = compile(profile, native).unwrap();
    let theirs = foreign_program(profile, native);
    for arch in ARCHES {
        let numbers = match only {
            Some(names) => {
                names.iter().filter_map(|name| tables::numbers(name)?.on(arch)).collect()
            }
            None => common(arch),
        };
        for number in numbers {
            for args in arguments {
                // It compares 32 bits on x32.
                let narrow = arch.narrow() || arch == Arch::X32;
                let args = args.map(|value| if narrow { value & 0xffff_ffff } else { value });
                let carrier = if arch == Arch::X32 { Arch::X86_64 } else { arch };
                let call = Call { arch: carrier, number, args };
                let mine = run(&ours.instructions, &call);
                if mine == RET_ERRNO | libc::ENOSYS as u32
                    && mine == expected(profile, native, &call)
                {
                    continue;
                }
                assert_eq!(
                    mine,
                    run(&theirs, &call),
                    "{arch:?} {call:x?}\n{:?}",
                    profile.syscalls.iter().filter(|r| r.names.len() < 9).collect::<Vec<_>>()
                );
            }
        }
    }
}

#[test]
fn docker_s_profile_gets_libseccomp_s_verdicts() {
    let arguments: Vec<[u64; 6]> = (0..50)
        .chain([
            0x2_0000,
            0x2_0008,
            0x1000_0000,
            0x0200_0000,
            0x80,
            0x7e02_0000,
            0xffff_ffff,
            1 << 40,
        ])
        .map(|first| [first, first, 0, 1, 2, 3])
        .collect();
    for capable in [false, true] {
        compare(&default_profile(|_| capable), Arch::NATIVE, &arguments, None);
    }
}

const PLAIN: [&str; 8] = ["read", "write", "open", "close", "clone", "execve", "openat2", "mount"];

/// Calls that may have several conditional rules, each then one comparison of the same argument.
const OFTEN: [&str; 4] = ["read", "write", "open", "close"];

fn comparable_profile() -> impl Strategy<Value = Profile> {
    let argument = any_argument().prop_map(|mut argument| {
        if argument.op == Operator::MaskedEqual {
            // With an empty mask it takes the rule for one without conditions.
            argument.value |= 1;
        }
        argument.value_two &= argument.value;
        // On 32-bit ABIs it cuts values off, while we know that they cannot occur.
        argument.value &= 0xffff_ffff;
        argument.value_two &= 0xffff_ffff;
        argument
    });
    let a_rule =
        (prop::sample::select(PLAIN.to_vec()), any_action(), prop::collection::vec(argument, 0..3));
    let arches = prop::sample::subsequence(X86_ARCHES.to_vec(), 0..4);
    (any_action(), arches, prop::collection::vec(a_rule, 0..6)).prop_map(
        |(default, arches, rules)| {
            // One verdict for all conditional rules of a call.
            let mut seen: Vec<(&str, Action)> = Vec::new();
            let mut kept = Vec::new();
            for (name, mut action, mut args) in rules {
                if let [first, ..] = args.as_mut_slice() {
                    let known = seen.iter().find(|(known, _)| *known == name);
                    if OFTEN.contains(&name) {
                        action = known.map_or(action, |(_, first)| *first);
                        (first.index, first.op) = (0, Operator::Equal);
                        args.truncate(1);
                    } else if known.is_some() {
                        continue;
                    }
                    seen.push((name, action));
                }
                kept.push(rule(&[name], action, args));
            }
            let rules = kept;
            profile(default, &arches, rules)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn random_profiles_get_libseccomp_s_verdicts(
        profile in comparable_profile(),
        arguments in prop::collection::vec(prop::array::uniform6(any_value()), 1..8),
    ) {
        compare(&profile, Arch::NATIVE, &arguments, Some(&PLAIN));
    }
}
