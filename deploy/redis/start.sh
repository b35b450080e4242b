#!/bin/sh
# Starts Redis with the users of users.acl, their passwords from secrets, and no rights for the user `default`.
# Arguments: options of redis-server.
set -eu
here=$(dirname "$0")
secrets=${SECRETS:-/run/secrets}
users=${TMPDIR:-/tmp}/users.acl
for name in redis_worker redis_producer redis_admin; do
  # Without its secret a user would have the empty password.
  if [ -z "$(cat "$secrets/$name" 2>/dev/null | tr -d '\n')" ]; then
    echo "$secrets/$name is missing or empty: \`make secrets\` makes it." >&2
    exit 1
  fi
done
hash_of() { tr -d '\n' <"$secrets/$1" | sha256sum | cut -d ' ' -f 1; }
umask 077
{
  echo "user default off"
  sed -e "s/^user pixmill-worker on resetpass/& #$(hash_of redis_worker)/" \
      -e "s/^user pixmill-producer on resetpass/& #$(hash_of redis_producer)/" \
      -e "s/^user pixmill-admin on resetpass/& #$(hash_of redis_admin)/" "$here/users.acl"
} >"$users"
# The image's entrypoint gives up root.
chown redis "$users"
exec docker-entrypoint.sh redis-server --aclfile "$users" "$@"
