"""What is missing or dangerous in a Slurm's configuration, for a site that stages images: every trap that was met.

Each rule is a function that yields findings. What was measured was measured with Slurm 22.05; the rest is of the manual
pages named. docs/explanation/slurm.md tells it at length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stager.errors import ConfigError
from stager.reference import REGISTRIES
from stager.schedulers import policy, private, slurm_config
from stager.store.folder import default_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stager.config import Config
    from stager.schedulers.slurm_config import SpankPlugin

MARGIN = 5.0
"""Seconds that a Prolog may take beyond its budget: Python's start, a mount, a node that is busy."""

EPILOG = 20.0 + MARGIN
"""Seconds that an Epilog may take where something is busy: a mount, a process that does not end."""

COMMENT_SINCE = (22, 5)
"""SLURM_JOB_COMMENT in the Prolog: in the code of 22.05, in the manual of 23.02."""
SHARED_SINCE = (23, 2)
"""`Shared=true` of job_container.conf."""

PUBLIC = ("docker.io", "ghcr.io", "quay.io", "gcr.io", "public.ecr.aws", "mcr.microsoft.com", "registry.gitlab.com")
"""Registries of everybody, in most of which anybody may have images."""

PUBLIC_LIBRARY = "https://library.sylabs.io"

FORMS = "https://host/directory/, docker://host/part/ (oras:// likewise), library://entity/, or /directory/"
"""What slurm.allow takes."""

PLUGIN = "stage_image.so"
HOOKS = ("Prolog", "Epilog", "TaskProlog")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at; why that is fine, could be better, or endangers jobs or nodes; and what to do about it."""

    level: Literal["ok", "advice", "danger"]
    what: str
    why: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class HookFile:
    """A program that Slurm runs as a hook, as this node has it.

    `ours`: whether it calls stage-image, None if that cannot be seen; `problem`: why slurmd could not, or had better
    not, run it.
    """

    path: str
    ours: bool | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What this node adds to what the controller says.

    `hooks` by the name in slurm.conf; `plugins` of plugstack.conf, with those of `missing_plugins` not there as files;
    `container` is what job_container.conf sets; `obstacles` keep slurm.private from working here; `off`: the kill
    switch is set.
    """

    hooks: Mapping[str, tuple[HookFile, ...]]
    plugins: tuple[SpankPlugin, ...] = ()
    missing_plugins: frozenset[str] = frozenset()
    container: Mapping[str, str] | None = None
    obstacles: tuple[str, ...] = ()
    off: bool = False

    def calls(self, hook: str) -> bool | None:
        """Whether a hook calls stage-image, None if that cannot be seen."""
        found = {file.ours for file in self.hooks.get(hook, ())}
        return True if True in found else None if None in found else False


def findings(config: Mapping[str, str], settings: Config, here: Here) -> tuple[Finding, ...]:
    """Return everything there is to say. `config` as slurm_config.read gives it, `settings` as the Prolog has them."""
    found = [*_version(config), *_switch(here), *_hooks(config, here)]
    if here.calls("Prolog"):
        found += [*_flags(config), *_times(config, settings), *_strictness(config, settings), *_allowed(settings)]
        found += _store(settings)
    found += [*_tracking(config), *_order(settings, here), *_private(config, settings, here)]
    return (*found, *_plugin(settings, here), *_features(config))


def _version(config: Mapping[str, str]) -> Iterator[Finding]:
    release, shown = slurm_config.version(config), config.get("SLURM_VERSION", "unknown")
    if release < COMMENT_SINCE:
        why = f"{shown}: before 22.05, no Prolog is told a job's --comment, and there is no --prefer"
        yield Finding("danger", "Slurm", why, "use the SPANK plugin, or a newer Slurm")
    else:
        extra = "--comment and --extra" if release >= (23, 2) else "--comment (--extra is of 23.02)"
        yield Finding("ok", "Slurm", f"{shown}: requests come by {extra}")


def _switch(here: Here) -> Iterator[Finding]:
    if here.off:
        why = "all hooks do nothing on this node: /etc/stage-image/disabled is there"
        yield Finding("advice", "kill switch", why, "remove it once the trouble is over")


