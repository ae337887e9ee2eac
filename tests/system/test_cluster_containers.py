"""A whole cluster stages a container image: one pull, one conversion, one digest, whatever becomes of the tag."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import pytest
import requests

from tests.support.cluster.bed import ORIGIN, Cluster
from tests.support.cluster.job import PATIENCE, QUICK, nothing_is_left
from tests.support.registry import OCI_MANIFEST, Registry, tar_layer
from tests.support.tasks import COMMAND, Tasks, all_end, until, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cluster.hosts import Process
    from tests.support.cluster.node import Node

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx", "curl", "docker-registry", "mksquashfs")

PORT = 5000
REFERENCE = f"docker://{ORIGIN}:{PORT}/team/tool:1"
_LINE = re.compile(r'"(GET|HEAD) (\S+) [^"]*" (\d+)')


def layers(seed: int) -> list[bytes]:
    random = Random(seed)
    return [tar_layer({f"opt/{seed}/{n}/data": random.randbytes(1 << 20), "etc/version": b"%d" % n}) for n in range(3)]


@dataclass
class Town:
    """A cluster, with a registry on the origin's host in which the tag can be moved to another image."""

    cluster: Cluster
    registry: Process
    folder: Path
    first: bytes
    other: bytes

    def asked(self, kind: str) -> list[str]:
        """Return what stage-image asked for, but for conditions that were answered by nothing new."""
        found = _LINE.findall(self.registry.out)
        return [f"{method} {path}" for method, path, _ in found if f"/{kind}/" in path]

    def put(self, tag: str, manifest: bytes) -> None:
        """Let a tag mean an image."""
        (self.folder / "manifest.json").write_bytes(manifest)
        url, kind = f"http://{ORIGIN}:{PORT}/v2/team/tool/manifests/{tag}", f"Content-Type: {OCI_MANIFEST}"
        data = f"@{self.folder}/manifest.json"
        self.cluster.origin.host.run("curl", "-sSf", "-X", "PUT", "-H", kind, "--data-binary", data, url)


def manifest(registry: Registry, tag: str) -> bytes:
    url, kinds = registry.url(f"/v2/team/tool/manifests/{tag}"), {"Accept": OCI_MANIFEST}
    return requests.get(url, headers=kinds, timeout=20).content


@contextmanager
def town(folder: Path, nodes: int, **environ: str) -> Iterator[Town]:
    config = folder / "config.toml"
    config.write_text(f'[registry."{ORIGIN}:{PORT}"]\nplain_http = true\n')
    with Registry() as local:
        local.push_image("team/tool", "1", layers(1), config={"Env": ["A=b"]})
        local.push_image("team/tool", "other", layers(2))
        manifests = [manifest(local, tag) for tag in ("1", "other")]
        local.stop()
        with Cluster(folder, nodes=nodes, environ={**QUICK, "STAGE_IMAGE_CONFIG": str(config), **environ}) as cluster:
            http = {"addr": f"{ORIGIN}:{PORT}", "secret": "x"}
            settings = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": local.data}}, "http": http}
            (folder / "registry.yml").write_text(json.dumps(settings))
            process = cluster.origin.host.start("docker-registry", "serve", str(folder / "registry.yml"))
            until(lambda: PORT in cluster.origin.host.listening() or not process.running, "the registry to listen")
            yield Town(cluster, process, folder, *manifests)


def staged(node: Node) -> dict[str, bytes]:
    """Return what a node has, by digest."""
    return {path.parent.name: path.read_bytes() for path in node.seen.glob("images/sha256/*/*/image.sqsh")}


def ends(tasks: list[Process]) -> set[str]:
    """Fail unless all tasks end well; return the digests of what they were given."""
    wait_for(tasks, PATIENCE * 2)
    all_end(tasks)
    return {task.answer.split("/")[-2] for task in tasks}


