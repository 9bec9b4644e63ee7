"""Checks of ROS 2 by its environment variables and files. It is neither imported nor started."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from osprey_ros.doctor import finding
from osprey_ros.doctor.finding import Finding

ok, warning, problem = (partial(make, "ros") for make in (finding.ok, finding.warning, finding.problem))

DISTRIBUTIONS = ("humble", "jazzy", "kilted", "lyrical")  # that this package is made for
FAST, CYCLONE, ZENOH = "rmw_fastrtps_cpp", "rmw_cyclonedds_cpp", "rmw_zenoh_cpp"
_KNOWN_RMW = (FAST, "rmw_fastrtps_dynamic_cpp", CYCLONE, "rmw_connextdds", ZENOH)
_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
_SAFE_DOMAINS, _DOMAINS = 101, 232  # beyond, ports overlap those that Linux gives to clients, or do not exist
_SHARED_MEMORY = 128 << 20  # bytes; Fast DDS and a camera with several large images in flight
_SOCKET_BUFFER = 4 << 20  # bytes; a raw image of 1280x720 has 2.7 MB
_INSTALLED = Path("/opt/ros")


def check_ros(
    env: Mapping[str, str] | None = None, prefix: str = "", shm: Path = Path("/dev/shm")
) -> Iterator[Finding]:
    """Yield findings about ROS 2.

    Args:
        env: Environment variables; those of this process by default.
        prefix: Where the ROS 2 of PyPI would be; the environment of this Python by default.
        shm: The folder of shared memory.
    """
    env = os.environ if env is None else env
    prefixes = [Path(p) for p in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [Path(prefix or sys.prefix)]
    if find_spec("rclpy") is None:
        yield _without_rclpy(env, prefixes)
        return
    yield _distribution(env, prefixes)
    if find_spec("osprey_interfaces") is None:
        yield problem(
            "osprey_interfaces",
            "the messages of this package are not built for this Python",
            "`make venv` in the checkout; in a workspace `colcon build` both packages, then `. install/setup.bash`",
        )
    optional = [name for name in ("vision_msgs", "yolo_msgs") if find_spec(name)]
    yield ok("optional messages", ", ".join(optional) or "none (vision_msgs: detections; yolo_msgs: yolo_ros)")
    rmw = _rmw_name(env)
    yield _rmw(rmw, env, _rmw_installed(prefixes))
    yield from _profile(rmw, env, shm)
    yield _domain(env)
    yield _discovery(env)


def _without_rclpy(env: Mapping[str, str], prefixes: Iterable[Path]) -> Finding:
    if env.get("ROS_VERSION") == "1":
        return problem("ROS", "ROS 1 is sourced", "source /opt/ros/DISTRIBUTION/setup.bash of a ROS 2 in a new shell")
    others = sorted({path.parent.parent.name for at in prefixes for path in at.glob("lib/python3*/*-packages/rclpy")})
    if env.get("AMENT_PREFIX_PATH"):
        if others:
            here = f"python{sys.version_info.major}.{sys.version_info.minor}"
            text = f"rclpy is for {', '.join(others)}, and this is {here}"
            return problem("ROS", text, f"use {others[0]} of the system, without another environment in between")
        return problem("ROS", "a ROS is sourced, but it has no rclpy", "apt install ros-$ROS_DISTRO-rclpy")
    installed = sorted(path.parent.name for path in _INSTALLED.glob("*/setup.bash"))
    if installed:
        return warning(
            "ROS",
            f"{', '.join(installed)} is installed but not sourced",
            f"source {_INSTALLED}/{installed[-1]}/setup.bash",
        )
    return ok("ROS", "none is sourced; commands about images and recordings work, the nodes need it")


def _distribution(env: Mapping[str, str], prefixes: list[Path]) -> Finding:
    name = env.get("ROS_DISTRO", "")
    overlays = len(prefixes) - 1
    if not env.get("AMENT_PREFIX_PATH"):
        return ok("ROS", f"ROS 2 from PyPI in {prefixes[-1]}")
    text = f"{name or 'unnamed'}, {overlays} folder{'s' if overlays != 1 else ''} in AMENT_PREFIX_PATH"
    missing = [str(path) for path in prefixes[:-1] if not path.is_dir()]
    if missing:
        return warning("ROS", f"{text}; {missing[0]} does not exist", "source the setup.bash of your workspace again")
    if name not in DISTRIBUTIONS:
        return warning("ROS", text, f"this package is made for {', '.join(DISTRIBUTIONS)}")
    return ok("ROS", text)


def _rmw_name(env: Mapping[str, str]) -> str:
    return env.get("RMW_IMPLEMENTATION", "").strip() or FAST


def _rmw_installed(prefixes: Iterable[Path]) -> list[str]:
    """Return the implementations that the index of ament lists."""
    folders = [at / "share" / "ament_index" / "resource_index" / "rmw_typesupport" for at in prefixes]
    found = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return sorted(found - {"rmw_implementation"})


def _rmw(name: str, env: Mapping[str, str], installed: list[str]) -> Finding:
    chosen = "RMW_IMPLEMENTATION" in env
    if installed and name not in installed:
        if name not in _KNOWN_RMW:
            close = difflib.get_close_matches(name, (*installed, *_KNOWN_RMW), 1)
            remedy = f"did you mean {close[0]}?" if close else "unset RMW_IMPLEMENTATION"
            return problem("RMW", f"{name!r} is not an RMW implementation (installed: {', '.join(installed)})", remedy)
        package = f"ros-$ROS_DISTRO-{name.replace('_', '-')}"
        return problem("RMW", f"{name} is not installed", f"apt install {package}, or unset RMW_IMPLEMENTATION")
    if name == ZENOH:
        return ok("RMW", f"{name}; it needs its router: ros2 run rmw_zenoh_cpp rmw_zenohd")
    return ok("RMW", f"{name}{'' if chosen else ' (the default)'}; all machines of a robot need the same one")


def _profile(rmw: str, env: Mapping[str, str], shm: Path) -> Iterator[Finding]:
    """Yield findings about the settings of the RMW implementation."""
    fast = next((v for v in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE") if env.get(v)), "")
    if fast and not rmw.startswith("rmw_fastrtps"):
        yield warning("profile", f"{fast} is set, and {rmw} ignores it", f"unset it, or RMW_IMPLEMENTATION={FAST}")
    if env.get("CYCLONEDDS_URI") and rmw != CYCLONE:
        yield warning(
            "profile", f"CYCLONEDDS_URI is set, and {rmw} ignores it", f"RMW_IMPLEMENTATION={CYCLONE}, or unset it"
        )
    if rmw.startswith("rmw_fastrtps"):
        yield (
            _xml_file("profile", fast, env[fast])
            if fast
            else ok(
                "profile",
                "Fast DDS without a profile: images above 0.5 MB need reliable publishers, or a larger segment_size",
            )
        )
        yield _shared_memory(shm)
    elif rmw == CYCLONE:
        uri = env.get("CYCLONEDDS_URI", "").split(",")[0]
        if uri.startswith("file:"):
            yield _xml_file("profile", "CYCLONEDDS_URI", unquote(urlsplit(uri).path))
        elif uri and not uri.startswith("<"):
            yield _xml_file("profile", "CYCLONEDDS_URI", uri)
        yield _socket_buffer(Path("/proc/sys/net/core/rmem_max"))


def _xml_file(name: str, variable: str, text: str) -> Finding:
    path = Path(text).expanduser()
    try:
        ElementTree.parse(path)
    except OSError as error:
        return problem(name, f"{variable} names {path}, which cannot be read ({error.strerror})", "correct or unset it")
    except ElementTree.ParseError as error:
        return problem(name, f"{variable} names {path}, which is not XML ({error})", "correct the file")
    return ok(name, f"{path} by {variable}")


def _shared_memory(shm: Path) -> Finding:
    try:
        size = os.statvfs(shm).f_frsize * os.statvfs(shm).f_blocks
    except OSError:
        return ok("shared memory", f"there is no {shm}; images go over the network interface")
    if size < _SHARED_MEMORY:
        text = f"{shm} has {size >> 20} MB, too little for several large images"
        return warning("shared memory", text, "in a container, start it with --ipc=host or --shm-size=1g")
    return ok("shared memory", f"{shm} has {size >> 20} MB")


def _socket_buffer(path: Path) -> Finding:
    try:
        size = int(path.read_text())
    except (OSError, ValueError):
        return ok("socket buffer", "its limit is unknown on this system")
    if size < _SOCKET_BUFFER:
        text = f"net.core.rmem_max is {size} bytes, less than an image: Cyclone DDS loses parts of large ones"
        return warning("socket buffer", text, "sudo sysctl -w net.core.rmem_max=33554432")
    return ok("socket buffer", f"net.core.rmem_max is {size} bytes")


def _domain(env: Mapping[str, str]) -> Finding:
    text = env.get("ROS_DOMAIN_ID", "")
    if not text:
        return ok("domain", "0 (ROS_DOMAIN_ID is not set)")
    if not text.isdecimal() or int(text) > _DOMAINS:
        remedy = f"set it to a number from 0 to {_SAFE_DOMAINS}, the same on all machines"
        return problem("domain", f"ROS_DOMAIN_ID is {text!r}", remedy)
    if int(text) > _SAFE_DOMAINS:
        where = "its ports overlap those that Linux gives to clients"
        return warning("domain", f"ROS_DOMAIN_ID is {text}: {where}", f"use a number from 0 to {_SAFE_DOMAINS}")
    return ok("domain", f"{text}; nodes of other domains are not found")


def _discovery(env: Mapping[str, str]) -> Finding:
    text, old = env.get("ROS_AUTOMATIC_DISCOVERY_RANGE", ""), env.get("ROS_LOCALHOST_ONLY", "")
    if old == "1":
        return ok("discovery", "nodes of this machine only (ROS_LOCALHOST_ONLY=1)")
    if not text:
        return ok("discovery", "nodes of the whole network")
    if env.get("ROS_DISTRO") == "humble":
        remedy = "use ROS_LOCALHOST_ONLY=1 for nodes of this machine only"
        return warning("discovery", "Humble ignores ROS_AUTOMATIC_DISCOVERY_RANGE", remedy)
    if text.upper() not in _RANGES:
        return problem("discovery", f"ROS_AUTOMATIC_DISCOVERY_RANGE is {text!r}", f"use one of {', '.join(_RANGES)}")
    if text.upper() == "OFF":
        return warning(
            "discovery", "ROS_AUTOMATIC_DISCOVERY_RANGE is OFF: no node is found", "set it to LOCALHOST or SUBNET"
        )
    local = text.upper() == "LOCALHOST"
    return ok("discovery", "nodes of this machine only" if local else f"nodes of the network ({text.upper()})")
