//! OCI profile → classic BPF. Pure.
//!
//! The program: the architecture selects a part; in it a balanced tree of `>=` tests over the call
//! numbers, neighbours with the same verdict merged, ends in leaves that either return or test
//! arguments and return. Every leaf returns, so no jump leads out of a subtree; a jump over a subtree
//! of more than 255 instructions becomes an unconditional one, which takes 32 bits.
//!
//! Semantics, those of runc with libseccomp:
//! - a call newer than all that the profile names gets `ENOSYS` if the default is a refusal, because
//!   C libraries fall back on that error only;
//! - a rule without conditions beats all rules with conditions for the same call, and among those
//!   without the first counts; with conditions, the first that matches counts;
//! - the conditions of a rule are AND-ed, but a rule that tests one argument twice becomes one rule
//!   per condition;
//! - rules that say what the default says are dropped;
//! - unknown names are skipped, as are architectures that this host's processes cannot use; calls
//!   through an architecture that is not listed kill the thread;
//! - on i386 an unconditional rule for a socket or System V IPC call also holds for its way through
//!   `socketcall` or `ipc`, and so does a conditional one if it refuses (its conditions lie behind a
//!   pointer there, and refusing too much is the safe side).

use super::profile::{Action, Argument, Flag, Operator, Profile, Rule};
use super::tables::{self, ARCHES, Arch, X32_BIT};
use crate::sys::seccomp as sys;

/// The kernel's `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// The kernel's `MAX_ERRNO`.
const MAX_ERRNO: u32 = 4095;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

// Offsets in struct seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// Why a profile cannot be compiled.
#[derive(thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no such argument.
    #[error("seccomp rule for {syscall}: argument index {index} is above 5")]
    Index {
        /// First name of the rule.
        syscall: String,
        /// As given.
        index: u32,
    },
    /// The kernel knows no such error number.
    #[error("seccomp {place}: errno {errno} is above {MAX_ERRNO}")]
    Errno {
        /// Default, or the rule's first name.
        place: String,
        /// As given.
        errno: u32,
    },
    /// The action has none.
    #[error("seccomp {place}: errno {errno} is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE only")]
    UnusedErrno {
        /// Default, or the rule's first name.
        place: String,
        /// As given.
        errno: u32,
    },
    /// No architecture of the specification.
    #[error("seccomp: {0:?} is not an architecture")]
    Architecture(String),
    /// Too many rules.
    #[error(
        "seccomp profile needs {count} instructions, the kernel takes {MAX_INSTRUCTIONS}; \
         use fewer rules with arguments or fewer architectures"
    )]
    TooLong {
        /// Instructions needed.
        count: usize,
    },
    /// Everything would wait for the listener, that which connects it included.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be the default action")]
    DefaultNotify,
    /// The runtime itself needs the call after the filter is in force.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be used for the {0} syscall")]
    NotifyOwn(&'static str),
    /// Nobody would answer.
    #[error("seccomp: SCMP_ACT_NOTIFY needs listenerPath")]
    NoListener,
    /// Nothing would ever be asked.
    #[error("seccomp: {0} without a rule with SCMP_ACT_NOTIFY")]
    UnusedListener(&'static str),
}

debug_is_display!(Error);

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The program.
    pub instructions: Vec<libc::sock_filter>,
    /// For `seccomp(2)`.
    pub flags: u32,
    /// Who takes the notifications, if any are sent.
    pub listener: Option<Listener>,
}

/// Where the listener's descriptor goes (runtime-spec, "The Container Process State").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Unix socket.
    pub path: String,
    /// Passed on as it is.
    pub metadata: String,
}

