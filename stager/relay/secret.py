"""Who belongs to a staging: a random secret that authenticates each request, each chunk record and each answer.

The secret is never on the wire; the bytes of the image are, in the clear.
"""

from __future__ import annotations

import os
from hashlib import sha256
from hmac import compare_digest, digest

from stager.relay.wire import RECORD, is_hex, is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.clock import Clock

SCHEME = "StageImage"
SKEW_MS = 300_000
"""How far the clocks of two nodes may differ, as in Kerberos; also for how long a nonce has to be remembered."""

_MINUTE_MS = 60_000


class Secret:
    """32 random bytes that the nodes of one staging share."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a secret is 32 bytes")
        self._key = key

    @classmethod
    def new(cls) -> Secret:
        """Return one that nobody else has."""
        return cls(os.urandom(32))

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Return the secret that `hex` printed. Raises ValueError, which does not quote it."""
        if not is_hex(text, 64):
            raise ValueError("a secret is 64 hexadecimal digits")
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        """For ZooKeeper's eyes only."""
        return self._key.hex()

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def authorize(self, method: str, host: str, path: str, *, range_: str = "", body: bytes = b"", now_ms: int) -> str:
        """Return the value of the Authorization field for one request, to be used once.

        `host` is the address and port that the request is sent to, `now_ms` milliseconds since the epoch.
        """
        nonce = f"{now_ms}-{os.urandom(16).hex()}"
        return f"{SCHEME} {nonce}:{self.mac(nonce, (method, host, path, range_), body)}"

    def mac(self, nonce: str, words: tuple[str, str, str, str], body: bytes) -> str:
        """Return the MAC over a request: `words` are its method, host, path and range."""
        return self._mac("\n".join((*words, sha256(body).hexdigest(), nonce)).encode()).hex()

    def seal(self, nonce: str, body: bytes) -> str:
        """Return the MAC of the answer to the request with that nonce: nobody else can have given it."""
        return self._mac(nonce.encode() + body).hex()

    def is_seal(self, text: str, nonce: str, body: bytes) -> bool:
        """Whether `seal` made it."""
        return compare_digest(text.encode(), self.seal(nonce, body).encode())

    def record(self, staging: str, generation: int, index: int, sha: bytes) -> bytes:
        """Return the 64 bytes that vouch for chunk number `index`, whose sha256 is `sha`."""
        place = generation.to_bytes(8, "big") + index.to_bytes(8, "big")
        return sha + self._mac(b"chunk" + staging.encode() + place + sha)

    def check_record(self, staging: str, generation: int, index: int, record: bytes) -> bytes | None:
        """Return the sha256 in a record, or None if it was not made for this very chunk by one who knows the secret."""
        sha = record[:32]
        right = len(record) == RECORD and compare_digest(record, self.record(staging, generation, index, sha))
        return sha if right else None

    def _mac(self, message: bytes) -> bytes:
        return digest(self._key, message, "sha256")


class Guard:
    """Lets requests of the staging's own nodes in, each of them once. For one thread."""

    def __init__(self, secret: Secret, clock: Clock) -> None:
        self.secret = secret
        self._clock = clock
        self._seen: dict[int, set[int]] = {}

    def refusal(
        self, authorization: str, method: str, host: str, path: str, *, range_: str = "", body: bytes = b""
    ) -> str:
        """Return why a request must not be answered, for the log; empty if it is fine.

        `host` is who the request was meant for: whoever calls this makes sure that it is the one who got it.
        """
        if not authorization:
            return "it carries no authorization"
        nonce, mac = credentials(authorization)
        if not nonce:
            return "its authorization is of another kind"
        if not compare_digest(mac.encode(), self.secret.mac(nonce, (method, host, path, range_), body).encode()):
            return "its authorization is wrong"
        made, now = int(nonce.partition("-")[0]), int(self._clock.wall() * 1000)
        if abs(now - made) > SKEW_MS:
            return f"its clock and ours differ by {abs(now - made) // 1000} s"
        return "" if self._is_new(nonce, made, now) else "it was made before"

    def _is_new(self, nonce: str, made: int, now: int) -> bool:
        """Remember a nonce until its time is over: 8 of its 16 random bytes, some 60 bytes of memory.

        Strangers cannot fill the memory, because their MACs are wrong; a coordinator of 1,000 nodes needs some 20 MB.
        """
        for minute in [minute for minute in self._seen if (minute + 1) * _MINUTE_MS < now - SKEW_MS]:
            del self._seen[minute]
        seen = self._seen.setdefault(made // _MINUTE_MS, set())
        short = int(nonce[-16:], 16)
        known = short in seen
        seen.add(short)
        return not known


def credentials(authorization: str) -> tuple[str, str]:
    """Return nonce and MAC of an Authorization value, two empty strings if it is of another kind."""
    scheme, _, rest = authorization.partition(" ")
    nonce, _, mac = rest.partition(":")
    made, _, random = nonce.partition("-")
    sound = scheme == SCHEME and is_number(made) and is_hex(random, 32) and is_hex(mac, 64)
    return (nonce, mac) if sound else ("", "")
