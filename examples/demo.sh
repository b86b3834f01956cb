#!/usr/bin/env bash
# The main job, shown: two images made from Debian packages, a registry on loopback, then the whole
# system on this host (`lighter up`), driven by the unmodified aws CLI.
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
export LIGHTER_ROOT="$scratch/root" HOME="$scratch" AWS_PAGER="" AWS_EC2_METADATA_DISABLED=true
unset AWS_PROFILE AWS_SESSION_TOKEN
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

registry_pid="" up=""
finish() {
    status=$?
    if [ "$status" != 0 ] && [ -n "$up" ]; then
        tail -n 20 "$LIGHTER_ROOT"/var/lib/lighter/{control-plane,agent}.log >&2 || true
    fi
    [ -z "$up" ] || lighter down >&2 || true
    [ -z "$registry_pid" ] || { kill "$registry_pid" && wait "$registry_pid"; } 2>/dev/null || true
    rm -rf "$scratch"
    exit "$status"
}
trap finish EXIT
host_state >"$scratch/before"

# Tries a command until it succeeds, for a minute.
eventually() {
    for _ in $(seq 600); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}

# Debian's aws CLI is older than the variable AWS_ENDPOINT_URL.
aws() { command /usr/bin/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }
# Shows a command as it would be typed, then runs it.
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

say "a registry on loopback ($registry)"
cat >"$scratch/registry.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $scratch/registry } }
http: { addr: "$registry" }
YAML
docker-registry serve "$scratch/registry.yml" >"$scratch/registry.log" 2>&1 &
registry_pid=$!
answers() { curl -fsS -o /dev/null "$1" 2>/dev/null; }
eventually answers "http://$registry/v2/" || { cat "$scratch/registry.log" >&2; fail "the registry does not answer"; }

say "two images from Debian packages and the X-Ray SDK from PyPI"
python3 examples/images/build.py "$cache/images" "$registry"

say "lighter up --detach: control plane and agent on this host"
up=yes
lighter up --detach >"$scratch/environment"
# shellcheck disable=SC1091
. "$scratch/environment"
sed 's/\(SECRET_ACCESS_KEY=\).*/\1…/' "$scratch/environment"
show lighter status
show aws sts get-caller-identity --query Arn --output text
show aws ecs list-container-instances --query 'containerInstanceArns[]' --output text

say "a task: web and its X-Ray sidecar"
show aws ecs register-task-definition --cli-input-json file://examples/web-xray.json \
    --query taskDefinition.taskDefinitionArn --output text
task=$(aws ecs run-task --task-definition web-xray \
    --network-configuration 'awsvpcConfiguration={subnets=[subnet-demo]}' \
    --query 'tasks[0].taskArn' --output text)
show aws ecs wait tasks-running --tasks "$task"
show aws ecs describe-tasks --tasks "$task" --output table --query \
    'tasks[].{status:lastStatus,created:createdAt,started:startedAt,group:group,instance:containerInstanceArn}'
address=$(aws ecs describe-tasks --tasks "$task" --output text --query \
    "tasks[0].attachments[0].details[?name=='privateIPv4Address'].value | [0]")

say "its page, from its own address: http://$address:8080/"
page() { curl -fsS -o "$scratch/page" "$1" 2>/dev/null; }
eventually page "http://$address:8080/" || fail "no page from $address"
cat "$scratch/page"
grep -q 'Hello from a task' "$scratch/page" || fail "not the page that the init container wrote"

say "its logs, a stream per container"
streamed() { aws logs tail /demo/web-xray --format short >"$scratch/tail" 2>/dev/null && grep -q '"name": "web"' "$scratch/tail"; }
eventually streamed || { cat "$scratch/tail" >&2; fail "the segment is not in the logs"; }
show aws logs describe-log-streams --log-group-name /demo/web-xray --query 'logStreams[].logStreamName' --output text
show aws logs tail /demo/web-xray --format short

say "a service of two, on dynamic host ports"
show aws ecs register-task-definition --cli-input-json file://examples/web.json \
    --query taskDefinition.taskDefinitionArn --output text
show aws ecs create-service --service-name web --task-definition web --desired-count 2 \
    --query 'service.deployments[0].rolloutState' --output text
stable() { [ "$(aws ecs describe-services --services web --output text --query \
    "services[0].[length(deployments)==\`1\` && runningCount==desiredCount && deployments[0].rolloutState=='COMPLETED']")" = True ]; }
running() {
    # shellcheck disable=SC2046
    aws ecs describe-tasks --tasks $(aws ecs list-tasks --service-name web --query 'taskArns[]' --output text) "$@"
}
ports() { running --query 'tasks[].containers[].networkBindings[].hostPort' --output text; }
both_serve() {
    local port
    # shellcheck disable=SC2046  # a word per port
    set -- $(ports 2>/dev/null)
    [ $# = 2 ] || return 1
    for port in "$@"; do page "http://127.0.0.1:$port/" || return 1; done
}
eventually both_serve || fail "the two tasks do not serve"
for port in $(ports); do page "http://127.0.0.1:$port/" && printf 'http://127.0.0.1:%s/  %s\n' "$port" "$(cat "$scratch/page")"; done

say "a new revision, rolled out; the deployment's events"
eventually stable || fail "the first deployment does not come to its end"
sed 's/"value": "1"/"value": "2"/' examples/web.json >"$scratch/web2.json"
show aws ecs register-task-definition --cli-input-json "file://$scratch/web2.json" \
    --query taskDefinition.taskDefinitionArn --output text
show aws ecs update-service --service web --task-definition web \
    --query 'service.deployments[].[status,taskDefinition]' --output text
eventually stable || fail "the second deployment does not come to its end"
eventually both_serve || fail "the two tasks do not serve"
for port in $(ports); do
    page "http://127.0.0.1:$port/"
    grep -q 'revision 2' "$scratch/page" || fail "port $port still serves the first revision"
done
cat "$scratch/page"
show aws ecs describe-services --services web --query 'services[0].events[].message' --output text | tr '\t' '\n'

say "one task's essential container is killed: the service replaces it"
victim=$(running --query 'tasks[0].taskArn' --output text)
lighter exec -c web "${victim##*/}" sh -c 'kill -TERM 1' || true
replaced() {
    local now
    now=$(running --query "tasks[?lastStatus=='RUNNING'].taskArn" --output text 2>/dev/null) || return 1
    [ "$(wc -w <<<"$now")" = 2 ] && ! grep -q "$victim" <<<"$now"
}
eventually replaced || fail "no replacement"
show aws ecs describe-tasks --tasks "$victim" --query 'tasks[].[lastStatus,stopCode,stoppedReason]' --output text
running --query 'tasks[].[taskArn,lastStatus]' --output text

say "everything is stopped"
show aws ecs delete-service --service web --force --query service.status --output text
show aws ecs stop-task --task "$task" --reason "the demo is over" --query task.desiredStatus --output text
none_left() { [ -z "$(aws ecs list-tasks --query 'taskArns[]' --output text)" ] && [ -z "$(lighter ps --quiet)" ]; }
eventually none_left || fail "tasks are left"
show aws ecs describe-tasks --tasks "$task" --output text --query 'tasks[].[lastStatus,stopCode,stoppedReason]'
show lighter down
up=""

say "the host is as before"
kill "$registry_pid"
wait "$registry_pid" 2>/dev/null || true
registry_pid=""
host_state >"$scratch/after"
diff "$scratch/before" "$scratch/after" || fail "the host is not as before"
echo "same mounts, links, nftables tables, cgroups and forwarding"
