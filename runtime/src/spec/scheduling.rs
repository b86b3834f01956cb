//! The parts of `process` that say when and where it runs, in the kernel's terms.

use super::{Error, ExecCpuAffinity, IoPriority, Scheduler};
use crate::process::affinity::{self, Affinity};
use crate::sys::sched::{Attributes, CpuMask};

fn invalid<T>(path: String, value: impl ToString, rule: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid { path, value: value.to_string(), rule: rule.into() })
}

/// `ioPriority`, packed as ioprio_set(2) wants it.
pub(super) fn io_priority(at: &str, raw: &IoPriority) -> Result<i32, Error> {
    let class = match raw.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return invalid(format!("{at}.class"), other, "is not an I/O class"),
    };
    match i32::try_from(raw.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => invalid(format!("{at}.priority"), raw.priority, "is not between 0 and 7"),
    }
}

/// `scheduler`. The rules between its values are runc's; the kernel knows them too, but says only
/// `EINVAL`.
pub(super) fn scheduler(at: &str, raw: &Scheduler) -> Result<Attributes, Error> {
    const REAL_TIME: [u32; 2] = [1, 2];
    const DEADLINE: u32 = 6;
    let policy = match raw.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        // Reserved: no kernel has it, and its answer says so.
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => DEADLINE,
        "" => return Err(Error::Missing { path: format!("{at}.policy") }),
        other => return invalid(format!("{at}.policy"), other, "is not a scheduling policy"),
    };
    if !(-20..=19).contains(&raw.nice) {
        return invalid(format!("{at}.nice"), raw.nice, "is not between -20 and 19");
    }
    let Ok(priority) = u32::try_from(raw.priority) else {
        return invalid(format!("{at}.priority"), raw.priority, "is below 0");
    };
    if priority != 0 && !REAL_TIME.contains(&policy) {
        let rule = "needs the policy SCHED_FIFO or SCHED_RR";
        return invalid(format!("{at}.priority"), priority, rule);
    }
    for (name, value) in
        [("runtime", raw.runtime), ("deadline", raw.deadline), ("period", raw.period)]
    {
        if value != 0 && policy != DEADLINE {
            return invalid(format!("{at}.{name}"), value, "needs the policy SCHED_DEADLINE");
        }
    }
    let mut flags = 0;
    for (index, name) in raw.flags.iter().enumerate() {
        flags |= match name.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 1,
            "SCHED_FLAG_RECLAIM" => 2,
            "SCHED_FLAG_DL_OVERRUN" => 4,
            "SCHED_FLAG_KEEP_POLICY" => 8,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return invalid(format!("{at}.flags[{index}]"), other, "is not a flag"),
        };
    }
    Ok(Attributes {
        policy,
        flags,
        nice: raw.nice,
        priority,
        runtime: raw.runtime,
        deadline: raw.deadline,
        period: raw.period,
        ..Attributes::default()
    })
}

/// `execCPUAffinity`.
pub(super) fn affinity(at: &str, raw: &ExecCpuAffinity) -> Result<Affinity, Error> {
    let mask = |name: &str, list: &str| -> Result<Option<CpuMask>, Error> {
        if list.is_empty() {
            return Ok(None);
        }
        affinity::parse(list).map(Some).or_else(|rule| invalid(format!("{at}.{name}"), list, rule))
    };
    Ok(Affinity { initial: mask("initial", &raw.initial)?, end: mask("final", &raw.end)? })
}

/// Whether a configuration of this version can be served: any 1.x. A minor version newer than ours
/// adds optional properties only, which the specification has runtimes ignore.
pub(super) fn version(text: &str) -> Result<(), Error> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.');
    let number = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let served = parts.next() == Some("1") && number(parts.next()) && number(parts.next());
    if served && parts.next().is_none() {
        return Ok(());
    }
    invalid("ociVersion".into(), text, "is not a version 1.x.y, which this runtime serves")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::{Value, json};

    fn scheduler_of(value: Value) -> Result<Attributes, Error> {
        scheduler("s", &serde_json::from_value(value).expect("shape"))
    }

    #[test]
    fn schedulers() {
        let got = scheduler_of(json!({"policy": "SCHED_BATCH", "nice": -5,
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_UTIL_CLAMP_MAX"]}))
        .unwrap();
        assert_eq!((got.policy, got.nice, got.flags), (3, -5, 0x41));
        let got = scheduler_of(
            json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}),
        )
        .unwrap();
        assert_eq!((got.policy, got.runtime, got.deadline, got.period), (6, 1, 2, 3));
        assert_eq!(scheduler_of(json!({"policy": "SCHED_RR", "priority": 9})).unwrap().priority, 9);
        for (value, text) in [
            (json!({}), "s.policy: required"),
            (json!({"policy": "X"}), "s.policy: \"X\" is not a scheduling policy"),
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "s.nice: \"20\" is not between"),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), "s.priority: \"1\" needs the policy"),
            (json!({"policy": "SCHED_RR", "priority": -1}), "s.priority: \"-1\" is below 0"),
            (json!({"policy": "SCHED_RR", "period": 1}), "s.period: \"1\" needs the policy"),
            (json!({"policy": "SCHED_RR", "flags": ["F"]}), "s.flags[0]: \"F\" is not a flag"),
        ] {
            let error = scheduler_of(value).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn affinities() {
        let of = |value| affinity("a", &serde_json::from_value(value).expect("shape"));
        let got = of(json!({"initial": "0", "final": "1-2"})).unwrap();
        assert_eq!(got.initial.map(|mask| mask[0]), Some(1));
        assert_eq!(got.end.map(|mask| mask[0]), Some(6));
        assert_eq!(of(json!({})).unwrap(), Affinity { initial: None, end: None });
        let error = of(json!({"final": "x"})).unwrap_err().to_string();
        assert_eq!(error, "a.final: \"x\" is not a list of CPUs such as 0-3,7");
    }

    #[test]
    fn versions() {
        for good in ["1.0.0", "1.0.2-dev", "1.0.0-rc5", "1.1.0", "1.2.1", "1.3.0", "1.3.9+x"] {
            assert_eq!(version(good), Ok(()), "{good}");
        }
        for bad in ["", "x", "1", "1.", "1.0", "1.x.0", "0.9.0", "2.0.0", "1.0.0.0", "10.0.0"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }
}
