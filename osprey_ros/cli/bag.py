"""The command ``osprey bag``: words about the objects of a recording, and how far it has come."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from osprey_ros.cli._options import positive
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import OspreyError

INCOMPLETE = 1  # some frames could not be described
INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended
_INSTALL = "pip install rosbags mcap"
_LIBRARIES = ("rosbags", "mcap", "ruamel", "apsw", "lz4", "zstandard", "backports")
_BAR = 24  # characters
_REDRAW, _LINE_EVERY = 0.2, 10.0  # seconds between two drawings of the bar, and two lines where there is no terminal


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of ``osprey bag``."""
    command.add_argument("recording", type=Path, metavar="IN", help="a .mcap or .db3 file, or a folder of rosbag2")
    command.add_argument("--image", required=True, metavar="TOPIC", help="the pictures: Image or CompressedImage")
    command.add_argument(
        "--segmentation",
        required=True,
        metavar="TOPIC",
        help="their regions: an image of instance ids (raw, or compressed as PNG), RegionArray or Detection2DArray",
    )
    command.add_argument(
        "--output", required=True, type=Path, metavar="OUT", help="NAME.mcap, or a folder to be made with metadata.yaml"
    )
    command.add_argument(
        "--bundle", default="nano", metavar="DIR", help="folder or name of the engine bundle (default: %(default)s)"
    )
    command.add_argument(
        "--style", default="short", choices=tuple(QUESTIONS), help="which description (default: %(default)s)"
    )
    command.add_argument(
        "--slop",
        default=0.0,
        type=_not_negative,
        metavar="S",
        help="seconds that the stamps of image and segmentation may differ (default: 0, they must be the same)",
    )
    some = command.add_mutually_exclusive_group()
    some.add_argument("--every", default=1, type=positive, metavar="N", help="describe each N-th frame only")
    some.add_argument("--rate", default=0.0, type=_above_zero, metavar="HZ", help="describe so many frames a second")
    command.add_argument("--overlay", action="store_true", help="also add the pictures with regions and words drawn")
    command.add_argument(
        "--node",
        default="/osprey",
        metavar="NAME",
        help="what is added is NAME/objects and NAME/overlay/compressed (default: %(default)s)",
    )
    command.add_argument(
        "--min-area", default=50, type=positive, metavar="N", help="leave out smaller regions, in pixels (default: 50)"
    )
    command.add_argument(
        "--max-regions",
        default=32,
        type=positive,
        metavar="N",
        help="describe the N largest regions of a frame (default: 32)",
    )
    command.add_argument(
        "--no-memory", action="store_true", help="describe every frame by itself, without the words of earlier ones"
    )
    command.add_argument("--max-new-tokens", default=0, type=positive, metavar="N", help="longest answer, in tokens")
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")
    command.add_argument(
        "--preprocessing",
        default="exact",
        metavar="MODE",
        help='"exact" or, nearly the same in less time, "fast", which is how the node prepares pictures by default '
        "(default: %(default)s)",
    )


