"""`stage-image completion SHELL`: a completion script, made from the parser itself."""

from __future__ import annotations

import argparse

from stager.cli.output import write

EPILOG = """\
  stage-image completion bash > ~/.local/share/bash-completion/completions/stage-image
  stage-image completion zsh  > ~/.zfunc/_stage-image       (with ~/.zfunc in fpath)
  stage-image completion fish > ~/.config/fish/completions/stage-image.fish
"""

BASH = """\
_stage_image() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} options
    case ${{COMP_WORDS[1]}} in
{cases}
        *) options='{path}' ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && options="{verbs} $options"
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current"; compgen -f -- "$current")
}}
complete -o filenames -F _stage_image stage-image
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell to complete in")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from stager.cli.parser import VERBS, build

    options = _options(build())
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    write(writers[arguments.shell](VERBS, options).rstrip("\n"))
    return 0


def _options(parser: argparse.ArgumentParser) -> dict[str, list[tuple[str, str]]]:
    """Return verb → (option, help) for every long option."""
    groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    children: dict[str, argparse.ArgumentParser] = dict(next(groups).choices)
    return {
        verb: [(o, a.help or "") for a in child._actions for o in a.option_strings if o.startswith("--")]  # noqa: SLF001
        for verb, child in children.items()
    }


def _bash(verbs: dict[str, str], options: dict[str, list[tuple[str, str]]]) -> str:
    words = {verb: " ".join(option for option, _ in options[verb]) for verb in verbs}
    cases = "\n".join(f"        {verb}) options='{words[verb]}' ;;" for verb in verbs if verb != "path")
    return BASH.format(cases=cases, path=words["path"], verbs=" ".join(verbs))


def _zsh(verbs: dict[str, str], options: dict[str, list[tuple[str, str]]]) -> str:
    lines = ["#compdef stage-image", "_stage-image() {", "  local -a verbs options", "  verbs=("]
    lines += [f"    {_quoted(f'{verb}:{summary}')}" for verb, summary in verbs.items()]
    lines += ["  )", "  (( CURRENT == 2 )) && _describe verb verbs", "  case $words[2] in"]
    for verb in [*(v for v in verbs if v != "path"), "path"]:
        described = " ".join(_quoted(f"{option}:{text}") for option, text in options[verb])
        lines.append(f"    {'*' if verb == 'path' else verb}) options=({described}) ;;")
    lines += ["  esac", "  _describe -o option options", "  _files", "}", '_stage-image "$@"']
    return "\n".join(lines)


def _fish(verbs: dict[str, str], options: dict[str, list[tuple[str, str]]]) -> str:
    lines = [
        f"complete -c stage-image -n __fish_use_subcommand -a {verb} -d {_quoted(summary)}"
        for verb, summary in verbs.items()
    ]
    for verb, known in options.items():
        when = "__fish_use_subcommand" if verb == "path" else f"__fish_seen_subcommand_from {verb}"
        lines += [
            f"complete -c stage-image -n {_quoted(when)} -l {option[2:]} -d {_quoted(text)}" for option, text in known
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
