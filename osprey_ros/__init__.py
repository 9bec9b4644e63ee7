"""Osprey on a robot: every object of a camera frame described in one pass, from engines, without torch.

Typical use::

    from osprey_ros import Describer

    describer = Describer()  # the bundle home; Describer("nano") is the smallest
    describer.set_image(rgb)  # uint8 [H, W, 3]
    for description in describer.describe(id_image):  # integers [H, W], 0 is background
        print(description.region_id, description.text, description.confidence)
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from osprey_ros import _moved

# The public names, each with the module that defines it; "as" marks a name as public for type checkers. At run time
# `__getattr__` reads this table and imports a module when one of its names is used. Imports that run at once would
# load NumPy, OpenCV and tokenizers even for an exception class, and take more than 100 times as long.
if TYPE_CHECKING:
    from osprey_ros.bundle.bundle import Bundle as Bundle
    from osprey_ros.decoding.config import GenerationConfig as GenerationConfig
    from osprey_ros.decoding.config import Sampling as Sampling
    from osprey_ros.decoding.constraints import Matching as Matching
    from osprey_ros.decoding.constraints import OneOf as OneOf
    from osprey_ros.describer import Describer as Describer
    from osprey_ros.errors import BundleError as BundleError
    from osprey_ros.errors import ImageError as ImageError
    from osprey_ros.errors import OspreyError as OspreyError
    from osprey_ros.errors import RegionError as RegionError
    from osprey_ros.frame import Frame as Frame
    from osprey_ros.pipeline import Pipeline as Pipeline
    from osprey_ros.regions.regions import Regions as Regions
    from osprey_ros.regions.regions import as_regions as as_regions
    from osprey_ros.regions.regions import regions_from_id_image as regions_from_id_image
    from osprey_ros.regions.regions import regions_from_masks as regions_from_masks
    from osprey_ros.results import Description as Description
    from osprey_ros.results import Result as Result
    from osprey_ros.results import Scores as Scores
    from osprey_ros.results import StreamUpdate as StreamUpdate
    from osprey_ros.scene.attributes import AttributeSpec as AttributeSpec
    from osprey_ros.scene.settings import StepSettings as StepSettings
    from osprey_ros.segmenter.segmenter import Segmenter as Segmenter
    from osprey_ros.system.cancellation import CancellationToken as CancellationToken
    from osprey_ros.timing import Timing as Timing
    from osprey_ros.vision.image_io import load_image as load_image

    __version__: str
else:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return _version()
        homes = _homes()
        if name == "__all__":
            return sorted(homes)
        if name in homes:
            return getattr(import_module(homes[name]), name)
        return _moved.old_names("")(name)


_moved.install()


def __dir__() -> list[str]:
    return sorted([*globals(), *_homes(), "__version__"])


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, from the table above."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        name.asname: node.module or "" for node in imports for name in node.names if name.asname and node.level == 0
    }


def _version() -> str:
    """Return the version in the package.xml of this checkout, or of the installed package.

    The checkout comes first: another version may be installed in the same environment.
    """
    from importlib.metadata import version
    from pathlib import Path
    from xml.etree import ElementTree

    manifest = Path(__file__).resolve().parents[1] / "package.xml"
    if manifest.is_file():
        package = ElementTree.parse(manifest)
        if package.findtext("name") == __name__:
            return package.findtext("version", "")
    return version(__name__)
