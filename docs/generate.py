"""Write the pages that are read from the code: `python docs/generate.py [--check] [PAGE ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

# The checkout's own code, wherever it is run from.
from docs import command_line, manual, stored  # noqa: E402
from stager import config, errors, variables  # noqa: E402

NOTICE = "<!-- Written by docs/generate.py; change the code that it reads instead. -->"


def exit_codes() -> str:
    """Return the page of the error tree."""
    classes = sorted(_subclasses(errors.StageImageError), key=lambda cls: cls.exit_code)
    rows = [
        f"| {cls.exit_code} | `{cls.__name__}` | {_summary(cls)} | {'yes |' if cls.retryable else '|'} {cls.hint} |"
        for cls in classes
    ]
    return "\n".join((NOTICE, EXIT_CODES, "| 0 | | the image is usable | | |", BUG, *rows, SIGNALS, "", AFTER))


EXIT_CODES = """
# Exit codes

The codes are an interface: job scripts may branch on them, and they never change their meaning. Exit code 0 means that
what was asked for is there; everything else has its own code, and one message on stderr that says what failed, why and
what to try. *Passes* marks failures that may go away by themselves, so that it makes sense to try again later.

| code | name | meaning | passes | what to try |
|-----:|------|---------|:------:|-------------|"""
BUG = "| 1 | | a bug in stage-image | | report it, with the file whose path is printed |"
SIGNALS = "| 128+N | | ended by signal N: 130 by Ctrl-C, 143 by SIGTERM | | |"
AFTER = """The codes from 64 to 99 are stage-image's own. `stage-image exec` otherwise ends with the exit code of the
command that it runs; 124 and 125 are left to `timeout`, and 126 and 127 mean what they mean in a shell.
"""


def configuration() -> str:
    """Return the page of the settings."""
    rows = [
        f"| `{key.label}` | `{key.kind.show(key.default)}` | {_cell(key.kind.allowed)} | {key.doc} |"
        for key in config.KEYS.values()
    ]
    others = [f"| `{name}` | {meaning} |" for name, meaning in variables.RESERVED.items()]
    return "\n".join((NOTICE, CONFIGURATION, *rows, EXAMPLE, VARIABLES, *others, ""))


CONFIGURATION = f"""
# Configuration

stage-image needs no configuration. Where a setting is wanted, the last of these that has it decides:

1. the default,
2. the site's file, `{variables.SITE_FILE}`,
3. the user's file, `$XDG_CONFIG_HOME/stage-image/config.toml` (`~/.config/stage-image/config.toml`),
4. the environment variable `STAGE_IMAGE_<SETTING>`, with an underscore for a dot: `STAGE_IMAGE_STALL_TIMEOUT=2m`,
   `STAGE_IMAGE_CLUSTER_NAME=test`; an empty one counts as unset,
5. the command line, for commands that have a flag of that name.

`stage-image config show` prints every setting with its value and where it came from, as a file that could be used. An
unknown setting or a bad value is an error ([exit code 64](exit-codes.md)), also where a later source overrides it: a
misspelt setting that is quietly ignored would be found out on the wrong day.

The files are [TOML](https://toml.io), without sections but for `[mirrors]`, `[registry."HOST"]`, and those of the
settings with a dot: what begins with `cluster.` stands below a line `[cluster]` without these eight characters, or as
it is above it. Below `[registry."docker.io"]` or `[registry."host:5000"]` stand `mirrors`, a list of URLs that are
asked in order before the registry itself (bytes are verified by their digests; what a tag means is believed), and
`plain_http = true` for a registry that speaks HTTP; of several files, each host's table is the last one's that has it.
A file is believed if it belongs to root or to the user who runs stage-image and nobody else can write it; root believes
only what belongs to root. Otherwise it is an error, since whoever writes the settings decides what runs.

## Settings

| setting | default | values | meaning |
|---------|---------|--------|---------|"""

EXAMPLE = """
## Example

```toml
store = "/local/stage-image"
max_size = "200GiB"
freshness = "job"

[mirrors]
"https://images.example.org/" = ["https://cache.cluster.example/images/", "/shared/images/"]

[registry."docker.io"]
mirrors = ["https://cache.cluster.example/hub"]

[registry."registry.cluster.example:5000"]
plain_http = true

[cluster]
zookeeper = "zk1.cluster.example,zk2.cluster.example,zk3.cluster.example"
interface = "10.1.0.0/16"
ports = "21940-21964"
```
"""

VARIABLES = """## Other environment variables

| variable | meaning |
|----------|---------|"""

PAGES = {
    "exit-codes": exit_codes,
    "configuration": configuration,
    "cli": lambda: command_line.page(NOTICE),
    "store-layout": lambda: stored.page(NOTICE),
    "stage-image.1": manual.page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check say which ones are out of date; return the exit code."""
    check = "--check" in arguments
    names = [name for name in arguments if name != "--check"] or list(PAGES)
    stale = [name for name in names if _read(name) != PAGES[name]()]
    for name in stale:
        if check:
            print(f"{_path(name)} is out of date: run python docs/generate.py", file=sys.stderr)
        else:
            _path(name).parent.mkdir(parents=True, exist_ok=True)
            _path(name).write_text(PAGES[name](), encoding="utf-8")
    return int(check and bool(stale))


def _path(name: str) -> Path:
    return DOCS / "man" / name if name.endswith(".1") else DOCS / "reference" / f"{name}.md"


def _read(name: str) -> str:
    path = _path(name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _subclasses(cls: type[errors.StageImageError]) -> list[type[errors.StageImageError]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_subclasses(sub))]


def _summary(cls: type) -> str:
    sentence = (cls.__doc__ or "").partition("\n")[0].rstrip(".")
    return sentence if sentence.split()[0].isupper() and sentence[1] != " " else sentence[:1].lower() + sentence[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
