//! One write to a control file, and what both cgroup versions share in producing them: pure.

use std::borrow::Cow;

use super::Error;
use super::resources::{Memory, RdmaLimit};

/// A value for a file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Controller that must be there.
    pub(crate) controller: Cow<'static, str>,
    /// File below the group's directory.
    pub(crate) file: Cow<'static, str>,
    /// Whole content of one `write`.
    pub(crate) value: String,
    /// What to do where the kernel has no such file.
    pub(crate) fallback: Fallback,
}

/// What a missing file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The limit cannot be applied: an error.
    Fail,
    /// The kernel behaves as asked without it.
    Skip,
    /// Another file does the same.
    Other { file: Cow<'static, str>, value: String },
}

impl Write {
    pub(crate) fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            controller: Cow::Borrowed(controller),
            file: file.into(),
            value: value.into(),
            fallback: Fallback::Fail,
        }
    }

    pub(crate) fn or(self, fallback: Fallback) -> Self {
        Self { fallback, ..self }
    }
}

pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid { field, reason: reason.into() }
}

/// The check that `memory.checkBeforeUpdate` asks for.
pub(crate) fn check_usage(limit: i64, usage: u64) -> Result<(), Error> {
    match u64::try_from(limit) {
        Ok(limit) if limit < usage => Err(invalid(
            "memory.limit",
            format!("{limit} is below the {usage} bytes in use and checkBeforeUpdate is set"),
        )),
        _ => Ok(()),
    }
}

/// Kernels from 5.16 on take a limit on kernel memory and do nothing with it.
pub(crate) fn no_kernel_limit(memory: &Memory) -> Result<(), Error> {
    match memory.kernel {
        Some(limit) if limit > 0 => Err(invalid(
            "memory.kernel",
            "the kernel does not limit it by itself; it counts within memory.limit: leave it out",
        )),
        _ => Ok(()),
    }
}

/// The files are the same in both versions.
pub(crate) fn rdma(limits: &[RdmaLimit]) -> impl Iterator<Item = Write> + '_ {
    limits.iter().filter_map(|limit| {
        let mut value = limit.device.clone();
        if let Some(handles) = limit.hca_handles {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            value.push_str(&format!(" hca_object={objects}"));
        }
        (value.len() > limit.device.len()).then(|| Write::new("rdma", "rdma.max", value))
    })
}
