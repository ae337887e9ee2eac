"""Who is let in, and who is not."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from stager.relay.secret import SKEW_MS, Guard, Secret, credentials
from tests.support.fake_clock import FakeClock

WORDS = ("GET", "10.0.0.7:4321", "/v1/ab/1/image")
STAGING = "0123456789abcdef" * 2


def now_ms(clock: FakeClock, later: int = 0) -> int:
    return int(clock.wall() * 1000) + later


def refusal(guard: Guard, proof: str, *, range_: str = "", body: bytes = b"") -> str:
    return guard.refusal(proof, *WORDS, range_=range_, body=body)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def guard(clock: FakeClock) -> Guard:
    return Guard(Secret.new(), clock)


def test_one_of_us_is_let_in_once(guard: Guard, clock: FakeClock) -> None:
    proof = guard.secret.authorize(*WORDS, range_="bytes=5-", body=b"{}", now_ms=now_ms(clock))
    assert refusal(guard, proof, range_="bytes=5-", body=b"{}") == ""
    assert refusal(guard, proof, range_="bytes=5-", body=b"{}") == "it was made before"


def test_the_mac_is_what_anybody_can_compute() -> None:
    """As documented, by other means."""
    secret = Secret(b"k" * 32)
    scheme, _, rest = secret.authorize(*WORDS, range_="bytes=0-9", body=b"body", now_ms=77).partition(" ")
    nonce, _, mac = rest.partition(":")
    message = f"GET\n10.0.0.7:4321\n/v1/ab/1/image\nbytes=0-9\n{hashlib.sha256(b'body').hexdigest()}\n{nonce}"
    assert (scheme, nonce[:3]) == ("StageImage", "77-")
    assert mac == hmac.new(b"k" * 32, message.encode(), "sha256").hexdigest()
    assert secret.seal(nonce, b"x") == hmac.new(b"k" * 32, nonce.encode() + b"x", "sha256").hexdigest()


@pytest.mark.parametrize("later", [-SKEW_MS, SKEW_MS])
def test_clocks_may_differ(guard: Guard, clock: FakeClock, later: int) -> None:
    assert refusal(guard, guard.secret.authorize(*WORDS, now_ms=now_ms(clock, later))) == ""


@pytest.mark.parametrize("later", [-SKEW_MS - 1000, SKEW_MS + 1000])
def test_clocks_may_not_differ_by_more(guard: Guard, clock: FakeClock, later: int) -> None:
    proof = guard.secret.authorize(*WORDS, now_ms=now_ms(clock, later))
    assert refusal(guard, proof) == "its clock and ours differ by 301 s"


@pytest.mark.parametrize("step", [1, 59, 299])
def test_a_nonce_is_remembered_for_as_long_as_it_could_be_used(guard: Guard, clock: FakeClock, step: int) -> None:
    proof = guard.secret.authorize(*WORDS, now_ms=now_ms(clock, SKEW_MS))
    assert refusal(guard, proof) == ""
    end = clock.now() + 2 * SKEW_MS / 1000
    while clock.now() < end:
        assert refusal(guard, proof) == "it was made before"
        refusal(guard, guard.secret.authorize(*WORDS, now_ms=now_ms(clock)))  # has old ones forgotten
        clock.advance(step)
    clock.advance(1)
    assert "differ" in refusal(guard, proof)


def test_nonces_are_forgotten_when_their_time_is_over(guard: Guard, clock: FakeClock) -> None:
    for _ in range(50):
        for _ in range(10):
            refusal(guard, guard.secret.authorize(*WORDS, now_ms=now_ms(clock)))
        clock.advance(60)
    assert sum(map(len, guard._seen.values())) <= 10 * 7


def test_strangers_do_not_fill_the_memory(guard: Guard, clock: FakeClock) -> None:
    for _ in range(50):
        assert refusal(guard, Secret.new().authorize(*WORDS, now_ms=now_ms(clock))) == "its authorization is wrong"
    assert not any(guard._seen.values())


@pytest.mark.parametrize(
    "proof",
    [
        *("StageImage", "Basic Zm9vOmJhcg==", f"StageImage 1-{'a' * 32}:{'b' * 63}", "StageImage \xff-\xff:\xff"),
        *(f"StageImage x-{'a' * 32}:{'b' * 64}", f"StageImage 1-{'A' * 32}:{'b' * 64}"),
        *(f"stageimage 1-{'a' * 32}:{'b' * 64}", f"StageImage {'9' * 5000}-{'a' * 32}:{'b' * 64}"),
    ],
)
def test_what_is_no_authorization(guard: Guard, proof: str) -> None:
    assert credentials(proof) == ("", "")
    assert refusal(guard, proof) == "its authorization is of another kind"


def test_no_authorization_at_all(guard: Guard) -> None:
    assert refusal(guard, "") == "it carries no authorization"


def test_a_record_is_for_one_chunk_of_one_generation_of_one_staging() -> None:
    secret, sha = Secret.new(), hashlib.sha256(b"chunk").digest()
    record = secret.record(STAGING, 2, 7, sha)
    assert len(record) == 64
    assert secret.check_record(STAGING, 2, 7, record) == sha
    for staging, generation, index in (("f" * 32, 2, 7), (STAGING, 3, 7), (STAGING, 2, 8), (STAGING, 7, 2)):
        assert secret.check_record(staging, generation, index, record) is None
    assert Secret.new().check_record(STAGING, 2, 7, record) is None


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret.new()
    assert secret.hex not in repr(secret)
    with pytest.raises(ValueError, match="hexadecimal") as caught:
        Secret.parse(secret.hex.upper())
    assert secret.hex not in str(caught.value).lower()
    with pytest.raises(ValueError, match="32 bytes"):
        Secret(b"short")


def test_a_secret_survives_being_written_down() -> None:
    secret = Secret.new()
    assert Secret.parse(secret.hex) == secret
    assert hash(Secret.parse(secret.hex)) == hash(secret)
    assert Secret.new() != secret
