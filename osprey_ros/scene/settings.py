"""Settings of one step of the pipeline: which objects get which caption, and when they get a new one."""

from __future__ import annotations

from dataclasses import dataclass

from osprey_ros.decoding.config import CROPS, GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.system.settings import Effect, ParameterGroup, parameter

MAX_REGIONS = 4096  # described in one frame


@dataclass(frozen=True)
class StepSettings(ParameterGroup):
    """Settings of `Pipeline.step`. Each field says what it means; ``attributes`` are asked for with each caption.

    Raises InputError for a value outside the choices or limits of its field.
    """

    attributes: tuple[AttributeSpec, ...] = ()
    style: str = parameter(
        "short",
        "Style of the descriptions: short (a phrase), detailed (a sentence) or category (a word).",
        Effect.FRAME,
        choices=tuple(QUESTIONS),
    )
    categories: bool = parameter(
        True, "Ask for the category of each object, in addition to its description.", Effect.FRAME
    )
    back_off: bool = parameter(
        True,
        "Answer the category as specifically as it is sure: mug, else cup, else container, else object. It is the most "
        "specific kind of the bundle's tree of kinds that is probable enough. If false, or if the bundle has no such "
        "tree, the category is the model's own word.",
        Effect.FRAME,
    )
    kind_threshold: float = parameter(
        0.0,
        "Minimum probability of a category from the bundle's tree of kinds. 0: the value in the bundle.",
        Effect.FRAME,
        limits=(0.0, 1.0),
    )
    remember: bool = parameter(
        True,
        "Track objects and keep their captions from frame to frame. If false, each frame is described on its own with "
        "the ids of the segmentation, and the scene is left unchanged.",
        Effect.FRAME,
    )
    appearance_change: float = parameter(
        0.2,
        "Change of appearance after which an object gets a new caption: cosine distance between the current mask token "
        "and the one that was described. Objects that move in the image may change 2.5 times as much.",
        Effect.FRAME,
        limits=(0.0, 2.0),
    )
    view_change: float = parameter(
        2.0,
        "Growth of the visible area after which an object gets a new caption: ratio of its pixels now to its pixels "
        "when it was described.",
        Effect.FRAME,
        limits=(1.0, 1000.0),
    )
    still_difference: float = parameter(
        10.0,
        "An image that differs from the previous one by less than this is not encoded again: largest difference of "
        "3x3 means in an image of 256 pixels width, in gray levels of 0 to 255. 0: every image is encoded.",
        Effect.FRAME,
        limits=(0.0, 255.0),
    )
    min_area: int = parameter(
        50,
        "Minimum area of a region. Smaller regions are ignored.",
        Effect.FRAME,
        unit="pixels",
        limits=(1, 1_000_000_000),
    )
    masks_anyway: bool = parameter(
        False,
        "Take an id image also if more than 64 of its ids cover fewer than 16 pixels each, as in an image that was "
        "compressed with loss.",
        Effect.FRAME,
    )
    max_regions: int = parameter(
        32,
        "Maximum number of objects described in one frame. Requested objects come first, then new, then changed ones, "
        "then large or near ones; the others wait for a later frame.",
        Effect.FRAME,
        limits=(1, MAX_REGIONS),
    )
    max_new_tokens: int = parameter(
        0,
        "Maximum length of an answer. 0: a length that suits the style.",
        Effect.FRAME,
        unit="tokens",
        limits=(0, 1024),
    )
    crops: str = parameter(
        "none",
        "Objects that the model reads a second time, in a crop of their own, for better answers: none, small "
        "(objects that are much larger in their crop than in the whole image) or all. With a time_budget, as many as "
        "fit beside the captions. A bundle without an engine for crops ignores it.",
        Effect.FRAME,
        choices=CROPS,
    )
    min_confidence: float = parameter(
        0.0, 'Answers with a lower confidence are replaced by "unknown".', Effect.FRAME, limits=(0.0, 1.0)
    )
    time_budget: float = parameter(
        0.0,
        "Maximum time for one frame. Objects whose captions do not fit wait for a later frame, in the order of "
        "max_regions. 0: no limit.",
        Effect.FRAME,
        unit="s",
        limits=(0.0, 3600.0),
    )

    def generation(self, max_new_tokens: int = 0, crops: str = "none") -> GenerationConfig:
        """Return how answers are generated.

        Args:
            max_new_tokens: Longest answer in tokens; 0: a length that suits the question.
            crops: As in `GenerationConfig`.
        """
        return GenerationConfig(
            max_new_tokens=max_new_tokens or None,
            back_off=self.back_off,
            kind_threshold=self.kind_threshold or None,
            crops=crops,
        )
