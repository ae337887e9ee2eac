"""The one table of all settings, with kind, default and meaning: the fields of `Config`.

The files, the variables, `stage-image config show` and docs/reference/configuration.md come from it. `cluster_name` is
`cluster.name`, or `name` below `[cluster]`, in a file, STAGE_IMAGE_CLUSTER_NAME in the environment; so for the other
TABLES. `stager.config` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from stager import kinds, registry_setting
from stager.errors import ConfigError
from stager.variables import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.kinds import Kind
    from stager.registry_setting import RegistrySetting

T = TypeVar("T")

TABLES = ("cluster", "convert", "slurm", "gridengine")
"""The sections of a file whose keys are settings of their own."""

FILE_ONLY = ("mirrors", "registry")
"""Settings that are tables themselves: no variable can hold them."""


def _setting(default: T, kind: Kind[Any], doc: str) -> T:
    return field(default_factory=lambda: default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings; sizes in bytes, times in seconds. `sources` maps every name to where its value came from."""

    store: str = _setting("", kinds.PATH, "The store's directory, on the node's local disk; empty: the default place.")
    freshness: Literal["always", "job", "never"] = _setting(
        "job",
        kinds.choice("always", "job", "never"),
        "When to ask the origin whether a staged image is still current: at every call, once per job, or never.",
    )
    offline: Literal["allow", "refuse"] = _setting(
        "allow",
        kinds.choice("allow", "refuse"),
        "Whether a staged image may be used while its origin cannot be reached.",
    )
    mount: Literal["auto", "loop", "fuse", "none"] = _setting(
        "auto",
        kinds.choice("auto", "loop", "fuse", "none"),
        "How to mount images; `auto` takes the first way that works here.",
    )
    runtime: Literal["auto", "apptainer", "singularity", "none"] = _setting(
        "auto",
        kinds.choice("auto", "apptainer", "singularity", "none"),
        "The container runtime of `exec`; `none` runs the command on the host.",
    )
    connect_timeout: float = _setting(10.0, kinds.TIME, "How long an origin may take to accept a connection.")
    stall_timeout: float = _setting(60.0, kinds.TIME, "How long an origin may send nothing before it is given up.")
    deadline: float = _setting(300.0, kinds.TIME, "How long to go on without any progress, retries included.")
    failure_backoff: float = _setting(
        10.0, kinds.TIME_OR_ZERO, "How long a failure is remembered, so that waiting tasks do not each repeat it."
    )
    connections: int = _setting(4, kinds.count(1, 16), "How many connections to an origin one download may use.")
    ca_file: str = _setting("", kinds.PATH, "Certificates to trust for HTTPS, as PEM; empty: those of the system.")
    token_file: str = _setting("", kinds.PATH, "A file with a bearer token for the origin; empty: none.")
    min_free: int = _setting(64 << 20, kinds.SIZE, "How much space to leave free on the store's file system.")
    max_size: int | None = _setting(
        None, kinds.LIMIT, "How large all images and layers of the store together may become."
    )
    allow_unsafe_store: bool = _setting(
        default=False,
        kind=kinds.BOOLEAN,
        doc="Whether to go on with a warning where the store's file system cannot be trusted.",
    )
    progress: Literal["auto", "bar", "lines", "none"] = _setting(
        "auto",
        kinds.choice("auto", "bar", "lines", "none"),
        "How to show progress on stderr; `auto` draws a bar on a terminal and writes lines elsewhere.",
    )
    mirrors: Mapping[str, tuple[str, ...]] = _setting(
        {},
        kinds.MIRRORS,
        "Where else to fetch from: a prefix of references, and what to put in its place, in order.",
    )
    registry: Mapping[str, RegistrySetting] = _setting(
        {},
        registry_setting.REGISTRY,
        "How to reach a registry: other places that have its images, in order, and whether it is to be asked plainly.",
    )
    platform: str = _setting(
        "", kinds.PLATFORM, "Which of an image's platforms to take, such as `linux/arm64`; empty: this node's."
    )
    convert_compression: Literal["zstd", "gzip", "lz4", "lzo", "xz"] = _setting(
        "zstd",
        kinds.choice("zstd", "gzip", "lz4", "lzo", "xz"),
        "How to compress what is made of images in layers; nodes' kernels must know it.",
    )
    convert_level: int = _setting(
        0,
        kinds.count(0, 22),
        "How hard: up to 22 for zstd, 9 for gzip and lzo; 0 is the usual: 3 for zstd, 6 for gzip.",
    )
    library: str = _setting(
        "https://library.sylabs.io", kinds.URL, "Where `library://` images are that name no host themselves."
    )
    scope: Literal["auto", "node", "cluster"] = _setting(
        "auto",
        kinds.choice("auto", "node", "cluster"),
        "Who shares a download: the tasks of each node, or all nodes; `auto`: all nodes if `cluster.zookeeper` is set.",
    )
    min_nodes: int = _setting(
        0, kinds.count(0, 10**6), "How many of the job's nodes must have the image before the command returns."
    )
    cluster_zookeeper: str = _setting(
        "", kinds.ZOOKEEPER, "The ZooKeeper ensemble by which nodes find each other; empty: none."
    )
    cluster_name: str = _setting(
        "default", kinds.NAME, "Which cluster this is: nodes with the same name, ensemble and user share."
    )
    cluster_transport: Literal["relay", "shared"] = _setting(
        "relay",
        kinds.choice("relay", "shared"),
        "How nodes share: each passes the image on to the next, or one copy lies in `cluster.shared_dir`.",
    )
    cluster_shared_dir: str = _setting(
        "", kinds.PATH, "A directory on a parallel file system that all nodes mount, for the `shared` transport."
    )
    cluster_interface: str = _setting(
        "",
        kinds.INTERFACE,
        "Where a node serves the image to others; empty: at the address by which it reaches ZooKeeper.",
    )
    cluster_ports: str = _setting("", kinds.PORTS, "The ports to serve on, as a firewall lets through; empty: any.")
    cluster_on_failure: Literal["node", "fail"] = _setting(
        "node",
        kinds.choice("node", "fail"),
        "What to do while ZooKeeper cannot be used: let each node download by itself, or fail.",
    )
    cluster_session_timeout: float = _setting(
        6.0, kinds.duration(1, 300, "from 1s to 5m"), "How long ZooKeeper waits for a silent node before it is dead."
    )
    cluster_connect_timeout: float = _setting(5.0, kinds.TIME, "How long ZooKeeper may take to accept a connection.")
    cluster_credentials_file: str = _setting(
        "", kinds.PATH, "A file with `user:password` for ZooKeeper's digest authentication; empty: none."
    )
    cluster_ca_file: str = _setting("", kinds.PATH, "Certificates to trust for ZooKeeper, as PEM; empty: no TLS.")
    cluster_certificate_file: str = _setting("", kinds.PATH, "This site's certificate for ZooKeeper, as PEM.")
    cluster_key_file: str = _setting("", kinds.PATH, "The key of `cluster.certificate_file`, as PEM.")
    cluster_linger: float = _setting(
        60.0, kinds.TIME_OR_ZERO, "How long the last relays wait for nodes that are late, with everybody else served."
    )
    cluster_origins: int = _setting(1, kinds.count(1, 64), "How many nodes may fetch from the origin at a time.")
    cluster_lifetime: float = _setting(
        3600.0, kinds.TIME, "How long a node passes the image on, at most, once it has all of it."
    )
    slurm_allow: tuple[str, ...] = _setting(
        (),
        kinds.PREFIXES,
        "What the Prolog may stage for users: prefixes of URLs, images' names and paths; nothing else is touched.",
    )
    slurm_budget: float = _setting(
        20.0, kinds.TIME, "How long the Prolog waits for images; their download goes on without it."
    )
    slurm_strict: bool = _setting(
        default=False,
        kind=kinds.BOOLEAN,
        doc="Whether hooks fail when images do: nodes drain, and jobs are requeued.",
    )
    slurm_private: tuple[str, ...] = _setting(
        (),
        kinds.PLACES,
        "What a job gets for itself: `/tmp=/scratch/tmp` binds a directory of its own over `/tmp`.",
    )
    slurm_private_for: Literal["asked", "all"] = _setting(
        "asked", kinds.choice("asked", "all"), "Which jobs get them: those with `--private-tmp`, or all."
    )
    slurm_private_shows: tuple[str, ...] = _setting(
        (), kinds.PATHS, "What jobs see all the same of directories that their own ones cover, if it is there."
    )
    slurm_images_at: str = _setting(
        "",
        kinds.PATH,
        "Where a job with a mount namespace sees its images, as 1, 2 and so on; empty: nowhere.",
    )
    slurm_features_prefix: str = _setting(
        "img_", kinds.NAME, "How node features begin that say which images a node holds."
    )
    gridengine_allow: tuple[str, ...] = _setting(
        (),
        kinds.PREFIXES,
        "What Grid Engine's prolog may stage for users, as root: prefixes of URLs, images' names and paths.",
    )
    gridengine_budget: float = _setting(60.0, kinds.TIME, "How long that prolog waits for images.")
    gridengine_strict: bool = _setting(default=False, kind=kinds.BOOLEAN, doc="Whether jobs fail when images do.")
    gridengine_push: bool = _setting(
        default=False, kind=kinds.BOOLEAN, doc="Whether root's stagings tell Grid Engine's qmaster what the node holds."
    )
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def is_cluster(self) -> bool:
        """Whether nodes share; raises ConfigError where the settings for that contradict each other."""
        if self.scope == "node" or (self.scope == "auto" and not self.cluster_zookeeper):
            return False
        missing = (
            ("cluster.zookeeper", "scope is cluster", bool(self.cluster_zookeeper)),
            (
                "cluster.shared_dir",
                "transport is shared",
                self.cluster_transport != "shared" or self.cluster_shared_dir,
            ),
            (
                "cluster.certificate_file",
                "cluster.key_file is set",
                self.cluster_certificate_file or not self.cluster_key_file,
            ),
            (
                "cluster.ca_file",
                "cluster.certificate_file is set",
                self.cluster_ca_file or not self.cluster_certificate_file,
            ),
        )
        for label, because, is_right in missing:
            if not is_right:
                raise ConfigError(f"{label} is not set, but {because}")
        return True

    def setting(self, name: str) -> Setting[Any]:
        """Return a value with its source; KeyError for a name that is none."""
        return Setting(getattr(self, KEYS[name].name), self.sources.get(name, "default"))


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """A value, and where it came from: `default`, a file's path, a variable's name or a flag."""

    value: T
    source: str


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the table."""

    name: str
    kind: Kind[Any]
    default: Any
    doc: str

    @property
    def label(self) -> str:
        """What it is called in a file and in messages: `cluster.name` for the field `cluster_name`."""
        table, _, key = self.name.partition("_")
        return f"{table}.{key}" if table in TABLES else self.name

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _keys(defaults: Config) -> dict[str, Key]:
    rows = [(f.name, f.metadata["kind"], f.metadata["doc"]) for f in fields(defaults) if f.metadata]
    return {name: Key(name, kind, getattr(defaults, name), doc) for name, kind, doc in rows}


KEYS = _keys(Config())
"""By the name of the field."""

LABELLED = {key.label: key for key in KEYS.values()}
"""By what it is called in a file."""