def _hooks(config: Mapping[str, str], here: Here) -> Iterator[Finding]:
    for name in HOOKS:
        yield from (_file(name, file) for file in here.hooks.get(name, ()) if file.problem)
    prolog, epilog, task = (here.calls(name) for name in HOOKS)
    for name in HOOKS:
        if here.calls(name) is None:
            paths = ", ".join(file.path for file in here.hooks[name])
            yield Finding("advice", name, f"cannot be seen from here: {paths}", "run this as root, on a compute node")
    if prolog is False:
        why = "does not call stage-image: images are staged when the first task asks for them"
        yield Finding("advice", "Prolog", why, "docs/how-to/slurm.md, grade 2")
    if not prolog:
        return
    yield Finding("ok", "Prolog", "stages what jobs ask for")
    if epilog:
        yield Finding("ok", "Epilog", "releases what the job used")
    elif epilog is False:
        why = "does not call stage-image: leases, mounts and private directories of jobs stay for ever"
        yield Finding("danger", "Epilog", why, "Epilog=…/stage-image/slurm/epilog in slurm.conf")
    if task:
        yield Finding("ok", "TaskProlog", "tells tasks where their images are")
    elif task is False:
        why = "does not call stage-image: tasks have no STAGE_IMAGE_PATH and do not wait for a download that goes on"
        yield Finding("advice", "TaskProlog", why, "TaskProlog=…/stage-image/slurm/task-prolog in slurm.conf")
    yield from _runners(config)


def _file(name: str, file: HookFile) -> Finding:
    return Finding("danger", name, f"{file.path} {file.problem}", "mend it before slurmd runs it: nodes drain")


def _runners(config: Mapping[str, str]) -> Iterator[Finding]:
    user = config.get("SlurmdUser", "root(0)")
    if not user.startswith("root("):
        why = f"slurmd runs as {user}: its Prolog can neither mount nor write a store of root's"
        yield Finding("danger", "SlurmdUser", why, "SlurmdUser=root")
    if "prep/script" not in config.get("PrEpPlugins", "prep/script"):
        why = f"PrEpPlugins is {config['PrEpPlugins'] or 'empty'}: Prolog and Epilog are never run"
        yield Finding("danger", "PrEpPlugins", why, "add prep/script")


def _flags(config: Mapping[str, str]) -> Iterator[Finding]:
    flags = slurm_config.words(config, "PrologFlags")
    if not flags.keys() & {"alloc", "contain", "runinjob", "x11", "deferbatch"}:
        why = "without Alloc, images are staged when the first step starts on each node, one step after the other"
        yield Finding("advice", "PrologFlags", why, "PrologFlags=Alloc,DeferBatch")
    elif "deferbatch" not in flags:
        why = "without DeferBatch, a batch script starts as soon as one node is ready, and steps wait for the others"
        yield Finding("advice", "PrologFlags", why, "add DeferBatch, or begin scripts with `scontrol wait_job`")
    else:
        yield Finding("ok", "PrologFlags", "all nodes stage at once, and batch scripts wait for all")
    if "serial" in flags:
        why = "with Serial, a job waits until the Prologs of others on the same node are through with their images"
        yield Finding("advice", "PrologFlags", why, "remove Serial: stage-image's hooks are safe beside each other")
    if "runinjob" in flags:
        why = "with RunInJob, staging counts as the job's memory, and a download that goes on ends with the job"
        yield Finding("advice", "PrologFlags", why, "remove RunInJob, or give jobs memory for it")


