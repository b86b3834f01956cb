#!/usr/bin/env python3
"""What a container costs at the level of the OCI runtime: time, memory, system calls, size.

`run` of /bin/true, create + start + delete, and exec, of `lighter-runtime` beside runc and crun,
with the default seccomp profile and without, and beside floor.c: the same namespaces, mounts and
cgroups made by a bare C program. All take turns in one run; the minimum and the median are of each,
the ratios of the minima. Then the peak memory of `run`, the smallest memory limit with which a
container still starts, the system calls and processes of a start, and the sizes of the binaries.

usage: runtime.py DIST [ROUNDS]
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers

# Of containers and so of cgroups: nobody else has it.
NAME = f"bench-{os.getpid()}"
HERE = pathlib.Path(__file__).resolve().parent
# What a container may call by Docker's default; a filter of the size that containers run with.
REFUSED = """acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module
get_kernel_syms get_mempolicy init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie mbind mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
open_by_handle_at open_tree perf_event_open personality pivot_root process_vm_readv process_vm_writev
ptrace query_module quotactl reboot request_key set_mempolicy setns settimeofday stime swapoff swapon
sysfs umount umount2 unshare uselib userfaultfd ustat vm86 vm86old""".split()


def called():
    """Every system call of this machine that is not refused, by the kernel headers."""
    text = peers.run("cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null")
    names = set(re.findall(r"#define __NR_(\w+)", text))
    return sorted(names - set(REFUSED))


class Runtime:
    def __init__(self, name, program, root):
        self.name, self.program = name, pathlib.Path(program)
        self.command = [str(program), "--root", str(root)]
        self.verbs = peers.run(program, "--help")

    def has(self, verb):
        return re.search(rf"^\s+{verb}\b", self.verbs, re.MULTILINE) is not None

    def words(self, *words):
        return [*self.command, *map(str, words)]

    def run(self, bundle, identity):
        return self.words("run", "--bundle", bundle, identity)


def measure(*commands):
    """Seconds that the commands take, one after the other. No pipes: a created container holds them."""
    begin = time.perf_counter()
    for command in commands:
        code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if code != 0:
            raise SystemExit(f"{' '.join(command)}: exit {code}")
    return time.perf_counter() - begin


@contextlib.contextmanager
def removed(runtime, name):
    """Whatever happens, the container is gone afterwards."""
    try:
        yield
    finally:
        subprocess.run(runtime.words("delete", "--force", name), capture_output=True)


def bundle(directory, arguments, seccomp, limit=None):
    """A bundle of runc's own default configuration around a static busybox."""
    (directory / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "rootfs/bin")
    for applet in ["true", "sleep"]:
        (directory / "rootfs/bin" / applet).symlink_to("busybox")
    peers.run("runc", "spec", "--bundle", directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(args=arguments, terminal=False)
    if seccomp:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [{"names": called(), "action": "SCMP_ACT_ALLOW"}],
        }
    if limit:
        config["linux"]["resources"]["memory"] = {"limit": limit}
    path.write_text(json.dumps(config))
    return directory


def take_turns(title, rounds, contenders):
    """`contenders`: name to a function that takes a round's number and gives seconds."""
    times = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 2):
        # Whoever is first after the others' removals would pay for them: the order turns.
        for name in names[number % len(names):] + names[:number % len(names)]:
            elapsed = contenders[name](number)
            if number >= 2:
                times[name].append(elapsed * 1000)
    print(f"{title + f', {rounds} rounds, milliseconds':58} minimum   median")
    for name in names:
        print(f"  {name:54} {min(times[name]):9.2f} {statistics.median(times[name]):8.2f}")
    ours = times.get("lighter-runtime")
    rivals = {name: taken for name, taken in times.items() if name not in ("lighter-runtime", "floor")}
    if ours and rivals:
        for label, value in [("minima", min), ("medians", statistics.median)]:
            fastest = min(rivals, key=lambda name: value(rivals[name]))
            line = f"  ratio of {label}: {value(ours) / value(rivals[fastest]):.2f} of {fastest}"
            if "floor" in times:
                line += f", {value(ours) / value(times['floor']):.2f} of the floor"
            print(line)
    sys.stdout.flush()


def smallest(runtime, scratch):
    """The smallest memory limit in KiB, of 128 KiB to 16 MiB, with which /bin/true still runs."""
    low, high = 128, 16384
    directory = bundle(scratch / f"limit-{runtime.name}", ["/bin/true"], False, limit=high * 1024)
    path = directory / "config.json"
    while low < high:
        middle = (low + high) // 2 // 64 * 64
        config = json.loads(path.read_text())
        config["linux"]["resources"]["memory"]["limit"] = middle * 1024
        path.write_text(json.dumps(config))
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(runtime.run(directory, f"{NAME}-limit"), capture_output=True, timeout=20)
            if done.returncode == 0:
                high = middle
                continue
        subprocess.run(runtime.words("delete", "--force", f"{NAME}-limit"), capture_output=True)
        low = middle + 64
    return high


