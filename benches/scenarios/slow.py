#!/usr/bin/env python3
"""What thousands of slow connections cost those who send mail at the usual pace, and the server.

Opens N connections from many addresses of the loopback, none of which may relay. Half of them say a command,
half content, one octet in ten seconds each; who is refused or cut off comes again. In turns without and with
them, `ringpost-load source` sends mail from an address that may relay. Prints the rates of the honest mail, their
ratios, what became of the slow connections, and how much the memory of the server has grown.

Exits with 1 when honest mail is refused or lost its way, or when the memory has grown by more than
--growth-max MiB; rates are for reading only.

Needs release builds of ringpost and ringpost-load, and a limit on open files above N.

    benches/scenarios/slow.py --connections 8000
"""

import argparse
import json
import re
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
OCTET_EVERY_S = 10
OPENED_PER_S = 2000
SETTLE_S = 2
COMES_AGAIN_PER_S = 50


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, log):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(Path(log).read_text(encoding="utf-8"))
            time.sleep(0.1)


def resident_mib(process):
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"^VmRSS:\s+(\d+) kB$", text, re.MULTILINE).group(1)) / 1024


def cpu_s(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(") ")[-1].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Slow:
    """A connection that says an octet now and then."""

    def __init__(self, number, port):
        self.stream = socket.socket()
        # Forty to an address: fewer than one client may have on a core.
        self.stream.bind((f"127.1.{number // 40 // 250}.{number // 40 % 250 + 1}", 0))
        self.stream.setblocking(False)
        self.stream.connect_ex(("127.0.0.1", port))
        self.number = number
        self.is_open = False
        self.steps = [b"EHLO slow.example\r\n"]
        if number % 2:
            self.steps += [b"MAIL FROM:<>\r\n", b"RCPT TO:<Postmaster>\r\n", b"DATA\r\n"]
        self.said = b""


class Crowd(threading.Thread):
    """Keeps so many slow connections, until it is told to stop."""

    def __init__(self, count, port):
        super().__init__(daemon=True)
        self.count, self.port = count, port
        self.stopping = threading.Event()
        self.full = threading.Event()
        self.counts = {"held": 0, "refused": 0, "cut off": 0, "held at most": 0}

    def run(self):
        selector = selectors.EpollSelector()
        free = list(range(self.count))[::-1]
        streams = {}
        last, room = time.monotonic(), 0.0
        octets_since, octets_said = time.monotonic(), 0

        def close(slow, kind):
            selector.unregister(slow.stream)
            slow.stream.close()
            del streams[slow.number]
            free.append(slow.number)
            self.counts["held"] -= slow.is_open
            self.counts[kind] += 1

        while not self.stopping.is_set():
            rate = COMES_AGAIN_PER_S if self.full.is_set() else OPENED_PER_S
            room += (time.monotonic() - last) * rate
            last = time.monotonic()
            for _ in range(min(int(room), len(free))):
                slow = Slow(free.pop(), self.port)
                streams[slow.number] = slow
                selector.register(slow.stream, selectors.EVENT_READ, slow)
                room -= 1
            if not free:
                room = 0.0
                self.full.set()
            for key, _ in selector.select(0.05):
                slow = key.data
                try:
                    octets = slow.stream.recv(4096)
                except OSError:
                    octets = b""
                if not octets or octets.startswith((b"421", b"451", b"452")):
                    close(slow, "cut off" if slow.is_open else "refused")
                    continue
                if not slow.is_open:
                    slow.is_open = True
                    self.counts["held"] += 1
                    self.counts["held at most"] = max(self.counts["held at most"], self.counts["held"])
                slow.said += octets
                if slow.steps and slow.said.split(b"\r\n")[-2][3:4] == b" ":
                    slow.said = b""
                    try:
                        slow.stream.send(slow.steps.pop(0))
                    except OSError:
                        pass
            # Evenly over the time, as nobody tells them to speak at once.
            due = int((time.monotonic() - octets_since) / OCTET_EVERY_S * self.count) - octets_said
            for number in range(octets_said, octets_said + due):
                slow = streams.get(number % self.count)
                if slow and slow.is_open:
                    try:
                        slow.stream.send(b"x")
                    except OSError:
                        pass
            octets_said += due
        for slow in list(streams.values()):
            slow.stream.close()


def honest(load, port, messages):
    """Messages a second."""
    command = [load, "source", "--to", f"127.0.0.1:{port}", "--keep", "--pipeline", "--json"]
    began = time.monotonic()
    done = subprocess.run(
        command + ["--messages", str(messages)], capture_output=True, text=True, check=False
    )
    elapsed = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"honest mail did not get through: {done.stdout}{done.stderr}")
    report = json.loads(done.stdout)
    return messages / report.get("seconds", elapsed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/ringpost")
    parser.add_argument("--load", type=Path, default=ROOT / "target/release/ringpost-load")
    parser.add_argument("--connections", type=int, default=8000)
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--growth-max", type=int, default=200)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, to = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ringpost-slow-", dir="/var/tmp") as directory:
        config = Path(directory) / "ringpost.toml"
        config.write_text(f"""
[server]
hostname = "relay.example"
[listener.bench]
addresses = ["127.0.0.1:{port}"]
relay_networks = ["127.0.0.1/32"]
[aliases]
postmaster = ["postmaster@sink.example"]
[queue]
directory = "{directory}/queue"
size_max = "2GiB"
free_space_slow_percent = 0
free_space_min_percent = 1
[control]
listen = "127.0.0.1:{free_port()}"
[events]
path = "{directory}/events.jsonl"
[[route]]
domain = "*"
smarthost = "127.0.0.1:{to}"
""", encoding="utf-8")
        with open(f"{directory}/log", "w", encoding="utf-8") as log:
            sink = subprocess.Popen(
                [arguments.load, "sink", "--listen", f"127.0.0.1:{to}"], stdout=log, stderr=log
            )
            server = subprocess.Popen(
                [arguments.binary, "run", "--config", config], stdout=log, stderr=log
            )
        try:
            wait_for(to, sink, f"{directory}/log")
            wait_for(port, server, f"{directory}/log")
            honest(arguments.load, port, arguments.messages)
            ratios, costs, growth = [], [], 0
            for turn in range(arguments.turns):
                cpu = cpu_s(server)
                alone = honest(arguments.load, port, arguments.messages)
                cpu_alone = cpu_s(server) - cpu
                before = resident_mib(server)
                crowd = Crowd(arguments.connections, port)
                crowd.start()
                crowd.full.wait(PATIENCE_S)
                # They have said what they had to say.
                time.sleep(SETTLE_S)
                cpu = cpu_s(server)
                beside = honest(arguments.load, port, arguments.messages)
                cpu_beside = cpu_s(server) - cpu
                costs.append(cpu_beside / cpu_alone)
                growth = max(growth, resident_mib(server) - before)
                crowd.stopping.set()
                crowd.join()
                ratios.append(beside / alone)
                print(
                    f"turn {turn + 1}: {alone:.0f} messages/s alone, {beside:.0f} beside, ratio "
                    f"{ratios[-1]:.2f}; CPU of the server {cpu_alone:.2f} s and {cpu_beside:.2f} s, ratio "
                    f"{costs[-1]:.2f}; {crowd.counts}; resident {before:.0f} MiB, most grown by "
                    f"{growth:.0f} MiB", flush=True
                )
                time.sleep(8)
            print(f"median ratio {statistics.median(ratios):.2f}, of CPU {statistics.median(costs):.2f}, memory grown by {growth:.0f} MiB")
            said = Path(f"{directory}/log").read_text(encoding="utf-8")
            print("\n".join(line for line in said.splitlines() if "stress" in line))
            if growth > arguments.growth_max:
                sys.exit(f"more than {arguments.growth_max} MiB")
        finally:
            for process in (server, sink):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