/// Compiles a profile for processes of the native architecture and those listed.
pub fn compile(profile: &Profile, native: Arch) -> Result<Filter, Error> {
    let default = verdict(profile.default_action, profile.default_errno_ret, "default action")?;
    if profile.default_action == Action::Notify {
        return Err(Error::DefaultNotify);
    }
    let mut arches = vec![native];
    for name in &profile.architectures {
        match Arch::parse(name) {
            Some(arch) if !arches.contains(&arch) => arches.push(arch),
            Some(_) => {}
            None if tables::is_foreign(name) => {
                log::debug!("seccomp: architecture {name} skipped: not one of this host's");
            }
            None => return Err(Error::Architecture(name.to_string())),
        }
    }
    let tables = collect(profile, default, &arches)?;
    let newer = match profile.default_action {
        // A tracer can answer ENOSYS by itself.
        Action::Allow | Action::Log | Action::Trace => None,
        _ => Some(RET_ERRNO | libc::ENOSYS.unsigned_abs()),
    };
    let mut program = Vec::with_capacity(1024);
    program.push(load(ARCH));
    let part =
        |arch: Arch| tables.iter().find(|table| table.arch == arch && arches.contains(&arch));
    for arch in ARCHES {
        if arch == Arch::X32 {
            // Within the part of x86_64.
            continue;
        }
        let x32 = if arch == Arch::X86_64 { part(Arch::X32) } else { None };
        if part(arch).is_none() && x32.is_none() {
            continue;
        }
        let mut body = vec![load(NR)];
        if arch == Arch::X86_64 {
            let mut above = match x32 {
                Some(table) => table.emit(default, newer),
                // -1 is what a tracer leaves of a call that it cancelled.
                None => vec![jump(JEQ_K, u32::MAX, 0, 1), ret(default), ret(RET_KILL_THREAD)],
            };
            let below = match part(arch) {
                Some(table) => table.emit(default, newer),
                None => vec![ret(RET_KILL_THREAD)],
            };
            branch(&mut body, JGE_K, X32_BIT, below, &mut above);
        } else if let Some(table) = part(arch) {
            body.extend(table.emit(default, newer));
        }
        // Skips this part: each ends in returns only.
        program.push(jump(JEQ_K, arch.audit(), 1, 0));
        program.push(skip(body.len()));
        program.extend(body);
    }
    program.push(ret(RET_KILL_THREAD));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong { count: program.len() });
    }
    let (flags, listener) = flags(profile)?;
    Ok(Filter { instructions: program, flags, listener })
}

fn flags(profile: &Profile) -> Result<(u32, Option<Listener>), Error> {
    let mut flags = match &profile.flags {
        None => sys::FLAG_SPEC_ALLOW,
        Some(list) => list.iter().fold(0, |flags, flag| {
            flags
                | match flag {
                    Flag::Tsync => sys::FLAG_TSYNC,
                    Flag::Log => sys::FLAG_LOG,
                    Flag::SpecAllow => sys::FLAG_SPEC_ALLOW,
                    Flag::WaitKillableRecv => sys::FLAG_WAIT_KILLABLE_RECV,
                }
        }),
    };
    let mut notifies = profile.syscalls.iter().filter(|rule| rule.action == Action::Notify);
    for own in ["write", "sendmsg"] {
        if notifies.clone().any(|rule| rule.names.iter().any(|name| name == own)) {
            // The child hands over the listener with the second. The first is runc's, for the same.
            return Err(Error::NotifyOwn(own));
        }
    }
    if notifies.next().is_none() {
        return if flags & sys::FLAG_WAIT_KILLABLE_RECV != 0 {
            Err(Error::UnusedListener("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"))
        } else {
            Ok((flags, None))
        };
    }
    let Some(path) = profile.listener_path.clone().filter(|path| !path.is_empty()) else {
        return Err(Error::NoListener);
    };
    flags |= sys::FLAG_NEW_LISTENER;
    if flags & sys::FLAG_TSYNC != 0 {
        flags |= sys::FLAG_TSYNC_ESRCH;
    }
    let metadata = profile.listener_metadata.clone().unwrap_or_default();
    Ok((flags, Some(Listener { path, metadata })))
}

/// The value that the program returns.
fn verdict(action: Action, errno: Option<u32>, place: &str) -> Result<u32, Error> {
    let data = match action {
        Action::Errno | Action::Trace => {
            let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
            if errno > MAX_ERRNO {
                return Err(Error::Errno { place: place.to_owned(), errno });
            }
            errno
        }
        _ => match errno {
            Some(errno) => return Err(Error::UnusedErrno { place: place.to_owned(), errno }),
            None => 0,
        },
    };
    Ok(data
        | match action {
            Action::KillThread => RET_KILL_THREAD,
            Action::KillProcess => RET_KILL_PROCESS,
            Action::Trap => RET_TRAP,
            Action::Errno => RET_ERRNO,
            Action::Trace => RET_TRACE,
            Action::Notify => RET_USER_NOTIF,
            Action::Log => RET_LOG,
            Action::Allow => RET_ALLOW,
        })
}

/// What a rule says about one call number.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    /// Position in the profile.
    order: u32,
    verdict: u32,
    test: Test,
}

/// Conditions of an entry.
#[derive(Debug, Clone, Copy)]
enum Test {
    /// None.
    Always,
    /// All of a rule's, which lie at this place of the profile.
    All(usize),
    /// One of a rule that tests an argument twice, or of a multiplexer.
    One(Argument),
}

