"""The registry of the tests is one: it takes and gives images, wants passwords and tokens, tells what it gave, goes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import requests

from tests.support.certificates import self_signed
from tests.support.registry import OCI_INDEX, OCI_MANIFEST, Registry, digest_of, tar_layer
from tests.support.token_service import TokenService

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("docker-registry", "openssl")

LAYER = tar_layer({"etc/motd": b"hello\n"})
ACCEPT = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}


def get(url: str, **more: object) -> requests.Response:
    return requests.get(url, headers=ACCEPT, timeout=20, **more)  # type: ignore[arg-type]


def test_pushed_by_hand() -> None:
    with Registry() as registry:
        digest = registry.push_image("a/b", "1", [LAYER])
        answer = get(registry.url("/v2/a/b/manifests/1"))
        assert digest_of(answer.content) == digest == answer.headers["Docker-Content-Digest"]
        before = len(registry.log)
        assert get(registry.url(f"/v2/a/b/blobs/{digest_of(LAYER)}")).content == LAYER
        assert [(line.method, line.status, line.size) for line in registry.logged(before + 1)[before:]] == [
            ("GET", 200, len(LAYER))
        ]
        index = registry.push_index("a/b", "all", {"linux/amd64": digest, "linux/arm64/v8": digest})
        assert digest_of(get(registry.url("/v2/a/b/manifests/all")).content) == index
        registry.push_file("sif", "1", b"SIF")
        assert get(registry.url("/v2/sif/manifests/1")).json()["layers"][0]["size"] == 3


def test_it_comes_back_with_what_it_had() -> None:
    with Registry() as registry:
        digest = registry.push_image("a/b", "1", [LAYER], docker=True)
        registry.stop()
        with pytest.raises(requests.ConnectionError):
            get(registry.url())
        registry.start()
        assert get(registry.url(f"/v2/a/b/manifests/{digest}")).status_code in (200, 404)


@pytest.mark.needs("skopeo", "umoci", "htpasswd")
def test_pushed_by_skopeo_with_a_password(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    for command in (["init", "--layout", str(layout)], ["new", "--image", f"{layout}:x"]):
        subprocess.run(["umoci", *command], check=True, capture_output=True, timeout=60)
    with Registry(users={"ada": "secret"}) as registry:
        registry.push_layout(layout, "x", "a/b", "1")
        assert get(registry.url("/v2/a/b/manifests/1")).status_code == 401
        assert get(registry.url("/v2/a/b/manifests/1"), auth=("ada", "secret")).status_code == 200


def test_tokens(tmp_path: Path) -> None:
    with TokenService(tmp_path, {"ada": "secret"}) as tokens, Registry(tokens=tokens) as registry:
        registry.push_image("a/b", "1", [LAYER])
        refused = get(registry.url("/v2/a/b/manifests/1"))
        assert refused.status_code == 401
        assert f'realm="{tokens.realm}"' in refused.headers["WWW-Authenticate"]
        for login, status in ((("ada", "secret"), 200), (None, 401)):
            asked = requests.get(tokens.realm, {"scope": "repository:a/b:pull"}, auth=login, timeout=20)
            bearer = {**ACCEPT, "Authorization": f"Bearer {asked.json()['token']}"}
            answer = requests.get(registry.url("/v2/a/b/manifests/1"), headers=bearer, timeout=20)
            assert answer.status_code == status
        assert [asked.user for asked in tokens.asked] == ["ada", ""]


def test_cache_of_another_over_tls_and_below_a_prefix(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with Registry() as origin, Registry(upstream=origin.url(""), tls=tmp_path, prefix="/hub") as cache:
        digest = origin.push_image("a/b", "1", [LAYER])
        before = len(origin.log)
        for _ in range(2):
            answer = get(cache.url(f"/v2/a/b/blobs/{digest_of(LAYER)}"), verify=certificate.file)
            assert answer.content == LAYER
        assert json.loads(get(cache.url("/v2/a/b/manifests/1"), verify=certificate.file).content)["layers"]
        # How often is its own business: it keeps what it fetched in the background.
        assert [line for line in origin.log[before:] if line.method == "GET" and "/blobs/" in line.path]
        assert get(cache.url(f"/v2/a/b/manifests/{digest}"), verify=certificate.file).status_code == 200
