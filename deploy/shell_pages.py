"""The manual page and the completions of bash and zsh, made from the command line itself.

Usage: shell_pages.py FOLDER   writes edge-stt.1, edge-stt.bash and edge-stt.zsh. SOURCE_DATE_EPOCH dates the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer.main

from edge_stt import __version__
from edge_stt.cli import WORKSTATION, build_app

INTRODUCTION = (
    "edge-stt turns speech into text on this machine, without any network: a small acoustic model that was trained "
    "from scratch, a lexicon and a language model. Every command prints its results on standard output and all else "
    "on standard error. Output files are written whole or not at all."
)
FILES = {
    "/etc/edge-stt/config.toml": "Settings of the service. An upgrade keeps what was changed here.",
    "/var/lib/edge-stt/models": "Model packages that root installed (edge-stt model).",
    "~/.local/share/edge-stt/models": "Model packages that a user installed.",
}
ENVIRONMENT = {"EDGE_STT_RUNTIME": "ai-edge-litert or tflite-runtime: the runtime to use where both are installed."}


@dataclass(frozen=True)
class Option:
    """An option or argument: its names (empty for an argument), what it takes (empty for a flag), its help."""

    names: tuple[str, ...]
    value: str
    help: str


@dataclass(frozen=True)
class Command:
    """A command by its full path, ``model install``; options, arguments, and the names of its subcommands."""

    path: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    children: tuple[str, ...]


def _option(parameter: Any) -> Option:
    flag = getattr(parameter, "is_flag", False)
    value = "" if flag else str(parameter.metavar or parameter.name).upper()
    argument = parameter.param_type_name == "argument"
    names = () if argument else (*parameter.opts, *parameter.secondary_opts)
    return Option(tuple(names), value, getattr(parameter, "help", None) or "")


def walk(group: Any, path: str = "") -> Iterator[Command]:
    """The command line as `Command`, parents first."""
    parameters = [p for p in group.params if not getattr(p, "hidden", False)]
    options = [_option(p) for p in parameters if p.param_type_name == "option"]
    options.append(Option(("--help",), "", "Show help and exit."))
    arguments = [_option(p) for p in parameters if p.param_type_name == "argument"]
    children = getattr(group, "commands", {})
    yield Command(path, (group.help or "").strip(), tuple(options), tuple(arguments), tuple(children))
    for name, child in children.items():
        if path or name not in WORKSTATION:
            yield from walk(child, f"{path} {name}".strip())


def _roff(text: str) -> str:
    """Text that roff prints as it stands; paragraphs are kept."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    lines = [line.strip() for line in escaped.splitlines()]
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line or ".PP" for line in lines)


def _entry(term: str, text: str) -> str:
    return f".TP\n{term}\n{_roff(text) or chr(92) + '&'}\n"


def _names(option: Option) -> str:
    value = f" \\fI{_roff(option.value)}\\fR" if option.value else ""
    return ", ".join(f"\\fB{_roff(name)}\\fR" for name in option.names) + value


def manual(commands: list[Command], date: datetime) -> str:
    """The page in man(7)'s macros."""
    root, *others = commands
    out = [
        f'.TH EDGE-STT 1 "{date:%Y-%m-%d}" "edge-stt {__version__}" "User Commands"\n',
        ".SH NAME\nedge\\-stt \\- speech to text on this machine\n",
        ".SH SYNOPSIS\n.B edge\\-stt\n.I COMMAND\n[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]\n",
        f".SH DESCRIPTION\n{_roff(INTRODUCTION)}\n.SH OPTIONS\n",
        *(_entry(_names(option), option.help) for option in root.options),
        ".SH COMMANDS\n",
    ]
    for command in others:
        arguments = " ".join(f"\\fI{_roff(argument.value)}\\fR" for argument in command.arguments)
        out.append(f".SS {_roff(command.path)}\n.B edge\\-stt {_roff(command.path)}\n")
        if command.children:
            out.append(".I COMMAND\n")
        out.append(f"[\\fIOPTIONS\\fR] {arguments}\n.PP\n{_roff(command.help)}\n")
        out += [_entry(f"\\fI{_roff(a.value)}\\fR", a.help) for a in command.arguments if a.help]
        out += [_entry(_names(option), option.help) for option in command.options if option.names != ("--help",)]
    out.append(".SS train, convert\nThese work from a checkout of the sources on a workstation.\n")
    out += [".SH ENVIRONMENT\n", *(_entry(f"\\fB{_roff(name)}\\fR", text) for name, text in ENVIRONMENT.items())]
    out += [".SH FILES\n", *(_entry(f"\\fI{_roff(name)}\\fR", text) for name, text in FILES.items())]
    out.append(".SH EXIT STATUS\n0 on success, 1 on failure, 2 when the command was called wrongly.\n")
    return "".join(out)


def bash(commands: list[Command]) -> str:
    """A completion that starts no Python: commands and options, and file names for all else."""
    words = []
    for command in commands:
        names = sorted((n for option in command.options for n in option.names), key=lambda n: n[:2] != "--")
        words.append(f'        "{command.path}") words="{" ".join([*command.children, *names])}" ;;')
    parents = " ".join(f'"{command.path}"' for command in commands if command.children)
    return f"""# bash completion for edge-stt; made from its command line
_edge_stt() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} words="" path="" word parent
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $word == -* ]] && continue
        for parent in {parents}; do
            if [[ $path == "$parent" ]]; then path="${{path:+$path }}$word"; break; fi
        done
    done
    case "$path" in
{chr(10).join(words)}
    esac
    [[ $cur != -* ]] && words="${{words%%--*}}"
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _edge_stt edge-stt
"""


def zsh(commands: list[Command]) -> str:
    """The same for zsh, by its emulation of bash's completion."""
    start = "#compdef edge-stt\nautoload -U +X bashcompinit && bashcompinit\n"
    return start + bash(commands) + "_bash_complete -o filenames -F _edge_stt\n"


def main() -> None:
    """Write the three files."""
    folder = Path(sys.argv[1])
    date = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    commands = list(walk(typer.main.get_command(build_app())))
    for name, text in (("1", manual(commands, date)), ("bash", bash(commands)), ("zsh", zsh(commands))):
        (folder / f"edge-stt.{name}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
