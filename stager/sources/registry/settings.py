"""What a site or user may set for a registry; free of requests, so that asking for settings loads none of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.sources.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.sources.mirrors import FailureMemory

CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
"""Where, below a directory of a registry's name, certificates lie that are to be trusted for it: *.crt
(containers-certs.d(5))."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """For one registry. `mirrors`: URLs, tried in this order before it.

    Of a mirror, `{mirror}/v2/<repository>/…` is asked, or `{mirror}/<repository>/…` if its path begins with /v2/.
    `plain_http`: the registry itself speaks no TLS. `environ`: the environment in which credentials are looked for.
    """

    http: HttpSettings = field(default_factory=HttpSettings)
    mirrors: tuple[str, ...] = ()
    plain_http: bool = False
    memory: FailureMemory | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    certificates: tuple[str, ...] = CERTIFICATES
