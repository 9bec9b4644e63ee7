"""The latest images of the node, within bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.messages.stamps import NANOSECONDS

MEMORY = 64 << 20  # bytes of all images; the latest one is always kept


@dataclass
class KeptImage:
    """An image: stamp in nanoseconds, frame, uint8 [H, W, 3], and whether ids were published for it."""

    stamp: int
    frame_id: str
    rgb: np.ndarray
    published: bool = False


class LatestImages:
    """The latest images by stamp. Thread-safe."""

    def __init__(self) -> None:
        self._images: OrderedDict[int, KeptImage] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, image: KeptImage) -> None:
        """Keep an image, and give up the oldest ones."""
        with self._lock:
            self._images.pop(image.stamp, None)
            self._images[image.stamp] = image
            while len(self._images) > 1 and sum(one.rgb.nbytes for one in self._images.values()) > MEMORY:
                self._images.popitem(last=False)

    def clear(self) -> None:
        """Give up all images."""
        with self._lock:
            self._images.clear()

    def of(self, stamp: int) -> KeptImage:
        """Return the image with a stamp. Raises InputError if it is not kept."""
        with self._lock:
            found = self._images.get(stamp)
        if found is None:
            raise InputError(f"no image with the stamp {stamp / NANOSECONDS:.3f} is kept; use a later one, or 0")
        return found

    def described(self, stamps: Sequence[int]) -> KeptImage | None:
        """Return the image with the last of these stamps that is kept."""
        with self._lock:
            return next((self._images[stamp] for stamp in reversed(stamps) if stamp in self._images), None)

    def unpublished(self) -> KeptImage | None:
        """Return the latest image if no ids were published for it."""
        with self._lock:
            latest = next(reversed(self._images.values()), None)
        return latest if latest is not None and not latest.published else None
