#!/bin/sh
# Ringpost, for a relay benchmark: start DIR LISTEN_PORT SINK_PORT | stop DIR
#
# start relays from 127.0.0.1:LISTEN_PORT to 127.0.0.1:SINK_PORT, with everything it writes under
# DIR, and stays in the foreground; /metrics is at LISTEN_PORT + 2. stop ends it. All settings that
# are not about places are defaults.
#
# RINGPOST names the binary; the default is the release build of this checkout.
set -eu
case ${1-} in
start)
  dir=$2 listen=$3 sink=$4
  here=$(cd "$(dirname "$0")" && pwd)
  binary=${RINGPOST:-$here/../../target/release/ringpost}
  mkdir -p "$dir"
  cat > "$dir/ringpost.toml" <<TOML
[server]
hostname = "relay.example.org"

[listener.bench]
addresses = ["127.0.0.1:$listen"]

[queue]
directory = "$dir/queue"

[[route]]
domain = "*"
smarthost = "127.0.0.1:$sink"

[control]
listen = "127.0.0.1:$((listen + 2))"

[events]
path = "$dir/events.jsonl"
TOML
  # The shell becomes the server, so its id is the server's.
  echo $$ > "$dir/ringpost.pid"
  exec "$binary" run --config "$dir/ringpost.toml"
  ;;
stop)
  kill -TERM "$(cat "$2/ringpost.pid")" 2>/dev/null || true
  ;;
*)
  echo "usage: $0 start DIR LISTEN_PORT SINK_PORT | stop DIR" >&2
  exit 2
  ;;
esac
