"""The error tree. Each class is one exit code; the codes are an interface and never change meaning.

StageImageError
├── UsageError            2   the command line is wrong
├── ConfigError          64   a setting is unknown or has a bad value
├── InvalidReference     65   the reference cannot be understood or is not allowed
├── NotFound             66   the origin says that there is no such image
├── AccessDenied         67   the origin, or a file's mode, refuses us
├── OriginUnavailable    68   the origin cannot be reached or keeps failing
├── OriginStalled        69   the origin answers, but its bytes stopped flowing
├── PinLost              70   the image that this job is pinned to is nowhere to be had any more
├── DigestMismatch       71   the bytes are not the pinned ones
├── NotAnImage           72   the bytes are something else than SIF, squashfs or EROFS
├── DamagedImage         73   an image, but truncated, encrypted or without a usable partition
├── NoSpace              74   the image does not fit on the store's file system or under its quota
├── StoreUnusable        75   the store is on the wrong file system, foreign, read-only or unsafe
├── MountFailed          77   mounting was tried and failed
├── MountUnavailable     78   this node or user has no way to mount the image as asked
├── InUse                79   the image or mount is leased or busy
├── LeaderLost           80   waiting ended without an image and without a leader that fails with a reason
├── AnswerLost           81   the answer could not be written to stdout
├── NotStaged            82   the store does not hold what was asked for
├── RuntimeMissing       83   the container runtime asked for is not installed
├── VerifyFailed         84   `verify` found bad images (they were quarantined or repaired, as it says)
├── ClusterUnavailable   85   ZooKeeper, or the cluster's other nodes, cannot be reached
├── TooFewNodes          86   the image is here, but not on as many nodes as `--min-nodes` asks for
├── ImageRefused         87   a container image that no honest builder makes: too large, too deep, out of its root
├── ConverterMissing     88   what makes a squashfs of a container image is not installed, or too old
├── CommandNotRunnable  126   `exec`: the command is there but cannot be executed
└── CommandNotFound     127   `exec`: there is no such command

1 is a bug in stage-image (a report file is written); 128+N is death by signal N, as in a shell. Codes from 64 to 99
are ours because shells, `timeout` (124, 125), and signals use the rest, so that `exec` can be told from its command.
"""

from __future__ import annotations


