"""Where things are in ZooKeeper.

/stage-image/<name>/<owner>/
├── stagings/<staging>          ephemeral: who coordinates it
├── conversions/<xx>/<name>     what came of a container image, and what that is of; xx: the name's first two digits
├── pins/<xx>/<scope>/<key>     a job's digest of a reference; xx: two hex digits of the scope's hash
└── nodes/<host>                what a node's store holds

`owner` is `site` for root and `uid-<n>` for a user: they do not believe each other. Scopes are spread over 256 znodes,
because removing old ones has to list them: a site with 100,000 jobs a day would list 3 million at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote, unquote

from stager.errors import ConfigError

TOP = "/stage-image"

MAX_COMPONENT = 255
"""Characters of an encoded component. ZooKeeper itself limits only the request, to 1 MiB."""

BUCKETS = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Tree:
    """The paths of one cluster and owner."""

    name: str
    owner: str

    def __post_init__(self) -> None:
        component(self.name)
        component(self.owner)

    @property
    def root(self) -> str:
        return f"{TOP}/{component(self.name)}/{component(self.owner)}"

    @property
    def stagings(self) -> str:
        return f"{self.root}/stagings"

    @property
    def nodes(self) -> str:
        return f"{self.root}/nodes"

    def staging(self, staging: str) -> str:
        return f"{self.stagings}/{component(staging)}"

    def node(self, host: str) -> str:
        return f"{self.nodes}/{component(host)}"

    @property
    def pins(self) -> str:
        return f"{self.root}/pins"

    def bucket(self, bucket: str) -> str:
        """One of BUCKETS."""
        return f"{self.pins}/{bucket}"

    def scope(self, scope: str) -> str:
        return f"{self.bucket(sha256(component(scope).encode()).hexdigest()[:2])}/{component(scope)}"

    def pin(self, scope: str, key: str) -> str:
        return f"{self.scope(scope)}/{component(key)}"

    @property
    def conversions(self) -> str:
        return f"{self.root}/conversions"

    def conversion(self, name: str) -> str:
        return f"{self.conversions}/{component(name[:2])}/{component(name)}"

    def is_shared(self, path: str) -> bool:
        """Whether a path lies above what is the owner's."""
        return not f"{path}/".startswith(f"{self.root}/")


def component(text: str) -> str:
    """Return `text` as one component of a path: no two texts share one, and none leads elsewhere. Raises ConfigError.

    Everything but ASCII letters, digits and `_.-~` is percent-encoded, and so are the dots of `.` and `..`.
    """
    encoded = quote(text, safe="", errors="surrogatepass")
    if encoded.strip(".") == "":
        encoded = encoded.replace(".", "%2E")
    if not 0 < len(encoded) <= MAX_COMPONENT:
        raise ConfigError(f"{ascii(text)[:80]} cannot be a name in ZooKeeper: it has {len(encoded)} characters there")
    return encoded


def original(encoded: str) -> str:
    """Return what `component` encoded."""
    return unquote(encoded, errors="surrogatepass")


def parent(path: str) -> str:
    """Return the path above `path`; empty for those at the top."""
    return path.rpartition("/")[0]
