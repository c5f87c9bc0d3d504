"""A backend with a given service time and a given number of requests at a time.

SERVICE_MS   median service time in milliseconds
CONCURRENCY  requests served at a time; more wait
POST /fault?factor=10 makes it ten times slower, factor=1 makes it well again.
"""

import os
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SERVICE_S = float(os.environ.get("SERVICE_MS", "20")) / 1000
SLOTS = threading.Semaphore(int(os.environ.get("CONCURRENCY", "4")))
PORT = int(os.environ.get("PORT", "8080"))


class Fault:
    factor = 1.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with SLOTS:
            time.sleep(SERVICE_S * Fault.factor * random.lognormvariate(0, 0.3))
        self.answer(200, b"ok\n")

    def do_POST(self):
        url = urlsplit(self.path)
        try:
            factor = float(parse_qs(url.query)["factor"][0])
        except (KeyError, ValueError):
            factor = -1.0
        if url.path != "/fault" or not 0 < factor <= 1000:
            return self.answer(400, b"POST /fault?factor=N with 0 < N <= 1000\n")
        Fault.factor = factor
        return self.answer(200, f"factor {factor}\n".encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("", PORT), Handler).serve_forever()
