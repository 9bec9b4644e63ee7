"""Osprey on a robot: every object of a camera frame described in one pass, from engines, without torch.

Typical use::

    from osprey_ros import Describer

    describer = Describer("nano")
    describer.set_image(rgb)  # uint8 [H, W, 3]
    for description in describer.describe(id_image):  # integers [H, W], 0 is background
        print(description.region_id, description.text, description.confidence)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.decoding.sampling import Sampling
    from osprey_ros.describer import Describer
    from osprey_ros.errors import BundleError, ImageError, OspreyError, RegionError
    from osprey_ros.regions.regions import Regions, as_regions, regions_from_id_image, regions_from_masks
    from osprey_ros.results import Description, Result, Scores, Update
    from osprey_ros.timing import Timing
    from osprey_ros.vision.image_io import load_image

# Where each public name lives. Modules are imported when first asked for: importing the package costs nothing.
_MODULES = {
    "Bundle": "bundle.bundle",
    "BundleError": "errors",
    "Describer": "describer",
    "Description": "results",
    "ImageError": "errors",
    "OspreyError": "errors",
    "RegionError": "errors",
    "Regions": "regions.regions",
    "Result": "results",
    "Sampling": "decoding.sampling",
    "Scores": "results",
    "Timing": "timing",
    "Update": "results",
    "as_regions": "regions.regions",
    "load_image": "vision.image_io",
    "regions_from_id_image": "regions.regions",
    "regions_from_masks": "regions.regions",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Describer",
    "Description",
    "ImageError",
    "OspreyError",
    "RegionError",
    "Regions",
    "Result",
    "Sampling",
    "Scores",
    "Timing",
    "Update",
    "as_regions",
    "load_image",
    "regions_from_id_image",
    "regions_from_masks",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])


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
