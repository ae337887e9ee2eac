"""A real docker-registry on a loopback port: open, with passwords, with TLS, with tokens, or as a cache of another.

What is in it is pushed by skopeo from an OCI layout, or blob by blob as the distribution specification says.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import requests

from tests.support.capabilities import program
from tests.support.listening import free_port, wait_until_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.support.token_service import TokenService

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"

_LINE = re.compile(r'\S+ - (\S+) \[[^]]*\] "(\S+) (\S+) [^"]*" (\d+) (\d+) "[^"]*" "([^"]*)"')


@dataclass(frozen=True)
class Access:
    """A line of the access log: `path` with its query, `size` the number of body bytes sent."""

    method: str
    path: str
    status: int
    size: int
    agent: str = ""


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str, **more: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def tar_layer(files: Mapping[str, bytes], *, packed: bool = True) -> bytes:
    """Return a layer with these files, as a tar or a gzipped one; the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0) if packed else buffer.getvalue()


def image_config(
    layers: Iterable[bytes], architecture: str = "amd64", config: Mapping[str, Any] | None = None
) -> bytes:
    """Return the configuration of an image of gzipped layers."""
    diff_ids = [digest_of(gzip.decompress(layer)) for layer in layers]
    content = {
        "os": "linux",
        "architecture": architecture,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(content).encode()


class Registry:
    """The server, as a context manager.

    `users`: name to password, for basic authentication (bcrypt). `tls`: a folder in which certificates.self_signed
    has been. `tokens`: a service whose tokens are wanted. `upstream`: the URL of the registry that this one caches.
    `redirect`: a URL below which a server of `data` sends the blobs. `prefix`: a path before /v2/, as of a proxy's.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, str] | None = None,
        tls: Path | None = None,
        tokens: TokenService | None = None,
        upstream: str = "",
        redirect: str = "",
        prefix: str = "",
    ) -> None:
        self._users = dict(users or {})
        self._tls = tls
        self._tokens = tokens
        self._upstream = upstream
        self._redirect = redirect
        self._prefix = prefix
        self._base = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""

    @property
    def data(self) -> str:
        """The directory that holds all blobs."""
        return f"{self._base}/data"

    def url(self, path: str = "/v2/") -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}{self._prefix}{path}"

    @property
    def log(self) -> list[Access]:
        """What was answered so far; a request is written down when it has ended."""
        with open(f"{self._base}/access.log", encoding="utf-8", errors="replace") as file:
            found = [_LINE.match(line) for line in file]
        return [Access(m[2], m[3], int(m[4]), int(m[5]), m[6]) for m in found if m]

    def asked(self, method: str, kind: str, since: int = 0) -> int:
        """Return how many questions of stage-image's there were, by method, for `manifests` or `blobs`.

        `since`: the number of log lines before those that count.
        """
        ours = [line for line in self.log[since:] if line.agent.startswith("stage-image")]
        return sum(line.method == method and f"/{kind}/" in line.path for line in ours)

    def logged(self, count: int, timeout: float = 10) -> list[Access]:
        """Return the log once it has so many lines."""
        end = time.monotonic() + timeout
        while len(self.log) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"the log has {len(self.log)} lines, {count} were expected")
            time.sleep(0.01)
        return self.log

    def __enter__(self) -> Self:
        self._base = tempfile.mkdtemp(prefix="registry-")
        self.host = f"127.0.0.1:{free_port()}"
        os.mkdir(self.data)
        try:
            # JSON is YAML.
            with open(f"{self._base}/config.yml", "w", encoding="utf-8") as file:
                json.dump(self._config(), file)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start again, at the same address and with the same content."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        command = [program("docker-registry") or "docker-registry", "serve", f"{self._base}/config.yml"]
        with open(f"{self._base}/access.log", "ab") as log, open(f"{self._base}/error.log", "ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors, env=environ, cwd=self._base
            )
        wait_until_up("docker-registry", self.host, self._process, f"{self._base}/error.log")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(20)

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._base)

    def push_layout(self, layout: str | os.PathLike[str], image: str, name: str, tag: str) -> None:
        """Push `image`, a name in an OCI layout, as `name:tag`, with skopeo."""
        login = [f"--dest-creds={user}:{password}" for user, password in [*self._users.items()][:1]]
        if self._tokens:
            login = [f"--dest-creds={self._tokens.pusher[0]}:{self._tokens.pusher[1]}"]
        places = [f"oci:{os.fspath(layout)}:{image}", f"docker://{self.host}/{name}:{tag}"]
        command = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", *login, *places]
        subprocess.run(command, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)

    def push_blob(self, name: str, data: bytes) -> str:
        """Push bytes into a repository; return their digest."""
        with self._session(name) as session:
            begun = session.post(self.url(f"/v2/{name}/blobs/uploads/"), timeout=20)
            begun.raise_for_status()
            session.put(
                requests.compat.urljoin(self.url(), begun.headers["Location"]),
                params={"digest": digest_of(data)},
                data=data,
                headers={"Content-Type": "application/octet-stream"},
                timeout=20,
            ).raise_for_status()
        return digest_of(data)

    def push_manifest(self, name: str, target: str, content: Mapping[str, Any] | bytes, media_type: str = "") -> str:
        """Push a manifest or an index under a tag or its digest (empty `target`); return its digest."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = media_type or str(json.loads(data).get("mediaType") or OCI_MANIFEST)
        with self._session(name) as session:
            session.put(
                self.url(f"/v2/{name}/manifests/{target or digest_of(data)}"),
                data=data,
                headers={"Content-Type": kind},
                timeout=20,
            ).raise_for_status()
        return digest_of(data)

    def push_image(
        self,
        name: str,
        tag: str,
        layers: Sequence[bytes],
        *,
        architecture: str = "amd64",
        config: Mapping[str, Any] | None = None,
        docker: bool = False,
    ) -> str:
        """Push an image of gzipped layers as OCI, or as Docker's schema 2, blob by blob; return the manifest's digest.

        Without a tag it can be asked for by its digest only.
        """
        manifest_type, config_type, layer_type = (
            (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
        )
        described = image_config(layers, architecture, config)
        for blob in (described, *layers):
            self.push_blob(name, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": descriptor(described, config_type),
            "layers": [descriptor(layer, layer_type) for layer in layers],
        }
        return self.push_manifest(name, tag, manifest)

    def push_index(self, name: str, tag: str, manifests: Mapping[str, str]) -> str:
        """Push an index of manifests that are there: platform (`linux/amd64`) to digest."""
        entries = [
            {"mediaType": OCI_MANIFEST, "digest": digest, "size": self._size(name, digest), "platform": _platform(text)}
            for text, digest in manifests.items()
        ]
        return self.push_manifest(name, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def push_file(
        self,
        name: str,
        tag: str,
        data: bytes,
        *,
        media_type: str = SIF_LAYER,
        config_type: str = SIF_CONFIG,
        title: str = "image.sif",
    ) -> str:
        """Push a file as an ORAS artifact, as `apptainer push` does a SIF; return the manifest's digest."""
        for blob in (b"{}", data):
            self.push_blob(name, blob)
        layer = descriptor(data, media_type, annotations={"org.opencontainers.image.title": title})
        manifest = {"schemaVersion": 2, "config": descriptor(b"{}", config_type), "layers": [layer]}
        return self.push_manifest(name, tag, manifest, OCI_MANIFEST)

    def _size(self, name: str, digest: str) -> int:
        with self._session(name) as session:
            asked = session.head(
                self.url(f"/v2/{name}/manifests/{digest}"),
                headers={"Accept": f"{OCI_MANIFEST}, {DOCKER_MANIFEST}"},
                timeout=20,
            )
            asked.raise_for_status()
            return int(asked.headers["Content-Length"])

    def _session(self, name: str) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers["User-Agent"] = "pusher"
        if self._tls:
            session.verify = str(self._tls / "certificate.pem")
        if self._tokens:
            session.headers["Authorization"] = f"Bearer {self._tokens.issue(name, ('pull', 'push'))}"
        elif self._users:
            session.auth = next(iter(self._users.items()))
        return session

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "x"}
        if self._prefix:
            http["prefix"] = f"{self._prefix}/"
        if self._tls:
            http["tls"] = {"certificate": f"{self._tls}/certificate.pem", "key": f"{self._tls}/key.pem"}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": self.data}, "delete": {"enabled": True}},
            "http": http,
        }
        if self._upstream:
            config["proxy"] = {"remoteurl": self._upstream}
        if self._redirect:
            config["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": self._redirect}}]}
        if self._users:
            config["auth"] = {"htpasswd": {"realm": "test", "path": self._password_file()}}
        if self._tokens:
            config["auth"] = {"token": self._tokens.registry_config()}
        return config

    def _password_file(self) -> str:
        path = f"{self._base}/htpasswd"
        for number, (user, password) in enumerate(self._users.items()):
            options = "-iB" if number else "-iBc"
            command = ["htpasswd", options, "-C", "4", path, user]
            subprocess.run(command, input=password.encode(), check=True, capture_output=True, timeout=20)
        return path


def _platform(text: str) -> dict[str, str]:
    parts = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
    return {key: value for key, value in parts.items() if value}