def _times(config: Mapping[str, str], settings: Config) -> Iterator[Finding]:
    needed = settings.slurm_budget + MARGIN
    start = (slurm_config.seconds(config, "BatchStartTimeout") or 10) + (
        slurm_config.seconds(config, "MessageTimeout") or 10
    )
    killed, expired = slurm_config.prolog_seconds(config), slurm_config.credential_seconds(config)
    budget = f"a Prolog may take slurm.budget ({settings.slurm_budget:g} s) and a little more"
    if needed > start:
        why = f"{budget}; after {start:g} s (with MessageTimeout), steps fail and batch jobs are requeued as missing"
        yield Finding("danger", "BatchStartTimeout", why, _lower("BatchStartTimeout=300", start))
    else:
        yield Finding("ok", "BatchStartTimeout", f"leaves {start:g} s (with MessageTimeout) for slurm.budget")
    if killed is not None and needed > killed:
        why = f"{budget}; after {killed:g} s Slurm kills it and drains the node"
        yield Finding("danger", "PrologEpilogTimeout", why, _lower("PrologEpilogTimeout=600", killed))
    if (ended := slurm_config.epilog_seconds(config)) is not None and ended < EPILOG:
        why = f"an Epilog may take {EPILOG:g} s where something is busy; after {ended:g} s Slurm drains the node"
        yield Finding("danger", "PrologEpilogTimeout", why, "PrologEpilogTimeout=600 in slurm.conf")
    if needed > expired:
        why = f"{budget}; slurm.conf(5) wants a job's credential to last longer than that, not {expired:g} s"
        yield Finding("advice", "AuthInfo", why, _lower("AuthInfo=cred_expire=600", expired))


def _lower(setting: str, limit: float) -> str:
    most = limit - MARGIN
    return f"{setting} in slurm.conf" + (f', or slurm.budget = "{most:g}s" at most' if most > 0 else "")


def _strictness(config: Mapping[str, str], settings: Config) -> Iterator[Finding]:
    if settings.slurm_strict:
        why = "slurm.strict is set: any user can drain a node by a misspelt reference"
        yield Finding("danger", "slurm.strict", why, "set it to false, but for a test")
    if "nohold_on_prolog_fail" not in slurm_config.words(config, "SchedulerParameters"):
        why = "a batch job whose Prolog fails, for whatever reason, is held until somebody releases it"
        yield Finding("advice", "SchedulerParameters", why, "add nohold_on_prolog_fail")


def _allowed(settings: Config) -> Iterator[Finding]:
    allowed = settings.slurm_allow
    if not allowed:
        why = "is empty: the Prolog stages nothing for users"
        remedy = f'slurm.allow = ["https://images.example.org/"] in config.toml; each of {FORMS}'
        yield Finding("advice", "slurm.allow", why, remedy)
        return
    for text in allowed:
        try:
            prefix = policy.prefix(text)
        except ConfigError as error:
            why = f"{error.message}: the Prolog refuses every request"
            yield Finding("danger", "slurm.allow", why, FORMS)
            continue
        if not prefix.origin and not prefix.parts:
            why = f"{text!r} lets any user have root stage anything, for all to read"
            yield Finding("danger", "slurm.allow", why, "name the directory of images")
        elif prefix.origin.startswith("http://"):
            why = f"{text!r}: whoever is on the way can change what comes by http"
            yield Finding("advice", "slurm.allow", why, "use https, or have users pin: REF@sha256:…")
        elif not prefix.parts and _is_everybodys(prefix.origin, settings):
            why = f"{text!r}: anybody in the world chooses what root fetches and converts for jobs"
            yield Finding("advice", "slurm.allow", why, f"name whose images, as in {_example(prefix.origin)}")
    yield Finding("ok", "slurm.allow", f"{len(allowed)} prefix{'es' * (len(allowed) != 1)}")


def _is_everybodys(origin: str, settings: Config) -> bool:
    scheme, _, host = origin.partition("://")
    if scheme == "library":
        return f"https://{host}" == PUBLIC_LIBRARY or (not host and settings.library.rstrip("/") == PUBLIC_LIBRARY)
    return scheme in REGISTRIES and host in PUBLIC


def _example(origin: str) -> str:
    if origin == "docker://docker.io":
        return "docker://docker.io/library/, Docker's own choice, or docker://docker.io/your-lab/"
    return f"{origin}{'' if origin.endswith('/') else '/'}your-lab/"