def system_calls(command):
    """(system calls, processes and threads made) of the command and all it starts."""
    with tempfile.NamedTemporaryFile("r") as output:
        peers.run("strace", "-f", "-c", "-o", output.name, *command)
        counts = {line.split()[-1]: line.split()[3] for line in output if re.match(r"\s*[\d.]+\s", line)}
    made = sum(int(counts.get(name, 0)) for name in ["clone", "clone3", "fork", "vfork"])
    return int(counts["total"]), made


def without_unified():
    """crun refuses a hybrid host whose v2 hierarchy has controllers. Then all are measured without that
    hierarchy, in a mount namespace that lacks it."""
    unified = pathlib.Path("/sys/fs/cgroup/unified")
    with contextlib.suppress(FileNotFoundError):
        controllers = (unified / "cgroup.controllers").read_text().strip()
        if controllers and shutil.which("crun"):
            print(f"the v2 hierarchy has {controllers}: measured without it, for crun's sake", flush=True)
            script = f'umount {unified} && exec "$0" "$@"'
            os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, sys.executable, *sys.argv])


def main():
    without_unified()
    dist, rounds = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 50
    with tempfile.TemporaryDirectory(prefix="lighter-bench-", dir="/dev/shm") as scratch:
        scratch = pathlib.Path(scratch)
        found = {"lighter-runtime": dist / "lighter-runtime", "runc": shutil.which("runc"), "crun": shutil.which("crun")}
        if not found["runc"]:
            raise SystemExit("runc is missing: it writes the configuration that is measured; apt install runc")
        runtimes = [Runtime(name, program, scratch / name) for name, program in found.items() if program]
        floor = scratch / "floor"
        peers.run("cc", "-O2", "-static", "-o", floor, HERE / "floor.c")

        for seccomp in [False, True]:
            suffix = "with a seccomp filter" if seccomp else "without seccomp"
            kind = "filtered" if seccomp else "plain"
            true = bundle(scratch / f"true-{kind}", ["/bin/true"], seccomp)
            contenders = {
                each.name: lambda number, each=each: measure(each.run(true, f"{NAME}-{number}"))
                for each in runtimes
            }
            if not seccomp:
                contenders["floor"] = lambda number: measure([str(floor), str(true / "rootfs"), f"{NAME}-floor", "/bin/true"])
            take_turns(f"run of /bin/true {suffix}", rounds, contenders)

            def life(each, number):
                name = f"{NAME}-{number}"
                with removed(each, name):
                    begin = measure(each.words("create", "--bundle", true, name), each.words("start", name))
                    while json.loads(peers.run(*each.words("state", name)))["status"] != "stopped":
                        time.sleep(0.001)
                    return begin + measure(each.words("delete", name))

            take_turns(f"create, start, delete {suffix}", rounds, {
                each.name: lambda number, each=each: life(each, number) for each in runtimes
            })

            executing = [each for each in runtimes if each.has("exec")]
            for each in runtimes:
                if each not in executing:
                    print(f"exec {suffix}: skipped for {each.name}, which has no exec")
            sleeper = bundle(scratch / f"sleep-{kind}", ["/bin/sleep", "1000"], seccomp)
            with contextlib.ExitStack() as stack:
                for each in executing:
                    name = f"{NAME}-{each.name}"
                    stack.enter_context(removed(each, name))
                    measure(each.words("run", "--detach", "--bundle", sleeper, name))
                take_turns(f"exec of /bin/true {suffix}", rounds, {
                    each.name: lambda number, each=each: measure(each.words("exec", f"{NAME}-{each.name}", "/bin/true"))
                    for each in executing
                })

        true = scratch / "true-plain"
        print(f"{'one run of /bin/true':34} peak kB   limit kB   calls   forks   binary kB")
        for each in runtimes:
            used = min(int(peers.run(floor, "--peak", *each.run(true, f"{NAME}-peak"))) for _ in range(5))
            limit = smallest(each, scratch)
            calls, forks = system_calls(each.run(true, f"{NAME}-calls"))
            size = each.program.stat().st_size // 1024
            print(f"  {each.name:30} {used:9} {limit:10} {calls:7} {forks:7} {size:11}")


if __name__ == "__main__":
    main()
