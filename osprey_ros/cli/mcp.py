"""The command ``osprey mcp``: tools for agents, about a running node, a recording or an image."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import (
    above_zero,
    add_engine_options,
    add_image_options,
    add_region_options,
    add_verbose_option,
    port_number,
    positive,
)
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.file_errors import native_path

if TYPE_CHECKING:
    from osprey_ros.mcp.pipeline_source import PipelineSource
    from osprey_ros.mcp.source import Source

TOKEN_VARIABLE = "OSPREY_MCP_TOKEN"
_TIMEOUT = 15.0  # seconds


def add_command(commands: Any) -> None:
    """Add ``osprey mcp`` to the commands."""
    from osprey_ros.cli._segments import add_segment_option

    command = commands.add_parser(
        "mcp",
        help="tools for agents: look, find, describe, ask, scene, events (Model Context Protocol)",
        description="Serve tools of the Model Context Protocol, over standard input and output or over HTTP: look, "
        "find, describe, ask, scene and events. They are about a running node; or, with --image or --recording, about "
        "what these show. Agents can only read, unless --allow-changes is given.",
    )
    command.add_argument(
        "--node", default="/osprey", metavar="NAME", help="full name of the node (default: %(default)s)"
    )
    command.add_argument(
        "--timeout",
        type=above_zero,
        default=_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the node, and for its answer (default: %(default)g)",
    )
    command.add_argument(
        "--allow-changes", action="store_true", help="also serve the tool correct, which deletes objects"
    )
    http = command.add_argument_group("HTTP")
    http.add_argument("--http", action="store_true", help="serve streamable HTTP in place of standard input and output")
    http.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; with any other than those of this machine's loopback interface a token is needed "
        "(default: %(default)s)",
    )
    http.add_argument("--port", type=port_number, default=8766, help="port; 0: any free one (default: %(default)s)")
    http.add_argument(
        "--token",
        metavar="TEXT",
        help=f"token that requests need; better in the environment variable {TOKEN_VARIABLE}, which other users of the "
        "machine do not see (default beyond the loopback interface: a new one, which is printed)",
    )
    http.add_argument(
        "--rate", type=above_zero, default=5.0, metavar="HZ", help="most calls a second (default: %(default)g)"
    )
    image = command.add_argument_group("objects of an image or of a recording")
    add_image_options(image, required=False)
    add_segment_option(image)
    image.add_argument("--recording", type=Path, metavar="IN", help="a recording, as for `osprey bag`")
    image.add_argument("--image-topic", metavar="TOPIC", help="its images")
    image.add_argument("--segmentation", metavar="TOPIC", help="their regions")
    image.add_argument("--every", default=1, type=positive, metavar="N", help="describe each N-th frame only")
    add_region_options(image)
    add_engine_options(image)
    add_verbose_option(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey mcp``, until the client leaves or the command is interrupted.

    Raises:
        OspreyError: The image, the recording, the bundle, the node's name or the address cannot be used.
    """
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise InputError(
            "`osprey mcp` needs the Python package mcp; install it with pip install 'osprey_ros[mcp]'"
        ) from error
    import asyncio

    import osprey_ros
    from osprey_ros.mcp.http import serve_http
    from osprey_ros.mcp.limits import Limits
    from osprey_ros.mcp.server import Tools, build_server
    from osprey_ros.system.access_tokens import token_for

    token = token_for(arguments.host, arguments.token or os.environ.get(TOKEN_VARIABLE), "the token")
    limits = Limits(rate=arguments.rate)
    tools = Tools(_source(arguments), limits)
    server = build_server(tools, osprey_ros.__version__, arguments.allow_changes)

    def ready(address: str) -> None:
        print(f"{address} with the token {token}" if token else address, flush=True)

    try:
        if arguments.http:
            asyncio.run(serve_http(server, arguments.host, arguments.port, token, limits, ready))
        else:
            asyncio.run(server.run_stdio_async())
    finally:
        tools.close()
    return 0


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.image is not None and arguments.recording is not None:
        raise InputError("both --image and --recording are given; give one of them, or none to ask a node")
    if arguments.recording is not None:
        return _recording(arguments)
    if arguments.image is not None:
        return _image(arguments)
    try:
        from osprey_ros.ros.services.node_source import NodeSource
    except ImportError as error:
        raise InputError(
            f"a node is asked with ROS 2 ({error}); source its setup file, or give --image or --recording"
        ) from error
    return NodeSource(arguments.node, arguments.timeout)


def _image(arguments: argparse.Namespace) -> PipelineSource:
    from osprey_ros.cli._segments import image_with_regions
    from osprey_ros.frame import Frame

    rgb, masks = image_with_regions(arguments)
    source = _pipeline(arguments, f"image {native_path(arguments.image)}", len(masks.regions))
    source.step(Frame(stamp=1, frame_id="", rgb=rgb, regions=masks.regions))
    return source


def _recording(arguments: argparse.Namespace) -> PipelineSource:
    if not (arguments.image_topic and arguments.segmentation):
        raise InputError("--recording needs --image-topic and --segmentation, the topics with images and their regions")
    try:
        from osprey_ros.recording.collector import frames_of
        from osprey_ros.recording.frames import FrameReader, plan_frames
        from osprey_ros.recording.reader import Recording
        from osprey_ros.recording.types import MessageTypes
    except ModuleNotFoundError as error:
        raise OspreyError(f"recordings need the library {error.name}; pip install 'osprey_ros[bag]'") from error
    from osprey_ros.cli._progress import progress_bar
    from osprey_ros.messages.frames import IMAGE, SEGMENTATION

    types, topics = MessageTypes(), (arguments.image_topic, arguments.segmentation)
    roles = dict(zip(topics, (IMAGE, SEGMENTATION), strict=True))
    with Recording(arguments.recording, types) as recording:
        reader = FrameReader(recording, *topics, types)
        plan = plan_frames(recording, *topics, every=arguments.every)
        source = _pipeline(arguments, f"recording {native_path(arguments.recording)}")
        with progress_bar("describing", " frames", len(plan.frames)) as bar:
            for frame in frames_of(recording, reader, plan, roles):
                source.step(frame)
                bar.update(1)
    return source


def _pipeline(arguments: argparse.Namespace, name: str, regions: int = 0) -> PipelineSource:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.cli._output import warn_if_unverified
    from osprey_ros.describer import Describer
    from osprey_ros.mcp.pipeline_source import PipelineSource
    from osprey_ros.pipeline import Pipeline
    from osprey_ros.scene.settings import MAX_REGIONS, StepSettings

    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    warn_if_unverified(bundle.manifest)
    most = arguments.max_regions or min(max(regions, StepSettings().max_regions), MAX_REGIONS)
    settings = StepSettings(min_area=arguments.min_area, masks_anyway=arguments.masks_anyway, max_regions=most)
    describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
    return PipelineSource(Pipeline(describer), settings, name)
