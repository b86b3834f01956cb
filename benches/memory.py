#!/usr/bin/env python3
"""Memory per running task beyond its containers: proportional set size of the monitor pair beside
conmon's, twenty of each at the same time.

usage: memory.py DIST [COUNT]
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers


def main():
    dist, count = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with peers.prepared(dist) as (definition, lighter, podman):
        tasks = [lighter.run(definition) for _ in range(count)]
        pairs = [lighter.monitor_pids(task) for task in tasks]
        ours = [sum(peers.pss(pid) for pid in pair) for pair in pairs]
        agent = peers.pss(lighter.agent_pid())
        theirs = []
        if podman:
            containers = [podman.run() for _ in range(count)]
            theirs = [peers.pss(podman.conmon_pid(container)) for container in containers]
            for container in containers:
                podman.remove(container)
        for task in tasks:
            lighter.remove(task)
    print(f"proportional set size with {count} running, kB        mean  largest")
    print(f"  monitor pair per task (guardian and worker)   {sum(ours) / count:8.0f} {max(ours):8.0f}")
    if theirs:
        print(f"  conmon per container                          {sum(theirs) / count:8.0f} {max(theirs):8.0f}")
        print(f"  ratio, lighter to conmon: {sum(ours) / sum(theirs):.2f}")
    print(f"  agent with {count} tasks                           {agent:8.0f}")


if __name__ == "__main__":
    main()
