//! Capability sets, from names to the masks the kernel takes.

use std::str::FromStr as _;

use crate::{
    spec,
    sys::cred::{self, CapSets},
};

/// Number of a capability, `None` if the name is not known.
pub fn number(name: &str) -> Option<u8> {
    caps::Capability::from_str(name).ok().map(|capability| capability.index())
}

/// Every known name, by number.
pub fn names() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

/// Turns names into masks. Unknown names are ignored with a warning, as the specification demands
/// for capabilities the kernel does not have.
pub fn sets(names: &spec::Capabilities) -> CapSets {
    let mask = |names: &[String]| {
        names.iter().fold(0, |mask, name| match number(name) {
            Some(number) => mask | 1_u64 << number,
            None => {
                log::warn!("capability {name} is not known and is left out");
                mask
            }
        })
    };
    CapSets {
        bounding: mask(&names.bounding),
        effective: mask(&names.effective),
        inheritable: mask(&names.inheritable),
        permitted: mask(&names.permitted),
        ambient: mask(&names.ambient),
    }
}

/// Mask of the capabilities this kernel has.
pub fn supported() -> u64 {
    // The last one of all kernels since 5.9, so that the usual case takes two calls.
    const LAST: u32 = 40;
    let mut count = LAST + 1;
    while count < u64::BITS && cred::has_capability(count) {
        count += 1;
    }
    while count > 0 && !cred::has_capability(count - 1) {
        count -= 1;
    }
    u64::MAX.checked_shr(u64::BITS - count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_become_masks_and_unknown_ones_are_left_out() {
        let names = spec::Capabilities {
            bounding: vec!["CAP_CHOWN".into(), "CAP_KILL".into(), "CAP_FLY".into()],
            ..spec::Capabilities::default()
        };
        assert_eq!(sets(&names).bounding, 1 | 1 << 5);
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
    }

    #[test]
    fn the_kernel_has_as_many_as_it_says() {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        assert_eq!(supported().trailing_ones() - 1, last.trim().parse::<u32>().unwrap());
    }
}
