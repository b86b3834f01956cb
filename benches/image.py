#!/usr/bin/env python3
"""Pull and unpack from a registry: time, processor time, peak memory.

`lighter image pull` by a running agent beside `ctr image pull`, `podman pull` and `skopeo copy` with
`umoci unpack`, all from one `docker-registry` on loopback, in namespaces of their own: an image of 40
layers of small files, an image of one layer of 400 MB, each compressed with gzip and with zstd, and
20 images at once that share layers. The files are a sample of this machine's /usr, the same at each
run. Every pull is into an empty store (its daemon, if it has one, begins anew with it) on a new
ext4 with a journal; what the registry serves is in the page cache, and what the pull before wrote is on
disk. All take turns, and whoever is first changes from round to round.

Processor time is that of the client, of what it starts, and of its daemon. Peak memory is the largest
sum over these processes of what is their own and, once per program, of the files they have mapped,
looked at every 20 ms; and at least the daemon's own peak as the kernel has it.

usage: image.py DIST [--rounds N] [--quick] [--case NAME]... [--peer NAME]... [--images DIRECTORY]
       --quick      two rounds with images of a fifth of the size
       --case       of layers-gzip layers-zstd big-gzip big-zstd twenty-gzip twenty-zstd
       --peer       of lighter ctr podman umoci
       --images     keep the registry's content there and use it again: making it takes a minute
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers

REGISTRY = "127.0.0.1:5000"
LAYERS = 40
# Of the images pulled at once.
IMAGES = 20
# A pull's time to the best peer's, and its peak memory in MB (design: what fast means).
TIME_BAR, MEMORY_BAR = 0.6, 64
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE = 0.02
MB = 1_000_000


# --- images ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Sizes:
    """Bytes of the big layer, files per small layer."""
    big: int
    files: int


FULL, QUICK = Sizes(400 * MB, 250), Sizes(80 * MB, 50)


def sample():
    """Regular files of /usr and their sizes, directory by directory as packages install them; the
    directories in an order of no meaning that is the same at each run."""
    found = []
    for directory, _, names in os.walk("/usr"):
        order = hashlib.sha256(os.fsencode(directory)).digest()
        for name in names:
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                if not os.path.islink(path) and os.path.isfile(path):
                    found.append((order, path, os.path.getsize(path)))
    return [(path, size) for _, path, size in sorted(found)]


def big_files(files, wanted):
    chosen, total = [], 0
    for path, size in files:
        if total >= wanted:
            break
        if size <= 50 * MB:
            chosen.append(path)
            total += size
    return chosen


def small_files(files, per_layer):
    small = [path for path, size in files if size <= 16_000]
    if len(small) < LAYERS * per_layer:
        raise SystemExit(f"/usr has {len(small)} small files, {LAYERS * per_layer} are needed")
    return [small[number * per_layer:(number + 1) * per_layer] for number in range(LAYERS)]


class Layout:
    """An OCI layout on disk that is filled layer by layer."""

    def __init__(self, directory):
        self.directory, self.manifests = directory, []
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, path, media_type):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        path.rename(self.directory / "blobs/sha256" / digest)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}

    def document(self, value, media_type):
        path = self.directory / "new"
        path.write_text(json.dumps(value))
        return self.blob(path, media_type)

    def layer(self, files):
        """(diff id, {compression: descriptor}, bytes unpacked)"""
        plain = self.directory / "layer.tar"
        with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as tar:
            known = set()
            for path in sorted(files):
                for parent in reversed(pathlib.Path(path).parents):
                    if parent not in known and str(parent) != "/":
                        known.add(parent)
                        tar.add(parent, recursive=False)
                tar.add(path, recursive=False)
        with open(plain, "rb") as file:
            diff_id = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        descriptors = {}
        for name, command in {"gzip": ["gzip", "-n"], "zstd": ["zstd", "-q"]}.items():
            packed = self.directory / "layer.packed"
            with open(plain, "rb") as source, open(packed, "wb") as target:
                subprocess.run(command, stdin=source, stdout=target, check=True)
            descriptors[name] = self.blob(packed, f"application/vnd.oci.image.layer.v1.tar+{name}")
        size = plain.stat().st_size
        plain.unlink()
        return diff_id, descriptors, size

    def image(self, name, layers, compression):
        kind = "application/vnd.oci.image"
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        config = self.document({
            "architecture": machine, "os": "linux", "config": {"Cmd": ["sh"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _, _ in layers]},
        }, f"{kind}.config.v1+json")
        manifest = self.document({
            "schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": config,
            "layers": [descriptors[compression] for _, descriptors, _ in layers],
        }, f"{kind}.manifest.v1+json")
        self.manifests.append(manifest | {"annotations": {"org.opencontainers.image.ref.name": name}})
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))
        peers.run("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
                  f"oci:{self.directory}:{name}", f"docker://{REGISTRY}/bench/{name}:latest")
        packed = sum(descriptors[compression]["size"] for _, descriptors, _ in layers)
        return packed, sum(size for _, _, size in layers)


def populate(scratch, sizes):
    """Makes all images and pushes them: {case: [references, packed bytes, unpacked bytes]}."""
    files = sample()
    layout = Layout(scratch / "layout")
    big = layout.layer(big_files(files, sizes.big))
    small = [layout.layer(chosen) for chosen in small_files(files, sizes.files)]
    cases = {}
    for compression in ["gzip", "zstd"]:
        for case, layers in {"layers": small, "big": [big]}.items():
            name = f"{case}-{compression}"
            cases[name] = [[f"{REGISTRY}/bench/{name}:latest"], *layout.image(name, layers, compression)]
        # Ten layers in all of them, one in two of them, one of its own.
        references, packed, unpacked = [], 0, 0
        for number in range(IMAGES):
            name = f"twenty-{compression}-{number}"
            layers = [*small[:10], small[10 + number // 2], small[20 + number]]
            sum_packed, sum_unpacked = layout.image(name, layers, compression)
            references.append(f"{REGISTRY}/bench/{name}:latest")
            packed, unpacked = packed + sum_packed, unpacked + sum_unpacked
        cases[f"twenty-{compression}"] = [references, packed, unpacked]
    shutil.rmtree(layout.directory)
    return cases


@contextlib.contextmanager
def registry(scratch, directory, sizes):
    """A docker-registry with the images; what is in `directory` already is taken as it is."""
    config = scratch / "registry.yml"
    config.write_text(f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n"
                      f"    rootdirectory: {directory / 'registry'}\nhttp:\n  addr: {REGISTRY}\n")
    with open(scratch / "registry.log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
    try:
        wait("docker-registry serves", process, serves)
        index = directory / "images.json"
        if not index.exists():
            cases = populate(scratch, sizes)
            index.write_text(json.dumps(cases))
        yield json.loads(index.read_text())
    finally:
        process.terminate()
        process.wait()


def serves():
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://{REGISTRY}/v2/").status == 200


def wait(what, process, condition):
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit(f"not within 20 s: {what}")
        time.sleep(0.01)


def warm(directory):
    """What the registry serves is read once, so that nobody waits for the disk."""
    for path in directory.rglob("data"):
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass


class Disk:
    """An ext4 with a journal, as hosts have it, in a file; new for each pull. On one file system for all,
    what one pull costs would depend on what the others left: ext4 without a journal, for one, looks for
    minutes at each removed inode again whenever it makes a file nearby."""

    SIZE = 6 << 30

    def __init__(self, directory, *options):
        """Options: further ones of mkfs.ext4."""
        self.file, self.directory, self.options = directory / "disk", directory / "mnt", options
        self.directory.mkdir()
        with open(self.file, "wb") as file:
            file.truncate(self.SIZE)

    def mount(self):
        # Blocks that the file has stay its own; nothing is initialised in the background.
        peers.run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
                  *self.options, self.file)
        device = peers.run("losetup", "--find", "--show", "--direct-io=on", self.file).strip()
        try:
            peers.run("mount", "-o", "noinit_itable", device, self.directory)
        finally:
            # Once it is unmounted.
            peers.run("losetup", "--detach", device)

    def unmount(self):
        # Not if it could not be mounted: that is the error to tell.
        if os.path.ismount(self.directory):
            peers.run("umount", self.directory)


# --- measuring ------------------------------------------------------------------------------------


def status(pid):
    """Sizes in /proc/PID/status in bytes; none of a process that is gone."""
    sizes = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                sizes[name] = int(value.split()[0]) * 1024
    return sizes


def resident(pids):
    own, mapped = 0, {}
    for pid in pids:
        sizes = status(pid)
        own += sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
        with contextlib.suppress(OSError):
            program = os.readlink(f"/proc/{pid}/exe")
            mapped[program] = max(mapped.get(program, 0), sizes.get("RssFile", 0))
    return own + sum(mapped.values())


def tree(pid):
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text()
            for child in children.split():
                found.extend(tree(int(child)))
    return found


def processor_seconds(pid):
    """Of a process and of its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / TICKS