def test_sixty_four_tasks_are_one_pull_and_one_conversion_while_the_tag_moves(tmp_path: Path) -> None:
    with town(tmp_path, 4, STAGE_IMAGE_CLUSTER_LINGER="10s") as it:
        nodes = it.cluster.nodes
        tasks = [task for node in nodes for task in node.stage(REFERENCE, tasks=16)]
        until(lambda: it.asked("manifests") or not all(task.running for task in tasks), "somebody to ask for the tag")
        it.put("1", it.other)
        (digest,) = ends(tasks)
        for node in nodes:
            ((found, content),) = staged(node).items()
            assert found == digest == sha256(content).hexdigest()
        assert len(it.asked("manifests")) == 1
        assert len(it.asked("blobs")) == len(set(it.asked("blobs"))) == len(layers(1)) + 1
        (converter,) = [node for node in nodes if list(node.seen.glob("blobs/sha256/*/*"))]
        assert list(converter.seen.glob("conversions/*"))
        late = [task for node in nodes for task in node.stage(REFERENCE)]
        assert ends(late) == {digest}
        assert len(it.asked("manifests")) == 1, "what the job means is known"
        another = [task for node in nodes for task in node.stage(REFERENCE, job="2")]
        (moved,) = ends(another)
        assert moved != digest
        nothing_is_left(it.cluster, linger=10)


def test_a_job_gets_its_image_though_the_tag_has_moved_and_all_others_have_gone(tmp_path: Path) -> None:
    with town(tmp_path, 2) as it:
        one, late = it.cluster.nodes
        (digest,) = ends(one.stage(REFERENCE))
        nothing_is_left(it.cluster)
        it.put("1", it.other)
        assert ends(late.stage(REFERENCE)) == {digest}
        (other,) = ends(late.stage(REFERENCE, job="2"))
        assert other != digest


def test_what_one_job_converted_the_next_one_knows_by_another_name(tmp_path: Path) -> None:
    with town(tmp_path, 2) as it:
        one, other = it.cluster.nodes
        (digest,) = ends([task for node in (one, other) for task in node.stage(REFERENCE)])
        blobs = len(it.asked("blobs"))
        (follower,) = [node for node in (one, other) if not list(node.seen.glob("blobs/sha256/*/*"))]
        nothing_is_left(it.cluster)
        it.put("second", it.first)
        assert ends(follower.stage(REFERENCE.replace("tool:1", "tool:second"), job="2")) == {digest}
        assert len(it.asked("blobs")) == blobs, "ZooKeeper remembers what came of the manifest"


def launcher(folder: Path, nodes: list[Node]) -> str:
    """Return a launcher for prefetch, out here, that runs a command on a node."""
    path = folder / "launch"
    lines = ["#!/bin/sh", 'case "$1" in']
    for node in nodes:
        given = [f"{name}={value}" for name, value in node.environ("").items() if value]
        lines.append(f'{node}) exec {shlex.join(node.host.enter("env", *given))} sh -c "$2" ;;')
    path.write_text("\n".join([*lines, "esac", "exit 255", ""]), encoding="utf-8")
    path.chmod(0o755)
    return f"{path} {{node}}"


def test_prefetch_pulls_once_for_all_nodes_and_the_cluster_knows_who_has_it(tmp_path: Path) -> None:
    with town(tmp_path, 3, STAGE_IMAGE_CLUSTER_LINGER="5s") as it, Tasks(tmp_path) as tasks:
        nodes = it.cluster.nodes
        program = tmp_path / "stage-image"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        where = f"--nodes={','.join(map(str, nodes))}"
        ran = tasks.run("prefetch", REFERENCE, where, "--launcher", launcher(tmp_path, nodes), f"--program={program}")
        assert (ran.done(), ran.answer) == (0, f"3 of 3 nodes have {REFERENCE}"), ran.err
        (digest,) = {digest for node in nodes for digest in staged(node)}
        assert len(it.asked("blobs")) == len(layers(1)) + 1
        (listing,) = nodes[0].stage("list", "--cluster", "--json")
        assert listing.done() == 0, listing.err
        (row,) = json.loads(listing.out)
        assert (row["digest"], sorted(row["nodes"])) == (f"sha256:{digest}", sorted(map(str, nodes)))
        assert row["references"] == [REFERENCE]
        (shown,) = nodes[1].stage("list")
        assert shown.done() == 0, shown.err
        assert shown.out.splitlines()[1].endswith(f"  {REFERENCE}")
        nothing_is_left(it.cluster, linger=5)