def _store(settings: Config) -> Iterator[Finding]:
    if not settings.store:
        why = "is not set: what the Prolog stages is not found by `stage-image REF` of users"
        yield Finding("advice", "store", why, 'store = "/local/stage-image" in config.toml')


def _tracking(config: Mapping[str, str]) -> Iterator[Finding]:
    found = config.get("ProctrackType", "")
    if found != "proctrack/cgroup":
        why = f"{found or 'nothing'}: a process that leaves its session outlives the job, with all that it holds open"
        yield Finding("advice", "ProctrackType", why, "ProctrackType=proctrack/cgroup")
    else:
        yield Finding("ok", "ProctrackType", "nothing outlives its job")


def _private(config: Mapping[str, str], settings: Config, here: Here) -> Iterator[Finding]:
    kind, conf = slurm_config.container(config), here.container or {}
    store = settings.store or default_root({}, 0)
    places = dict.fromkeys(slurm_config.container_directories(conf) if kind else (), kind)
    places |= {mount: plugin.name for plugin in here.plugins for mount in plugin.mounts}
    places |= {mount: "slurm.private" for mount in _mounts(settings) if mount not in places}
    for place, whose in places.items():
        if _is_below(store, place):
            why = f"{store} is below {place}, which {whose} makes each job's own: no two jobs share an image"
            yield Finding("danger", "store", why, "put it on the node's disk, outside of private directories")
    for mount in _mounts(settings):
        if places.get(mount, "slurm.private") != "slurm.private":
            why = f"{mount} is made private twice, by {places[mount]} and by slurm.private"
            yield Finding("danger", "slurm.private", why, "leave one of them out")
    if kind and conf.get("shared", "").lower() != "true":
        late = "what is mounted after a job's start, it does not see: tasks then use the image as a file"
        newer = slurm_config.version(config) >= SHARED_SINCE
        remedy = "Shared=true in job_container.conf" if newer else "give slurm.budget the time that images take"
        yield Finding("advice", kind, late, remedy)
    if kind and "contain" not in slurm_config.words(config, "PrologFlags"):
        yield Finding("danger", kind, "does nothing without PrologFlags=Contain", "add Contain to PrologFlags")


def _order(settings: Config, here: Here) -> Iterator[Finding]:
    try:
        private.parse(settings.slurm_private)
    except ConfigError as error:
        why = f"{error.message}: jobs that want private directories have none"
        yield Finding("danger", "slurm.private", why, "as it says, in config.toml")
    for obstacle in here.obstacles:
        why = f"{obstacle}: jobs that want private directories have none here"
        yield Finding("danger", "slurm.private", why, "make it on this node, root's and writable by nobody else")


def _mounts(settings: Config) -> tuple[str, ...]:
    return tuple(place.partition("=")[0].rstrip("/") for place in settings.slurm_private)


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place.rstrip('/')}/")


def _plugin(settings: Config, here: Here) -> Iterator[Finding]:
    ours = [plugin for plugin in here.plugins if plugin.name == PLUGIN]
    if not ours and (settings.slurm_private or settings.slurm_images_at):
        why = "is not in plugstack.conf: no task enters what slurm.private and slurm.images_at make for its job"
        yield Finding("advice", "SPANK plugin", why, "docs/how-to/slurm.md, grade 3")
    for plugin in ours:
        if plugin.required:
            why = f"{plugin.path} is `required`: if it is missing or of another release, slurmd and srun do not start"
            yield Finding("danger", "SPANK plugin", why, f"optional {plugin.path}")
        if plugin.path in here.missing_plugins:
            why = f"{plugin.path} is not on this node"
            yield Finding("danger" if plugin.required else "advice", "SPANK plugin", why, "install it everywhere")
        elif not plugin.required:
            yield Finding("ok", "SPANK plugin", "offers --stage-image and --private-tmp")


def _features(config: Mapping[str, str]) -> Iterator[Finding]:
    found = config.get("NodeFeaturesPlugins", "")
    if found:
        why = f"{found} sets the features of nodes, too, and may take ours away at a reboot"
        yield Finding("advice", "NodeFeaturesPlugins", why, "see that features of images stay: `sinfo -o %f`")
