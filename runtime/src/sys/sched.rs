//! Scheduling of another process: policy and CPUs.

use serde::{Deserialize, Serialize};

use super::{Errno, Result};

/// `struct sched_attr` of sched_setattr(2), as of Linux 5.3.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Set by [`set_attributes`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// Bounds of the utilisation, which the specification cannot express.
    pub util: [u32; 2],
}

/// Sets policy and parameters of a process.
///
/// # Errors
/// Those of sched_setattr(2).
pub fn set_attributes(pid: i32, attributes: &Attributes) -> Result<()> {
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    let attributes = Attributes { size, ..*attributes };
    // SAFETY: the kernel reads as many bytes as the struct's own first field says, which is its size.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    Errno::result(rc).map(drop)
}

/// Words of a [`CpuMask`].
pub const WORDS: usize = 16;
/// One bit per CPU, the lowest first.
pub type CpuMask = [u64; WORDS];

/// Sets the CPUs that a process may run on.
///
/// # Errors
/// Those of sched_setaffinity(2).
pub fn set_affinity(pid: i32, cpus: &CpuMask) -> Result<()> {
    // The kernel knows longs; on 64-bit machines these are the same words.
    #[cfg(all(target_pointer_width = "32", target_endian = "big"))]
    let cpus = &cpus.map(|word| word.rotate_left(32));
    // SAFETY: the kernel reads as many bytes as are passed, which is the array's size.
    let rc = unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, pid, size_of::<CpuMask>(), cpus.as_ptr())
    };
    Errno::result(rc).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernel_takes_both() {
        assert_eq!(size_of::<Attributes>(), 56);
        // A thread of its own: what it sets ends with it.
        let done = std::thread::spawn(|| {
            set_affinity(0, &[u64::MAX; WORDS])?;
            // SCHED_BATCH
            set_attributes(0, &Attributes { policy: 3, nice: 7, ..Attributes::default() })
        });
        done.join().unwrap().unwrap();
        let none = set_affinity(0, &[0; WORDS]);
        assert_eq!(none, Err(Errno::EINVAL));
        let wrong = Attributes { policy: 99, ..Attributes::default() };
        assert_eq!(set_attributes(0, &wrong), Err(Errno::EINVAL));
    }
}