@dataclasses.dataclass
class Cost:
    seconds: float
    processor: float
    peak: int


def measure(commands, daemon):
    """Runs all commands at once, to their ends."""
    before = processor_seconds(daemon) if daemon else 0
    # A file and not a pipe: nobody reads while they run.
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
                   for command in commands]
        roots = [process.pid for process in started] + ([daemon] if daemon else [])
        peak, ended = 0, threading.Event()

        def look():
            nonlocal peak
            while not ended.wait(SAMPLE):
                peak = max(peak, resident(pid for root in roots for pid in tree(root)))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            processor = 0.0
            for process in started:
                _, ended_with, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(ended_with)
                processor += usage.ru_utime + usage.ru_stime
            seconds = time.perf_counter() - begin
        finally:
            ended.set()
            looking.join()
        for process in started:
            if process.returncode != 0:
                errors.seek(0)
                text = errors.read().decode(errors="replace")[-2000:]
                raise SystemExit(f"{' '.join(map(str, process.args))}: exit {process.returncode}: {text}")
    if daemon:
        processor += processor_seconds(daemon) - before
        peak = max(peak, status(daemon)["VmHWM"])
    return Cost(seconds, processor, peak)


# --- who pulls ------------------------------------------------------------------------------------


class Contender:
    """Pulls into `root`, which is on `disk` from `begin` to `end`."""

    label = ""
    compressions = ["gzip", "zstd"]

    def __init__(self, disk):
        self.disk, self.daemon = disk, None
        self.root = disk.directory / "root"

    def begin(self):
        self.disk.mount()
        self.root.mkdir()

    def start(self, what, socket, *command, **options):
        with open(self.root / "log", "wb") as log:
            self.daemon = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           **options)
        wait(f"{what} listens (see {self.root}/log)", self.daemon, socket.exists)

    def end(self):
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()
            self.daemon = None
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(f"{self.root}/"):
                peers.run("umount", "--lazy", mount)
        self.disk.unmount()


