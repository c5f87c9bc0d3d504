"""Sends RATE requests per second to each URL, whatever the answers (open loop), and says every 10 s how it went."""

import os
import random
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

RATE = float(os.environ.get("RATE", "30"))


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.latencies, self.failed = [], 0

    def add(self, seconds, ok):
        with self.lock:
            if ok:
                self.latencies.append(seconds)
            else:
                self.failed += 1

    def take(self):
        with self.lock:
            taken = sorted(self.latencies), self.failed
            self.latencies, self.failed = [], 0
        return taken


def request(url, tally):
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            answer.read()
        tally.add(time.monotonic() - began, True)
    except OSError:
        tally.add(time.monotonic() - began, False)


def drive(url, tally):
    with ThreadPoolExecutor(max_workers=64) as pool:
        due = time.monotonic()
        while True:
            due += random.expovariate(RATE)
            time.sleep(max(0.0, due - time.monotonic()))
            pool.submit(request, url, tally)


def main():
    tallies = {url: Tally() for url in sys.argv[1:]}
    if not tallies:
        sys.exit("usage: load.py URL...")
    for url, tally in tallies.items():
        threading.Thread(target=drive, args=(url, tally), daemon=True).start()
    while True:
        time.sleep(10)
        for url, tally in tallies.items():
            latencies, failed = tally.take()
            if not latencies:
                print(f"{url}: nothing answered, {failed} failed")
                continue
            p95 = latencies[int(0.95 * (len(latencies) - 1))] * 1000
            mean = sum(latencies) / len(latencies) * 1000
            print(f"{url}: {len(latencies)} answered, mean {mean:.0f} ms, p95 {p95:.0f} ms, {failed} failed")


if __name__ == "__main__":
    main()
