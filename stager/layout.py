"""Every path in a store, from its root and a name; pure.

<root>/
├── CACHEDIR.TAG, VERSION
├── images/sha256/ab/abcd…/    image.sif|.sqsh|.erofs, twin (hard link to it), image.json (what is known of it)
├── quarantine/                images which `verify` found bad
├── refs/<key>                 reference → digest, validators, time seen
├── conversions/<name>         manifest of a container image and how it was converted → digest of what came of it;
│                              and that, with the repository → the manifest, or the index it was chosen from
├── partial/<key>/<owner>/     bytes in flight: data, state; work/<owner>/ is a conversion's folder
├── blobs/                     layers of container images, each once; only where such images are staged
│   ├── sha256/ab/abcd…        whole and verified; its mtime is its last use, a shared flock on it keeps it
│   └── partial/<hex>[.owner]/ in flight: data (an exclusive flock on it says that somebody fills it), state
├── locks/<name>.lock          never unlinked, opened read-write; <name>.leader tells who holds it and how far it is,
│                              <name>.leader.wake is a FIFO whose closing wakes those who wait for the holder;
│                              <key>.relay.log tells of strangers at the relay
├── leases/<hex>/<lease>       who uses the image: empty files, all is in the name
├── pins/<scope>/<key>         the digest a reference means for one job
├── jobs/<scope>.json          what a site's hooks made for a job, root's alone
├── warm/<scope>/<name>        complete answers for one job, readable by the shell wrapper
├── failures/<key>             a recent failure, with when to try again
├── report                     what a load sensor says of the images, a line for each; only where there is one.
│                              report.pushed is what a qmaster was told
└── mounts/<hex>.<kind>/       root (the mountpoint), ready (how it is mounted)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.reference import Digest

VERSION = 1
"""Of the layout above; a store of a newer version is refused, never changed."""

FORMAT_SUFFIXES = {"sif": ".sif", "squashfs": ".sqsh", "erofs": ".erofs"}
"""Image format → suffix of the staged file, which container runtimes go by."""

UNMOUNTED = ".stage-image-not-mounted"
"""Lies in the bare mountpoint, so that one look tells whether something is mounted over it."""

_REGISTRIES = ("docker://", "oras://")
_ON_DISK = ("oci:/", "docker-archive:/", "oci-archive:/")
_BEGINNINGS = ("/", "http://", "https://", "file://", "library://", *_REGISTRIES, *_ON_DISK)

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@+=~,&-")


class Layout:
    """The paths of one store. `root` is an absolute path."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def images(self) -> str:
        return f"{self.root}/images/sha256"

    @property
    def folders(self) -> tuple[str, ...]:
        """Every directory that a store is made of, parents first."""
        top = ("images", "quarantine", "refs", "partial", "locks", "leases", "pins", "warm", "failures", "mounts")
        return (*(f"{self.root}/{name}" for name in top), self.images)

    @property
    def jobs(self) -> str:
        """What a site's hooks made for jobs; only where they do."""
        return f"{self.root}/jobs"

    @property
    def report(self) -> str:
        """What a load sensor says of the images; only where there is one."""
        return f"{self.root}/report"

    @property
    def blobs(self) -> str:
        """Layers of container images; only where such images are staged."""
        return f"{self.root}/blobs"

    @property
    def blob_partials(self) -> str:
        return f"{self.blobs}/partial"

    def blob(self, digest: Digest) -> str:
        return f"{self.blobs}/sha256/{digest.hex[:2]}/{digest.hex}"

    def blob_partial(self, name: str) -> str:
        return f"{self.blob_partials}/{name}"

    def image_dir(self, digest: Digest) -> str:
        return f"{self.images}/{digest.hex[:2]}/{digest.hex}"

    def image_file(self, digest: Digest, image_format: str) -> str:
        return f"{self.image_dir(digest)}/image{FORMAT_SUFFIXES[image_format]}"

    def twin(self, digest: Digest) -> str:
        return f"{self.image_dir(digest)}/twin"

    def sidecar(self, digest: Digest) -> str:
        return f"{self.image_dir(digest)}/image.json"

    def quarantine(self, name: str) -> str:
        return f"{self.root}/quarantine/{name}"

    def reference_record(self, key: str) -> str:
        return f"{self.root}/refs/{key}"

    def conversion(self, name: str) -> str:
        """Only where container images are staged."""
        return f"{self.root}/conversions/{name}"

    def partials(self, key: str) -> str:
        return f"{self.root}/partial/{key}"

    def lock(self, name: str) -> str:
        return f"{self.root}/locks/{name}.lock"

    def leader(self, name: str) -> str:
        return f"{self.root}/locks/{name}.leader"

    def leases(self, digest: Digest) -> str:
        return f"{self.root}/leases/{digest.hex}"

    def pin(self, scope: str, key: str) -> str:
        return f"{self.root}/pins/{scope}/{key}"

    def warm(self, scope: str, name: str) -> str:
        return f"{self.root}/warm/{scope}/{name}"

    def failure(self, key: str) -> str:
        return f"{self.root}/failures/{key}"

    def mount_dir(self, digest: Digest, kind: str) -> str:
        return f"{self.root}/mounts/{digest.hex}.{kind}"

    def mountpoint(self, digest: Digest, kind: str) -> str:
        return f"{self.mount_dir(digest, kind)}/root"

    def mount_ready(self, digest: Digest, kind: str) -> str:
        return f"{self.mount_dir(digest, kind)}/ready"


def warm_name(verb: str, mount: str, runtime: str, text: str) -> str | None:
    """The file name of a warm answer for a reference as typed, or None if it must not be answered warm.

    `%` stands for `/`, so names are unique: a text with a `%` of its own, a relative path, or one too long for a file
    name has none. Nor has a URL with a query, which may be signed, or a registry's image with a user, which may be a
    token: a secret is not made a file name. The shell wrapper makes the same name.
    """
    if not text.startswith(_BEGINNINGS) or len(text) > 200 or not _PLAIN.issuperset(text):
        return None
    if text.startswith(_REGISTRIES) and "@" in (text.rpartition("@sha256:")[0] or text):
        return None
    return f"{verb},{mount},{runtime},{text.replace('/', '%')}"
