#!/usr/bin/env python3
"""Layers at full size that would fill a host, from a `docker-registry` on loopback, each pulled by an
agent of its own: the answer, the time, the agent's peak memory, and what is left on its disk.

10 GB of zeros in a file of 10 MB (gzip) and of less (zstd), and 10 million files. With the default
limits each must be refused and leave nothing, and the agent stays below the memory bar of a pull.
Making the layers takes some minutes, and unpacking up to the limits 2 million inodes.

usage: bombs.py DIST [zeros-gzip|zeros-zstd|entries-gzip|entries-zstd]...
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import time

import image
import peers

FILES_PER_DIRECTORY, DIRECTORIES = 10_000, 1000
ZEROS = 10 << 30
COMMANDS = {"gzip": ["gzip", "-n"], "zstd": ["zstd", "-q"]}


def header(name, kind, size):
    block = bytearray(512)
    for at, text in [(0, name), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"),
                     (124, b"%011o\0" % size), (136, b"00000000000\0"), (148, b" " * 8), (156, kind),
                     (257, b"ustar\00000")]:
        block[at:at + len(text)] = text
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def zeros():
    # Octal digits end at 8 GiB.
    for number in range(2):
        yield header(b"zeros-%d" % number, b"0", ZEROS // 2)
        for _ in range(ZEROS // 2 >> 20):
            yield bytes(1 << 20)
    yield bytes(1024)


def entries():
    for directory in range(DIRECTORIES):
        yield b"".join(header(b"%03d/%04d" % (directory, file), b"0", 0) for file in range(FILES_PER_DIRECTORY))
    yield bytes(1024)


def layer(layout, content, compression):
    """As `Layout.layer`: (diff id, {compression: descriptor}, bytes unpacked)"""
    packed, diff_id, size = layout.directory / "layer.packed", hashlib.sha256(), 0
    with open(packed, "wb") as target:
        compressor = subprocess.Popen(COMMANDS[compression], stdin=subprocess.PIPE, stdout=target)
        for chunk in content:
            diff_id.update(chunk)
            size += len(chunk)
            compressor.stdin.write(chunk)
        compressor.stdin.close()
        if compressor.wait() != 0:
            raise SystemExit(f"{compression} failed")
    media_type = f"application/vnd.oci.image.layer.v1.tar+{compression}"
    return f"sha256:{diff_id.hexdigest()}", {compression: layout.blob(packed, media_type)}, size


def used(directory):
    """Bytes on disk and files below a directory, once the store has nothing in work."""
    working = directory / "var/lib/lighter/images/tmp"
    while working.exists() and any(working.iterdir()):
        time.sleep(0.5)
    paths = [path.lstat() for path in directory.rglob("*")]
    return sum(stat.st_blocks for stat in paths) * 512, len(paths)


def attack(case, content, compression, ours, scratch):
    layout = image.Layout(scratch / "layout")
    packed, unpacked = layout.image(case, [layer(layout, content, compression)], compression)
    peers.run("rm", "-r", layout.directory)
    ours.begin()
    before = used(ours.root)
    begun = time.monotonic()
    pull = subprocess.run(ours.pull(0, f"{image.REGISTRY}/bench/{case}:latest"), capture_output=True, text=True)
    took = time.monotonic() - begun
    peak = image.status(ours.daemon.pid)["VmHWM"]
    after = used(ours.root)
    cleared = time.monotonic() - begun
    ours.end()
    print(f"{case}: {packed / image.MB:.1f} MB packed, {unpacked / image.MB:.0f} MB as an archive; exit {pull.returncode} "
          f"after {took:.1f} s, cleared up after {cleared:.1f} s, peak {peak / image.MB:.0f} MB, left on disk: {after[0] - before[0]} bytes in {after[1] - before[1]} files\n"
          f"    {pull.stderr.strip() or pull.stdout.strip()}", flush=True)
    return pull.returncode != 0 and peak <= image.MEMORY_BAR * image.MB and after[1] - before[1] <= 2


def main():
    cases = {f"{name}-{compression}": (content, compression)
             for name, content in {"zeros": zeros, "entries": entries}.items() for compression in COMMANDS}
    dist, chosen = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or list(cases)
    peers.isolated()
    held = True
    with tempfile.TemporaryDirectory(prefix="lighter-bench-") as scratch:
        scratch = pathlib.Path(scratch)
        directory = scratch / "images"
        directory.mkdir()
        (directory / "images.json").write_text("{}")
        # More inodes than a layer may take.
        ours = image.Ours(image.Disk(scratch, "-N", "3000000"), dist)
        with image.registry(scratch, directory, None):
            for case in chosen:
                content, compression = cases[case]
                held &= attack(case, content(), compression, ours, scratch)
    if not held:
        raise SystemExit("a bomb was not refused, left something, or took too much memory")


if __name__ == "__main__":
    main()
