"""Views of real things for training: photographs as they are, cut, or with cut-outs pasted on them; then the sensor.

A view depends on the seed and its number only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from osprey_sim.colors import dominant_color

CANVASES = ((640, 480), (640, 480), (480, 640), (640, 360), (512, 512))  # (width, height), each equally likely
_LEAST_PIXELS = 60  # of a visible region
_LEFT = 0.4  # least share of an object that stays visible
_PASTED = (2, 7)  # cut-outs on a background
_SIDES = (36, 330)  # pixels of the longer side of a pasted cut-out


class Thing(NamedTuple):
    """An object of a view: its kind, its mask, bool [H, W], and its color; None to read it from the pixels."""

    kind: str
    mask: np.ndarray
    color: str | None = None


@dataclass(frozen=True)
class View:
    """An image with its objects.

    Attributes:
        image: uint8 [H, W, 3].
        things: The visible objects.
        colored: Whether the colors are those of the photographs.
    """

    image: np.ndarray
    things: tuple[Thing, ...]
    colored: bool = True

    def color(self, thing: Thing) -> str:
        """Return the basic color that covers most of an object, "" if none does or the colors were changed."""
        if thing.color is not None:
            return thing.color
        if not self.colored:
            return ""
        pixels = self.image[thing.mask]
        return dominant_color(np.ascontiguousarray(pixels[:: max(1, len(pixels) // 2000)]))


class Photograph(Protocol):
    """A photograph with objects."""

    @property
    def kinds(self) -> Sequence[str]: ...

    def load(self) -> View: ...


class ViewSource:
    """Makes views out of photographs.

    Args:
        scenes: Photographs whose objects stand in a scene: used as they are, cut, and as backgrounds.
        single: Photographs of one object, which are also cut out.
        cap: About as many photographs of a kind are in one pass; those of rarer kinds come as often as they can.
        seed: Of all random numbers.
    """

    def __init__(self, scenes: Sequence[Photograph], single: Sequence[Photograph], cap: int, seed: int) -> None:
        self.scenes, self.single, self.seed = scenes, single, seed
        self._scene_shares, self._single_shares = _shares(scenes, cap), _shares(single, cap)

    def view(self, number: int) -> View:
        """Return a view by number, from 0 on."""
        rng = np.random.default_rng([self.seed, number])
        whole = self._scene_shares.sum() + self._single_shares.sum()
        scene = rng.random() < self._scene_shares.sum() / whole
        if scene or (self.single and rng.random() < 0.45):
            source, shares = (self.scenes, self._scene_shares) if scene else (self.single, self._single_shares)
            photograph = source[_draw(rng, shares)].load()
            view = _framed(photograph, rng, rng.choice((1.0, 1.0, 1.6, 2.6)) if scene else 1.0)
            if scene and self.single and rng.random() < 0.3:
                view = self._pasted(view, rng, int(rng.integers(1, 4)))
        else:
            view = self._pasted(self._background(rng), rng, int(rng.integers(_PASTED[0], _PASTED[1] + 1)))
        return shot(view, rng)

    def _background(self, rng: np.random.Generator) -> View:
        sources = self.scenes if self.scenes and rng.random() < 0.7 else self.single
        view = _framed(sources[int(rng.integers(len(sources)))].load(), rng, float(rng.uniform(1.0, 3.0)))
        if sources is self.single or rng.random() < 0.4:
            # Something that is not looked at: what it shows has no place in the facts.
            side = int(rng.integers(12, 160))
            small = cv2.resize(view.image, (side, max(8, side * 3 // 4)), interpolation=cv2.INTER_AREA)
            height, width = view.image.shape[:2]
            return View(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), ())
        return view

    def _pasted(self, view: View, rng: np.random.Generator, count: int) -> View:
        image, things = view.image.copy(), list(view.things)
        for _ in range(count):
            cut = _cut_out(self.single[_draw(rng, self._single_shares)].load(), rng)
            if cut is None:
                continue
            pixels, alpha, kind = cut
            placed = _place(image, pixels, alpha, rng)
            things = [Thing(thing.kind, thing.mask & ~placed) for thing in things]
            things.append(Thing(kind, placed))
        areas = {id(thing.mask): int(thing.mask.sum()) for thing in things}
        return View(image, tuple(t for t in things if areas[id(t.mask)] >= _LEAST_PIXELS), view.colored)


def _shares(photographs: Sequence[Photograph], cap: int) -> np.ndarray:
    """Return how often to draw each photograph, float64 [N]: that of its rarest kind counts."""
    counts: dict[str, int] = defaultdict(int)
    for photograph in photographs:
        for kind in photograph.kinds:
            counts[kind] += 1
    weights = [max((min(1.0, cap / counts[kind]) for kind in one.kinds), default=0.0) for one in photographs]
    rare = [max((min(4.0, (cap / counts[kind]) ** 0.5) for kind in one.kinds), default=0.0) for one in photographs]
    return np.array([max(w, r) if r > 1 else w for w, r in zip(weights, rare, strict=True)], np.float64)


def _draw(rng: np.random.Generator, shares: np.ndarray) -> int:
    return int(np.searchsorted(np.cumsum(shares), rng.random() * shares.sum(), side="right"))


def _framed(view: View, rng: np.random.Generator, zoom: float) -> View:
    """Return a part of a photograph around a random object, `zoom` times smaller than it at most, or a bit more."""
    height, width = view.image.shape[:2]
    if zoom > 1 and view.things:
        mask = view.things[int(rng.integers(len(view.things)))].mask
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        share = max(1 / zoom, 1.15 * (rows[-1] - rows[0] + 1) / height, 1.15 * (columns[-1] - columns[0] + 1) / width)
        share = min(1.0, share)
        h, w = max(16, round(share * height)), max(16, round(share * width))
        middle = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
        top = int(np.clip(middle[0] - rng.uniform(0.3, 0.7) * h, 0, height - h))
        left = int(np.clip(middle[1] - rng.uniform(0.3, 0.7) * w, 0, width - w))
        view = _window(view, slice(top, top + h), slice(left, left + w))
    elif rng.random() < 0.5:
        cut = _cut_edges(view, rng)
        view = cut if cut.things or not view.things else view
    if rng.random() < 0.5:
        flipped = tuple(Thing(t.kind, np.ascontiguousarray(t.mask[:, ::-1])) for t in view.things)
        view = replace(view, image=np.ascontiguousarray(view.image[:, ::-1]), things=flipped)
    return _bounded(view)


def _cut_edges(view: View, rng: np.random.Generator) -> View:
    height, width = view.image.shape[:2]
    top, bottom = (rng.uniform(0, 0.12, 2) * height).astype(int)
    left, right = (rng.uniform(0, 0.12, 2) * width).astype(int)
    return _window(view, slice(top, height - bottom), slice(left, width - right))


def _window(view: View, rows: slice, columns: slice) -> View:
    """Return a part of a view, with the objects of which enough is left."""
    parts = [(Thing(t.kind, t.mask[rows, columns]), t.mask.sum()) for t in view.things]
    kept = tuple(thing for thing, area in parts if thing.mask.sum() >= max(_LEAST_PIXELS, _LEFT * area))
    return View(np.ascontiguousarray(view.image[rows, columns]), kept)


def _bounded(view: View, longest: int = 640) -> View:
    """Return a view at about the size of a camera's image: 320 to 640 pixels at the longer side."""
    height, width = view.image.shape[:2]
    factor = min(longest / max(height, width), max(1.0, 320 / max(height, width)))
    if factor == 1.0:
        return view
    size = max(16, round(width * factor)), max(16, round(height * factor))
    image = cv2.resize(view.image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return replace(view, image=image, things=tuple(Thing(t.kind, _resized(t.mask, size)) for t in view.things))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized: np.ndarray = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    return resized


def _cut_out(view: View, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Return an object of a photograph, turned and resized: uint8 [h, w, 3], its alpha float32 [h, w], and its kind."""
    if not view.things:
        return None
    thing = view.things[int(rng.integers(len(view.things)))]
    rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels, mask = view.image[window], thing.mask[window].astype(np.float32)
    longest = float(np.exp(rng.uniform(*np.log(_SIDES))))
    factor = min(longest / max(mask.shape), 2.0)
    angle = float(rng.normal(0, 12)) if rng.random() < 0.8 else float(rng.uniform(-180, 180))
    height, width = mask.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, factor)
    reach = np.abs(turn[:, :2]) @ np.array([width, height])
    turn[:, 2] += reach / 2 - np.array([width, height]) / 2
    size = max(4, round(float(reach[0]))), max(4, round(float(reach[1])))
    if factor < 0.5:  # warping would skip pixels
        blur = (0.5 / factor) * 0.6
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    pixels = cv2.warpAffine(pixels, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, turn, size, flags=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        pixels, alpha = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
    gain = rng.uniform(0.75, 1.25)
    return np.clip(pixels * np.float32(gain), 0, 255).astype(np.uint8), alpha, thing.kind


def _place(image: np.ndarray, pixels: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paste a cut-out into an image, in place; its edge is soft. Return its visible mask, bool [H, W]."""
    height, width = image.shape[:2]
    h, w = alpha.shape
    top, left = (
        int(rng.uniform(min(-0.15 * own, whole - 0.85 * own), max(-0.15 * own, whole - 0.85 * own)))
        for own, whole in ((h, height), (w, width))
    )
    y, x = slice(max(0, top), min(height, top + h)), slice(max(0, left), min(width, left + w))
    mask = np.zeros((height, width), bool)
    if y.stop <= y.start or x.stop <= x.start:
        return mask
    own = slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left)
    soft = cv2.GaussianBlur(alpha, (3, 3), 0)[own][..., None] if rng.random() < 0.7 else alpha[own][..., None]
    image[y, x] = (image[y, x] * (1 - soft) + pixels[own] * soft).astype(np.uint8)
    mask[y, x] = alpha[own] > 0.5
    return mask


def shot(view: View, rng: np.random.Generator) -> View:
    """Return a view as a camera takes it: other light and colors, blur, noise, compression; each now and then."""
    image, colored = view.image, view.colored
    if rng.random() < 0.8:
        gain, offset = rng.uniform(0.65, 1.35), rng.uniform(-20, 20)
        tint = rng.uniform(0.93, 1.07, 3)
        image = np.clip(image * (gain * tint).astype(np.float32) + np.float32(offset), 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
        hue = int(rng.integers(-25, 26)) if rng.random() < 0.6 else 0
        hsv[..., 0] = (hsv[..., 0] + hue) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.3, 1.5), 0, 255)
        image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    if rng.random() < 0.06:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        colored = False
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 1.8)))
    elif rng.random() < 0.1:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        cv2.line(kernel, (0, int(rng.integers(length))), (length - 1, int(rng.integers(length))), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(25, 90))
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return replace(view, image=image, colored=colored)
