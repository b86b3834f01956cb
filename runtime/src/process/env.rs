//! The program's environment: `PATH` search and `HOME`.

use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use crate::sys::mount::openat2;

/// Where programs are looked up without `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most that is read of a container's passwd file, in bytes.
const PASSWD_LIMIT: u64 = 1 << 20;

/// Value of a variable; the first counts.
pub fn value<'a>(env: &'a [CString], name: &[u8]) -> Option<&'a [u8]> {
    env.iter().find_map(|entry| entry.to_bytes().strip_prefix(name)?.strip_prefix(b"="))
}

/// Paths at which to look for the program: itself if it has a slash, else in every directory of
/// `PATH`.
pub fn candidates(args: &[CString], env: &[CString]) -> Vec<CString> {
    let Some(name) = args.first() else { return Vec::new() };
    if name.to_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    value(env, b"PATH")
        .unwrap_or(DEFAULT_PATH)
        .split(|byte| *byte == b':')
        .filter_map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            // Neither part has a null byte.
            CString::new([directory, b"/", name.to_bytes()].concat()).ok()
        })
        .collect()
}

/// `HOME=` for a user, from the container's own `/etc/passwd`; `/` where that says nothing. What the
/// file says is the image's matter, only reading it must not hurt: it may be a FIFO, or huge.
pub fn home(root: BorrowedFd<'_>, uid: u32) -> CString {
    let directory = passwd(root).and_then(|text| find_home(&text, uid));
    let directory = directory.unwrap_or_else(|| b"/".to_vec());
    CString::new([b"HOME=".as_slice(), &directory].concat())
        .unwrap_or_else(|_| c"HOME=/".to_owned())
}

fn passwd(root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let path: &CStr = c"/etc/passwd";
    let file = std::fs::File::from(openat2(root, path, flags, resolve).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(PASSWD_LIMIT).read_to_end(&mut text).ok()?;
    Some(text)
}

fn find_home(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let id: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        (id == uid && !home.is_empty()).then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    #[test]
    fn looks_in_path_unless_there_is_a_slash() {
        let env = strings(&["A=b", "PATH=/bin::/x"]);
        assert_eq!(candidates(&strings(&["sh"]), &env), strings(&["/bin/sh", "./sh", "/x/sh"]));
        assert_eq!(candidates(&strings(&["./sh"]), &env), strings(&["./sh"]));
        assert_eq!(candidates(&strings(&["sh"]), &[]).len(), 6);
    }

    #[test]
    fn finds_the_home_of_a_user() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/false";
        assert_eq!(find_home(passwd, 33).unwrap(), b"/var/www");
        assert_eq!(find_home(passwd, 0).unwrap(), b"/root");
        assert_eq!(find_home(passwd, 7), None);
    }
}