class Ours(Contender):
    label = "lighter image pull"

    def __init__(self, disk, dist):
        super().__init__(disk)
        self.program = dist / "lighter"

    def begin(self):
        super().begin()
        self.start("the agent", self.root / "run/lighter/agent.sock", self.program, "--root", self.root, "agent")

    def pull(self, _, reference):
        return [self.program, "--root", self.root, "image", "pull", "--quiet", reference]


class Containerd(Contender):
    label = "ctr image pull"
    programs = ["containerd", "ctr"]

    def begin(self):
        super().begin()
        socket = self.root / "containerd.sock"
        config = self.root / "config.toml"
        # The part for Kubernetes is of no use here, and would want a network configuration.
        config.write_text(f'version = 2\nroot = "{self.root}/data"\nstate = "{self.root}/state"\n'
                          f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
                          f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self.root}/opt"\n')
        self.start("containerd", socket, "containerd", "--config", config)

    def pull(self, _, reference):
        return ["ctr", "--address", self.root / "containerd.sock", "image", "pull", "--plain-http", reference]


class Podman(Contender):
    label = "podman pull"
    programs = ["podman"]

    def begin(self):
        super().begin()
        (self.root / "tmp").mkdir()

    def pull(self, _, reference):
        # Layers on their way go to TMPDIR.
        return ["env", f"TMPDIR={self.root}/tmp", *map(str, ["podman", *peers.Podman(self.root).options]),
                "pull", "--quiet", "--tls-verify=false", reference]


class Umoci(Contender):
    label = "skopeo copy, umoci unpack"
    programs = ["skopeo", "umoci"]

    def __init__(self, disk):
        super().__init__(disk)
        version = peers.run("umoci", "--version").split()[-1]
        if tuple(int(part) for part in version.partition("+")[0].split(".")[:2]) < (0, 5):
            self.compressions = ["gzip"]

    def pull(self, number, reference):
        script = ('skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$1" "oci:$2/layout:image" && '
                  'exec umoci unpack --image "$2/layout:image" "$2/bundle"')
        directory = self.root / str(number)
        return ["sh", "-c", f'mkdir "$2" && {script}', "sh", reference, directory]


