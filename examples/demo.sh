#!/usr/bin/env bash
# The main job, shown: two images made from Debian packages, a registry on loopback, one task
# definition with an init container, a web application and the X-Ray sidecar, run by `lighter run`.
#
# usage: examples/demo.sh DIST      (the directory with the three binaries)
set -euo pipefail
cd "$(dirname "$0")/.."
dist=$(realpath "${1:?usage: examples/demo.sh DIST}")
[ "$(id -u)" = 0 ] || { echo "demo: must run as root (it makes namespaces, cgroups and mounts)" >&2; exit 1; }
export PATH="$dist:$PATH"
cache=target/demo
registry=127.0.0.1:5470
mkdir -p "$cache"
scratch=$(mktemp -d "$(realpath "$cache")/run.XXXXXX")
export LIGHTER_ROOT="$scratch/root"
mkdir "$LIGHTER_ROOT"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }

# What of the host we could have changed; compared at the end.
host_state() {
    cut -d' ' -f5,9- /proc/self/mountinfo | grep -v "$scratch/registry" | sort
    ip -o link show | cut -d: -f2 | sort
    nft list tables 2>/dev/null
    cat /proc/sys/net/ipv4/ip_forward
    find /sys/fs/cgroup -mindepth 1 -maxdepth 3 -type d -name 'lighter*' | sort
}

run_pid="" registry_pid=""
finish() {
    status=$?
    [ -z "$run_pid" ] || { kill -INT "$run_pid" 2>/dev/null && wait "$run_pid"; } || true
    [ -z "$registry_pid" ] || { kill "$registry_pid" && wait "$registry_pid"; } 2>/dev/null || true
    rm -rf "$scratch"
    exit "$status"
}
trap finish EXIT
host_state >"$scratch/before"

# Tries a command until it succeeds, for twenty seconds.
eventually() {
    for _ in $(seq 200); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}

say "a registry on loopback ($registry)"
cat >"$scratch/registry.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $scratch/registry } }
http: { addr: "$registry" }
YAML
docker-registry serve "$scratch/registry.yml" >"$scratch/registry.log" 2>&1 &
registry_pid=$!
eventually curl -fsS -o /dev/null "http://$registry/v2/" 2>/dev/null || { cat "$scratch/registry.log" >&2; fail "the registry does not answer"; }

say "two images from Debian packages and the X-Ray SDK from PyPI"
python3 examples/images/build.py "$cache/images" "$registry"

say "lighter validate examples/web-xray.json"
lighter validate examples/web-xray.json

say "lighter run examples/web-xray.json"
lighter run --timestamps examples/web-xray.json >"$scratch/out" 2>"$scratch/err" &
run_pid=$!
serving() { grep -q 'listening on 8080' "$scratch/out" || ! kill -0 "$run_pid" 2>/dev/null; }
eventually serving || true
kill -0 "$run_pid" 2>/dev/null || { cat "$scratch/out" "$scratch/err" >&2; fail "lighter run ended early"; }
lighter ps
task=$(lighter ps --quiet | head -n 1)
address=$(lighter inspect "$task" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["address"])')

say "a page from the task's address: http://$address:8080/"
eventually curl -fsS -o "$scratch/page" "http://$address:8080/" || fail "no page from $address"
cat "$scratch/page"
grep -q 'Hello from a task' "$scratch/page" || fail "not the page that the init container wrote"

say "its segment, in the sidecar's log stream"
segment() { lighter logs "$task" xray | grep -q '"name": "web"'; }
eventually segment || fail "no segment arrived"
lighter logs "$task" xray | grep segment | head -n 1

say "the web container is stopped: the sidecar stops with it"
lighter exec -c web "$task" sh -c 'kill -TERM 1'
code=0
wait "$run_pid" || code=$?
run_pid=""
lighter ps --all
echo "lighter run exited with $code; it printed:"
cat "$scratch/err" "$scratch/out"
[ "$code" = 0 ] || fail "expected the web container's exit code, 0"
[ -z "$(lighter ps --quiet)" ] || fail "containers are left"

say "the host is as before"
lighter rm "$task" >/dev/null
kill "$registry_pid" && wait "$registry_pid" 2>/dev/null || true
registry_pid=""
host_state >"$scratch/after"
diff "$scratch/before" "$scratch/after" || fail "the host is not as before"
echo "same mounts, links, nftables tables, cgroups and forwarding"
