#!/usr/bin/env python3
"""Make the demo's two images from Debian packages and PyPI, and push them to a registry.

usage: build.py WORKDIR REGISTRY      (REGISTRY as host:port, plain HTTP)

Nothing but the package registries is needed: no base image is pulled. Both images share one layer
of Debian packages (Python, a shell, coreutils); each adds a layer with its program. Downloads and
the finished base layer stay in WORKDIR, keyed by the list of packages.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["base-files", "netbase", "dash", "coreutils", "python3-minimal", "python3"]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nwww-data:x:33:\n"


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def download_packages(into):
    """The packages and everything they depend on, as on a machine with nothing installed."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "partial").mkdir(exist_ok=True)
    run("apt-get", "-qq", "-y", "--no-install-recommends", "--download-only",
        "-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache::archives={into}",
        "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1",
        "install", *PACKAGES, stdout=subprocess.DEVNULL)
    return sorted(into.glob("*.deb"))


def unpack_packages(packages, root):
    """Files only; no maintainer script runs."""
    for name in ["bin", "sbin", "lib", "lib64"]:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        run("tar", "--extract", "--keep-directory-symlink", "-C", root, stdin=files.stdout)
        if files.wait() != 0:
            sys.exit(f"build.py: dpkg-deb could not read {package}")
    for unwanted in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"]:
        shutil.rmtree(root / unwanted, ignore_errors=True)
    # What the maintainer scripts of dash and base-passwd would have done.
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    (root / "tmp").mkdir(exist_ok=True)
    os.chmod(root / "tmp", 0o1777)


def tar_of(root, prefix=""):
    """A layer with the files below root, owned by root, the same bytes for the same files."""
    def normal(entry):
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            name = prefix + str(path.relative_to(root))
            layer.add(path, arcname=name, recursive=False, filter=normal)
    return data.getvalue()


class Layout:
    """An OCI image layout (image-spec, image-layout.md) with one image."""

    def __init__(self, directory):
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def finish(self, layers, config):
        """layers: (uncompressed, compressed) bytes from the lowest to the topmost."""
        config = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [
                f"sha256:{hashlib.sha256(plain).hexdigest()}" for plain, _ in layers]},
        }
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": self.blob(json.dumps(config).encode(), f"{kind}.config.v1+json"),
            "layers": [self.blob(packed, f"{kind}.layer.v1.tar+gzip") for _, packed in layers],
        }
        entry = self.blob(json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        index = {"schemaVersion": 2, "manifests": [entry]}
        (self.directory / "index.json").write_text(json.dumps(index))


def packed(plain):
    return plain, gzip.compress(plain, compresslevel=1, mtime=0)


def base_layer(work):
    key = hashlib.sha256(" ".join(PACKAGES).encode() + ARCHITECTURE.encode()).hexdigest()[:12]
    cached = work / f"base-{key}.tar"
    if not cached.exists():
        root = work / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        unpack_packages(download_packages(work / "debs"), root)
        temporary = cached.with_suffix(".part")
        temporary.write_bytes(tar_of(root))
        temporary.rename(cached)
        shutil.rmtree(root)
    return packed(cached.read_bytes())


def web_layer(work):
    """The web application and the X-Ray SDK with what it needs, from PyPI."""
    root = work / "web"
    sdk = root / "srv/lib"
    if not (root / "srv/complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        sdk.mkdir(parents=True)
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-compile", "--no-warn-conflicts", "--root-user-action=ignore", "--target", sdk, "--python-version", "3.11",
            "--only-binary", ":all:", "aws-xray-sdk==2.15.0")
        # The SDK needs botocore's core, not the models of four hundred services.
        data = sdk / "botocore/data"
        for service in data.iterdir() if data.exists() else []:
            if service.is_dir() and service.name not in {"xray"}:
                shutil.rmtree(service)
        (root / "srv/complete").touch()
    shutil.copy(HERE / "web/web.py", root / "srv/web.py")
    return packed(tar_of(root))


def program_layer(work, name, program):
    root = work / name
    shutil.rmtree(root, ignore_errors=True)
    (root / "srv").mkdir(parents=True)
    shutil.copy(program, root / "srv" / program.name)
    return packed(tar_of(root))


def push(layout, reference):
    run("skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false",
        f"oci:{layout}:latest", f"docker://{reference}")
    print(f"pushed {reference}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    work, registry = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    work.mkdir(parents=True, exist_ok=True)
    base = base_layer(work)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    web = Layout(work / "web.oci")
    web.finish([base, web_layer(work)], {
        "Env": [path, "PYTHONPATH=/srv/lib", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
        "Entrypoint": ["python3", "/srv/web.py"], "WorkingDir": "/srv", "User": "www-data",
        "ExposedPorts": {"8080/tcp": {}},
    })
    push(work / "web.oci", f"{registry}/lighter-demo/web:latest")

    xray = Layout(work / "xray.oci")
    xray.finish([base, program_layer(work, "xray", HERE / "xray/xray.py")], {
        "Env": [path, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
        "Entrypoint": ["python3", "/srv/xray.py"], "User": "33:33",
        "ExposedPorts": {"2000/udp": {}},
    })
    push(work / "xray.oci", f"{registry}/lighter-demo/xray:latest")


if __name__ == "__main__":
    main()
