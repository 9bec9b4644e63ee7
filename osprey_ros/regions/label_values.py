"""What the values of a label image mean: instances, classes, or both in one number.

A segmentation of instances numbers its masks. A semantic segmentation gives each pixel the number of a class: the
connected pieces of a class are its regions. A panoptic one has the class in the upper 16 bits and the instance in the
lower ones.

The import of this module loads no library: the command line names the meanings in its help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from osprey_ros.errors import InputError

if TYPE_CHECKING:
    import numpy as np

INSTANCES, CLASSES, PANOPTIC = "instances", "classes", "panoptic"
MEANINGS = (INSTANCES, CLASSES, PANOPTIC)
INSTANCE_BITS = 16  # of a panoptic value


@dataclass(frozen=True)
class LabelValues:
    """How to read a label image.

    Attributes:
        meaning: One of MEANINGS.
        class_names: Name of each class by its number, "" for none; may be shorter than the list of classes.
        background: Names or numbers of the classes whose pixels are background, such as "floor".

    Raises InputError for a background class that is neither a number nor one of the names.
    """

    meaning: str = INSTANCES
    class_names: Sequence[str] = ()
    background: Sequence[str] = ()

    def __post_init__(self) -> None:
        unknown = [text for text in self.background if not text.isdecimal() and text not in self.class_names]
        if unknown:
            raise InputError(
                f"the background class {unknown[0]!r} is not among the class names; give its number, or add its name"
            )

    @classmethod
    def of_texts(cls, meaning: str, class_names: str, background: str) -> LabelValues:
        """Return how to read a label image, from lists in which commas separate names or numbers.

        Raises InputError as the constructor does.
        """
        names = [name.strip() for name in class_names.split(",")] if class_names.strip() else []
        return cls(meaning, tuple(names), tuple(name.strip() for name in background.split(",") if name.strip()))

    def read(self, values: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Return the id image of a label image, integers [H, W], and the names of classes by region id.

        Values of 0 and below are background. Of classes, so are pieces of fewer than 16 pixels, and of panoptic values
        those without an instance. Ids of panoptic regions are their values.
        """
        if self.meaning == INSTANCES:
            return values, {}
        if self.meaning == PANOPTIC:
            return self._panoptic(values)
        return self._pieces(values)

    def _panoptic(self, values: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        import numpy as np

        ids = np.where((values > 0) & (values & ((1 << INSTANCE_BITS) - 1) != 0), values, 0)
        known = [int(value) for value in np.unique(ids) if value]
        classes = {value: value >> INSTANCE_BITS for value in known}
        hidden = [value for value, number in classes.items() if self._is_background(number)]
        if hidden:
            ids[np.isin(ids, hidden)] = 0
        return ids, self._named({value: number for value, number in classes.items() if value not in hidden})

    def _pieces(self, values: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        import cv2
        import numpy as np

        from osprey_ros.regions.id_image import SPECKLE_AREA

        ids = np.zeros(values.shape, np.int32)
        classes: dict[int, int] = {}
        for number in np.unique(values).tolist():
            if number <= 0 or self._is_background(int(number)):
                continue
            _, pieces, stats, _ = cv2.connectedComponentsWithStats((values == number).astype(np.uint8), connectivity=8)
            kept = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= SPECKLE_AREA)
            kept = kept[kept > 0]
            new = np.zeros(len(stats), np.int32)
            new[kept] = len(classes) + 1 + np.arange(len(kept))
            ids += new[pieces]
            classes |= dict.fromkeys(new[kept].tolist(), int(number))
        return ids, self._named(classes)

    def _is_background(self, number: int) -> bool:
        return str(number) in self.background or (self._name(number) or None) in self.background

    def _name(self, number: int) -> str:
        return self.class_names[number] if number < len(self.class_names) else ""

    def _named(self, classes: Mapping[int, int]) -> dict[int, str]:
        return {region: name for region, number in classes.items() if (name := self._name(number))}


INSTANCE_IDS = LabelValues()
