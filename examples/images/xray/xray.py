"""Listens on UDP 2000 as the AWS X-Ray daemon does, and prints each segment document.

Wire: one datagram is a JSON header line, {"format": "json", "version": 1}, and the document.
"""

import json
import signal
import socket
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("0.0.0.0", 2000))
print("listening on 2000/udp", flush=True)
while True:
    datagram, _ = listener.recvfrom(64 * 1024)
    header, _, document = datagram.partition(b"\n")
    try:
        if json.loads(header).get("format") != "json":
            raise ValueError(f"unknown header {header!r}")
        segment = json.loads(document)
    except ValueError as error:
        print(f"dropped a datagram: {error}", file=sys.stderr, flush=True)
        continue
    print("segment", json.dumps(segment), flush=True)