def annotate(arguments: argparse.Namespace) -> int:
    """Runs ``osprey bag``. Returns the exit status: 0, INCOMPLETE or INTERRUPTED. Raises OspreyError."""
    try:
        from osprey_ros.recording.annotate import Annotator, OutputSettings
        from osprey_ros.recording.frames import plan_frames
        from osprey_ros.recording.reader import open_recording
        from osprey_ros.recording.types import MessageTypes
        from osprey_ros.recording.writer import check_output
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _LIBRARIES:
            raise
        raise OspreyError(f"recordings need a library that is not installed ({error.name}): {_INSTALL}") from error
    from osprey_ros.cli.bundle import unverified_warning
    from osprey_ros.describer import Describer
    from osprey_ros.pipeline import StepSettings

    check_output(arguments.output)
    node = "/" + arguments.node.strip("/")
    types = MessageTypes()
    recording = open_recording(arguments.recording, types)
    with Progress("reading stamps", "messages", recording.message_count) as progress:
        plan = plan_frames(
            recording,
            arguments.image,
            arguments.segmentation,
            arguments.slop,
            arguments.every,
            arguments.rate,
            progress.show,
        )
    annotator = Annotator(
        recording,
        plan,
        types,
        StepSettings(
            style=arguments.style,
            min_area=arguments.min_area,
            max_regions=arguments.max_regions,
            max_new_tokens=arguments.max_new_tokens,
            remember=not arguments.no_memory,
        ),
        OutputSettings(node, arguments.overlay),
    )
    describer = Describer(arguments.bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
    if not describer.bundle.manifest.verified:
        print(unverified_warning(describer.bundle.manifest), file=sys.stderr)
    with _stop_on_interrupt() as stop, Progress("describing", "frames", len(plan.frames)) as progress:
        said = 0

        def show(report: Any) -> None:
            nonlocal said
            for stamp, reason in report.failed[said:]:
                progress.say(f"osprey: frame {_seconds(stamp)} not described: {reason}")
            said = len(report.failed)
            progress.show(report.described + said)

        report = annotator.run(describer, arguments.output, show, stop.is_set)
    _summarise(arguments, plan, report, node)
    if report.stopped:
        return INTERRUPTED
    return INCOMPLETE if report.failed else 0


def _summarise(arguments: argparse.Namespace, plan: Any, report: Any, node: str) -> None:
    empty = f", {report.empty} of them without a region" if report.empty else ""
    print(
        f"{arguments.output}: {report.described} of {len(plan.frames)} frames described{empty}; "
        f"{report.objects} objects on {node}/objects, {report.descriptions} of them described anew; "
        f"{report.kept} messages kept"
    )
    notes = []
    if report.failed:
        notes.append(f"{len(report.failed)} frames could not be described (named above)")
    if len(plan.frames) < plan.matched:
        notes.append(f"{plan.matched - len(plan.frames)} frames left out by --every or --rate")
    for role, stamps in plan.alone.items():
        if stamps:
            other = "segmentation" if role == "image" else "image"
            notes.append(
                f"{len(stamps)} messages of {plan.topics[role]} have no {other} within {arguments.slop:g} s "
                f"(stamps {_seconds(stamps[0])} to {_seconds(stamps[-1])})"
            )
        if plan.unreadable[role]:
            notes.append(f"{plan.unreadable[role]} messages of {plan.topics[role]} are too short to have a stamp")
    if report.untyped:
        notes.append(f"without a definition, so that Foxglove cannot show them: {', '.join(report.untyped)}")
    if report.cut_off:
        notes.append(f"{arguments.recording} ends in the middle of a record: what was written before is kept")
    if report.stopped:
        notes.append("interrupted: the output is readable and ends there")
    for note in notes:
        print(f"osprey: {note}", file=sys.stderr)


class Progress:
    """How far something has come, with rate and time left: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, what: str, unit: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = self._shown = time.monotonic()
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def show(self, done: int) -> None:
        """Says that so much is done, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._shown < (_REDRAW if self._terminal else _LINE_EVERY):
            return
        self._shown = now
        text = self._text(done, now - self._started)
        if self._terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(f"osprey: {text}\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._wipe()
        print(line, file=self._stream, flush=True)

    def _text(self, done: int, seconds: float) -> str:
        rate = done / seconds
        counted = f"{done}/{self._total}" if self._total else f"{done}"
        text = f"{self._what}  {counted} {self._unit}  {rate:.3g}/s"
        if not self._total:
            return text
        if rate:
            left = max(0, round((self._total - done) / rate))
            text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        full = _BAR * min(done, self._total) // self._total
        return f"[{'#' * full}{'-' * (_BAR - full)}]  {text}" if self._terminal else text

    def _wipe(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


class _Stop:
    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True


@contextmanager
def _stop_on_interrupt() -> Iterator[_Stop]:
    """The first Ctrl-C asks to stop, so that the output can be completed; the second one is an interrupt as usual."""
    stop = _Stop()
    before = signal.signal(signal.SIGINT, stop.handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _seconds(stamp: int) -> str:
    from osprey_ros.recording.types import stamp_text

    return stamp_text(stamp)


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def _above_zero(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
