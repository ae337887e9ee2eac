"""Strangers, wrong passwords and TLS."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import OPEN_ACL_UNSAFE

from stager.election.credentials import Credentials
from stager.errors import ClusterUnavailable, ConfigError
from tests.support.certificates import self_signed
from tests.support.zookeeper import Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.concurrency.conftest import Meet

pytestmark = pytest.mark.needs("zookeeper")

OURS = Credentials("node", "secret")
WRONG = Credentials("node", "guess")
A = "a" * 64


@contextmanager
def bare(hosts: str) -> Iterator[Any]:
    """A stranger with a client of his own."""
    client = KazooClient(hosts, timeout=5)
    client.start(10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def below(client: Any, path: str) -> Iterator[str]:  # noqa: ANN401
    """Yield a path and all below it, as far as one may see."""
    yield path
    try:
        names = client.get_children(path)
    except NoAuthError:
        return
    for name in names:
        yield from below(client, f"{path}/{name}")


def attempts(stranger: Any, path: str) -> list[Callable[[], object]]:  # noqa: ANN401
    """Return all that one could do to a znode."""
    return [
        lambda: stranger.get(path),
        lambda: stranger.get_children(path),
        lambda: stranger.set(path, b"forged"),
        lambda: stranger.create(f"{path}/planted", b"forged"),
        lambda: stranger.set_acls(path, OPEN_ACL_UNSAFE),
    ]


def test_those_with_the_password_meet(meet: Meet) -> None:
    one, other = meet(credentials=OURS), meet(credentials=OURS)
    assert one.claim("s", b"r")
    assert not other.claim("s", b"")
    assert other.leader("s") == b"r"
    assert one.set_pin("j", "k", A) == other.pin("j", "k")
    one.write_node("h", b"n")
    assert (other.stagings(), other.nodes()) == ({"s": b"r"}, {"h": b"n"})
    other.forget_scope("j")
    assert one.pin("j", "k") is None


def test_a_stranger_can_do_nothing(zookeeper: Servers, meet: Meet, cluster: str) -> None:
    one = meet(credentials=OURS)
    one.claim("s", b"very secret")
    one.set_pin("j", "k", A)
    one.write_node("h", b"n")
    root = f"/stage-image/{cluster}/site"
    with bare(zookeeper.hosts) as ours, bare(zookeeper.hosts) as stranger:
        ours.add_auth("digest", OURS.plain)
        paths = list(below(ours, root))
        assert len(paths) == 9
        for path in paths:
            for act in attempts(stranger, path):
                with pytest.raises(NoAuthError):
                    act()
            if path != root:
                with pytest.raises(NoAuthError):
                    stranger.delete(path)
        assert list(below(ours, root)) == paths
        assert list(below(stranger, f"/stage-image/{cluster}")) == [f"/stage-image/{cluster}", root]
        with pytest.raises(NoAuthError):
            stranger.set_acls(f"/stage-image/{cluster}", OPEN_ACL_UNSAFE)
    assert one.leader("s") == b"very secret"


@pytest.mark.parametrize("credentials", [None, WRONG])
def test_whoever_has_another_password_is_told(meet: Meet, credentials: Credentials | None) -> None:
    ours = meet(credentials=OURS)
    ours.claim("s", b"r")
    ours.set_pin("j", "k", A)
    one = meet(credentials=credentials)
    start = time.monotonic()
    for act in (lambda: one.leader("s"), lambda: one.claim("t", b""), lambda: one.pin("j", "k"), one.stagings):
        with pytest.raises(ClusterUnavailable, match="access denied") as caught:
            act()
        assert caught.value.hint == "see cluster.credentials_file"
    assert time.monotonic() - start < 3


def test_users_have_trees_of_their_own(meet: Meet) -> None:
    site = meet(credentials=OURS)
    user = meet(owner="uid-1000", credentials=Credentials("alice", "pw"))
    other = meet(owner="uid-1001")
    assert site.claim("s", b"site")
    assert user.claim("s", b"user")
    assert other.claim("s", b"other")
    assert [site.leader("s"), user.leader("s"), other.leader("s")] == [b"site", b"user", b"other"]


def test_what_a_stranger_put_there_first_is_not_believed(zookeeper: Servers, meet: Meet, cluster: str) -> None:
    """An access list protects what we made; here a stranger had made the tree before."""
    root = f"/stage-image/{cluster}/site"
    one = meet(credentials=OURS)
    with bare(zookeeper.hosts) as stranger:
        stranger.create(f"{root}/stagings/s", b"come to me", makepath=True)
        stranger.create(f"{root}/nodes/h", b"lies", makepath=True)
    with pytest.raises(ClusterUnavailable, match="stagings/s: somebody without our credentials wrote it"):
        one.leader("s")
    assert one.claim("t", b"r")
    assert (one.stagings(), one.nodes()) == ({"t": b"r"}, {})


def test_a_record_moved_elsewhere_is_not_believed(zookeeper: Servers, meet: Meet, cluster: str) -> None:
    root = f"/stage-image/{cluster}/site"
    one = meet(credentials=OURS)
    one.set_pin("j", "k", A)
    with bare(zookeeper.hosts) as careless:
        careless.add_auth("digest", OURS.plain)
        (pin,) = (path for path in below(careless, root) if path.endswith("/k"))
        sealed, _ = careless.get(pin)
        careless.create(pin.replace("/k", "/l"), sealed)
    assert one.pin("j", "k") == A
    with pytest.raises(ClusterUnavailable, match="somebody without our credentials wrote it"):
        one.pin("j", "l")


def test_a_server_that_wants_credentials(meet: Meet) -> None:
    with Servers(options=["enforce.auth.enabled=true", "enforce.auth.schemes=digest"]) as strict:
        assert meet(strict.hosts, credentials=OURS).claim("s", b"")
        one = meet(strict.hosts, session_timeout=2.0)
        start = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="it wants other credentials than ours") as caught:
            one.leader("s")
        assert caught.value.hint == "see cluster.credentials_file"
        assert time.monotonic() - start < 5


@pytest.fixture(scope="module", params=[False, True], ids=["server-only", "both"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Servers, Path]]:
    """A server with a certificate, and a folder with those of server and node; the second wants one of the client."""
    folder = tmp_path_factory.mktemp("tls")
    for who in ("server", "node"):
        (folder / who).mkdir()
        self_signed(folder / who)
        pair = [(folder / who / name).read_text() for name in ("certificate.pem", "key.pem")]
        (folder / f"{who}.pem").write_text("".join(pair))
    with Servers() as servers:
        server = servers.one
        server.kill()
        server.secure(folder / "node" / "certificate.pem", folder / "server.pem", client_certificates=request.param)
        servers.start()
        yield servers, folder


@pytest.mark.needs("openssl")
def test_tls(secured: tuple[Servers, Path], meet: Meet) -> None:
    servers, folder = secured
    authority, ours = str(folder / "server" / "certificate.pem"), str(folder / "node.pem")
    one, other = (meet(servers.hosts, ca_file=authority, certificate_file=ours) for _ in range(2))
    assert one.claim("s", b"r")
    assert one.leads("s")
    assert other.leader("s") == b"r"
    many = {f"n{i}": bytes(2000) for i in range(200)}
    for host, record in many.items():
        one.write_node(host, record)
    start = time.monotonic()
    assert other.nodes() == many  # several answers in one TLS record: none may wait for the next
    assert time.monotonic() - start < 3
    one.close()
    assert other.claim("s", b"")


@pytest.mark.needs("openssl")
def test_tls_without_a_certificate_of_ours(secured: tuple[Servers, Path], meet: Meet) -> None:
    servers, folder = secured
    wanted = "clientAuth=need" in "".join(servers.one.options)
    one = meet(servers.hosts, ca_file=str(folder / "server" / "certificate.pem"), connect=False, connect_timeout=10.0)
    if not wanted:
        one.connect()
        assert one.claim("s", b"")
        return
    start = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        one.connect()
    assert "cluster.certificate_file" in caught.value.hint, caught.value.message
    assert time.monotonic() - start < 8


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("trouble", ["untrusted", "other-name"])
def test_tls_with_the_wrong_server(secured: tuple[Servers, Path], meet: Meet, trouble: str) -> None:
    servers, folder = secured
    hosts = servers.hosts if trouble == "untrusted" else servers.hosts.replace("127.0.0.1", "localhost")
    trusted = folder / ("node" if trouble == "untrusted" else "server") / "certificate.pem"
    one = meet(hosts, ca_file=str(trusted), certificate_file=str(folder / "node.pem"), connect=False)
    with pytest.raises(ClusterUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
        one.connect()
    assert "cluster.ca_file" in caught.value.hint


def test_tls_files_that_cannot_be_used(meet: Meet, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("rubbish")
    with pytest.raises(ConfigError, match=r"the certificates to trust for ZooKeeper, .*missing: No such file"):
        meet("127.0.0.1:1", ca_file=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"the certificates to trust for ZooKeeper, .*rubbish"):
        meet("127.0.0.1:1", ca_file=str(tmp_path / "rubbish"))
    authority = self_signed(tmp_path).file
    with pytest.raises(ConfigError, match="our certificate for ZooKeeper"):
        meet("127.0.0.1:1", ca_file=authority, certificate_file=authority)
