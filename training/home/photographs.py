"""Photographs of the packs as sources of views: their objects by the names of the tree of kinds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.packs import TRAIN, PackObject, pack_objects
from osprey_torch.readers.records import Skipped
from training.home.kinds import Kinds
from training.home.views import Thing, View
from training.recipe import PhotographPack


@dataclass(frozen=True)
class PackPhotograph:
    """A photograph of a pack.

    Attributes:
        image: Path of the image file.
        objects: The objects whose kinds are learned.
        kinds: The kind of each of them.
    """

    image: Path
    objects: tuple[PackObject, ...]
    kinds: tuple[str, ...]

    def load(self) -> View:
        """Return the photograph as it is."""
        things = tuple(Thing(kind, one.decode()) for kind, one in zip(self.kinds, self.objects, strict=True))
        return View(load_image(self.image), things)


@dataclass(frozen=True)
class Photographs:
    """Photographs for `ViewSource`: of scenes, and of single objects to cut out."""

    scenes: tuple[PackPhotograph, ...]
    single: tuple[PackPhotograph, ...]


def load_photographs(packs: Sequence[PhotographPack], kinds: Kinds) -> Photographs:
    """Read the train images of the packs that are present; absent ones are named on standard error.

    Objects of unknown or held-out kinds are left out. A photograph of which no object is left is not used.

    Raises InputError for annotations that cannot be read.
    """
    scenes: list[PackPhotograph] = []
    single: list[PackPhotograph] = []
    for pack in packs:
        folder = Path(pack.folder)
        if not folder.is_dir():
            print(f"{folder} is absent: training goes on without this pack ({pack.source})", file=sys.stderr)
            continue
        skipped = Skipped()
        found = list(_photographs(folder, kinds, skipped))
        (single if pack.cut_out else scenes).extend(found)
        print(f"{folder}: {len(found)} photographs; {skipped.summary()}", file=sys.stderr)
    return Photographs(tuple(scenes), tuple(single))


def _photographs(folder: Path, kinds: Kinds, skipped: Skipped) -> Iterator[PackPhotograph]:
    for image, group in groupby(pack_objects(folder, skipped), key=lambda one: one.image):
        kept: list[PackObject] = []
        names: list[str] = []
        for one in group:
            if one.split != TRAIN:
                continue
            kind = kinds.kind_of(one.name, folder.name)
            if kind is None:
                skipped.leave_out(f"the name {one.name!r} is not in the tree of kinds")
            elif kind in kinds.held_out:
                skipped.leave_out("a kind is held out")
            else:
                kept.append(one)
                names.append(kind)
        if kept:
            yield PackPhotograph(image, tuple(kept), tuple(names))