class StageImageError(Exception):
    """An expected failure: what failed and why, with what the user may try.

    `message` says what failed and why, without a trailing period; `hint` what to try. `reference` is filled in by
    whoever knows it, at the latest by the error boundary. `retryable` errors may go away by themselves;
    `retry_after` is the number of seconds the origin asked us to wait, if it did.
    """

    exit_code = 1
    hint = ""
    retryable = False

    def __init__(self, message: str, *, hint: str = "", reference: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.hint
        self.reference = reference
        self.retry_after = retry_after


class UsageError(StageImageError):
    """The command line is wrong."""

    exit_code = 2
    hint = "see `stage-image --help`"


class ConfigError(StageImageError):
    """A setting is unknown or has a bad value."""

    exit_code = 64
    hint = "see `stage-image config show`"


class InvalidReference(StageImageError):
    """The reference cannot be understood or is not allowed."""

    exit_code = 65
    hint = "write https://host/path, docker://host/name:tag, oras://…, library://… or a path, perhaps with @sha256:…"


class NotFound(StageImageError):
    """The origin says that there is no such image."""

    exit_code = 66
    hint = "check the spelling of the reference and that the image has been uploaded"


class AccessDenied(StageImageError):
    """The origin, or a file's mode, refuses us."""

    exit_code = 67
    hint = "give credentials by ~/.netrc or token_file, for registries by `docker login`, or ask the image's owner"


class OriginUnavailable(StageImageError):
    """The origin cannot be reached or keeps failing."""

    exit_code = 68
    hint = "try again later; check the network, proxy settings and the origin's state"
    retryable = True


class OriginStalled(OriginUnavailable):
    """The origin answers, but its bytes stopped flowing."""

    exit_code = 69
    hint = "try again later, or raise stall_timeout if the origin is known to pause"


class PinLost(StageImageError):
    """The image that this job is pinned to is nowhere to be had any more: a matter of this job alone."""

    exit_code = 70
    hint = "the image changed at the origin while the job was there: start the job again, or name the old digest"


class DigestMismatch(StageImageError):
    """The bytes are not the pinned ones."""

    exit_code = 71
    hint = "the image changed or was damaged at the origin: compare its sha256 with the one in the reference"


class NotAnImage(StageImageError):
    """The bytes are something else than SIF, squashfs or EROFS."""

    exit_code = 72
    hint = "check what the reference points to: SIF, squashfs and EROFS files and container images can be staged"


class DamagedImage(StageImageError):
    """An image, but truncated, encrypted or without a usable partition."""

    exit_code = 73
    hint = "build or upload the image again"


class NoSpace(StageImageError):
    """The image does not fit on the store's file system or under its quota."""

    exit_code = 74
    hint = "free space with `stage-image prune`, or put the store elsewhere with STAGE_IMAGE_STORE"


class StoreUnusable(StageImageError):
    """The store is on the wrong file system, foreign, read-only or unsafe."""

    exit_code = 75
    hint = "set STAGE_IMAGE_STORE to a directory of your own on the node's local disk"


class MountFailed(StageImageError):
    """Mounting was tried and failed."""

    exit_code = 77
    hint = "`stage-image doctor` shows what this node can mount; --mount=none always works"


class MountUnavailable(StageImageError):
    """This node or user has no way to mount the image as asked."""

    exit_code = 78
    hint = "`stage-image doctor` shows what is missing; --mount=none always works"


class InUse(StageImageError):
    """The image or mount is leased or busy."""

    exit_code = 79
    hint = "end the jobs that use it, or see `stage-image list`"


class LeaderLost(StageImageError):
    """Waiting ended without an image and without a leader that fails with a reason."""

    exit_code = 80
    hint = "try again; `stage-image doctor` shows leftovers of dead processes"
    retryable = True


class AnswerLost(StageImageError):
    """The answer could not be written to stdout."""

    exit_code = 81
    hint = "see where stdout goes: a full disk, or a descriptor that was closed"


class NotStaged(StageImageError):
    """The store does not hold what was asked for."""

    exit_code = 82
    hint = "see `stage-image list`"


class RuntimeMissing(StageImageError):
    """The container runtime asked for is not installed."""

    exit_code = 83
    hint = "load its module, or use --runtime=none"


class VerifyFailed(StageImageError):
    """`verify` found bad images."""

    exit_code = 84
    hint = "stage the quarantined images again"


class ClusterUnavailable(StageImageError):
    """ZooKeeper, or the cluster's other nodes by way of it, cannot be reached, and the node may not go on alone."""

    exit_code = 85
    hint = "check cluster.zookeeper and the network, or set cluster.on_failure to `node`"
    retryable = True


class TooFewNodes(StageImageError):
    """The image is here, but not on as many nodes as `--min-nodes` asks for."""

    exit_code = 86
    hint = "see `stage-image status` for the nodes that lag or failed; ask for fewer, or give them more time"
    retryable = True


class ImageRefused(StageImageError):
    """A container image that no honest builder makes: it would fill the disk, or write out of its own root."""

    exit_code = 87
    hint = "build the image again, or ask whoever made it: what is named here is in one of its layers"


class ConverterMissing(StageImageError):
    """What makes a squashfs of a container image is not installed, or too old."""

    exit_code = 88
    hint = "install squashfs-tools 4.5 or later, or convert the image elsewhere by `stage-image convert`"


class CommandNotRunnable(StageImageError):
    """`exec`: the command is there but cannot be executed."""

    exit_code = 126
    hint = "check the file's mode and its #! line"


class CommandNotFound(StageImageError):
    """`exec`: there is no such command."""

    exit_code = 127
    hint = "check PATH and the spelling; with --runtime=none the command runs on the host"
