"""The web application: its addresses, and errors as one sentence."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from aiohttp import hdrs, web

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import EngineError, ImageError, OspreyError, StoppedError, one_line
from osprey_ros.strict_json import to_json
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.vision.image_io import read_file
from osprey_ros.web.access import HEADERS, Access, AccessError
from osprey_ros.web.bodies import (
    TooLargeError,
    bundles_from,
    decode,
    image_name,
    prompt_from,
    question_from,
    read_body,
    read_fields,
    region_from,
    style_from,
)
from osprey_ros.web.images import AskedQuestion, MissingError, OpenImage, OpenImages
from osprey_ros.web.limits import Limits
from osprey_ros.web.models import Models
from osprey_ros.web.reports import coco, page_state, report
from osprey_ros.web.worker import BusyError, Worker

_LOGGER = logging.getLogger(__name__)
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_STATUS: tuple[tuple[type[OspreyError], int], ...] = (
    (TooLargeError, 413),
    (MissingError, 404),
    (BusyError, 503),
    (StoppedError, 503),
    (EngineError, 500),
    (OspreyError, 400),
)
_JPEG_QUALITY = 95
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Camera(Protocol):
    """A source of live images."""

    @property
    def name(self) -> str:
        """What the page calls it, such as a topic."""

    def latest(self) -> np.ndarray:
        """Return the latest image, uint8 [H, W, 3]; called in any thread. Raises InputError if there is none."""


class Application:
    """The application behind the page. It closes the models when it ends.

    Args:
        models: Segment, describe and answer.
        samples: Files of sample images, by the name that the page shows.
        access: Who may use the page.
        limits: Bounds of what is accepted, kept and computed.
        camera: Source of live images, if there is one.
    """

    def __init__(
        self,
        models: Models,
        samples: Mapping[str, Path],
        access: Access,
        limits: Limits | None = None,
        camera: Camera | None = None,
    ) -> None:
        self._models, self._samples, self._access, self._camera = models, samples, access, camera
        self._limits = limits or Limits()
        self._images = OpenImages(self._limits)
        self._uploads = 0  # images that are arriving
        self._engines = Worker("osprey_engines", self._limits.waiting, self._limits.seconds)
        self._pixels = Worker("osprey_pixels", self._limits.waiting, self._limits.seconds)

    def build(self) -> web.Application:
        """Return the application for aiohttp."""
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                *(web.get(path, self._file) for path in _PAGE),
                web.get("/api/offers", self._offers),
                web.post("/api/images", self._upload),
                web.post("/api/samples/{name}", self._sample),
                web.post("/api/camera", self._frame),
                web.get("/api/images/{image}", self._state),
                web.delete("/api/images/{image}", self._forget),
                web.get("/api/images/{image}/pixels", self._jpeg),
                web.post("/api/images/{image}/regions", self._find),
                web.delete("/api/images/{image}/regions", self._remove_all),
                web.delete("/api/images/{image}/regions/{region:[0-9]{1,9}}", self._remove),
                web.post("/api/images/{image}/words", self._describe),
                web.post("/api/images/{image}/questions", self._ask),
                web.get("/api/images/{image}/report.json", self._report),
                web.get("/api/images/{image}/coco.json", self._coco),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._cancel)
        app.on_cleanup.append(self._close)
        return app

    @web.middleware
    async def _middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Check access, and answer every error with JSON: {"error": one sentence}."""
        try:
            return self._access.check(request) or await handler(request)
        except AccessError as error:
            return _failure(str(error), error.status)
        except OspreyError as error:
            return _failure(str(error), next(status for kind, status in _STATUS if isinstance(error, kind)))
        except web.HTTPException as error:
            return _failure(f"{request.method} {request.path[:100]}: {error.reason}", error.status)
        except MemoryError:
            return _failure("there is not enough memory; open a smaller image", 500)
        except Exception:
            _LOGGER.exception("%s %s failed", request.method, request.path[:100])
            return _failure("something went wrong; the log of `osprey web` says what", 500)

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = _PAGE[request.path]
        data = files("osprey_ros.web").joinpath(f"page/{name}").read_bytes()
        return web.Response(body=data, content_type=kind, charset="utf-8")

    async def _offers(self, request: web.Request) -> web.Response:
        """What the page can choose from."""
        return _json(
            {
                "bundles": list(self._models.bundles),
                "styles": list(QUESTIONS),
                "samples": list(self._samples),
                "camera": self._camera.name if self._camera else None,
                "segmenter": self._models.segmenter.bundle.manifest.name,
                "unverified": [name for name, verified in self._verified().items() if not verified],
                "upload_bytes": self._limits.upload_bytes,
                "question_length": self._limits.question_length,
            }
        )

    async def _upload(self, request: web.Request) -> web.Response:
        if self._uploads >= self._limits.waiting:
            raise BusyError(f"{self._uploads} images are arriving already; try again in a moment")
        self._uploads += 1
        try:
            data = await read_body(request, self._limits.upload_bytes, self._limits.upload_seconds)
        finally:
            self._uploads -= 1
        return await self._open(image_name(request.query.get("name", ""), self._limits), data)

    async def _sample(self, request: web.Request) -> web.Response:
        path = self._samples.get(request.match_info["name"])
        if path is None:
            raise MissingError("there is no such sample; choose one of the page")
        data = await self._pixels.run(lambda cancel: read_file(path))
        return await self._open(path.name, data)

    async def _frame(self, request: web.Request) -> web.Response:
        if self._camera is None:
            raise MissingError("there is no camera; start `osprey web` with --topic")
        camera, most = self._camera, self._limits.pixels

        def copied(cancel: CancellationToken) -> np.ndarray:
            rgb = np.array(camera.latest())  # a copy
            if rgb.shape[0] * rgb.shape[1] > most:
                raise ImageError(f"its images have {rgb.shape[1]}x{rgb.shape[0]} pixels and at most {most} are taken")
            return rgb

        rgb = await self._pixels.run(copied)
        return _json(page_state(self._images.add(image_name(camera.name, self._limits), rgb)))

    async def _open(self, name: str, data: bytes) -> web.Response:
        rgb = await self._pixels.run(partial(decode, data, self._limits.pixels))
        return _json(page_state(self._images.add(name, rgb)))

    async def _state(self, request: web.Request) -> web.Response:
        return _json(page_state(self._image(request)))

    async def _forget(self, request: web.Request) -> web.Response:
        self._images.remove(request.match_info["image"])
        return _json({})

    async def _jpeg(self, request: web.Request) -> web.Response:
        rgb = self._image(request).rgb
        data = await self._pixels.run(lambda cancel: _jpeg_of(rgb))
        return web.Response(body=data, content_type="image/jpeg")

    async def _find(self, request: web.Request) -> web.Response:
        image, fields = self._image(request), await read_fields(request, self._limits)
        prompt, bundles, style = prompt_from(fields), self._bundles(fields), style_from(fields)
        room = image.room(prompt.kind)
        found = await self._engines.run(partial(self._models.segment, image, prompt, room, bundles, style))
        return _json(page_state(image, image.add(found)))

    async def _remove(self, request: web.Request) -> web.Response:
        image, number = self._image(request), int(request.match_info["region"])
        image.region(number)
        del image.regions[number]
        return _json(page_state(image))

    async def _remove_all(self, request: web.Request) -> web.Response:
        image = self._image(request)
        image.regions.clear()
        return _json(page_state(image))

    async def _describe(self, request: web.Request) -> web.Response:
        image, fields = self._image(request), await read_fields(request, self._limits)
        bundles, style, found = self._bundles(fields), style_from(fields), list(image.regions.values())
        if found:
            image.describe(await self._engines.run(partial(self._models.describe, image, found, bundles, style)))
        return _json(page_state(image))

    async def _ask(self, request: web.Request) -> web.Response:
        image, fields = self._image(request), await read_fields(request, self._limits)
        question, number = question_from(fields, self._limits), region_from(fields)
        bundles, region = self._bundles(fields), None if number is None else image.region(number)
        answers = await self._engines.run(partial(self._models.ask, image, region, question, bundles))
        image.asked.append(AskedQuestion(question, number, answers))
        return _json(page_state(image))

    async def _report(self, request: web.Request) -> web.Response:
        image, segmenter = self._image(request), self._models.segmenter.bundle.manifest.name
        return _download(image, report(image, segmenter, self._verified()), "osprey")

    async def _coco(self, request: web.Request) -> web.Response:
        image = self._image(request)
        if not image.regions:
            raise MissingError("the image has no regions yet; click on an object")
        return _download(image, await self._pixels.run(lambda cancel: coco(image)), "coco")

    def _image(self, request: web.Request) -> OpenImage:
        return self._images.get(request.match_info["image"])

    def _bundles(self, fields: Mapping[str, Any]) -> list[str]:
        return bundles_from(fields, self._models.bundles)

    def _verified(self) -> dict[str, bool]:
        return {name: bundle.manifest.verified for name, bundle in self._models.bundles.items()}

    async def _cancel(self, app: web.Application) -> None:
        self._engines.cancel()
        self._pixels.cancel()

    async def _close(self, app: web.Application) -> None:
        self._pixels.close()
        self._engines.close()
        self._models.close()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(text=to_json(data), content_type="application/json", status=status)


def _failure(message: str, status: int) -> web.Response:
    return _json({"error": one_line(message)}, status)


def _download(image: OpenImage, data: Any, kind: str) -> web.Response:
    """Return a file that a browser saves. Its name has only letters, digits, '-', '_' and '.' of the image's."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in Path(image.name).stem)
    response = web.Response(text=to_json(data, indent=1), content_type="application/json")
    response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{stem or "image"}.{kind}.json"'
    return response


def _jpeg_of(rgb: np.ndarray) -> bytes:
    written, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not written:
        raise ImageError("the image cannot be shown; open a smaller one")
    return data.tobytes()
