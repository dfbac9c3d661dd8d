#!/bin/sh
# Write the passwords of Prefect and MLflow, once, for compose and for `kubectl create secret`.
set -eu
umask 077
cd "$(dirname "$0")"
for name in prefect mlflow; do
  [ -e "$name-secret" ] || python3 -c 'import secrets; print(secrets.token_urlsafe(32), end="")' > "$name-secret"
  # A container reads it as uid 10001, and compose keeps owner and mode of this file.
  if [ "$(id -u)" = 0 ]; then
    chown 10001 "$name-secret"
  else
    chmod 0444 "$name-secret"
    echo "$name-secret can be read by every user of this machine; run this as root to prevent it" >&2
  fi
done
