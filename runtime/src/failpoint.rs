//! Places at which a crash test has the process kill itself.
//!
//! One file of runtime, agent and control plane, compiled in by the feature `failpoints` of each.
//! `LIGHTER_FAILPOINT=name:n` sends SIGKILL to the process at the n-th time it comes by the point
//! `name`; with `name*:n`, at the n-th time it comes by any whose name begins so, and its last words on
//! standard error are which it was. `LIGHTER_FAILPOINT_ONCE=path` names a file that is created first;
//! while it exists nothing fires, so that the successor of a killed process lives.

/// The process came by the point `name`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn hit(_name: &str) {}

/// The process came by the point `name`.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static HITS: AtomicU32 = AtomicU32::new(0);

    let Ok(wanted) = std::env::var("LIGHTER_FAILPOINT") else { return };
    let Some((point, number)) = wanted.split_once(':') else { return };
    let beginning = point.strip_suffix('*');
    let meant = beginning.map_or(point == name, |beginning| name.starts_with(beginning));
    if !meant || number.parse() != Ok(HITS.fetch_add(1, Ordering::Relaxed) + 1) {
        return;
    }
    if let Some(once) = std::env::var_os("LIGHTER_FAILPOINT_ONCE")
        && std::fs::File::create_new(once).is_err()
    {
        return;
    }
    if beginning.is_some() {
        let last_words = format!("killed at {name}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), last_words.as_bytes());
    }
    // Nothing runs after SIGKILL to oneself.
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
}
