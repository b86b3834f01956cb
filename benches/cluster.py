#!/usr/bin/env python3
"""The whole system on one host: boto3 asks the control plane, its agent runs the task.

A control plane and an agent in namespaces of their own; tasks of one busybox container whose image
is present (pull behaviour prefer-cached). Prints, per network mode, how long RunTask takes, how long
until a client that polls DescribeTasks every 2 ms sees RUNNING, the record's own startedAt -
createdAt, and StopTask to STOPPED; each task alone on the host. Beside them `podman run -d`,
interleaved. Then bursts, and what both daemons hold in memory when nothing happens.

usage: cluster.py DIST [ROUNDS] [TASKS AT REST]
"""

import contextlib
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers

REGION = "eu-north-1"
ENDPOINT = "http://127.0.0.1:4780"
MODES = ["bridge", "awsvpc", "host"]
# What the agent may hold, tasks or not (kB).
AGENT_BAR = 30_000
POLL = 0.002
REST = 10


class Cluster:
    """A control plane and an agent that has joined it, and a client."""

    def __init__(self, dist, directory):
        self.lighter, self.processes = dist / "lighter", []
        data, self.root = directory / "control-plane", directory / "root"
        program = dist / "lighter-control-plane"
        key = json.loads(peers.run(program, "key", "create", "--output", "json", "--data", data))
        (self.root / "etc/ecs").mkdir(parents=True)
        (self.root / "etc/ecs/ecs.config").write_text("".join(f"{name}={value}\n" for name, value in {
            "ECS_CLUSTER": "default", "ECS_BACKEND_HOST": ENDPOINT, "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": key["accessKeyId"], "AWS_SECRET_ACCESS_KEY": key["secretAccessKey"],
            "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
        }.items()))
        import boto3
        from botocore.config import Config
        self.ecs = boto3.client(
            "ecs", endpoint_url=ENDPOINT, region_name=REGION, aws_access_key_id=key["accessKeyId"],
            aws_secret_access_key=key["secretAccessKey"], config=Config(retries={"total_max_attempts": 1}))
        self.logs = directory
        self.control_plane = self.start("control-plane", program, "serve", "--data", data)
        self.wait("the control plane serves", self.serves)
        self.ecs.create_cluster(clusterName="default")
        self.agent = self.start("agent", self.lighter, "--root", self.root, "agent")
        self.wait("the agent is connected", self.connected)

    def start(self, name, *command):
        with open(self.logs / f"{name}.log", "wb") as log:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append((name, process))
        return process

    def fail(self, what):
        logs = [(name, (self.logs / f"{name}.log").read_text(errors="replace")) for name, _ in self.processes]
        raise SystemExit("\n".join([what, *(f"--- {name}\n{log[-2000:]}" for name, log in logs)]))

    def wait(self, what, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not within {seconds} s: {what}")
            time.sleep(0.02)

    def serves(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{ENDPOINT}/healthz").status == 200

    def connected(self):
        with contextlib.suppress(self.ecs.exceptions.ClusterNotFoundException):
            arns = self.ecs.list_container_instances()["containerInstanceArns"]
            found = arns and self.ecs.describe_container_instances(containerInstances=arns)["containerInstances"]
            return found and found[0]["agentConnected"]

    def load(self, archive):
        peers.run(self.lighter, "--root", self.root, "image", "load", "-i", archive)

    def register(self, mode):
        # A shell that ends when it is told to, so that no stop waits for its time-out.
        script = "trap 'exit 0' TERM; sleep 1000 & wait"
        self.ecs.register_task_definition(family=mode, networkMode=mode, containerDefinitions=[{
            "name": "main", "image": "localhost/bench:latest", "memory": 16, "stopTimeout": 2,
            "entryPoint": ["sh", "-c"], "command": [script]}])

    def run(self, mode, count=1):
        network = {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}}
        answer = self.ecs.run_task(taskDefinition=mode, count=count, **(network if mode == "awsvpc" else {}))
        if answer["failures"]:
            self.fail(f"RunTask: {answer['failures']}")
        return [task["taskArn"] for task in answer["tasks"]]

    def until(self, status, arns):
        """Polls until all have this status: the last answer."""
        deadline = time.monotonic() + 60
        while True:
            asked = time.perf_counter()
            tasks = self.ecs.describe_tasks(tasks=arns)["tasks"]
            if all(task["lastStatus"] == status for task in tasks):
                return tasks
            ended = [task.get("stoppedReason") for task in tasks if task["lastStatus"] == "STOPPED"]
            if (ended and status != "STOPPED") or time.monotonic() > deadline:
                self.fail(f"tasks are not {status}: {[task['lastStatus'] for task in tasks]} {ended}")
            time.sleep(max(0, POLL - (time.perf_counter() - asked)))

    def stop(self, arns):
        for arn in arns:
            self.ecs.stop_task(task=arn)
        return self.until("STOPPED", arns)

    def memory(self):
        """(VmRSS, proportional set size) of agent and control plane in kB, after some rest."""
        time.sleep(REST)
        return [(resident(process.pid), peers.pss(process.pid)) for process in (self.agent, self.control_plane)]

    def close(self):
        for _, process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait()


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise SystemExit(f"no VmRSS of {pid}")


def one(cluster, mode):
    """Milliseconds of one task's steps."""
    begin = time.perf_counter()
    arns = cluster.run(mode)
    called = time.perf_counter()
    task = cluster.until("RUNNING", arns)[0]
    seen = time.perf_counter()
    cluster.stop(arns)
    stopped = time.perf_counter()
    return {
        "call": (called - begin) * 1000, "seen": (seen - begin) * 1000,
        "record": (task["startedAt"] - task["createdAt"]).total_seconds() * 1000,
        "stop": (stopped - seen) * 1000,
    }


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def line(label, times):
    figures = [statistics.median(times), percentile(times, 0.99), max(times)]
    print(f"  {label:52}" + "".join(f" {figure:8.1f}" for figure in figures))


def measure(cluster, podman, rounds, resting):
    for mode in MODES:
        cluster.register(mode)
    memory = [("no task yet", cluster.memory())]
    arns = [arn for _ in range(0, resting, 10) for arn in cluster.run("bridge", min(10, resting))]
    cluster.until("RUNNING", arns)
    memory.append((f"{len(arns)} tasks running", cluster.memory()))
    cluster.stop(arns)

    steps, peer = {mode: [] for mode in MODES}, []
    for number in range(rounds + 2):
        for mode in MODES:
            times = one(cluster, mode)
            if number >= 2:
                steps[mode].append(times)
        if podman:
            begin = time.perf_counter()
            container = podman.run()
            elapsed = (time.perf_counter() - begin) * 1000
            podman.remove(container)
            if number >= 2:
                peer.append(elapsed)

    bursts = []
    for _ in range(5):
        begin = time.perf_counter()
        arns = cluster.run("bridge", 10)
        cluster.until("RUNNING", arns)
        bursts.append(time.perf_counter() - begin)
        cluster.stop(arns)
    memory.append((f"no task, {(rounds + 2) * 3 + len(arns) * 5 + resting} have stopped", cluster.memory()))
    return memory, steps, peer, bursts


def main():
    dist = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    resting = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    peers.isolated()
    with contextlib.ExitStack() as stack:
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lighter-bench-")))
        archive = peers.busybox_archive(scratch)
        cluster = Cluster(dist, scratch)
        stack.callback(cluster.close)
        cluster.load(archive)
        podman = peers.podman(scratch / "podman")
        if podman:
            stack.callback(podman.close)
            podman.load(archive)
        memory, steps, peer, bursts = measure(cluster, podman, rounds, resting)

    print(f"one task at a time, {rounds} rounds, prefer-cached, milliseconds     median      p99      max")
    for name, label in [
        ("call", "RunTask answers"), ("seen", "RunTask to RUNNING, as a client sees it"),
        ("record", "of it by the record: createdAt to startedAt"), ("stop", "StopTask to STOPPED, as a client sees it"),
    ]:
        for mode in MODES:
            line(f"{label} ({mode})", [times[name] for times in steps[mode]])
    if peer:
        line("podman run -d --network none", peer)
        for mode in MODES:
            ours = statistics.median(times["seen"] for times in steps[mode])
            print(f"  ratio of medians, RunTask to RUNNING ({mode}) to podman: {ours / statistics.median(peer):.2f}")
    print(f"bursts of 10 (bridge), 5 rounds: until all are RUNNING, median {statistics.median(bursts) * 1000:.0f} ms, "
          f"{10 / statistics.median(bursts):.1f} tasks a second")
    print(f"memory after {REST} s of rest, kB                   agent RSS      PSS   control plane RSS      PSS")
    for label, ((agent, agent_pss), (ours, ours_pss)) in memory:
        print(f"  {label:40} {agent:15.0f} {agent_pss:8.0f} {ours:19.0f} {ours_pss:8.0f}")
    worst = max(agent for _, ((agent, _), _) in memory)
    print(f"  agent's largest RSS to its bar of {AGENT_BAR} kB: {worst / AGENT_BAR:.2f}")


if __name__ == "__main__":
    main()
