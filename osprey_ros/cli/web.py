"""The command ``osprey web``: a page to click in, on this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import add_engine_options, add_verbose_option, port_number
from osprey_ros.cli._segments import add_segmenter_option, open_segmenter
from osprey_ros.errors import InputError
from osprey_ros.file_errors import native_path

if TYPE_CHECKING:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.ros.topic_camera import TopicCamera

_SHIPPED = ("home", "nano")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def add_command(commands: Any) -> None:
    """Add ``osprey web`` to the commands."""
    command = commands.add_parser(
        "web",
        help="a page in the browser: click on objects, read words, ask questions",
        description="Serve a page to click in: open an image, click on objects or draw boxes, read words, ask "
        "questions, compare bundles, download JSON. Ctrl-C ends it. Images stay in memory; nothing is loaded from "
        "other machines.",
    )
    add_engine_options(command)
    command.add_argument(
        "--compare",
        nargs="*",
        metavar="DIR",
        help=f"folders or names of further bundles that the page offers (default: {' and '.join(_SHIPPED)})",
    )
    add_segmenter_option(command)
    command.add_argument(
        "--samples", type=Path, metavar="DIR", help="folder of sample images (default: those of the package)"
    )
    command.add_argument(
        "--topic", metavar="NAME", help="also offer live images of this topic (sensor_msgs/Image or CompressedImage)"
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; with any other than those of this machine's loopback interface a token is needed, "
        "which is printed or given by the environment variable OSPREY_WEB_TOKEN (default: %(default)s)",
    )
    command.add_argument("--port", type=port_number, default=8765, help="port; 0: any free one (default: %(default)s)")
    add_verbose_option(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey web``, until it is interrupted.

    Raises:
        OspreyError: A bundle, the samples or the address cannot be used.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise InputError("the page needs the Python package aiohttp; install it with pip install aiohttp") from error
    import asyncio

    from osprey_ros.system.access_tokens import token_for
    from osprey_ros.web.access import TOKEN_VARIABLE, Access
    from osprey_ros.web.app import Application
    from osprey_ros.web.models import Models
    from osprey_ros.web.server import serve

    token = token_for(arguments.host, os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE)
    samples = _samples(arguments.samples)
    bundles = _bundles(arguments.bundle, arguments.compare, arguments.device)
    models = Models(bundles, open_segmenter(arguments), arguments.threads, arguments.preprocessing)
    camera = _camera(arguments.topic)
    application = Application(models, samples, Access(token), camera=camera)

    def ready(address: str) -> None:
        print(f"{address}?token={token}" if token else address, flush=True)

    try:
        asyncio.run(serve(application, arguments.host, arguments.port, ready))
    finally:
        if camera is not None:
            camera.close()
    return 0


def _camera(topic: str | None) -> TopicCamera | None:
    """Subscribe to a topic. Raises InputError if it cannot be subscribed to."""
    if topic is None:
        return None
    try:
        from osprey_ros.ros.topic_camera import TopicCamera
    except ImportError as error:
        raise InputError(f"--topic needs ROS 2 ({error}); source its setup file, or leave --topic out") from error
    return TopicCamera(topic)


def _bundles(first: str, compared: Sequence[str] | None, device: str | None) -> list[Bundle]:
    """Open the bundle and those to compare it with, each once."""
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.cli._output import warn_if_unverified

    bundles: dict[Path, Bundle] = {}
    for name in (first, *(_SHIPPED if compared is None else compared)):
        bundle = Bundle.open(name).on_device(device)
        bundles.setdefault(bundle.root.resolve(), bundle)
    for bundle in bundles.values():
        warn_if_unverified(bundle.manifest)
    return list(bundles.values())


def _samples(folder: Path | None) -> dict[str, Path]:
    """Return the sample images of a folder by name. Raises InputError for a folder without images."""
    from importlib.resources import files

    place = Path(str(files("osprey_ros.web").joinpath("samples"))) if folder is None else folder
    try:
        found = sorted(path for path in place.iterdir() if path.suffix.lower() in _IMAGES)
    except OSError as error:
        raise InputError(f"{native_path(place)} cannot be read as a folder of images: {error.strerror}") from error
    if not found:
        raise InputError(f"{native_path(place)} has no images ({', '.join(_IMAGES)})")
    return {native_path(path.stem): path for path in found}
