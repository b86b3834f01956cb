#!/usr/bin/env bash
# Runs the benches: all, or those named. Each prints our figures and, where there is one, a peer's
# from the same run.
#
# usage: benches/run.sh [runtime] [start] [memory] [cluster] [image] [scheduler]
#        with LIGHTER_DIST set (make bench does it); scheduler builds its own
set -euo pipefail
here=$(dirname "$0")
dist=${LIGHTER_DIST:?LIGHTER_DIST is not set: run make bench}
[ $# -gt 0 ] || set -- runtime start memory cluster image scheduler
# crun refuses a hybrid host whose cgroup2 mount offers a controller: hide them, in a mount
# namespace of the benches' own.
controllers=/sys/fs/cgroup/unified/cgroup.controllers
if [ -e "$controllers" ] && [ -z "${LIGHTER_BENCH_NAMESPACE:-}" ]; then
    LIGHTER_BENCH_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi
[ ! -e "$controllers" ] || mount --bind /dev/null "$controllers"
for bench in "$@"; do
    case $bench in
        # Placement decisions and the store's commits: what the unit tests of the control plane measure.
        scheduler) cargo test --quiet --locked --release --manifest-path "$here/../Cargo.toml" -p control-plane --lib \
            measure_ -- --ignored --nocapture --test-threads 1 ;;
        *) python3 "$here/$bench.py" "$dist" ;;
    esac
done
