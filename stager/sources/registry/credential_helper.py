"""Asking a credential helper, `docker-credential-NAME get` (github.com/docker/docker-credential-helpers, README)."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stager.errors import ConfigError
from stager.image_names import HUB
from stager.sources.registry.auth_files import HUB_KEY, Credential

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 30.0
"""Seconds. Helpers ask daemons and cloud services; one that asks a human for a passphrase never ends in a job."""

ANSWER_MAX = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOTHING = b"credentials not found"
"""What all helpers say when they have none, with exit code 1 (docker-credential-helpers, credentials/error.go)."""


def ask(name: str, host: str, environ: Mapping[str, str], patience: float = PATIENCE) -> Credential | None:
    """Return what a helper knows of a host, None if nothing. Raises ConfigError, without a word of its answer."""
    program = f"docker-credential-{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:40]!a} is not the name of a credential helper", hint="see ~/.docker/config.json")
    code, answer = _run(program, (HUB_KEY if host == HUB else host).encode(), environ, patience)
    if code != 0:
        if _NOTHING in answer:
            return None
        raise ConfigError(f"the credential helper {program} failed with exit code {code}", hint=_hint(program))
    return _credential(answer, program)


def _credential(answer: bytes, program: str) -> Credential | None:
    try:
        content = json.loads(answer)
        user, secret = content["Username"], content["Secret"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise ConfigError(f"the credential helper {program} gave no sensible answer", hint=_hint(program)) from None
    if not (isinstance(user, str) and isinstance(secret, str) and secret):
        return None
    return Credential("" if user == "<token>" else user, secret, program, identity=user == "<token>")


def _run(program: str, question: bytes, environ: Mapping[str, str], patience: float) -> tuple[int, bytes]:
    # A session of its own, so that all of it can be ended.
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        )
    except OSError as error:
        why = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run: {error.strerror}"
        raise ConfigError(f"the credential helper {program} {why}", hint=_hint(program)) from error
    with process:
        try:
            return _answer(process, question, program, patience)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _answer(process: subprocess.Popen[bytes], question: bytes, program: str, patience: float) -> tuple[int, bytes]:
    end = time.monotonic() + patience
    assert process.stdin  # noqa: S101 # asked for above
    assert process.stdout  # noqa: S101
    with suppress(BrokenPipeError):
        process.stdin.write(question + b"\n")
        process.stdin.close()
    answer, ended = b"", os.pidfd_open(process.pid)
    # Its end counts, and not that of the pipe alone, which an agent that it started may hold open for days.
    try:
        while _readable((process.stdout.fileno(), ended), end - time.monotonic()):
            code = process.poll()
            while piece := _piece(process.stdout.fileno()):
                answer += piece
                if len(answer) > ANSWER_MAX:
                    raise ConfigError(f"the credential helper {program} answers without an end", hint=_hint(program))
            if code is not None:
                return code, answer
            if piece is not None:  # the pipe's end, but not the helper's
                _readable((ended,), end - time.monotonic())
    finally:
        os.close(ended)
    raise ConfigError(f"the credential helper {program} did not end within {patience:g} s", hint=_hint(program))


def _readable(fds: tuple[int, ...], seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds))) and seconds > 0


def _piece(fd: int) -> bytes | None:
    """Return what is there to be read, none at the end, None if nothing is there yet."""
    os.set_blocking(fd, False)
    try:
        return os.read(fd, ANSWER_MAX)
    except BlockingIOError:
        return None


def _hint(program: str) -> str:
    return f"try `echo HOST | {program} get`, or take it out of credsStore and credHelpers in ~/.docker/config.json"
