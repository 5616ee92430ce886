#!/usr/bin/env python3
"""What a backlog costs: memory, the rate of other mail, and the time of a restart.

A server gets N messages for a destination that does not answer, for growing N. At each step this
reports the resident memory, the rate at which mail for another destination goes through beside the
backlog (against that of a second server without one, measured in turns: the medians, and the median of
the ratios of neighbours), and the time after a stop, and after a kill, until the first message is acknowledged and until the whole backlog is
scheduled again.

Needs the release builds of ringpost and ringpost-load. Everything is below --directory, which should
be on a real disk with about 1.5 KB for each message of the backlog.

    benches/scenarios/backlog.py --steps 10000,100000,1000000
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A ringpost with a live route and a dead one."""

    def __init__(self, binary, directory, sink_port):
        self.binary, self.directory = binary, directory
        self.smtp, self.control = free_port(), free_port()
        self.config = directory / "ringpost.toml"
        # A port that nobody listens on: refused at once, which is the fastest way to be dead.
        self.config.write_text(f"""
[server]
hostname = "relay.example.org"
[listener.bench]
addresses = ["127.0.0.1:{self.smtp}"]
transactions_max = 100000000
[queue]
directory = "{directory}/queue"
# How full the disk of the bench is, is not the matter here.
free_space_slow_percent = 0
free_space_min_percent = 1
[[route]]
domain = "dead.example"
smarthost = "127.0.0.1:{free_port()}"
[[route]]
domain = "*"
smarthost = "127.0.0.1:{sink_port}"
[control]
listen = "127.0.0.1:{self.control}"
[events]
path = ""
""")
        self.process = None

    def start(self):
        log = open(self.directory / "ringpost.log", "ab")
        self.process = subprocess.Popen(
            [self.binary, "run", "--config", self.config], stdin=subprocess.DEVNULL, stderr=log)
        self.started = time.monotonic()

    def first_250(self):
        """Seconds from the start to the acknowledgement of one message."""
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.smtp), timeout=60) as client:
                    talk = client.makefile("rwb")
                    for line in (None, "EHLO probe.test", "MAIL FROM:<>", "RCPT TO:<a@live.example>",
                                 "DATA", "Subject: probe\r\n\r\nprobe\r\n."):
                        if line:
                            talk.write(line.encode() + b"\r\n")
                            talk.flush()
                        while True:
                            reply = talk.readline()
                            if reply[3:4] != b"-":
                                break
                        if reply[:1] not in (b"2", b"3"):
                            raise OSError(reply)
                    return time.monotonic() - self.started
            except OSError:
                if time.monotonic() - self.started > PATIENCE_S:
                    raise
                time.sleep(0.01)

    def metrics(self):
        text = urllib.request.urlopen(
            f"http://127.0.0.1:{self.control}/metrics", timeout=30).read().decode()
        sums = {}
        for name, value in re.findall(r"^(ringpost_\w+)(?:{[^}]*})? (\S+)$", text, re.M):
            sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if condition(self.metrics()):
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit("the server does not get there")

    def status_kib(self, field):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1))

    def cpu_s(self):
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number):
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=120)
        return time.monotonic() - began


def send(load, port, count, domain, options=()):
    """Sends mail; the seconds it took."""
    command = [load, "source", "--to", f"127.0.0.1:{port}", "--messages", str(count),
               "--sessions", "50", "--size", "1024", "--domains", domain, "--json", *options]
    began = time.monotonic()
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return time.monotonic() - began, report