/// Rules of one architecture.
struct Table<'a> {
    arch: Arch,
    rules: &'a [Rule],
    entries: Vec<Entry>,
    /// Highest number that the profile names.
    newest: Option<u32>,
}

fn collect<'a>(
    profile: &'a Profile,
    default: u32,
    arches: &[Arch],
) -> Result<Vec<Table<'a>>, Error> {
    let mut tables: Vec<Table<'a>> = arches
        .iter()
        .map(|&arch| Table {
            arch,
            rules: &profile.syscalls,
            entries: Vec::with_capacity(512),
            newest: None,
        })
        .collect();
    let mut order = 0;
    let mut lookup = tables::Lookup::default();
    for (place, rule) in profile.syscalls.iter().enumerate() {
        let name = rule.names.first().map_or("", |name| name);
        if let Some(argument) = rule.args.iter().find(|argument| argument.index > 5) {
            return Err(Error::Index { syscall: name.to_owned(), index: argument.index });
        }
        let verdict = verdict(rule.action, rule.errno_ret, name)?;
        let twice = rule.args.iter().enumerate().any(|(position, argument)| {
            rule.args.iter().take(position).any(|before| before.index == argument.index)
        });
        for name in &rule.names {
            let Some(numbers) = lookup.numbers(name) else {
                log::debug!("seccomp: unknown system call {name} skipped");
                continue;
            };
            let allows = matches!(rule.action, Action::Allow | Action::Log);
            let through = if arches.contains(&Arch::X86) && (rule.args.is_empty() || !allows) {
                tables::multiplexed(name)
            } else {
                None
            };
            for table in &mut tables {
                if let Some(number) = numbers.on(table.arch) {
                    table.newest = table.newest.max(Some(number));
                    if verdict != default {
                        let mut add = |test| {
                            table.entries.push(Entry { number, order, verdict, test });
                        };
                        match rule.args.as_slice() {
                            [] => add(Test::Always),
                            args if twice => args.iter().for_each(|one| add(Test::One(*one))),
                            _ => add(Test::All(place)),
                        }
                    }
                }
                if let (Arch::X86, Some((multiplexer, value))) = (table.arch, through) {
                    let number = tables::numbers(multiplexer).and_then(|n| n.on(Arch::X86));
                    if let (Some(number), true) = (number, verdict != default) {
                        let test = Test::One(Argument {
                            index: 0,
                            value,
                            value_two: 0,
                            op: Operator::Equal,
                        });
                        table.entries.push(Entry { number, order, verdict, test });
                    }
                }
            }
            order += 1;
        }
    }
    for table in &mut tables {
        table.entries.sort_unstable_by_key(|entry| (entry.number, entry.order));
    }
    Ok(tables)
}

/// Verdict for a run of call numbers.
enum Leaf<'a> {
    Return(u32),
    Tests(&'a [Entry]),
}

impl<'a> Table<'a> {
    /// Code for a call number in the accumulator.
    fn emit(&self, default: u32, newer: Option<u32>) -> Vec<libc::sock_filter> {
        let segments = self.segments(default, newer);
        self.tree(&segments, default)
    }

    /// Ascending starts with what holds from there on; the first is 0.
    fn segments(&'a self, default: u32, newer: Option<u32>) -> Vec<(u32, Leaf<'a>)> {
        let mut segments: Vec<(u32, Leaf<'a>)> = vec![(0, Leaf::Return(default))];
        let mut push = |start: u32, leaf: Leaf<'a>| {
            if let (Some((_, Leaf::Return(before))), Leaf::Return(now)) = (segments.last(), &leaf)
                && before == now
            {
                return;
            }
            match segments.last_mut() {
                Some(last) if last.0 == start => {
                    *last = (start, leaf);
                    // The replaced one may have been all that parted two equal neighbours.
                    if let [.., (_, Leaf::Return(before)), (_, Leaf::Return(now))] =
                        segments.as_slice()
                        && before == now
                    {
                        segments.pop();
                    }
                }
                _ => segments.push((start, leaf)),
            }
        };
        for group in self.entries.chunk_by(|a, b| a.number == b.number) {
            let Some(first) = group.first() else { continue };
            let always = group.iter().find(|entry| matches!(entry.test, Test::Always));
            push(
                first.number,
                always.map_or(Leaf::Tests(group), |entry| Leaf::Return(entry.verdict)),
            );
            push(first.number + 1, Leaf::Return(default));
        }
        if let (Some(newest), Some(newer)) = (self.newest, newer) {
            push(newest + 1, Leaf::Return(newer));
        }
        segments
    }

