"""A web application traced with the AWS X-Ray SDK. Serves the page that the init container made."""

import http.server
import pathlib
import signal
import sys

from aws_xray_sdk.core import xray_recorder

# Every request is traced; the daemon's address comes from AWS_XRAY_DAEMON_ADDRESS.
xray_recorder.configure(service="web", sampling=False)
PAGE = pathlib.Path("/content/index.html")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with xray_recorder.in_segment("web") as segment:
            segment.put_http_meta("method", self.command)
            segment.put_http_meta("url", self.path)
            with xray_recorder.in_subsegment("read-page"):
                page = PAGE.read_bytes()
            segment.put_http_meta("status", 200)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    def log_message(self, format, *arguments):
        print(format % arguments, flush=True)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening on 8080", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
