"""Arguments of a node on the command line: those that ROS would refuse, and those that have no effect."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

_PARAMETER, _REMAP, _FILE = ("-p", "--param"), ("-r", "--remap"), "--params-file"
_FORMS = {**dict.fromkeys(_PARAMETER, "NAME:=VALUE"), **dict.fromkeys(_REMAP, "FROM:=TO")}
_WITH_VALUE = (*_FORMS, _FILE, "-e", "--enclave", "--log-level", "--log-file-name", "--log-config-file")
_PART = "[A-Za-z_][A-Za-z0-9_]*"
_TOPIC = rf"(~/|/)?{_PART}(/{_PART})*"
_TARGETS = {"__ns": rf"/|(/{_PART})+", "__node": _PART, "__name": _PART}
_HINTS = {
    "__ns": ", after a slash each, such as /robot",
    "__node": ", without slashes; set a namespace with __ns",
    "__name": ", without slashes; set a namespace with __ns",
}
_NAME = re.compile(r"([~/\w*]+:)?[A-Za-z_][\w./]*", re.ASCII)
_FURTHER = ("rosout", "clock", "parameter_events", "diagnostics", "tf", "tf_static")


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the arguments of a process before ROS parses them.

    Raises:
        ValueError: An argument is not for ROS, has another form, or names a file that cannot be read.
    """
    for flag, value in _parsed(arguments):
        if not flag:
            raise ValueError(f"unknown argument {value!r}; write parameters as --ros-args -p NAME:=VALUE")
        if flag in _FORMS and ":=" not in value:
            raise ValueError(f"{flag} {value!r} is incomplete; write {flag} {_FORMS[flag]}")
        if flag in _REMAP:
            _check_names(flag, value)
        if flag in _PARAMETER:
            name, _, text = value.partition(":=")
            if not _NAME.fullmatch(name):
                raise ValueError(f"{flag} {value!r}: {name!r} is not a parameter name; see `ros2 param list`")
            found = _read(text, f"{flag} {value}")
            if isinstance(found, Mapping):
                raise ValueError(f"{flag} {value!r} has names in its value; write {flag} {_FORMS[flag]}")
            _check_value(name.rpartition(":")[2], found)
        if flag == _FILE:
            for values in _sections(value).values():
                for name, found in values.items():
                    _check_value(str(name), found)


def completed(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with '' for parameters without a value, which ROS refuses."""
    found, flag = [], ""
    for argument in arguments:
        found.append(f"{argument}''" if flag in _PARAMETER and argument.endswith(":=") else argument)
        flag = argument
    return found


def unused_arguments(arguments: Sequence[str], node: str, topics: Collection[str]) -> list[str]:
    """Return a sentence for each argument without effect.

    Args:
        arguments: Arguments that `check_arguments` accepts.
        node: Full name of the node.
        topics: Names of the topics, services and actions of the node, without their namespaces.
    """
    found = []
    known = {*topics, *_FURTHER}
    for flag, value in _parsed(arguments):
        if flag in _REMAP:
            source = value.partition(":=")[0]
            name = source.rpartition("/")[2].rpartition(":")[2]
            if not name.startswith("__") and name not in known and topics:
                close = get_close_matches(name, sorted(topics), 1)
                remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(topics))}."
                found.append(f"remapping {source!r} has no effect: the node has no such topic; {remedy}")
        elif flag == _FILE:
            names = _sections(value)
            if not any(_matches(name, node) for name in names):
                others = f"only for {', '.join(names)}" if names else "for no node"
                found.append(f"{value} has no parameters for {node}, {others}; name the section {node} or /**")
    return found


def _check_names(flag: str, value: str) -> None:
    """Raise ValueError if ROS refuses the new name of a remapping."""
    source, _, target = value.partition(":=")
    kind = source.rpartition(":")[2]
    pattern = _TARGETS.get(kind, _TOPIC)
    if not source.strip() or not re.fullmatch(pattern, target):
        raise ValueError(
            f"{flag} {value!r}: ROS refuses the name {target!r}; use letters, digits and single underscores that do "
            f"not begin with a digit{_HINTS.get(kind, ', with single slashes between the parts')}"
        )


def _parsed(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield flag and value of each argument for ROS; "" and the argument for others."""
    is_ros, rest = False, iter(arguments)
    for argument in rest:
        if argument in ("--ros-args", "--"):
            is_ros = argument == "--ros-args"
        elif not is_ros:
            yield "", argument
        elif argument in _WITH_VALUE:
            yield argument, next(rest, "")


def _sections(path: str) -> dict[str, Mapping[Any, Any]]:
    """Return the values of a parameter file by the names of the nodes."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ValueError(f"the parameter file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the parameter file {path} is not in UTF-8; save it in this encoding") from error
    content = _read(text, f"the parameter file {path}")
    if not isinstance(content, Mapping):
        raise ValueError(f"the parameter file {path} has no section for a node; see config/osprey.yaml for its form")
    return dict(_named(content, ""))


def _read(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{name} is not YAML{line}; see config/osprey.yaml for its form") from error


def _named(content: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            name = f"{above}/{str(key).strip('/')}"
            if "ros__parameters" in value:
                values = value["ros__parameters"]
                yield name, values if isinstance(values, Mapping) else {}
            else:
                yield from _named(value, name)


def _check_value(name: str, value: Any) -> None:
    """Raise ValueError for a value that is no parameter of ROS."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_value(f"{name}.{key}", inner)
    # Other types, such as dates, are texts in ROS.
    kinds = (bool, int, float)
    if isinstance(value, list) and len({type(item) if isinstance(item, kinds) else str for item in value}) > 1:
        raise ValueError(f"{name} is {value!r}, a list of different types; write each item in quotes")
    if name == "use_sim_time" and not isinstance(value, bool):
        raise ValueError(f"use_sim_time is {value!r}; set it to true or false")


def _matches(section: str, node: str) -> bool:
    """Return whether parameters of a section, in which * and ** stand for one and any parts, are for a node."""
    parts = {"**": ".+", "*": "[^/]+"}
    pattern = "/".join(parts.get(part, re.escape(part)) for part in section.split("/"))
    return re.fullmatch(pattern.replace("/.+/", "/(.+/)?"), node) is not None
