#!/bin/sh
# Makes the passwords of compose.yaml in deploy/secrets, once: those that exist stay.
set -eu
directory=${1:-$(dirname "$0")/secrets}
mkdir -p "$directory"
# The directory keeps others out. The files stay readable, because Grafana's container reads one as another user.
chmod 700 "$directory"
umask 022
for name in redis_worker redis_producer redis_admin grafana_admin; do
  [ -s "$directory/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$directory/$name"
done
echo "PIXMILL_REDIS__URL=redis://pixmill-worker:$(cat "$directory/redis_worker")@redis:6379/0" >"$directory/worker.env"
