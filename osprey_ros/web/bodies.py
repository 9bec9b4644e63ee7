"""The bodies of requests, read within bounds, and what they ask for."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import ImageError, InputError, OspreyError, one_line
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.vision.image_content import size_of
from osprey_ros.vision.image_io import rgb_from_bytes
from osprey_ros.web.images import BOX, CLICK, EVERYTHING
from osprey_ros.web.limits import Limits
from osprey_ros.web.models import Prompt

_VALUES = {CLICK: 2, BOX: 4, EVERYTHING: 0}
_MOST_BUNDLES = 2  # that are compared


class TooLargeError(OspreyError):
    """A body of more bytes than allowed."""


async def read_body(request: web.Request, most: int, seconds: float) -> bytes:
    """Return the body of a request. Raises TooLargeError for more than ``most`` bytes, InputError if slow."""
    if request.content_length is not None and request.content_length > most:
        raise TooLargeError(f"{request.content_length} bytes were sent and at most {most} are taken")
    try:
        return await asyncio.wait_for(_read(request, most), seconds)
    except asyncio.TimeoutError as error:
        raise InputError(f"the request did not arrive within {seconds:g} s; send it again") from error


async def _read(request: web.Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        if len(body) + len(chunk) > most:
            raise TooLargeError(f"more than {most} bytes were sent; send a smaller file")
        body += chunk
    return bytes(body)


async def read_fields(request: web.Request, limits: Limits) -> dict[str, Any]:
    """Return the JSON object in the body of a request. Raises TooLargeError or InputError."""
    body = await read_body(request, limits.request_bytes, limits.upload_seconds)
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("the request is not JSON") from error
    if not isinstance(data, dict):
        raise InputError("the request is not a JSON object")
    return data


def decode(data: bytes, most_pixels: int, cancel: CancellationToken) -> Any:
    """Return the pixels of an image file, uint8 [H, W, 3]; its header is checked first. Raises ImageError."""
    cancel.check("the image")
    try:
        width, height = size_of(data)
        if width * height > most_pixels:
            raise ImageError(f"it has {width}x{height} pixels and at most {most_pixels} are taken; scale it down")
        rgb, _ = rgb_from_bytes(data)
    except ImageError as error:
        raise ImageError(f"the image cannot be read: {error}") from error
    return rgb


def image_name(text: str, limits: Limits) -> str:
    """Return the name of an uploaded file without folders, cut to the limit; "image" if nothing is left."""
    return one_line(text.replace("\\", "/").rpartition("/")[2])[: limits.name_length] or "image"


def prompt_from(fields: Mapping[str, Any]) -> Prompt:
    """Return the prompt of a request: {"kind": "click", "values": [x, y]}, for example. Raises InputError."""
    kind, values = fields.get("kind"), fields.get("values", [])
    if not isinstance(kind, str) or kind not in _VALUES:
        raise InputError(f"kind is {_shown(kind)}; choose one of {', '.join(_VALUES)}")
    if not isinstance(values, list) or len(values) != _VALUES[kind] or not all(map(_is_finite, values)):
        raise InputError(f"values of a {kind} must be {_VALUES[kind]} finite numbers in pixels, not {_shown(values)}")
    return Prompt(kind, tuple(map(float, values)))


def bundles_from(fields: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the names of the bundles that a request asks for, by default the first. Raises InputError."""
    names = fields.get("bundles", list(known)[:1])
    if not isinstance(names, list) or not 1 <= len(names) <= _MOST_BUNDLES or len(names) != len(set(map(str, names))):
        raise InputError(f"bundles must be a list of one or {_MOST_BUNDLES} different names, not {_shown(names)}")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise InputError(f"there is no bundle {_shown(name)}; choose from {', '.join(known)}")
    return names


def style_from(fields: Mapping[str, Any]) -> str:
    """Return the style of descriptions that a request asks for. Raises InputError."""
    style = fields.get("style", next(iter(QUESTIONS)))
    if not isinstance(style, str) or style not in QUESTIONS:
        raise InputError(f"style is {_shown(style)}; choose one of {', '.join(QUESTIONS)}")
    return style


def question_from(fields: Mapping[str, Any], limits: Limits) -> str:
    """Return the question of a request. Raises InputError for none and for a long one."""
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; write one")
    if len(question) > limits.question_length:
        raise InputError(
            f"the question has {len(question)} characters and at most {limits.question_length} are taken; shorten it"
        )
    return question.strip()


def region_from(fields: Mapping[str, Any]) -> int | None:
    """Return the id of the region that a question is about; None for the whole image. Raises InputError."""
    region = fields.get("region")
    if region is not None and (not isinstance(region, int) or isinstance(region, bool)):
        raise InputError(f"region is {_shown(region)}; give its number, or null for the whole image")
    return region


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
