//! Points at which tests end the work as SIGKILL would: the files stay as they are, and what was in
//! memory is lost. Nothing outside of tests.

#[cfg(not(test))]
#[inline]
pub(super) fn point() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use armed::{arm, point};

#[cfg(test)]
mod armed {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// The `n`th point from now on, counted from 1, ends the work. `None`: no point does.
    /// Returns whether the one armed before is still to come.
    pub(in super::super) fn arm(n: Option<u32>) -> bool {
        LEFT.with(|left| left.replace(n)).is_some()
    }

    pub(in super::super) fn point() -> std::io::Result<()> {
        LEFT.with(|left| match left.get() {
            Some(1) => {
                left.set(None);
                Err(std::io::Error::other("killed here by the test"))
            }
            Some(n) => {
                left.set(Some(n - 1));
                Ok(())
            }
            None => Ok(()),
        })
    }
}
