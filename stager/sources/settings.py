"""What a site or user may set for HTTP origins; free of requests, so that asking for settings loads none of it."""

from __future__ import annotations

from dataclasses import dataclass

from stager import __version__


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`connect_timeout` and `stall_timeout` (nothing arrives at all) in seconds.

    `ca_file`: PEM certificates to trust instead of the usual ones. `token_file`: holds a bearer token, sent to the
    host of the reference only, never to where it redirects or to a mirror.
    """

    connect_timeout: float = 15.0
    stall_timeout: float = 60.0
    ca_file: str = ""
    token_file: str = ""
    user_agent: str = f"stage-image/{__version__}"