def live_rate(load, server, count):
    """Messages a second from the source through the server to the sink, and CPU for 1,000."""
    before = server.metrics().get("ringpost_delivered_bytes_total", 0)
    delivered = lambda m: m.get("ringpost_outcomes_total", 0)
    outcomes, cpu, began = delivered(server.metrics()), server.cpu_s(), time.monotonic()
    send(load, server.smtp, count, "live.example", ["--keep"])
    server.wait(lambda m: m["ringpost_delivered_bytes_total"] > before
                and delivered(m) >= outcomes + count)
    took = time.monotonic() - began
    return count / took, (server.cpu_s() - cpu) / count * 1000


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def restart(server, number, backlog):
    stop = server.end(number)
    server.start()
    first = server.first_250()
    # Most of it is parked at the dead site; what was tried waits for its next time.
    server.wait(lambda m: m.get("ringpost_recipients_waiting", 0)
                + m.get("ringpost_recipients_parked", 0) >= backlog)
    return stop, first, time.monotonic() - server.started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="10000,100000,1000000",
                        help="sizes of the backlog, ascending")
    parser.add_argument("--live", type=int, default=20000, help="messages to measure the live rate with")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of the live rate a step")
    parser.add_argument("--directory", default="/var/tmp")
    parser.add_argument("--binaries", default=ROOT / "target/release", type=Path)
    parser.add_argument("--purge", action="store_true", help="purge the last backlog, see purge.py")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = arguments.binaries / "ringpost-load"
    directory = Path(tempfile.mkdtemp(prefix="ringpost-backlog-", dir=arguments.directory))
    sink_port = free_port()
    sink = subprocess.Popen([load, "sink", "--listen", f"127.0.0.1:{sink_port}"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    servers = []
    for name in ("backlog", "none"):
        (directory / name).mkdir()
        servers.append(Server(arguments.binaries / "ringpost", directory / name, sink_port))
    server, control = servers
    rows = []
    try:
        for one in servers:
            one.start()
            one.first_250()
            # The first run on each is slower.
            live_rate(load, one, arguments.live)
        rates = [live_rate(load, control, arguments.live) for _ in range(arguments.rounds)]
        base_rate, base_cpu = median(rate for rate, _ in rates), median(cpu for _, cpu in rates)
        base_rss = server.status_kib("VmRSS")
        print(f"without a backlog: {base_rate:.0f} messages/s, {base_cpu:.3f} s CPU for 1,000, "
              f"{base_rss / 1024:.0f} MiB", file=sys.stderr)
        queued = 0
        for step in (int(step) for step in arguments.steps.split(",")):
            injected, _ = send(load, server.smtp, step - queued, "dead.example", ["--keep", "--pipeline"])
            rate_in = (step - queued) / injected
            queued = step
            with_it, without = [], []
            for _ in range(arguments.rounds):
                without.append(live_rate(load, control, arguments.live))
                with_it.append(live_rate(load, server, arguments.live))
            rate, cpu = median(rate for rate, _ in with_it), median(cpu for _, cpu in with_it)
            ratio = median(a / b for (a, _), (b, _) in zip(with_it, without))
            cpu_ratio = median(a / b for (_, a), (_, b) in zip(with_it, without))
            rss, peak = server.status_kib("VmRSS"), server.status_kib("VmHWM")
            stop, first, scheduled = restart(server, signal.SIGTERM, queued)
            rss_restarted = server.status_kib("VmRSS")
            _, first_killed, scheduled_killed = restart(server, signal.SIGKILL, queued)
            rows.append({
                "backlog": queued, "injected_per_s": rate_in, "live_per_s": rate,
                "live_ratio": ratio, "live_cpu_s_per_1000": cpu, "live_cpu_ratio": cpu_ratio,
                "live_without_per_s": median(rate for rate, _ in without),
                "rss_mib": rss / 1024, "peak_mib": peak / 1024,
                "bytes_per_message": (rss - base_rss) * 1024 / queued,
                "rss_restarted_mib": rss_restarted / 1024, "stop_s": stop,
                "first_250_s": first, "scheduled_s": scheduled,
                "killed_first_250_s": first_killed, "killed_scheduled_s": scheduled_killed,
            })
            print(json.dumps(rows[-1]), file=sys.stderr)
        if arguments.purge:
            import purge
            purge.measure(server, arguments.binaries / "ringpost", queued)
    finally:
        for process in (server.process, control.process, sink):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps({"base_per_s": base_rate, "base_cpu_s_per_1000": base_cpu, "steps": rows}))
        return
    print("|   backlog | in/s | live/s | without | ratio | CPU ratio | RSS MiB | peak | octets each | stop s | first 250 s | "
          "scheduled s | after a kill: first 250 s | scheduled s |")
    print("|---" * 14 + "|")
    for row in rows:
        print("| {backlog:,} | {injected_per_s:.0f} | {live_per_s:.0f} | {live_without_per_s:.0f} | {live_ratio:.2f} | "
              "{live_cpu_ratio:.2f} | {rss_mib:.0f} | "
              "{peak_mib:.0f} | {bytes_per_message:.0f} | {stop_s:.2f} | {first_250_s:.2f} | {scheduled_s:.2f} | "
              "{killed_first_250_s:.2f} | {killed_scheduled_s:.2f} |".format(**row))


if __name__ == "__main__":
    main()
