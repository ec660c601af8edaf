#!/bin/sh
# Install the Debian packages that some tests use, where root and apt-get are there; tests say so where they skip.
set -u
missing=""
command -v espeak-ng >/dev/null || missing="$missing espeak-ng"
command -v ffmpeg >/dev/null || missing="$missing ffmpeg"
command -v sox >/dev/null || missing="$missing sox"
command -v ip >/dev/null || missing="$missing iproute2"
command -v chromium >/dev/null || missing="$missing chromium"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, so their tests are skipped:$missing (they need root and apt-get)" >&2
    exit 0
fi
apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null ||
    echo "could not install$missing; their tests are skipped" >&2
