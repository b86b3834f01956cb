"""What the benches share: a small image, and each peer behind the same few verbs."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def busybox_archive(directory, name="localhost/bench:latest"):
    """An OCI archive with Debian's static busybox and its applets in /bin, and a user file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add("/bin/busybox", arcname="bin/busybox")
        for applet in set(run("/bin/busybox", "--list").split()) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        users = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        tar.addfile(entry, io.BytesIO(users))
    layer = layer.getvalue()

    files = {}

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    kind = "application/vnd.oci.image"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = blob(json.dumps({
        "architecture": machine, "os": "linux", "config": {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode(), f"{kind}.config.v1+json")
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": config,
        "layers": [blob(layer, f"{kind}.layer.v1.tar")],
    }).encode(), f"{kind}.manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'

    archive = directory / "bench.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive


def one_container(network_mode):
    return {
        "family": "bench", "networkMode": network_mode, "containerDefinitions": [
            {"name": "main", "image": "localhost/bench:latest", "memory": 64, "stopTimeout": 2}],
    }


def pss(pid):
    """Proportional set size of a process in kB."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise SystemExit(f"no Pss of {pid}")


def isolated():
    """Runs the program anew in mount, network and pid namespaces of its own, unless it is there; what
    it started ends with it. The shell above it reaps what is orphaned."""
    if os.environ.get("LIGHTER_BENCH_ISOLATED"):
        return
    options = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    script = 'ip link set lo up && "$@"; exit $?'
    command = ["unshare", *options, "bash", "-c", script, "bash", sys.executable, *sys.argv]
    os.execvpe("unshare", command, {**os.environ, "LIGHTER_BENCH_ISOLATED": "1"})


def podman(directory):
    """Podman with its storage in a directory, if it is here."""
    return Podman(directory) if shutil.which("podman") else None


@contextlib.contextmanager
def prepared(dist):
    """(task definition's path, Lighter, Podman or None), each with the image loaded; ended after."""
    with tempfile.TemporaryDirectory(prefix="lighter-bench-") as scratch:
        scratch = pathlib.Path(scratch)
        archive = busybox_archive(scratch)
        definition = scratch / "task.json"
        definition.write_text(json.dumps(one_container("awsvpc")))
        lighter = Lighter(dist, scratch / "lighter")
        peer = podman(scratch / "podman")
        try:
            lighter.load(archive)
            if peer:
                peer.load(archive)
            yield definition, lighter, peer
        finally:
            lighter.close()
            if peer:
                peer.close()


class Lighter:
    def __init__(self, dist, root):
        root.mkdir()
        self.program, self.root = dist / "lighter", root
        self.agent = subprocess.Popen([self.program, "--root", root, "agent"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not (root / "run/lighter/agent.sock").exists():
            if time.monotonic() > deadline or self.agent.poll() is not None:
                raise SystemExit("the agent does not start")
            time.sleep(0.01)

    def __call__(self, *words):
        return run(self.program, "--root", self.root, *words)

    def load(self, archive):
        self("image", "load", "-i", archive)

    def run(self, definition):
        return self("run", "--detach", definition).strip()

    def inspect(self, task):
        return json.loads(self("inspect", task))[0]

    def status(self, task):
        return self.inspect(task)["lastStatus"]

    def remove(self, task):
        self("rm", "--force", task)

    def engine_times(self, definition, rounds):
        """Milliseconds from the task's creation to its RUNNING, as the agent saw them."""
        stamp = lambda text: float(run("date", "-d", text, "+%s.%N"))
        times = []
        for _ in range(rounds):
            task = self.run(definition)
            view = self.inspect(task)
            times.append((stamp(view["startedAt"]) - stamp(view["createdAt"])) * 1000)
            self.remove(task)
        return times

    def monitor_pids(self, task):
        record = json.loads((self.root / "run/lighter/tasks" / task / "monitor.json").read_text())
        return [record["guardian"]["pid"], record["worker"]["pid"]]

    def agent_pid(self):
        return self.agent.pid

    def close(self):
        for task in self("ps", "--all", "--quiet", "--no-trunc").split():
            self("rm", "--force", task)
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait()


class Podman:
    def __init__(self, root):
        self.options = ["--root", root / "storage", "--runroot", root / "run", "--cgroup-manager", "cgroupfs"]

    def __call__(self, *words):
        return run("podman", *self.options, *words)

    def load(self, archive):
        self("load", "--quiet", "--input", archive)

    def run(self):
        return self("run", "--detach", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "localhost/bench:latest").strip()

    def conmon_pid(self, container):
        return int(self("inspect", "--format", "{{.State.ConmonPid}}", container))

    def remove(self, container):
        self("rm", "--force", "--time", "0", container)

    def close(self):
        self("rm", "--all", "--force", "--time", "0")
        self("image", "rm", "--all", "--force")
