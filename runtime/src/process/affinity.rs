//! CPUs of an added process (config.md, `process.execCPUAffinity`).

use serde::{Deserialize, Serialize};

use crate::sys::sched::{CpuMask, WORDS};

/// Where an added process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Until it is in the container's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<CpuMask>,
    /// From then on; without it, wherever the cgroup allows.
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    pub end: Option<CpuMask>,
}

impl Affinity {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.initial.is_none() && self.end.is_none()
    }

    /// What is to be set once the process is in the container's cgroup.
    pub fn after_the_move(&self) -> Option<CpuMask> {
        // Before Linux 6.2 a cpuset resets what was set initially, since then it does not.
        self.end.or(self.initial.map(|_| [u64::MAX; WORDS]))
    }
}

/// Reads a list as in `cpuset.cpus`: `0-3,7`. Spaces around and empty elements are fine, as in runc.
///
/// # Errors
/// What is wrong with the list.
pub fn parse(list: &str) -> Result<CpuMask, String> {
    let most = WORDS * 64 - 1;
    let number = |text: &str| match text.trim().parse::<usize>() {
        Ok(number) if number > most => Err(format!("has a CPU above {most}")),
        Ok(number) => Ok(number),
        Err(_) => Err("is not a list of CPUs such as 0-3,7".to_owned()),
    };
    let mut mask = [0; WORDS];
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("has a range that runs backwards: {part}"));
        }
        for cpu in first..=last {
            if let Some(word) = mask.get_mut(cpu / 64) {
                *word |= 1_u64 << (cpu % 64);
            }
        }
    }
    if mask == [0; WORDS] { Err("names no CPU".to_owned()) } else { Ok(mask) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(parse("0-3,7").unwrap()[0], 0x8f);
        assert_eq!(parse(" 1 ,, 2 - 2 ").unwrap()[0], 6);
        let high = parse("63-64,1023").unwrap();
        assert_eq!((high[0], high[1], high[15]), (1 << 63, 1, 1 << 63));
        for wrong in ["", ",", "a", "1-", "-1", "3-1", "1024", "0-1-2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_initial_affinity_ends_with_the_move() {
        let one = parse("1").ok();
        let set = |initial, end| Affinity { initial, end }.after_the_move();
        assert_eq!(set(None, None), None);
        assert_eq!(set(one, None), Some([u64::MAX; WORDS]));
        assert_eq!(set(None, one), one);
    }
}
