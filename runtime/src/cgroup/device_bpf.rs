//! Device rules: folded into one default with exceptions, then as cgroup v1 lines or as a cgroup v2 device program.
//!
//! Folding follows the kernel's v1 semantics (security/device_cgroup.c): a rule for all devices replaces everything
//! before it; any other adds to or takes from the exceptions. A rule that would take a part out of a wider exception is
//! refused, as runc does, because cgroup v1 ignores such a rule silently. Pure; loading is `sys::bpf`.

use super::Error;
use super::resources::{DeviceAccess, DeviceKind, DeviceRule};
use super::write::invalid;

/// One device or a range of them, with the access that differs from the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) kind: DeviceKind,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: DeviceAccess,
}

/// What all the rules together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether a device without an exception is allowed.
    pub(crate) allow: bool,
    /// At most one per device or range.
    pub(crate) exceptions: Vec<Exception>,
}

impl Exception {
    fn same_devices(&self, other: &Self) -> bool {
        self.kind == other.kind && self.major == other.major && self.minor == other.minor
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meets = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meets(self.major, other.major) && meets(self.minor, other.minor)
    }
}

impl std::fmt::Display for Exception {
    /// The form of `devices.allow`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

impl Policy {
    /// Folds the rules, in order, over a group that allows everything.
    pub(crate) fn fold(rules: &[DeviceRule]) -> Result<Self, Error> {
        let mut policy = Self { allow: true, exceptions: Vec::new() };
        for rule in rules {
            if rule.kind == DeviceKind::All {
                policy = Self { allow: rule.allow, exceptions: Vec::new() };
                continue;
            }
            if rule.access.is_empty() {
                continue;
            }
            let entry = Exception {
                kind: rule.kind,
                major: rule.major,
                minor: rule.minor,
                access: rule.access,
            };
            if rule.allow == policy.allow {
                policy.take(&entry)?;
            } else {
                policy.add(entry);
            }
        }
        Ok(policy)
    }

    fn add(&mut self, entry: Exception) {
        match self.exceptions.iter_mut().find(|known| known.same_devices(&entry)) {
            Some(known) => known.access = known.access.with(entry.access),
            None => self.exceptions.push(entry),
        }
    }

    fn take(&mut self, entry: &Exception) -> Result<(), Error> {
        for known in &mut self.exceptions {
            if known.same_devices(entry) {
                known.access = known.access.without(entry.access);
            } else if known.overlaps(entry) && known.access.overlaps(entry.access) {
                return Err(invalid(
                    "devices",
                    format!("a rule for {entry} cannot undo a part of the earlier one for {known}"),
                ));
            }
        }
        self.exceptions.retain(|known| !known.access.is_empty());
        Ok(())
    }

    /// Reads `devices.list`.
    pub(crate) fn parse_list(text: &str) -> Option<Self> {
        let mut policy = Self { allow: false, exceptions: Vec::new() };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let kind = match words.next()? {
                // Means "everything allowed", the exceptions are not shown.
                "a" => return Some(Self { allow: true, exceptions: Vec::new() }),
                "b" => DeviceKind::Block,
                "c" => DeviceKind::Char,
                _ => return None,
            };
            let (major, minor) = words.next()?.split_once(':')?;
            let number = |word: &str| match word {
                "*" => Some(None),
                digits => digits.parse().ok().map(Some),
            };
            policy.add(Exception {
                kind,
                major: number(major)?,
                minor: number(minor)?,
                access: DeviceAccess::parse(words.next()?)?,
            });
        }
        Some(policy)
    }

