"""No trick that the policy lets pass makes a real server serve what lies elsewhere."""

from __future__ import annotations

import http.client
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING

import pytest
from requests import Request

from stager.errors import AccessDenied, InvalidReference
from stager.reference import parse
from stager.schedulers import policy
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("nginx")

PIECES = (
    *(
        "",
        "a",
        ".",
        "..",
        "%2e",
        "%2e%2e",
        ".%2E",
        "%252e%252e",
        "..;",
        "..%3b",
        "%00",
        "%c0%ae%c0%ae",
        "a%2f..",
        "..%2f..",
    ),
    *("%5c..", "..%5c", "a%2f%2f..", "%2f..", "?", "#", "%3f", "%23"),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nginx]:
    for name in ("pub/images/a/a", "pub/a", "a"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("pub/images/a/a", "pub/images/a", "pub/images"):
        (tmp_path / folder / "x").write_bytes(b"allowed")
    for folder in ("pub/a", "pub", "a", ""):
        (tmp_path / folder / "x").write_bytes(b"elsewhere")
    with Nginx(tmp_path) as nginx:
        yield nginx


def asked(server: Nginx) -> Iterator[str]:
    for pieces in product(PIECES, repeat=3):
        yield server.url("/pub/images/" + "/".join([*pieces, "x"]))
        yield server.url("/" + "/".join([*pieces, "pub/images/x"]))


def as_sent(text: str) -> set[str]:
    """Return the paths that a client may send for a URL: as it is written, and as our own sends it."""
    location = parse(text).location
    return {"/" + location.split("/", 3)[3], Request("GET", location).prepare().path_url}


def paths(server: Nginx, allow: str) -> Iterator[str]:
    """Return what may be sent for the URLs that a policy allows."""
    for text in asked(server):
        try:
            policy.check(parse(text), (allow,))
        except (AccessDenied, InvalidReference):
            continue
        yield from as_sent(text)


def served(server: Nginx, allow: str) -> dict[bytes, set[str]]:
    """Return what the server answers with, and to which paths."""
    found: dict[bytes, set[str]] = {}
    with closing(http.client.HTTPConnection(server.host)) as connection:
        for path in set(paths(server, allow)):
            connection.request("GET", path)
            with connection.getresponse() as reply:
                body = reply.read()
            found.setdefault(body if reply.status == 200 else b"", set()).add(path)
    return found


def test_what_is_allowed_is_never_served_from_elsewhere(server: Nginx) -> None:
    found = served(server, server.url("/pub/images"))
    assert found.get(b"elsewhere", set()) == set()
    assert len(found[b"allowed"]) > 100


def test_the_tricks_work_where_nothing_is_forbidden(server: Nginx) -> None:
    found = served(server, server.url("/"))
    assert any(path.startswith("/pub/images/") for path in found[b"elsewhere"])