def contenders(names, dist, disk):
    every = {"ctr": Containerd, "podman": Podman, "umoci": Umoci}
    here = {name: kind for name, kind in every.items() if all(map(shutil.which, kind.programs))}
    make = {"lighter": lambda disk: Ours(disk, dist), **here}
    return {name: new(disk) for name, new in make.items() if not names or name in names}


# --- the bench ------------------------------------------------------------------------------------


def take_turns(references, rounds, those):
    costs = {name: [] for name in those}
    names = list(those)
    # The round before the first: nobody's programs are in the page cache yet.
    for number in range(rounds + 1):
        for name in names[number % len(names):] + names[:number % len(names)]:
            who = those[name]
            try:
                who.begin()
                os.sync()
                commands = [who.pull(index, reference) for index, reference in enumerate(references)]
                cost = measure(commands, who.daemon.pid if who.daemon else None)
            finally:
                who.end()
            if number > 0:
                costs[name].append(cost)
    return costs


def show(case, text, rounds, those, costs):
    print(f"\n{case}: {text}; {rounds} rounds")
    print(f"  {'':28} {'minimum s':>10} {'median s':>10} {'processor s':>12} {'peak MB':>9}")
    for name, who in those.items():
        times = [cost.seconds for cost in costs[name]]
        processor = statistics.median(cost.processor for cost in costs[name])
        peak = max(cost.peak for cost in costs[name])
        print(f"  {who.label:28} {min(times):10.2f} {statistics.median(times):10.2f} {processor:12.2f} {peak / MB:9.1f}")
    rivals = [name for name in costs if name != "lighter"]
    if "lighter" not in costs:
        return
    if rivals:
        for label, value in [("minima", min), ("medians", statistics.median)]:
            time_of = {name: value([cost.seconds for cost in costs[name]]) for name in costs}
            best = min(rivals, key=time_of.get)
            ratio = time_of["lighter"] / time_of[best]
            verdict = "holds" if ratio <= TIME_BAR else "missed"
            print(f"  ratio of {label} to the best peer ({those[best].label}): {ratio:.2f}; bar {TIME_BAR}: {verdict}")
        share = min(statistics.median(cost.processor for cost in costs[name]) for name in rivals)
        ours = statistics.median(cost.processor for cost in costs["lighter"])
        print(f"  ratio of processor time to the least of the peers: {ours / share:.2f}")
    if not case.startswith("twenty"):
        peak = max(cost.peak for cost in costs["lighter"]) / MB
        print(f"  peak memory {peak:.1f} MB; bar {MEMORY_BAR} MB: {'holds' if peak <= MEMORY_BAR else 'missed'}")


def arguments():
    parser = argparse.ArgumentParser(description="pull and unpack beside the peers")
    parser.add_argument("dist", type=pathlib.Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--images", type=pathlib.Path)
    return parser.parse_args()


def main():
    given = arguments()
    peers.isolated()
    rounds = given.rounds or (2 if given.quick else 5)
    with tempfile.TemporaryDirectory(prefix="lighter-bench-") as scratch:
        scratch = pathlib.Path(scratch)
        directory = (given.images or scratch / "images").resolve() / ("quick" if given.quick else "full")
        directory.mkdir(parents=True, exist_ok=True)
        those = contenders(given.peer, given.dist.resolve(), Disk(scratch))
        with registry(scratch, directory, QUICK if given.quick else FULL) as cases:
            unknown = set(given.case) - set(cases)
            if unknown:
                raise SystemExit(f"no case {' '.join(sorted(unknown))}: there are {' '.join(cases)}")
            for case, (references, packed, unpacked) in cases.items():
                if given.case and case not in given.case:
                    continue
                able = {name: who for name, who in those.items() if case.split("-")[1] in who.compressions}
                warm(directory / "registry")
                costs = take_turns(references, rounds, able)
                images = f"{len(references)} images at once, " if len(references) > 1 else ""
                show(case, f"{images}{packed / MB:.0f} MB packed, {unpacked / MB:.0f} MB unpacked", rounds, able, costs)


if __name__ == "__main__":
    main()
