//! Where the program begins when it is linked with `-e lighter_start`: before the C library.
//!
//! A verb that clones a process executes the program once more (see [`crate::seal`]). What the C library
//! does to start, with instructions that a virtual machine traps among it, is then done for nothing the
//! first time: a twelfth of the time of a `run`. So the usual case of that exec comes first here. It only
//! saves time: [`crate::seal::ensure`] examines what there is, and does all this without.
//!
//! Nothing is relocated yet and there is no thread's storage: the code below has no pointers among its
//! constants and calls nothing of any library, which the compiler must not be led to do either.

use core::arch::{asm, naked_asm};

/// The entry point: the kernel jumps here.
///
/// # Safety
/// Only for the kernel, which leaves the arguments on the stack.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lighter_start() -> ! {
    // The stack and rdx are given on to the C library's own entry as they came.
    naked_asm!(
        "mov r12, rsp",
        "mov r13, rdx",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {seal}",
        "mov rsp, r12",
        "mov rdx, r13",
        "xor ebp, ebp",
        "jmp _start",
        seal = sym seal,
    )
}

/// Executes the program from a read-only mount that is in no namespace; returns if that is not wanted,
/// not needed any more, or not possible.
extern "C" fn seal(stack: *const usize) {
    // SAFETY: the kernel puts the number of the arguments here.
    let count = unsafe { stack.read() };
    // SAFETY: the pointers to the arguments follow, then a null pointer.
    let arguments = unsafe { stack.add(1) };
    // SAFETY: the pointers to the variables follow that.
    let environment = unsafe { arguments.add(count + 1) };
    let mut asked = false;
    let mut index = 1;
    while index < count {
        // SAFETY: below the number of the arguments.
        let place = unsafe { arguments.add(index) };
        // SAFETY: as above; the kernel wrote the pointer.
        let argument = unsafe { place.read() };
        asked |= clones(word(argument as *const u8));
        index += 1;
    }
    if !asked || is_detached() {
        return;
    }
    let program = c"/proc/self/exe".as_ptr() as usize;
    let flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
    let tree = call(libc::SYS_open_tree, [0, program, flags, 0, 0]);
    let Ok(tree) = usize::try_from(tree) else { return };
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let itself = c"".as_ptr() as usize;
    let (at, size) = (&raw const change as usize, size_of::<libc::mount_attr>());
    let by = libc::AT_EMPTY_PATH.unsigned_abs() as usize;
    if call(libc::SYS_mount_setattr, [tree, itself, by, at, size]) == 0 {
        let (arguments, environment) = (arguments as usize, environment as usize);
        call(libc::SYS_execveat, [tree, itself, arguments, environment, by]);
    }
    call(libc::SYS_close, [tree, 0, 0, 0, 0]);
}

/// Whether a verb clones a process that enters a container.
fn clones(word: u64) -> bool {
    word == u64::from_le_bytes(*b"create\0\0")
        || word == u64::from_le_bytes(*b"run\0\0\0\0\0")
        || word == u64::from_le_bytes(*b"exec\0\0\0\0")
        || word == u64::from_le_bytes(*b"restore\0")
}

/// A text of at most seven bytes as a number; 0 for a longer one.
fn word(text: *const u8) -> u64 {
    let mut word = 0;
    let mut index = 0;
    while index < 8 {
        // SAFETY: not beyond the zero at the end of an argument.
        let place = unsafe { text.add(index) };
        // SAFETY: as above. Volatile, so that the loop is not taken for one of the C library's.
        let byte = unsafe { place.read_volatile() };
        if byte == 0 {
            return word;
        }
        word |= u64::from(byte) << (8 * index);
        index += 1;
    }
    0
}

/// Whether the program is the root of a mount that is in no namespace, whose path is `/`; a space follows
/// if the file has been removed.
fn is_detached() -> bool {
    let mut path = 0_u16;
    let (program, at) = (c"/proc/self/exe".as_ptr() as usize, &raw mut path as usize);
    let length = call(libc::SYS_readlink, [program, at, 2, 0, 0]);
    // SAFETY: reads the variable. Volatile, because the kernel wrote it.
    let path = unsafe { (&raw const path).read_volatile() }.to_le_bytes();
    path[0] == b'/' && (length == 1 || path[1] == b' ')
}

/// A system call, without the C library's `errno`.
#[inline(always)]
fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> libc::c_long {
    let result;
    // SAFETY: the callers pass what the calls take; the kernel changes but the registers that are named
    // and memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
