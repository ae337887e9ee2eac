"""A chain or a tree: which of them is the faster one for so many nodes and so many bytes."""

from __future__ import annotations

from math import log2

from stager.roster_messages import CHUNK

WAKE = 0.001
"""Seconds that a node takes, beside receiving a chunk, to pass it on: 0.6 ms measured on loopback, 0.25 of them sha256;
and something for real networks, and nodes that have more to do."""


def fan_of(nodes: int, size: int | None, rate: float) -> int:
    """Return how many members each member feeds: 1 (a chain) or 2 (a binary tree).

    A chain of N takes S/B + N hops. Splitting it at the head into c chains would take c S/B + N/c hops; but once the
    rate is halved anyway, every node below can feed two as well, for 2 S/B + 2 log2 N hops. Against that, two chains
    never win. Neither do three children: the hops take 5 % less (k / log2 k), the bytes half as much again.
    """
    if not size or nodes < 4:
        return 1
    hop = CHUNK / rate + WAKE
    return 1 if nodes * hop <= size / rate + 2 * log2(nodes) * hop else 2