    /// Writes that lead a cgroup v1 group from one policy to this one: (file, line).
    ///
    /// With the same default only the differences are written, additions first, so that a running container never loses
    /// a device it keeps. `None` is a group whose state is unknown.
    pub(crate) fn v1_writes(&self, from: Option<&Self>) -> Vec<(&'static str, String)> {
        let (set, clear) = if self.allow {
            ("devices.deny", "devices.allow")
        } else {
            ("devices.allow", "devices.deny")
        };
        let mut writes = Vec::new();
        let known = match from {
            // With everything allowed the list does not show its exceptions, so they cannot be compared.
            Some(from) if !from.allow && !self.allow => from.exceptions.as_slice(),
            _ => {
                writes.push((clear, "a".to_owned()));
                &[]
            }
        };
        let left_of = |entry: &Exception, list: &[Exception]| {
            let there = list.iter().find(|known| known.same_devices(entry));
            let access = there.map_or(entry.access, |known| entry.access.without(known.access));
            (!access.is_empty()).then_some(Exception { access, ..*entry })
        };
        writes.extend(
            self.exceptions
                .iter()
                .filter_map(|entry| left_of(entry, known))
                .map(|entry| (set, entry.to_string())),
        );
        writes.extend(
            known
                .iter()
                .filter_map(|entry| left_of(entry, &self.exceptions))
                .map(|entry| (clear, entry.to_string())),
        );
        writes
    }

    /// The program for `BPF_PROG_TYPE_CGROUP_DEVICE`: returns 1 to allow, 0 to refuse.
    pub(crate) fn program(&self) -> Vec<Insn> {
        let mut program = vec![
            // r1 points to bpf_cgroup_dev_ctx: access << 16 | type, major, minor
            insn(LDX_MEM_W, 2, 1, 0, 0),
            insn(ALU32_MOV_X, 3, 2, 0, 0),
            insn(ALU32_AND_K, 2, 0, 0, 0xffff),
            insn(ALU32_RSH_K, 3, 0, 0, 16),
            insn(LDX_MEM_W, 4, 1, 4, 0),
            insn(LDX_MEM_W, 5, 1, 8, 0),
        ];
        for exception in &self.exceptions {
            let mut tests = Vec::with_capacity(6);
            let kind = if exception.kind == DeviceKind::Block { 1 } else { 2 };
            tests.push(insn(JNE_K, 2, 0, 0, kind));
            if exception.access != DeviceAccess::ALL {
                tests.push(insn(ALU32_MOV_X, 1, 3, 0, 0));
                tests.push(insn(ALU32_AND_K, 1, 0, 0, i32::from(exception.access.bits())));
                // Allowed is what asks for nothing else; denied is what asks for any of it.
                tests.push(if self.allow {
                    insn(JEQ_K, 1, 0, 0, 0)
                } else {
                    insn(JNE_X, 1, 3, 0, 0)
                });
            }
            for (register, number) in [(4, exception.major), (5, exception.minor)] {
                if let Some(number) = number {
                    tests.push(insn(JNE32_K, register, 0, 0, number.cast_signed()));
                }
            }
            // Each test jumps behind the verdict, which is two instructions.
            let length = tests.len();
            for (index, test) in tests.iter_mut().enumerate() {
                if test.code & 0x07 == CLASS_JMP || test.code & 0x07 == CLASS_JMP32 {
                    test.offset = i16::try_from(length - index + 1).unwrap_or(i16::MAX);
                }
            }
            program.extend(tests);
            program.push(insn(ALU64_MOV_K, 0, 0, 0, i32::from(!self.allow)));
            program.push(insn(EXIT, 0, 0, 0, 0));
        }
        program.push(insn(ALU64_MOV_K, 0, 0, 0, i32::from(self.allow)));
        program.push(insn(EXIT, 0, 0, 0, 0));
        program
    }
}

/// One eBPF instruction as the kernel has it (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

const CLASS_JMP: u8 = 0x05;
const CLASS_JMP32: u8 = 0x06;
const LDX_MEM_W: u8 = 0x61;
const ALU32_MOV_X: u8 = 0xbc;
const ALU32_AND_K: u8 = 0x54;
const ALU32_RSH_K: u8 = 0x74;
const ALU64_MOV_K: u8 = 0xb7;
const JNE_K: u8 = 0x55;
const JNE_X: u8 = 0x5d;
const JEQ_K: u8 = 0x15;
// A 64-bit compare would sign-extend a number above 2^31.
const JNE32_K: u8 = 0x56;
const EXIT: u8 = 0x95;

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: src << 4 | dst, offset, immediate }
}

#[cfg(test)]
#[path = "device_bpf_tests.rs"]
mod tests;
