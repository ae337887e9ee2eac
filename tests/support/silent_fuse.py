"""A FUSE server that reads what the kernel asks and never answers: `python -m tests.support.silent_fuse MOUNTPOINT`.

Whoever looks into the mountpoint waits uninterruptibly (fs/fuse/dev.c, request_wait_answer), until the server ends. It
writes `mounted`, and `asked` when somebody waits. Messages: linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

INIT = 26
_IN, _OUT = struct.Struct("<IIQ"), struct.Struct("<IiQ")
_READY = struct.pack("<IIIIHHIIHHI", 7, 31, 4096, 0, 10, 9, 65536, 1, 32, 0, 0).ljust(64, b"\0")


def _mounted(mountpoint: str) -> int:
    """Return the descriptor of a new mount, which fusermount3 sends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = ["fusermount3", "-o", "rw", "--", mountpoint]
        environ = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        subprocess.run(words, env=environ, pass_fds=[theirs.fileno()], check=True)
        return socket.recv_fds(ours, 4, 1)[1][0]


def serve(mountpoint: str) -> None:
    """Mount, and be silent until killed."""
    fd = _mounted(mountpoint)
    print("mounted", file=sys.stderr, flush=True)
    while True:
        _, kind, number = _IN.unpack(os.read(fd, 1 << 20)[: _IN.size])
        if kind == INIT:
            os.write(fd, _OUT.pack(_OUT.size + len(_READY), 0, number) + _READY)
        else:
            print("asked", file=sys.stderr, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
