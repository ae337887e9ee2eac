"""The same by libtorrent, for comparison: a full mesh of peers, one of which has the file. A program of its own.

python cluster_torrent.py FOLDER TORRENT seed|leech PEER…
Settings: the best of some twenty tried, at these rates, with 8 nodes.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

PORT = 6881
PIECE = 256 << 10

SETTINGS = {
    "listen_interfaces": f"0.0.0.0:{PORT}",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "unchoke_interval": 1,
    "smooth_connects": False,
    "allow_multiple_connections_per_ip": True,
    "request_queue_time": 1,
    "send_buffer_watermark": 128 << 10,
    "unchoke_slots_limit": 8,
    "hashing_threads": 1,
    "aio_threads": 2,
}


def describe(path: str, torrent: str) -> None:
    """Write the torrent of the file at `path`."""
    libtorrent = importlib.import_module("libtorrent")
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, path)
    made = libtorrent.create_torrent(storage, piece_size=PIECE)
    libtorrent.set_piece_hashes(made, path.rpartition("/")[0])
    with open(torrent, "wb") as file:
        file.write(libtorrent.bencode(made.generate()))


def share(folder: str, torrent: str, peers: list[str], *, seed: bool) -> None:
    """Fetch from the peers, and feed them; say `done` when all is there."""
    libtorrent = importlib.import_module("libtorrent")
    session = libtorrent.session(SETTINGS)
    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(torrent)
    wanted.save_path = folder
    wanted.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if seed:
        wanted.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(wanted)
    _connect(handle, peers)
    while not handle.status().is_seeding:
        time.sleep(0.02)
    print("done", flush=True)
    time.sleep(3600)


def _connect(handle: Any, peers: list[str]) -> None:  # noqa: ANN401 - libtorrent has no types
    for peer in peers:
        handle.connect_peer((peer, PORT))


if __name__ == "__main__":
    _, place, described, role, *others = sys.argv
    share(place, described, others, seed=role == "seed")