    fn tree(&self, segments: &[(u32, Leaf<'a>)], default: u32) -> Vec<libc::sock_filter> {
        match segments {
            [] => vec![ret(default)],
            [(_, Leaf::Return(verdict))] => vec![ret(*verdict)],
            [(_, Leaf::Tests(entries))] => self.tests(entries, default),
            _ => {
                let (below, above) = segments.split_at(segments.len() / 2);
                let Some((start, _)) = above.first() else { return vec![ret(default)] };
                let mut code = Vec::new();
                let mut right = self.tree(above, default);
                branch(&mut code, JGE_K, *start, self.tree(below, default), &mut right);
                code
            }
        }
    }

    /// Tests of arguments, first match first.
    fn tests(&self, entries: &[Entry], default: u32) -> Vec<libc::sock_filter> {
        let mut code = Vec::new();
        let mut rest = entries;
        while let [first, tail @ ..] = rest {
            if let Some(value) = self.plain_equal(first) {
                // A run of comparisons of one argument with numbers shares its loads and its return.
                let alike = |entry: &&Entry| {
                    entry.verdict == first.verdict
                        && self.plain_equal(entry).is_some_and(|(index, other)| {
                            index == value.0 && other >> 32 == value.1 >> 32
                        })
                };
                let run = 1 + tail.iter().take_while(alike).take(200).count();
                let (equal, after) = rest.split_at(run);
                self.equal_run(value, equal, first.verdict, &mut code);
                rest = after;
                continue;
            }
            let conditions: &[Argument] = match &first.test {
                Test::Always => &[],
                Test::All(place) => self.rules.get(*place).map_or(&[], |rule| &rule.args),
                Test::One(one) => std::slice::from_ref(one),
            };
            self.conjunction(conditions, first.verdict, &mut code);
            rest = tail;
        }
        code.push(ret(default));
        code
    }

    /// Index and value, if the entry's only condition is equality with a value that can occur.
    fn plain_equal(&self, entry: &Entry) -> Option<(u32, u64)> {
        let one = match &entry.test {
            Test::One(one) => one,
            Test::All(place) => match self.rules.get(*place)?.args.as_slice() {
                [one] => one,
                _ => return None,
            },
            Test::Always => return None,
        };
        let possible = !self.arch.narrow() || one.value <= u64::from(u32::MAX);
        (one.op == Operator::Equal && possible).then_some((one.index, one.value))
    }

    fn equal_run(
        &self,
        (index, value): (u32, u64),
        entries: &[Entry],
        verdict: u32,
        code: &mut Vec<libc::sock_filter>,
    ) {
        // Up to 201 entries, so that these jumps fit into a byte.
        let count = entries.len();
        let narrowed = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        if !self.arch.narrow() {
            code.push(load(high(index)));
            code.push(jump(JEQ_K, halves(value).0, 0, narrowed(count + 2)));
        }
        code.push(load(low(index)));
        for (position, entry) in entries.iter().enumerate() {
            let Some((_, value)) = self.plain_equal(entry) else { continue };
            let to_return = count - 1 - position;
            code.push(jump(
                JEQ_K,
                halves(value).1,
                narrowed(to_return),
                u8::from(position + 1 == count),
            ));
        }
        code.push(ret(verdict));
    }

    /// Returns the verdict if all conditions hold, else falls through.
    fn conjunction(
        &self,
        conditions: &[Argument],
        verdict: u32,
        code: &mut Vec<libc::sock_filter>,
    ) {
        // At most six conditions of at most six instructions.
        let mut body: Vec<Step> = Vec::with_capacity(12);
        for condition in conditions {
            if !self.condition(condition, &mut body) {
                return;
            }
        }
        let end = body.len() + 1;
        for (position, step) in body.iter().enumerate() {
            let distance = |target: Target| {
                u8::try_from(match target {
                    Target::Next => 0,
                    Target::Skip(count) => count,
                    Target::Fail => end - position - 1,
                })
                .unwrap_or(u8::MAX)
            };
            code.push(match *step {
                Step::Plain(instruction) => instruction,
                Step::Jump(operation, value, yes, no) => {
                    jump(operation, value, distance(yes), distance(no))
                }
            });
        }
        code.push(ret(verdict));
    }

    /// Falls to the end of the body if the condition holds. False: it cannot hold.
    fn condition(&self, condition: &Argument, body: &mut Vec<Step>) -> bool {
        use Step::{Jump, Plain};
        use Target::{Fail, Next, Skip};
        let Argument { index, value, value_two, op } = *condition;
        let (value_high, value_low) = halves(value);
        let (load_high, load_low) = (Plain(load(high(index))), Plain(load(low(index))));
        if self.arch.narrow() {
            // The high half is 0, which decides about it here and now.
            let (mask_high, two_high) = (0, halves(value_two).0);
            let above = value_high != 0;
            match op {
                Operator::Equal if above => return false,
                Operator::Greater | Operator::GreaterEqual if above => return false,
                Operator::NotEqual | Operator::Less | Operator::LessEqual if above => return true,
                Operator::MaskedEqual if two_high != mask_high => return false,
                _ => {}
            }
            body.push(load_low);
            match op {
                Operator::MaskedEqual => {
                    body.push(Plain(and(value_low)));
                    body.push(Jump(JEQ_K, halves(value_two).1, Next, Fail));
                }
                Operator::Equal => body.push(Jump(JEQ_K, value_low, Next, Fail)),
                Operator::NotEqual => body.push(Jump(JEQ_K, value_low, Fail, Next)),
                Operator::Greater => body.push(Jump(JGT_K, value_low, Next, Fail)),
                Operator::GreaterEqual => body.push(Jump(JGE_K, value_low, Next, Fail)),
                Operator::Less => body.push(Jump(JGE_K, value_low, Fail, Next)),
                Operator::LessEqual => body.push(Jump(JGT_K, value_low, Fail, Next)),
            }
            return true;
        }
        match op {
            Operator::Equal => body.extend([
                load_high,
                Jump(JEQ_K, value_high, Next, Fail),
                load_low,
                Jump(JEQ_K, value_low, Next, Fail),
            ]),
            Operator::NotEqual => body.extend([
                load_high,
                Jump(JEQ_K, value_high, Next, Skip(2)),
                load_low,
                Jump(JEQ_K, value_low, Fail, Next),
            ]),
            Operator::MaskedEqual => {
                let (two_high, two_low) = halves(value_two);
                body.extend([
                    load_high,
                    Plain(and(value_high)),
                    Jump(JEQ_K, two_high, Next, Fail),
                    load_low,
                    Plain(and(value_low)),
                    Jump(JEQ_K, two_low, Next, Fail),
                ]);
            }
            // Above in the high half holds, equal there leaves it to the low half, below fails.
            Operator::Greater | Operator::GreaterEqual => body.extend([
                load_high,
                Jump(JGT_K, value_high, Skip(3), Next),
                Jump(JEQ_K, value_high, Next, Fail),
                load_low,
                Jump(if op == Operator::Greater { JGT_K } else { JGE_K }, value_low, Next, Fail),
            ]),
            Operator::Less | Operator::LessEqual => body.extend([
                load_high,
                Jump(JGT_K, value_high, Fail, Next),
                Jump(JEQ_K, value_high, Next, Skip(2)),
                load_low,
                Jump(if op == Operator::Less { JGE_K } else { JGT_K }, value_low, Fail, Next),
            ]),
        }
        true
    }
}

/// An instruction of a conjunction whose failing jumps have no distance yet.
#[derive(Clone, Copy)]
enum Step {
    Plain(libc::sock_filter),
    Jump(u16, u32, Target, Target),
}

#[derive(Clone, Copy)]
enum Target {
    Next,
    Skip(usize),
    Fail,
}

/// `if A op value then above else below`; both end in returns only.
fn branch(
    code: &mut Vec<libc::sock_filter>,
    operation: u16,
    value: u32,
    below: Vec<libc::sock_filter>,
    above: &mut Vec<libc::sock_filter>,
) {
    match u8::try_from(below.len()) {
        Ok(distance) => code.push(jump(operation, value, distance, 0)),
        Err(_) => {
            code.push(jump(operation, value, 0, 1));
            code.push(skip(below.len()));
        }
    }
    code.extend(below);
    code.append(above);
}

const fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

// All our architectures are little-endian.
const fn low(index: u32) -> u32 {
    ARGS + 8 * index
}

const fn high(index: u32) -> u32 {
    low(index) + 4
}

const fn load(offset: u32) -> libc::sock_filter {
    jump(LD_W_ABS, offset, 0, 0)
}

const fn and(mask: u32) -> libc::sock_filter {
    jump(ALU_AND_K, mask, 0, 0)
}

const fn ret(value: u32) -> libc::sock_filter {
    jump(RET_K, value, 0, 0)
}

/// Longer than the kernel takes is found at the end, by the length of the whole.
fn skip(count: usize) -> libc::sock_filter {
    jump(JA, u32::try_from(count).unwrap_or(u32::MAX), 0, 0)
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
