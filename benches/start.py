#!/usr/bin/env python3
"""How long from the command to a running container, image present.

`lighter run --detach` (awsvpc: own namespace, veth, address) beside `podman run -d` (without any
network, the cheapest it has), interleaved in one run. Prints minimum, median and ratio.

usage: start.py DIST [ROUNDS]
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers


def main():
    dist, rounds = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with peers.prepared(dist) as (definition, lighter, podman):
        times = {"lighter": [], "podman": []}
        for number in range(rounds + 2):
            begin = time.perf_counter()
            task = lighter.run(definition)
            elapsed = time.perf_counter() - begin
            assert lighter.status(task) == "RUNNING"
            lighter.remove(task)
            if number >= 2:
                times["lighter"].append(elapsed)
            if podman:
                begin = time.perf_counter()
                container = podman.run()
                elapsed = time.perf_counter() - begin
                podman.remove(container)
                if number >= 2:
                    times["podman"].append(elapsed)
        engine = lighter.engine_times(definition, rounds)
    print(f"command to RUNNING, {rounds} rounds, milliseconds      minimum   median")
    for name, label in [("lighter", "lighter run --detach (awsvpc)"), ("podman", "podman run -d --network none")]:
        if times[name]:
            print(f"  {label:48} {min(times[name]) * 1000:9.1f} {statistics.median(times[name]) * 1000:8.1f}")
    print(f"  {'of it in the agent: created to started':48} {min(engine):9.1f} {statistics.median(engine):8.1f}")
    if times["podman"]:
        ratio = statistics.median(times["lighter"]) / statistics.median(times["podman"])
        print(f"  ratio of medians, lighter to podman: {ratio:.2f}")


if __name__ == "__main__":
    main()
