#!/usr/bin/env python3
"""What removing a backlog takes, and what other mail sees of it.

A server gets N messages for a destination that is down. Then `ringpost queue purge --domain` removes them,
while a client sends mail for another destination over one connection, a message at a time. This reports the
time of the command, the time until the memory and the log have been given back, and how long that client
waited for its replies before, during and after.

Needs the release builds of ringpost and ringpost-load. Everything is below --directory, which should
be on a real disk with about 1.5 KB for each message.

    benches/scenarios/purge.py --messages 1000000
"""

import argparse
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from backlog import ROOT, Server, free_port, send


class Prober(threading.Thread):
    """Sends one message after the other, and notes when each was begun and how long it took."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.talk = self.client.makefile("rwb")
        self.ended, self.took = threading.Event(), []
        self.reply()
        self.say("EHLO probe.test")

    def reply(self):
        while True:
            line = self.talk.readline()
            if line[3:4] != b"-":
                break
        if line[:1] not in (b"2", b"3"):
            raise OSError(line)

    def say(self, line):
        self.talk.write(line.encode() + b"\r\n")
        self.talk.flush()
        self.reply()

    def run(self):
        while not self.ended.is_set():
            began = time.monotonic()
            for line in ("MAIL FROM:<>", "RCPT TO:<a@live.example>", "DATA", "Subject: probe\r\n\r\nprobe\r\n."):
                self.say(line)
            self.took.append((began, time.monotonic() - began))

    def between(self, begin, end):
        """The number of messages begun then, and the median and the longest time, in milliseconds."""
        took = sorted(took for began, took in self.took if begin <= began < end)
        if not took:
            return "none"
        return f"{len(took)} messages, median {took[len(took) // 2] * 1000:.1f} ms, longest {took[-1] * 1000:.0f} ms"


def measure(server, binary, messages):
    """Purges so many messages that wait for dead.example, and prints what that takes."""
    held = lambda m: m["ringpost_recipients_waiting"] + m["ringpost_recipients_parked"]
    server.wait(lambda m: held(m) >= messages)
    probers = [Prober(server.smtp) for _ in range(4)]
    for prober in probers:
        prober.start()
    time.sleep(5)
    rss, log = server.status_kib("VmRSS"), server.metrics()["ringpost_queue_bytes"]
    began = time.monotonic()
    purge = [binary, "queue", "purge", "--domain", "dead.example", "--config", server.config]
    said = subprocess.run(purge, check=True, capture_output=True, text=True).stdout.strip()
    purged = time.monotonic()
    server.wait(lambda m: held(m) < 1000)
    forgotten = time.monotonic()
    # A few segments are always kept.
    server.wait(lambda m: m["ringpost_queue_bytes"] < max(log / 4, 1 << 30))
    freed = time.monotonic()
    time.sleep(5)
    ended = time.monotonic()
    for prober in probers:
        prober.ended.set()
        prober.join()
    print(f"{said}: {purged - began:.2f} s; out of the scheduler's memory after {forgotten - began:.2f} s, "
          f"{log / 2**20:.0f} MiB of log free after {freed - began:.2f} s; "
          f"RSS {rss / 1024:.0f} MiB before, {server.status_kib('VmRSS') / 1024:.0f} MiB after")
    for number, prober in enumerate(probers):
        print(f"client {number} before: {prober.between(began - 5, began)}; until the purge was durable: "
              f"{prober.between(began - 0.05, purged)}; until all was free: {prober.between(purged, freed)}; "
              f"after: {prober.between(freed, ended)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--directory", default="/var/tmp")
    parser.add_argument("--binaries", default=ROOT / "target/release", type=Path)
    arguments = parser.parse_args()
    load, binary = arguments.binaries / "ringpost-load", arguments.binaries / "ringpost"
    directory = Path(tempfile.mkdtemp(prefix="ringpost-purge-", dir=arguments.directory))
    sink_port = free_port()
    sink = subprocess.Popen([load, "sink", "--listen", f"127.0.0.1:{sink_port}"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(binary, directory, sink_port)
    try:
        server.start()
        server.first_250()
        send(load, server.smtp, arguments.messages, "dead.example", ["--keep", "--pipeline"])
        measure(server, binary, arguments.messages)
        server.end(signal.SIGKILL)
        server.start()
        first = server.first_250()
        left = server.metrics()["ringpost_queue_recipients"]
        print(f"after a kill: first 250 after {first:.2f} s, {left:.0f} recipients in the queue")
    finally:
        for process in (server.process, sink):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
