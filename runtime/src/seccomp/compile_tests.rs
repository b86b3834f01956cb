#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::seccomp::default_profile;

/// What the kernel hands to a program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) arch: Arch,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

/// Runs a program as the kernel's interpreter would, refusing what the kernel's checker refuses.
pub(super) fn run(program: &[libc::sock_filter], call: &Call) -> u32 {
    let word = |offset: u32| match offset {
        NR => call.number,
        ARCH => call.arch.audit(),
        16..64 if offset.is_multiple_of(4) => {
            let argument = call.args[(offset - ARGS) as usize / 8];
            assert!(!call.arch.narrow() || argument <= u64::from(u32::MAX), "not a kernel's call");
            let (high, low) = halves(argument);
            if offset.is_multiple_of(8) { low } else { high }
        }
        _ => panic!("load from {offset}"),
    };
    let mut accumulator = 0u32;
    let mut place = 0usize;
    loop {
        let at = program.get(place).expect("jump out of the program");
        place += 1;
        let mut test = |holds: bool| place += usize::from(if holds { at.jt } else { at.jf });
        match at.code {
            LD_W_ABS => accumulator = word(at.k),
            ALU_AND_K => accumulator &= at.k,
            JA => place += at.k as usize,
            JEQ_K => test(accumulator == at.k),
            JGT_K => test(accumulator > at.k),
            JGE_K => test(accumulator >= at.k),
            RET_K => return at.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn holds(argument: &Argument, call: &Call) -> bool {
    let actual = call.args[argument.index as usize];
    match argument.op {
        Operator::NotEqual => actual != argument.value,
        Operator::Less => actual < argument.value,
        Operator::LessEqual => actual <= argument.value,
        Operator::Equal => actual == argument.value,
        Operator::GreaterEqual => actual >= argument.value,
        Operator::Greater => actual > argument.value,
        Operator::MaskedEqual => actual & argument.value == argument.value_two,
    }
}

/// The semantics in the module's introduction, straight from the profile and slowly.
pub(super) fn expected(profile: &Profile, native: Arch, call: &Call) -> u32 {
    let mut arch = call.arch;
    if arch == Arch::X86_64 && call.number >= X32_BIT {
        arch = Arch::X32;
    }
    let value = |action, errno| verdict(action, errno, "").unwrap();
    let default = value(profile.default_action, profile.default_errno_ret);
    let listed =
        |arch| native == arch || profile.architectures.iter().any(|n| Arch::parse(n) == Some(arch));
    if !listed(arch) {
        return if call.number == u32::MAX && listed(Arch::X86_64) && arch == Arch::X32 {
            default
        } else {
            RET_KILL_THREAD
        };
    }
    let number = |name: &str| tables::numbers(name).and_then(|numbers| numbers.on(arch));
    let all = profile.syscalls.iter().flat_map(|rule| rule.names.iter().map(move |n| (n, rule)));
    let newest = all.clone().filter_map(|(name, _)| number(name)).max();
    let refuses = !matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace);
    if refuses && newest.is_some_and(|newest| call.number > newest) {
        return RET_ERRNO | libc::ENOSYS as u32;
    }
    let mut conditional = None;
    for (name, rule) in all {
        let value = value(rule.action, rule.errno_ret);
        if value == default {
            continue;
        }
        if number(name) == Some(call.number) {
            if rule.args.is_empty() {
                return value;
            }
            let mut indices: Vec<u32> = rule.args.iter().map(|one| one.index).collect();
            indices.sort_unstable();
            indices.dedup();
            let matches = if indices.len() < rule.args.len() {
                rule.args.iter().any(|one| holds(one, call))
            } else {
                rule.args.iter().all(|one| holds(one, call))
            };
            if matches {
                conditional = conditional.or(Some(value));
            }
        }
        let allows = matches!(rule.action, Action::Allow | Action::Log);
        if arch == Arch::X86
            && (rule.args.is_empty() || !allows)
            && let Some((multiplexer, value_wanted)) = tables::multiplexed(name)
            && number(multiplexer) == Some(call.number)
            && call.args[0] == value_wanted
        {
            conditional = conditional.or(Some(value));
        }
    }
    conditional.unwrap_or(default)
}

pub(super) fn rule(names: &[&'static str], action: Action, args: Vec<Argument>) -> Rule {
    Rule {
        names: names.iter().map(|name| Cow::Borrowed(*name)).collect(),
        action,
        errno_ret: None,
        args,
    }
}

pub(super) fn profile(
    default_action: Action,
    arches: &[&'static str],
    syscalls: Vec<Rule>,
) -> Profile {
    Profile {
        default_action,
        default_errno_ret: None,
        architectures: arches.iter().map(|name| Cow::Borrowed(*name)).collect(),
        flags: None,
        listener_path: Some("/run/listener".into()),
        listener_metadata: None,
        syscalls,
    }
}

const X86_ARCHES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

fn agree(profile: &Profile, native: Arch, calls: impl IntoIterator<Item = Call>) {
    let filter = compile(profile, native).unwrap();
    for call in calls {
        assert_eq!(run(&filter.instructions, &call), expected(profile, native, &call), "{call:x?}");
    }
}

/// Every number around the tables, with arguments around the values that rules use.
pub(super) fn sweep(arch: Arch, arguments: &[u64]) -> impl Iterator<Item = Call> + '_ {
    let numbers = (0..520)
        .chain([1000, 0x0f_0002, 0x0f_0009, X32_BIT - 1, u32::MAX - 1, u32::MAX])
        .chain((0..560).map(|number| number | X32_BIT));
    numbers.flat_map(move |number| {
        arguments.iter().map(move |&first| {
            let first = if arch.narrow() { first & u64::from(u32::MAX) } else { first };
            Call { arch, number, args: [first, first, 0, 0, 1, 2] }
        })
    })
}

#[test]
fn docker_s_profile_says_what_it_should_on_every_abi() {
    for capable in [false, true] {
        let profile = default_profile(|_| capable);
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
            agree(
                &profile,
                Arch::NATIVE,
                sweep(
                    arch,
                    &[
                        0,
                        1,
                        2,
                        8,
                        11,
                        12,
                        38,
                        40,
                        45,
                        46,
                        0x2_0008,
                        0x1000_0000,
                        0xffff_ffff,
                        u64::MAX,
                    ],
                ),
            );
        }
    }
}

#[test]
fn docker_s_profile_by_name() {
    let filter = compile(&default_profile(|_| false), Arch::NATIVE).unwrap();
    let admin = compile(&default_profile(|name| name == "CAP_SYS_ADMIN"), Arch::NATIVE).unwrap();
    let errno = |errno: i32| RET_ERRNO | errno.unsigned_abs();
    let ask = |filter: &Filter, name: &str, first: u64| {
        let number = tables::numbers(name).unwrap().on(Arch::NATIVE).unwrap();
        run(
            &filter.instructions,
            &Call { arch: Arch::NATIVE, number, args: [first, 0, 0, 0, 0, 0] },
        )
    };
    assert_eq!(ask(&filter, "read", 0), RET_ALLOW);
    assert_eq!(ask(&filter, "mount", 0), errno(libc::EPERM));
    assert_eq!(ask(&admin, "mount", 0), RET_ALLOW);
    assert_eq!(ask(&filter, "clone3", 0), errno(libc::ENOSYS));
    assert_eq!(ask(&admin, "clone3", 0), RET_ALLOW);
    assert_eq!(ask(&filter, "clone", 0x11), RET_ALLOW);
    assert_eq!(ask(&filter, "clone", libc::CLONE_NEWUSER as u64), errno(libc::EPERM));
    assert_eq!(ask(&filter, "socket", libc::AF_INET6 as u64), RET_ALLOW);
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        assert_eq!(ask(&filter, "socket", family as u64), errno(libc::EPERM));
        assert_eq!(ask(&admin, "socket", family as u64), errno(libc::EPERM));
    }
    assert_eq!(ask(&filter, "keyctl", 0), errno(libc::EPERM));
    assert_eq!(ask(&filter, "io_uring_setup", 0), errno(libc::EPERM));
    // Newer than anything the profile names.
    assert_eq!(ask(&filter, "file_setattr", 0), errno(libc::ENOSYS));
    assert!(filter.instructions.len() < 1100, "{}", filter.instructions.len());
    assert_eq!(filter.flags, sys::FLAG_SPEC_ALLOW);
    assert_eq!(filter.listener, None);
}

#[test]
fn every_operator_on_both_halves() {
    let edges =
        [0, 1, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX - 1, u64::MAX];
    let operators = [
        Operator::NotEqual,
        Operator::Less,
        Operator::LessEqual,
        Operator::Equal,
        Operator::GreaterEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ];
    for op in operators {
        for value in edges {
            for value_two in [0, 1, 0x1_0000_0000] {
                let args = vec![Argument { index: 1, value, value_two, op }];
                let profile =
                    profile(Action::Errno, &X86_ARCHES, vec![rule(&["read"], Action::Allow, args)]);
                let filter = compile(&profile, Arch::X86_64).unwrap();
                for (arch, number) in [(Arch::X86_64, 0), (Arch::X86, 3), (Arch::X86_64, X32_BIT)] {
                    for actual in edges {
                        if arch.narrow() && actual > u64::from(u32::MAX) {
                            continue;
                        }
                        let call = Call { arch, number, args: [9, actual, 9, 9, 9, 9] };
                        assert_eq!(
                            run(&filter.instructions, &call),
                            expected(&profile, Arch::X86_64, &call),
                            "{op:?} {value:#x} {value_two:#x} {call:x?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_action_has_its_number() {
    for (action, value) in [
        (Action::KillThread, 0),
        (Action::KillProcess, 0x8000_0000),
        (Action::Trap, 0x3_0000),
        (Action::Errno, 0x5_0001),
        (Action::Trace, 0x7ff0_0001),
        (Action::Notify, 0x7fc0_0000),
        (Action::Log, 0x7ffc_0000),
        (Action::Allow, 0x7fff_0000),
    ] {
        let default = if action == Action::Allow { Action::Errno } else { Action::Allow };
        let profile = profile(default, &[], vec![rule(&["read"], action, vec![])]);
        let filter = compile(&profile, Arch::X86_64).unwrap();
        let call = Call { arch: Arch::X86_64, number: 0, args: [0; 6] };
        assert_eq!(run(&filter.instructions, &call), value, "{action:?}");
    }
}

#[test]
fn errno_of_rule_and_default() {
    let mut own = rule(&["read"], Action::Errno, vec![]);
    own.errno_ret = Some(5);
    let mut profile =
        profile(Action::Errno, &[], vec![own, rule(&["mseal"], Action::Allow, vec![])]);
    profile.default_errno_ret = Some(38);
    let filter = compile(&profile, Arch::X86_64).unwrap();
    let ask =
        |number| run(&filter.instructions, &Call { arch: Arch::X86_64, number, args: [0; 6] });
    assert_eq!(ask(0), 0x5_0005);
    assert_eq!(ask(1), 0x5_0026);
}

#[test]
fn an_unlisted_architecture_is_killed() {
    let filter = compile(&profile(Action::Allow, &[], vec![]), Arch::X86_64).unwrap();
    let ask = |arch, number| run(&filter.instructions, &Call { arch, number, args: [0; 6] });
    assert_eq!(ask(Arch::X86_64, 0), RET_ALLOW);
    assert_eq!(ask(Arch::X86, 0), RET_KILL_THREAD);
    assert_eq!(ask(Arch::X86_64, X32_BIT), RET_KILL_THREAD);
    assert_eq!(ask(Arch::X86_64, u32::MAX), RET_ALLOW);
    assert_eq!(ask(Arch::Aarch64, 0), RET_KILL_THREAD);
}

#[test]
fn a_permissive_default_has_no_enosys() {
    let filter = compile(
        &profile(Action::Allow, &[], vec![rule(&["read"], Action::Trap, vec![])]),
        Arch::X86_64,
    )
    .unwrap();
    let call = Call { arch: Arch::X86_64, number: 400, args: [0; 6] };
    assert_eq!(run(&filter.instructions, &call), RET_ALLOW);
}

#[test]
fn flags_and_listener() {
    let notify = |flags| {
        let mut profile =
            profile(Action::Allow, &[], vec![rule(&["mkdir"], Action::Notify, vec![])]);
        profile.flags = flags;
        profile.listener_metadata = Some("m".into());
        compile(&profile, Arch::X86_64).unwrap()
    };
    let filter = notify(Some(vec![Flag::Tsync, Flag::WaitKillableRecv]));
    assert_eq!(
        filter.flags,
        sys::FLAG_TSYNC
            | sys::FLAG_TSYNC_ESRCH
            | sys::FLAG_NEW_LISTENER
            | sys::FLAG_WAIT_KILLABLE_RECV
    );
    assert_eq!(
        filter.listener,
        Some(Listener { path: "/run/listener".into(), metadata: "m".into() })
    );
    assert_eq!(notify(None).flags, sys::FLAG_SPEC_ALLOW | sys::FLAG_NEW_LISTENER);
    assert_eq!(notify(Some(vec![Flag::Log])).flags, sys::FLAG_LOG | sys::FLAG_NEW_LISTENER);
}

#[test]
fn refusals_name_their_cause() {
    let at = |index| Argument { index, value: 0, value_two: 0, op: Operator::Equal };
    let mut high = rule(&["read"], Action::Errno, vec![]);
    high.errno_ret = Some(4096);
    let mut unused = profile(Action::Allow, &[], vec![]);
    unused.default_errno_ret = Some(5);
    let mut silent = profile(Action::Allow, &[], vec![rule(&["mkdir"], Action::Notify, vec![])]);
    silent.listener_path = None;
    let mut idle = profile(Action::Allow, &[], vec![]);
    idle.flags = Some(vec![Flag::WaitKillableRecv]);
    for (profile, wanted) in [
        (
            profile(Action::Allow, &[], vec![rule(&["read"], Action::Trap, vec![at(6)])]),
            Error::Index { syscall: "read".into(), index: 6 },
        ),
        (
            profile(Action::Allow, &[], vec![high]),
            Error::Errno { place: "read".into(), errno: 4096 },
        ),
        (unused, Error::UnusedErrno { place: "default action".into(), errno: 5 }),
        (
            profile(Action::Allow, &["SCMP_ARCH_MIPS", "SCMP_ARCH_X68"], vec![]),
            Error::Architecture("SCMP_ARCH_X68".into()),
        ),
        (profile(Action::Notify, &[], vec![]), Error::DefaultNotify),
        (
            profile(Action::Allow, &[], vec![rule(&["write"], Action::Notify, vec![])]),
            Error::NotifyOwn("write"),
        ),
        (silent, Error::NoListener),
        (idle, Error::UnusedListener("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")),
    ] {
        assert_eq!(compile(&profile, Arch::X86_64).unwrap_err(), wanted);
    }
}

#[test]
fn long_programs_jump_far_or_are_refused() {
    let rules = |count: u64| {
        let rules = (0..count)
            .map(|value| {
                let args = vec![Argument {
                    index: 0,
                    value: value << 32,
                    value_two: 0,
                    op: Operator::GreaterEqual,
                }];
                rule(&["read", "close", "openat"], Action::Allow, args)
            })
            .collect();
        profile(Action::Errno, &[], rules)
    };
    agree(&rules(200), Arch::X86_64, sweep(Arch::X86_64, &[0, 5 << 32, 300 << 32]));
    assert!(matches!(compile(&rules(300), Arch::X86_64), Err(Error::TooLong { count: 4097.. })));
}

#[test]
fn long_runs_of_equal_tests() {
    let rules = (0..500u64)
        .map(|value| {
            let args =
                vec![Argument { index: 0, value: value * 3, value_two: 0, op: Operator::Equal }];
            rule(&["socket", "read"], Action::Allow, args)
        })
        .collect();
    let values: Vec<u64> = (0..1600).chain([1 << 32, (1 << 32) + 3]).collect();
    let calls = values.iter().map(|&first| Call {
        arch: Arch::X86_64,
        number: 41,
        args: [first, 0, 0, 0, 0, 0],
    });
    agree(&profile(Action::Errno, &X86_ARCHES, rules), Arch::X86_64, calls);
}

pub(super) fn any_action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::KillThread,
        Action::KillProcess,
        Action::Trap,
        Action::Errno,
        Action::Trace,
        Action::Log,
        Action::Allow,
    ])
}

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..4, Just(0xffff_ffff), (0u64..3).prop_map(|v| v << 32), any::<u64>()]
}

fn any_argument() -> impl Strategy<Value = Argument> {
    let op = prop::sample::select(vec![
        Operator::NotEqual,
        Operator::Less,
        Operator::LessEqual,
        Operator::Equal,
        Operator::GreaterEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ]);
    (0u32..6, any_value(), any_value(), op).prop_map(|(index, value, value_two, op)| Argument {
        index,
        value,
        value_two,
        op,
    })
}

const NAMES: [&str; 14] = [
    "read",
    "write",
    "open",
    "close",
    "socket",
    "socketcall",
    "sendmsg",
    "shmget",
    "clone",
    "execve",
    "openat2",
    "futex_wake",
    "set_tls",
    "no_such_call",
];

fn any_profile() -> impl Strategy<Value = Profile> {
    let a_rule = (
        prop::sample::subsequence(NAMES.to_vec(), 1..4),
        any_action(),
        prop::option::of(0u32..4096),
        prop::collection::vec(any_argument(), 0..4),
    )
        .prop_map(|(names, action, errno_ret, args)| Rule {
            errno_ret: errno_ret.filter(|_| matches!(action, Action::Errno | Action::Trace)),
            ..rule(&names, action, args)
        });
    let arches = prop::sample::subsequence(
        vec![
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_MIPS",
        ],
        0..6,
    );
    (any_action(), arches, prop::collection::vec(a_rule, 0..12))
        .prop_map(|(default, arches, rules)| profile(default, &arches, rules))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_profiles_mean_what_the_slow_reading_says(
        profile in any_profile(),
        native in prop::sample::select(vec![Arch::X86_64, Arch::Aarch64]),
        arguments in prop::collection::vec(prop::array::uniform6(any_value()), 1..6),
    ) {
        let filter = compile(&profile, native).unwrap();
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
            let on = |arch: Arch| NAMES.iter().filter_map(move |name| tables::numbers(name)?.on(arch));
            let numbers: Vec<u32> = on(arch).chain(on(Arch::X32)).flat_map(|n| [n, n + 1]).collect();
            for &number in numbers.iter().chain(&[0, 450, 500, u32::MAX]) {
                for args in &arguments {
                    let args = args.map(|v| if arch.narrow() { u64::from(halves(v).1) } else { v });
                    let call = Call { arch, number, args };
                    prop_assert_eq!(
                        run(&filter.instructions, &call), expected(&profile, native, &call), "{:x?}", call
                    );
                }
            }
        }
    }
}

/// Not an assertion but a figure; run with `--ignored --nocapture` and an optimised profile.
#[test]
#[ignore = "prints a time"]
#[allow(clippy::print_stdout)]
fn time_of_compiling_docker_s_profile() {
    let round = || {
        let start = std::time::Instant::now();
        let profile = std::hint::black_box(default_profile(|_| false));
        let count = compile(&profile, Arch::NATIVE).unwrap().instructions.len();
        (start.elapsed(), count)
    };
    let (least, count) = (0..2000).map(|_| round()).min().unwrap();
    println!("{least:?} at best, {count} instructions");
}

#[cfg(feature = "libseccomp-oracle")]
#[path = "oracle_tests.rs"]
mod oracle;
