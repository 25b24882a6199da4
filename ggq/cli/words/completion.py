"""`ggq completion`: a script that completes commands, options and their words in a shell."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated

import typer
from typer.main import get_command

from ggq.errors import UsageError, nearest, one_of
from ggq.format.scheme_names import SCHEMES

BASH = """\
_ggq() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD - 1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "$before" in
{values}
        esac
        if [ -z "$words" ] && [[ "$word" == -* ]]; then
            case "${{COMP_WORDS[1]}}" in
{options}
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -o bashdefault -F _ggq ggq
"""

ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH

VALUES: dict[str, Callable[[], list[str]]] = {
    "--scheme|--embedding": lambda: [*SCHEMES],
    "--method": lambda: _methods(),
    "--preset": lambda: _presets(),
    "--activations": lambda: ["group", "token", "static", "int8", "float32"],
    "--cache": lambda: ["f16", "f32"],
}
"""Words that the values of options have."""


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print a script that completes commands, options, schemes and methods in a shell.

    Example:
        ggq completion bash > ~/.local/share/bash-completion/completions/ggq
        ggq completion fish > ~/.config/fish/completions/ggq.fish
    """
    if shell not in SCRIPTS:
        raise UsageError(f"SHELL must be {one_of(SCRIPTS)}, not {shell!r}", fix=nearest(shell, SCRIPTS))
    print(SCRIPTS[shell](), end="")


def options_of(name: str, module: str) -> list[str]:
    """The long options of a command."""
    app = typer.Typer(add_completion=False)
    app.command(name)(getattr(importlib.import_module(module), name.replace("-", "_")))
    parameters = getattr(get_command(app), "params", [])
    flags = [flag for each in parameters if not getattr(each, "hidden", False) for flag in each.opts]
    return sorted({flag for flag in flags if flag.startswith("--")} | {"--help"})


def _all() -> dict[str, list[str]]:
    from ggq.cli.main import COMMANDS

    return {command.name: options_of(command.name, command.module) for command in COMMANDS}


def _bash(script: str = BASH) -> str:
    known = _all()
    options = "\n".join(f'                {name}) words="{" ".join(flags)}" ;;' for name, flags in known.items())
    values = "\n".join(f'            {flags}) words="{" ".join(words())}" ;;' for flags, words in VALUES.items())
    return script.format(commands=" ".join(known), values=values, options=options)


def _fish() -> str:
    known, lines = _all(), ["complete -c ggq -n __fish_use_subcommand -f"]
    lines += [f"complete -c ggq -n __fish_use_subcommand -a {name}" for name in known]
    words = {flag.removeprefix("--"): found() for flags, found in VALUES.items() for flag in flags.split("|")}
    for name, flags in known.items():
        for flag in (each.removeprefix("--") for each in flags):
            line = f"complete -c ggq -n '__fish_seen_subcommand_from {name}' -l {flag}"
            lines.append(f"{line} -x -a '{' '.join(words[flag])}'" if flag in words else line)
    return "\n".join(lines) + "\n"


def _methods() -> list[str]:
    from ggq.quant.methods import METHODS, TRANSFORMS

    return [*METHODS, *TRANSFORMS]


def _presets() -> list[str]:
    from ggq.convert.options import PRESETS

    return list(PRESETS)


SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": lambda: _bash(ZSH), "fish": _fish}
