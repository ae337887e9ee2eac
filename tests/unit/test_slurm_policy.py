from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from stager.errors import AccessDenied, ConfigError
from stager.reference import parse
from stager.schedulers import policy

if TYPE_CHECKING:
    from pathlib import Path

ALLOW = ("https://host/pub", "http://10.0.0.1:8080/a/b/", "https://[::1]/", "https://one/exact.sif")
PIN = "@sha256:" + "0" * 64

ALLOWED = [
    *("https://host/pub", "https://host/pub/", "https://host/pub/x.sif", "https://host/pub/x/y/z.sif"),
    *("HTTPS://HOST/pub/x.sif", "https://host:443/pub/x.sif", "https://host:0443/pub/x", f"https://host/pub/x{PIN}"),
    *("https://host/pub/x?v=1", "https://host/pub?x=/../../y", "https://host/pub/x#../..", "https://host/pub/a/../b"),
    *(
        "https://host/pub/./x",
        "https://host/pub/a%20b",
        "https://host/pub/%C3%BC.sif",
        "https://host/pub/...",
        "https://host/pub//x",
    ),
    *("http://10.0.0.1:8080/a/b/c", "https://[::1]/anything", "https://one/exact.sif"),
    *("https://host/pub/100%25.sif", "https://host/pub/a%2Fb", "https://host/pub/x;v=1"),
]

DENIED = [
    *("http://host/pub/x", "https://host:8443/pub/x", "https://host/", "https://host", "https://host/public"),
    *(
        "https://host/pub2/x",
        "https://host/PUB/x",
        "https://host/%70ub/x",
        "https://host//pub/x",
        "https://host/pub;x/y",
    ),
    *("https://evil/pub/x", "https://host.evil/pub/x", "https://evil.host/pub/x", "https://host./pub/x"),
    *("https://evil/https://host/pub/x", "https://evil?https://host/pub/", "https://evil#https://host/pub/"),
    *("https://host/x/../pub/y", "https://host/../pub/y", "https://host/pub/..", "https://host/pub/../x"),
    *(
        "https://host/pub/a/../../x",
        "https://host/pub//../x",
        "https://host/pub/./../x",
        "https://host/pub/a/.././../x",
    ),
    *("https://host/pub/%2e%2e/x", "https://host/pub/.%2E/x", "https://host/pub/%2e./x", "https://host/pub/..%2fx"),
    *(
        "https://host/pub/%2e%2e%2fx",
        "https://host/pub/a%2f..%2f..%2fx",
        "https://host/pub/..%5cx",
        "https://host/pub/..;/x",
    ),
    *("https://host/pub/%252e%252e/x", "https://host/pub/%25252e%25252e/x", "https://host/pub/%%32%65%%32%65/x"),
    *("https://host/pub/..;v=1/x", "https://host/pub/..%3b/x", "https://host/pub/..%00/x", "https://host/pub/%0d%0ax"),
    *(
        "https://host/pub/%c0%ae%c0%ae/x",
        "https://host/pub/%ff",
        "https://host/pub/" + "%" + "25" * 9,
        "https://host/pub%2f..%2fx",
    ),
    *(
        "http://10.0.0.1/a/b/c",
        "http://10.0.0.1:8080/a/bc",
        "http://0x0a000001:8080/a/b/c",
        "http://010.0.0.1:8080/a/b/c",
    ),
    *("https://[0:0:0:0:0:0:0:1]/x", "https://[::1]:1/x", "https://[::2]/x", "https://one/exact.sif2", "https://one/"),
    *("file:///pub/x", "/pub/x", "/https:/host/pub/x"),
]


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed(text: str) -> None:
    policy.check(parse(text), ALLOW)


@pytest.mark.parametrize("text", DENIED)
def test_denied(text: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        policy.check(parse(text), ALLOW)
    assert "slurm.allow" in caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["https://host/pub/x", "/etc/x", "http://[::1]/"])
def test_nothing_is_allowed_by_default(text: str) -> None:
    with pytest.raises(AccessDenied):
        policy.check(parse(text), ())


