"""A real docker-registry on a host of a test bed, which all nodes reach: filled out here, served there."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.registry import Registry
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.cluster.hosts import Host, Process

PORT = 5000
_LINE = re.compile(r'"(GET|HEAD) (\S+) [^"]*" (\d+)')


def plain_http(address: str) -> dict[str, object]:
    """Return the setting with which nodes ask it."""
    return {f'registry."{address}:{PORT}".plain_http': True}


@dataclass(frozen=True)
class RegistryHost:
    """What serves, and what it was asked."""

    address: str
    process: Process

    def name(self, image: str) -> str:
        """Return the reference of an image."""
        return f"docker://{self.address}:{PORT}/{image}"

    def asked(self, kind: str = "") -> list[str]:
        """Return the questions so far, all or those for `manifests` or `blobs`: `GET /v2/team/tool/manifests/1`."""
        found = _LINE.findall(self.process.out)
        return [f"{method} {path}" for method, path, _ in found if not kind or f"/{kind}/" in path]


@contextmanager
def registry_on(host: Host, address: str, images: Mapping[str, Sequence[bytes]]) -> Iterator[RegistryHost]:
    """Serve `images`, layers by `team/tool:1`, on the host until that ends; what it serves goes with the context."""
    with Registry() as local:
        for image, layers in images.items():
            name, _, tag = image.partition(":")
            local.push_image(name, tag, layers, config={"Env": ["A=b"]})
        local.stop()
        http = {"addr": f"{address}:{PORT}", "secret": "x"}
        settings = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": local.data}}, "http": http}
        (host.folder / "registry.yml").write_text(json.dumps(settings), encoding="utf-8")
        process = host.start("docker-registry", "serve", str(host.folder / "registry.yml"))
        until(lambda: PORT in host.listening() or not process.running, "the registry to listen")
        yield RegistryHost(address, process)
