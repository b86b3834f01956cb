//! Lists of processors as `process.execCPUAffinity` has them: `0-3,7`.

use serde::{Deserialize, Serialize};

/// Most processors that a kernel can be built for (`NR_CPUS`).
const MOST: usize = 8192;

/// On which processors an added process runs: before and after it has joined the cgroup. Masks of
/// 64-bit words, lowest first; `None` leaves it to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAffinity {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Vec<u64>>,
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub last: Option<Vec<u64>>,
}

impl CpuAffinity {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.initial.is_none() && self.last.is_none()
    }
}

/// The mask of a list; `None` for an empty one.
///
/// # Errors
/// What is wrong with it.
pub fn parse(list: &str) -> Result<Option<Vec<u64>>, &'static str> {
    let mut mask: Vec<u64> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().ok_or("is no list of CPUs");
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err("has a range that ends before it begins");
        }
        if last >= MOST {
            return Err("has a CPU that no kernel has: the last is 8191");
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for cpu in first..=last {
            if let Some(word) = mask.get_mut(cpu / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
    }
    Ok(if mask.is_empty() { None } else { Some(mask) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse(" , "), Ok(None));
        assert_eq!(parse("0-3,7"), Ok(Some(vec![0b1000_1111])));
        assert_eq!(parse("64, 1 - 2"), Ok(Some(vec![0b110, 1])));
        assert_eq!(parse("8191").map(|mask| mask.map(|mask| mask.len())), Ok(Some(128)));
        for bad in ["a", "3-1", "-1", "1-", "8192", "1-99999999999999999999", "0x1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
