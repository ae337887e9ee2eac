"""What `slurm doctor` puts together: Slurm's configuration, the settings of its hooks, this node's files and images."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from stager import config as site
from stager.cli.node import Node
from stager.cli.slurm_publishing import held_here, known_as
from stager.errors import ConfigError, StageImageError
from stager.schedulers import features, hook, private, scontrol, slurm_config, slurm_node, slurm_rules
from stager.schedulers.scontrol import SlurmNode
from stager.schedulers.slurm_rules import Finding, Here
from stager.variables import SITE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.config import Config


def findings() -> list[Finding]:
    """Return everything that there is to say. Raises ClusterUnavailable where Slurm cannot be asked."""
    config = slurm_config.read(scontrol.show_config())
    settings = _settings()
    known = _known()
    is_node = isinstance(known, SlurmNode)
    here = replace(_here(config, is_node=is_node), obstacles=_obstacles(settings) if is_node else ())
    return [*slurm_rules.findings(config, settings, here), _features(settings, known)]


def _known() -> SlurmNode | StageImageError:
    """Return what Slurm knows of this host, or why it knows nothing."""
    try:
        return scontrol.show_node(scontrol.names_here()[0])
    except StageImageError as error:
        return error


def _settings() -> Config:
    """Return the settings as slurmd's hooks have them: without those of whoever asks."""
    named = {name: os.environ[name] for name in (SITE_VARIABLE,) if name in os.environ}
    return site.load(named, user_file="")


def _here(config: Mapping[str, str], *, is_node: bool) -> Here:
    """Return what this host has of Slurm's files; on one that is no node, that a hook is not there means nothing."""
    folder = slurm_node.folder(config)
    plugins = tuple(slurm_node.plugins(slurm_node.plugstack(config)))
    places = config.get("PluginDir", "").split(":")
    return Here(
        hooks={
            name: tuple(
                replace(file, ours=None, problem="") if file.problem == slurm_node.ABSENT and not is_node else file
                for file in slurm_node.hook_files(config, name)
            )
            for name in slurm_rules.HOOKS
        },
        plugins=plugins,
        missing_plugins=frozenset(plugin.path for plugin in plugins if not slurm_node.is_there(plugin.path, places)),
        container=slurm_config.container_settings(slurm_node.text(f"{folder}/job_container.conf") or ""),
        off=hook.is_off(),
    )


def _obstacles(settings: Config) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    with suppress(ConfigError):  # the rules tell of that
        found = private.obstacles(private.parse(settings.slurm_private))
    shows = settings.slurm_images_at
    return (*found, f"{shows} (slurm.images_at) is no directory here") if shows and not os.path.isdir(shows) else found


def _features(settings: Config, known: SlurmNode | StageImageError) -> Finding:
    try:
        if isinstance(known, StageImageError):
            raise known
        node = Node({"store": settings.store} if settings.store else {})
        held = held_here(node)
        change = features.change(known_as(node, held), known.available, known.active, settings.slurm_features_prefix)
    except StageImageError as error:
        return Finding("advice", "features", f"cannot be compared: {error.message}", error.hint)
    if change is None:
        return Finding("ok", "features", f"Slurm knows what {known.name} holds: {_images(len(held))}")
    why = (
        f"of {known.name}, Slurm does not know {_images(len(change.added))}, and still names {len(change.removed)} gone"
    )
    remedy = "enable stage-image-features.timer: Slurm forgets at every restart and `scontrol reconfigure`"
    return Finding("advice", "features", why, remedy)


def _images(number: int) -> str:
    return f"{number} image{'s' * (number != 1)}"
