#!/usr/bin/env bash
# Runs the benches: all, or those named. Each prints our figures and a peer's from the same run.
#
# usage: benches/run.sh [start] [memory] [cluster]      with LIGHTER_DIST set (make bench does both)
set -euo pipefail
here=$(dirname "$0")
dist=${LIGHTER_DIST:?LIGHTER_DIST is not set: run make bench}
[ $# -gt 0 ] || set -- start memory cluster
# crun refuses a hybrid host whose cgroup2 mount offers a controller: hide them, in a mount
# namespace of the benches' own.
controllers=/sys/fs/cgroup/unified/cgroup.controllers
if [ -e "$controllers" ] && [ -z "${LIGHTER_BENCH_NAMESPACE:-}" ]; then
    LIGHTER_BENCH_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi
[ ! -e "$controllers" ] || mount --bind /dev/null "$controllers"
for bench in "$@"; do
    python3 "$here/$bench.py" "$dist"
done
