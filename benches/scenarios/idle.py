#!/usr/bin/env python3
"""What an idle connection costs the server in memory, without and with TLS.

Opens N connections that have said EHLO, and divides what the server's anonymous memory has grown by; the
kernel's part of a connection is not in it. Each kind has a server of its own; a hundred connections that
are opened and closed before fill what is kept between sessions.

Needs the release build of ringpost, openssl, and a limit on open files above N.

    benches/scenarios/idle.py --connections 4000
"""

import argparse
import re
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_reply(stream):
    reply = b""
    while not reply.endswith(b"\r\n") or reply.split(b"\r\n")[-2][3:4] != b" ":
        octets = stream.recv(4096)
        if not octets:
            sys.exit(f"the server has closed the connection after {reply!r}")
        reply += octets
    return reply


def opened(port, context):
    """A connection that has said EHLO, over TLS if there is a context for it."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    read_reply(stream)
    if context:
        stream.sendall(b"STARTTLS\r\n")
        read_reply(stream)
        stream = context.wrap_socket(stream)
    stream.sendall(b"EHLO idle.example\r\n")
    read_reply(stream)
    return stream


def anonymous_kib(process):
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB$", text, re.MULTILINE).group(1))


def settled_kib(process):
    """The memory when it has stopped to change."""
    deadline = time.monotonic() + PATIENCE_S
    last = -1
    while time.monotonic() < deadline:
        now = anonymous_kib(process)
        if now == last:
            return now
        last = now
        time.sleep(0.5)
    return last


def measured(binary, count, context):
    """KiB for each of so many connections of a new server."""
    with tempfile.TemporaryDirectory(prefix="ringpost-idle-") as directory:
        chain, key = f"{directory}/cert.pem", f"{directory}/cert.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            + ["-days", "2", "-subj", "/CN=relay.example", "-keyout", key, "-out", chain]
            + ["-addext", "subjectAltName=DNS:relay.example"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        port = free_port()
        config = Path(directory) / "ringpost.toml"
        config.write_text(f"""
[server]
hostname = "relay.example"
cores = 1
[listener.bench]
addresses = ["127.0.0.1:{port}"]
certificates = [{{ chain = "{chain}", key = "{key}" }}]
connections_per_core_max = {2 * count}
[queue]
directory = "{directory}/queue"
segment_size = "8MiB"
size_max = "1GiB"
free_space_slow_percent = 0
free_space_min_percent = 1
[control]
listen = "127.0.0.1:{free_port()}"
[events]
path = "{directory}/events.jsonl"
[[route]]
domain = "*"
smarthost = "127.0.0.1:9"
""")
        with open(f"{directory}/log", "w", encoding="utf-8") as log:
            server = subprocess.Popen(
                [binary, "run", "--config", config], stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        sys.exit(Path(f"{directory}/log").read_text(encoding="utf-8"))
                    time.sleep(0.1)
            for stream in [opened(port, context) for _ in range(100)]:
                stream.close()
            before = settled_kib(server)
            streams = [opened(port, context) for _ in range(count)]
            after = settled_kib(server)
            for stream in streams:
                stream.close()
            return (after - before) / count
        finally:
            server.kill()
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/ringpost")
    parser.add_argument("--connections", type=int, default=1000)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, tls in (("plain", None), ("TLS", context)):
        each = measured(arguments.binary, arguments.connections, tls)
        print(f"{name}: {each:.1f} KiB for each of {arguments.connections} connections")


if __name__ == "__main__":
    main()
