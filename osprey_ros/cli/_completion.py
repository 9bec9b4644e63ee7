"""Scripts that let a shell complete the command ``osprey``: commands, options and their choices, from its parser.

What follows a command that another program parses (``osprey sim``), and values without choices, are completed as files.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_HELP_LENGTH = 70  # characters of a help text beside a word


@dataclass(frozen=True)
class Words:
    """What can follow a command.

    Attributes:
        commands: Help by the name of each command below it.
        options: Help by option.
        choices: The values of an option, for options with choices.
        valued: Options that take a value.
    """

    commands: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    valued: frozenset[str] = frozenset()


def words_by_command(parser: argparse.ArgumentParser, command: str = "") -> dict[str, Words]:
    """Return what can follow each command: "" is ``osprey`` itself, "bundle show" a command below another one."""
    commands: dict[str, str] = {}
    options: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    valued: set[str] = set()
    below: dict[str, Words] = {}
    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):
            helps = {entry.dest: entry.help for entry in action._choices_actions}
            for name, inner in action.choices.items():
                commands[name] = _short(helps.get(name))
                below |= words_by_command(inner, f"{command} {name}".strip())
            continue
        if action.choices and not action.option_strings:
            commands |= dict.fromkeys(map(str, action.choices), "")
        for option in action.option_strings:
            options[option] = _short(action.help)
            if action.nargs != 0:
                valued.add(option)
            if action.choices:
                choices[option] = tuple(map(str, action.choices))
    return {command: Words(commands, options, choices, frozenset(valued)), **below}


def _short(text: str | None) -> str:
    """Return the beginning of a help text, without its default and without what shells read as markup."""
    first = re.split(r" ?\(|;|:", text or "", maxsplit=1)[0]
    return re.sub(r"[^\w ,./+-]", "", first)[:_HELP_LENGTH].strip()


def _bash(commands: dict[str, Words]) -> Iterator[str]:
    yield from ("_osprey() {", '  local at="" current="${COMP_WORDS[COMP_CWORD]}" i', "  COMPREPLY=()")
    yield "  for ((i = 1; i < COMP_CWORD; i++)); do"
    yield f'    case "$at ${{COMP_WORDS[i]}}" in {_known(commands)}) at="${{at:+$at }}${{COMP_WORDS[i]}}" ;; esac'
    yield from ("  done", '  case "$at ${COMP_WORDS[COMP_CWORD-1]}" in')
    for name, option, values in _choices(commands):
        listed = shlex.quote(" ".join(values))
        yield f'    {_pattern(name, option)}) COMPREPLY=($(compgen -W {listed} -- "$current")); return ;;'
    files = "|".join(_pattern(name, option) for name, words in commands.items() for option in sorted(words.valued))
    yield from (f"    {files}) return ;;", "  esac", '  case "$at" in')
    for name, words in commands.items():
        below, options = (shlex.quote(" ".join(found)) for found in (words.commands, words.options))
        yield f"    {shlex.quote(name)}) set -- {below} {options} ;;"
    yield from ("  esac", '  case "$current" in -*) set -- "$2" ;; esac')
    yield from ('  COMPREPLY=($(compgen -W "$1" -- "$current"))', "}", "complete -o default -F _osprey osprey")


def _zsh(commands: dict[str, Words]) -> Iterator[str]:
    yield from (
        "#compdef osprey",
        "_osprey() {",
        '  local at="" i',
        "  local -a found",
        "  for ((i = 2; i < CURRENT; i++)); do",
    )
    yield f'    case "$at ${{words[i]}}" in {_known(commands)}) at="${{at:+$at }}${{words[i]}}" ;; esac'
    yield from ("  done", '  case "$at ${words[CURRENT-1]}" in')
    for name, option, values in _choices(commands):
        yield f"    {_pattern(name, option)}) compadd -- {shlex.join(values)}; return ;;"
    files = "|".join(_pattern(name, option) for name, words in commands.items() for option in sorted(words.valued))
    yield from (f"    {files}) _files; return ;;", "  esac", '  case "$at" in')
    for name, words in commands.items():
        below, options = (shlex.join(map(":".join, found.items())) for found in (words.commands, words.options))
        yield f"    {shlex.quote(name)})"
        yield f"      if [[ ${{words[CURRENT]}} == -* ]]; then found=({options}); _describe -o option found; return; fi"
        yield f"      found=({below})"
        yield "      ((${#found})) && { _describe command found; return; } ;;"
    yield from (
        "  esac",
        "  _files",
        "}",
        'if [[ $funcstack[1] == _osprey ]]; then _osprey "$@"; else compdef _osprey osprey; fi',
    )


def _fish(commands: dict[str, Words]) -> Iterator[str]:
    yield from ("function __osprey_at", "  set -l at", "  for word in (commandline -opc)[2..]")
    known = " ".join(shlex.quote(name) for name in commands if name)
    yield from (f'    if contains -- (string join " " $at $word) {known}', "      set -a at $word", "    end", "  end")
    yield from ('  test (string join " " -- $at) = "$argv"', "end")
    for name, words in commands.items():
        at = f"complete -c osprey -n {shlex.quote(f'__osprey_at {name}'.strip())}"
        for word, text in words.commands.items():
            yield f"{at} -f -a {shlex.quote(word)} -d {shlex.quote(text)}"
        for option, text in words.options.items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            values = words.choices.get(option)
            value = f" -x -a {shlex.quote(' '.join(values))}" if values else " -r" if option in words.valued else ""
            yield f"{at} {flag}{value} -d {shlex.quote(text)}"


def _known(commands: dict[str, Words]) -> str:
    """Return the pattern of "COMMANDS SO FAR" + " " + the next word that lead to another command."""
    return "|".join(_pattern(*name.rpartition(" ")[::2]) for name in commands if name)


def _pattern(name: str, word: str) -> str:
    return shlex.quote(f"{name} {word}")


def _choices(commands: dict[str, Words]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for name, words in commands.items():
        for option, values in words.choices.items():
            yield name, option, values


SHELLS: dict[str, Callable[[dict[str, Words]], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script for "bash", "zsh" or "fish"."""
    return "\n".join(SHELLS[shell](words_by_command(parser))) + "\n"