def test_what_is_refused_is_told_without_its_query() -> None:
    with pytest.raises(AccessDenied) as caught:
        policy.check(parse("https://evil/x?token=secret"), ALLOW)
    assert caught.value.message.startswith("https://evil/x is not")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "host",
            "pub/x",
            "*",
            "https://",
            "https://u:p@host/",
            "https://*.host/",
            "https://host/*",
            "ftp://host/",
        ),
        *(
            "https://host/pub?x",
            f"https://host/pub{PIN}",
            "https://host/pub/../x",
            "https://host/./",
            "/a/../b",
            "oci:/x",
        ),
    ],
)
def test_what_cannot_be_a_prefix_is_an_error_of_the_site(text: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\.allow"):
        policy.check(parse("https://host/pub/x"), ("https://host/pub", text))


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    for name in ("apps/sub", "apps2", "home"):
        (tmp_path / "site" / name).mkdir(parents=True)
    for name in ("apps/x.sif", "apps/sub/y.sif", "apps2/x.sif", "home/secret"):
        (tmp_path / "site" / name).touch()
    (tmp_path / "site/way").symlink_to("apps")
    return tmp_path / "site"


def allowed(apps: Path, name: str, *prefixes: str) -> bool:
    try:
        policy.check(parse(f"{apps}/{name}"), tuple(f"{apps}/{prefix}" for prefix in prefixes))
    except AccessDenied:
        return False
    return True


def test_files(apps: Path) -> None:
    assert allowed(apps, "apps/x.sif", "apps")
    assert allowed(apps, "apps/sub/y.sif", "apps/")
    assert allowed(apps, "apps/x.sif", "apps/x.sif")
    assert allowed(apps, "apps/absent.sif", "apps")
    assert not allowed(apps, "apps2/x.sif", "apps")
    assert not allowed(apps, "home/secret", "apps")
    assert not allowed(apps, "home/absent", "apps")


def test_files_are_compared_as_text_first_so_that_no_foreign_path_is_walked(
    apps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[str] = []

    def realpath(path: str) -> str:
        walked.append(path)
        return path

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert not allowed(apps, "home/secret", "apps")
    assert not allowed(apps, "apps/../home/secret", "apps")
    assert set(walked) == {f"{apps}/apps"}


def test_dots_do_not_lead_out(apps: Path) -> None:
    assert not allowed(apps, "apps/../home/secret", "apps")
    assert not allowed(apps, "apps/sub/../x.sif", "apps")
    with pytest.raises(AccessDenied):
        policy.check(parse(f"file://{apps}/apps/%2e%2e/home/secret"), (f"{apps}/apps",))


def test_links_do_not_lead_out(apps: Path) -> None:
    (apps / "apps/out").symlink_to(apps / "home")
    (apps / "apps/out.sif").symlink_to(apps / "home/secret")
    (apps / "apps/loop").symlink_to("loop")
    (apps / "apps/in.sif").symlink_to("sub/y.sif")
    assert not allowed(apps, "apps/out/secret", "apps")
    assert not allowed(apps, "apps/out.sif", "apps")
    assert allowed(apps, "apps/in.sif", "apps")
    assert allowed(apps, "apps/out.sif", "apps", "home")
    allowed(apps, "apps/loop", "apps")  # whatever it says: it ends


def test_links_without_end_are_refused(apps: Path) -> None:
    for number in range(sys.getrecursionlimit() + 1):
        (apps / f"apps/{number}").symlink_to(str(number + 1))
    (apps / f"apps/{number + 1}").symlink_to(apps / "home/secret")
    assert not allowed(apps, "apps/0", "apps")


def test_what_cannot_be_a_name_of_a_file_is_refused(apps: Path) -> None:
    assert not allowed(apps, "apps/\ud800", "apps")


def test_the_site_may_name_its_directory_by_a_link(apps: Path) -> None:
    assert allowed(apps, "way/x.sif", "way")
    assert allowed(apps, "apps/x.sif", "way")
    assert not allowed(apps, "way/x.sif", "apps")  # a way of walking that the site has not named
    assert not allowed(apps, "apps2/x.sif", "way")


def test_a_url_and_a_file_are_no_prefix_of_each_other() -> None:
    with pytest.raises(AccessDenied):
        policy.check(parse("https://host/apps/x"), ("/", "file:///https:/host"))
    with pytest.raises(AccessDenied):
        policy.check(parse("/apps/x"), ("https://host/",))


def test_everything_may_be_allowed() -> None:
    policy.check(parse("https://host/x"), ("https://host",))
    policy.check(parse("/"), ("/",))


IMAGES = ("docker://docker.io/library/", "docker://ghcr.io/org", "oras://h.x:5000", "library://e/c", "library://l.x/e/")
HEX = "0" * 64

IMAGES_ALLOWED = [
    *(
        "docker://ubuntu",
        "docker://ubuntu:22.04",
        f"docker://ubuntu@sha256:{HEX}",
        "docker://index.docker.io/library/x",
    ),
    *("docker://ghcr.io/org/x", "docker://ghcr.io/org/x/y:1", "docker://GHCR.io/org", "oras://h.x:5000/any/thing:1"),
    *("library://e/c/x", f"library://e/c/x:1@sha256:{HEX}", "library://l.x/e/c/x"),
]
IMAGES_DENIED = [
    *("docker://other/ubuntu", "docker://ghcr.io/organisation/x", "docker://ghcr.io/x/org/y", "docker://ghcr.io/orga"),
    *("docker://quay.io/library/x", "oras://docker.io/library/x", "docker://h.x:5000/x", "oras://h.x/x"),
    *("oras://h.x:5001/x", "library://e/d/x", "library://ee/c/x", "library://e/x", "library://c/x", "library://x"),
    *("library://l.x/e/x", "library://l.x/e", "library://l.x:80/e/c/x", "library://e/c"),
    *("library://l.x/d/c/x", "library://m.x/e/c/x", "https://docker.io/library/ubuntu", "/library/ubuntu"),
    *("docker://docker.io:443/library/x", "docker://docker.io.evil.x/library/x"),
]


@pytest.mark.parametrize("text", IMAGES_ALLOWED)
def test_images_below_a_prefix_are_allowed(text: str) -> None:
    policy.check(parse(text), IMAGES)


@pytest.mark.parametrize("text", IMAGES_DENIED)
def test_other_images_are_not(text: str) -> None:
    with pytest.raises(AccessDenied):
        policy.check(parse(text), IMAGES)


@pytest.mark.parametrize("text", ["docker://joe@ghcr.io/org/x", f"oras://joe@h.x:5000/x@sha256:{HEX}"])
def test_nobody_chooses_whose_password_root_shows(text: str) -> None:
    with pytest.raises(AccessDenied, match="as a certain user") as caught:
        policy.check(parse(text), IMAGES)
    assert "joe" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        *(
            "docker://",
            "docker://library/",
            "docker://ubuntu",
            "docker://docker.io/library/ubuntu:22.04",
            "docker://u@h.x/",
        ),
        *(
            f"docker://docker.io/x@sha256:{HEX}",
            "docker://*.x/",
            "docker://h.x/Org",
            "docker://h.x/a/../b",
            "oras://h.x//a",
        ),
        *(
            "library://e/c/x:1",
            "library://e/c/x/y",
            "library://e/*",
            "library://u@l.x/e",
            f"library://e/c/x@sha256:{HEX}",
        ),
        *("oci:/x", "oci-archive:/x", "docker-archive:/x", "docker:x", "shub://x/y"),
    ],
)
def test_what_cannot_be_a_prefix_of_images_is_an_error_of_the_site(text: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\.allow"):
        policy.prefix(text)


def test_all_of_a_registry_or_library_may_be_allowed() -> None:
    policy.check(parse("docker://a/b"), ("DOCKER://Docker.io",))
    policy.check(parse("library://a/b/c"), ("library://",))
    policy.check(parse("library://c"), ("library://",))
    with pytest.raises(AccessDenied):
        policy.check(parse("library://l.x/a/b/c"), ("library://",))
    with pytest.raises(AccessDenied):
        policy.check(parse("library://l.x/b/c"), ("library://",))


def test_layouts_and_archives_are_files(apps: Path) -> None:
    (apps / "apps/out").symlink_to(apps / "home")
    for scheme in ("oci", "docker-archive", "oci-archive"):
        policy.check(parse(f"{scheme}:{apps}/apps/sub:tag"), (f"{apps}/apps",))
        for path in ("home/secret", "apps/../home/secret", "apps/out/secret:tag", "apps2/x.sif"):
            with pytest.raises(AccessDenied):
                policy.check(parse(f"{scheme}:{apps}/{path}"), (f"{apps}/apps", "docker://docker.io/"))
