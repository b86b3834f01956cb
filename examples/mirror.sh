#!/usr/bin/env bash
# Shows a pull by digest through a mirror: two Debian `docker-registry`, one of which mirrors the other,
# both with TLS by an authority of their own and with tokens, and `lighter image pull` between. Ends with
# what was asked of whom. Everything is on loopback and in a temporary directory.
#
# usage: examples/mirror.sh [DIRECTORY OF THE BINARIES]      (as root; docker-registry, skopeo, openssl, python3)
set -euo pipefail

dist=$(realpath "${1:-target/dist}")
scratch=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
cd "$scratch"
say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

# --- an authority, and who signs tokens ------------------------------------------------------------
printf '[req]\ndistinguished_name = n\nprompt = no\n[n]\nCN = example\n' >openssl.cnf
new=(openssl req -x509 -config openssl.cnf -newkey rsa:2048 -nodes -days 2)
"${new[@]}" -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE 2>/dev/null
"${new[@]}" -keyout server.key -out server.crt -CA ca.crt -CAkey ca.key -addext basicConstraints=critical,CA:FALSE \
    -addext subjectAltName=IP:127.0.0.1 2>/dev/null
"${new[@]}" -keyout tokens.key -out tokens.crt -addext basicConstraints=critical,CA:TRUE 2>/dev/null

cat >tokens.py <<'P'
import base64, http.server, json, ssl, subprocess, sys, time, urllib.parse
encode = lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()
certificate = "".join(line for line in open("tokens.crt").read().splitlines() if "-" not in line)
class Tokens(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        shown = self.headers.get("authorization", "Basic Og==").split()[1]
        login = base64.b64decode(shown).decode()
        known = login == "alice:s3cret"
        scopes = [scope.split(":") for scope in query.get("scope", [])] if known else []
        now = int(time.time())
        claims = {"iss": "tokens", "aud": query["service"][0], "sub": "alice", "jti": "1", "iat": now,
                  "nbf": now - 30, "exp": now + 300,
                  "access": [{"type": t, "name": n, "actions": a.split(",")} for t, n, a in scopes]}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        text = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
        sign = ["openssl", "dgst", "-sha256", "-sign", "tokens.key"]
        signature = subprocess.run(sign, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
        body = json.dumps({"token": f"{text}.{encode(signature)}", "expires_in": 300}).encode()
        who = login.split(":")[0] or "nobody"
        print(f"token for {who}: {' '.join(query.get('scope', []))}", file=open("asked", "a"))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.crt", "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
open("tokens.port.new", "w").write(str(server.server_address[1]))
import os; os.rename("tokens.port.new", "tokens.port")
server.serve_forever()
P
python3 tokens.py & pids+=($!)
until [ -e tokens.port ]; do sleep 0.05; done
realm=https://127.0.0.1:$(cat tokens.port)/token

# --- the registries --------------------------------------------------------------------------------
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
registry() { # name, port, more configuration
    cat >"$1.yml" <<Y
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $scratch/$1}}
http: {addr: "127.0.0.1:$2", tls: {certificate: $scratch/server.crt, key: $scratch/server.key}}
auth: {token: {realm: "$realm", service: "$1.example", issuer: tokens, rootcertbundle: $scratch/tokens.crt}}
$3
Y
    SSL_CERT_FILE=$scratch/ca.crt OTEL_TRACES_EXPORTER=none docker-registry serve "$1.yml" >>"$1.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && return
        sleep 0.05
    done
    echo "mirror.sh: docker-registry does not listen" >&2
    exit 1
}
origin=127.0.0.1:$(port)
registry origin "${origin#*:}" ""
mirror=127.0.0.1:$(port)
registry mirror "${mirror#*:}" "proxy: {remoteurl: \"https://$origin\", username: alice, password: s3cret}"

# --- an image --------------------------------------------------------------------------------------
python3 - <<'P'
import gzip, hashlib, io, json, os, tarfile
os.makedirs("image/blobs/sha256")
def put(data):
    name = hashlib.sha256(data).hexdigest()
    open(f"image/blobs/sha256/{name}", "wb").write(data)
    return {"digest": f"sha256:{name}", "size": len(data)}
layers, diffs = [], []
for name in ("etc/hello", "srv/data"):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        content = (name * 100_000).encode()
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    diffs.append("sha256:" + hashlib.sha256(tar.getvalue()).hexdigest())
    layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(gzip.compress(tar.getvalue(), mtime=0))})
machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
config = {"architecture": machine, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}
config = {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())}
kind = "application/vnd.oci.image.manifest.v1+json"
manifest = {"mediaType": kind, **put(json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).encode())}
json.dump({"schemaVersion": 2, "manifests": [manifest]}, open("image/index.json", "w"))
json.dump({"imageLayoutVersion": "1.0.0"}, open("image/oci-layout", "w"))
open("digest", "w").write(manifest["digest"])
P
skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false --dest-creds alice:s3cret \
    oci:image "docker://$origin/team/hello:1"
digest=$(cat digest)

# --- what the operator writes ----------------------------------------------------------------------
certs=$scratch/root/etc/lighter/certs.d/$origin
mkdir -p "$certs" "$scratch/root/etc/ecs"
cp ca.crt "$certs/ca.pem"
cat >"$certs/hosts.toml" <<T
server = "https://$origin"
ca = "ca.pem"

[host."https://$mirror"]
  capabilities = ["pull"]
  ca = "ca.pem"
T
cat >"$scratch/root/etc/ecs/ecs.config" <<C
ECS_ENGINE_AUTH_TYPE=docker
ECS_ENGINE_AUTH_DATA={"$origin":{"username":"alice","password":"s3cret"},"$mirror":{"username":"alice","password":"s3cret"}}
C
lighter=("$dist/lighter" --root "$scratch/root")
lighter() { printf '$ lighter %s\n' "$*"; "${lighter[@]}" "$@"; }
asked() {
    sort asked | uniq -c | sed 's/^/  /'
    for name in mirror origin; do
        grep -ao '"\(GET\|HEAD\) /v2/[^ ]*' "$name.log" | sed "s/^\"/  $name: /; s/sha256:\(.\{12\}\)[0-9a-f]*/sha256:\1…/" | sort | uniq -c || true
    done
    rm -f asked
    : >mirror.log; : >origin.log
}

say "registry $origin, its mirror $mirror"
show cat "$certs/hosts.toml"
rm -f asked; : >mirror.log; : >origin.log
"${lighter[@]}" agent >agent.log 2>&1 & pids+=($!)
until "${lighter[@]}" image ls >/dev/null 2>&1; do sleep 0.1; done

say "by digest: the mirror serves it"
lighter image pull "$origin/team/hello@$digest"
say "what was asked"; asked
say "by tag: the registry says which digest, and that is here"
lighter image pull "$origin/team/hello:1"
say "what was asked"; asked
lighter image ls --digests
