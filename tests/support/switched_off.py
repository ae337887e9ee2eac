"""A place where stage-image is switched off."""

from __future__ import annotations

_SCRIPT = (
    "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b && "
    "mount -t overlay -o lowerdir=/etc,upperdir=/mnt/a,workdir=/mnt/b overlay /etc && "
    'mkdir -p /etc/stage-image && : >/etc/stage-image/disabled && exec "$@"'
)

OFF = ("unshare", "--mount", "sh", "-c", _SCRIPT, "sh")
"""Runs a command there: in a mount namespace of its own, with an /etc whose changes are in memory. Needs "mount"."""
