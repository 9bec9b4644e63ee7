"""Questions that are asked about every object, and the captions that the answers make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from osprey_ros.bundle.calibration import CATEGORY
from osprey_ros.decoding.constraints import Constraint
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.results import Description, Result
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import UNKNOWN, Attribute, Caption
from osprey_ros.strict_json import to_json


def questions_for(settings: StepSettings) -> tuple[list[str], list[Constraint | None]]:
    """Return the questions for `Describer.answer` and their constraints; `captions_from` takes the answers."""
    styles = [settings.style, *([CATEGORY] if _asks_category(settings) else [])]
    questions = [QUESTIONS[style] for style in styles] + [spec.question for spec in settings.attributes]
    return questions, [None] * len(styles) + [spec.constraint for spec in settings.attributes]


def captions_from(results: Sequence[Result], settings: StepSettings, stamp: int) -> list[Caption]:
    """Return the caption of each region from the answers to `questions_for`.

    An answer is UNKNOWN if its confidence is below ``min_confidence``, if it is not complete, or if the
    constraint of its attribute does not allow it. ``stamp`` is that of the image, in nanoseconds.
    """
    captions = []
    for row, described in enumerate(results[0]):
        text, confidence = known_text(described, settings.min_confidence)
        category, kinds = (text, described.chain) if settings.style == CATEGORY else ("", ())
        if _asks_category(settings):
            category, _ = known_text(results[1][row], settings.min_confidence)
            kinds = results[1][row].chain
        attributes = []
        for spec, result in zip(settings.attributes, results[1 + _asks_category(settings) :], strict=True):
            value, known = known_text(result[row], settings.min_confidence, spec.constraint)
            attributes.append(Attribute(spec.name, value, known))
        raw, reason, unlike = described.raw_confidence, described.reason, described.unlike_training
        captions.append(Caption(category, text, confidence, stamp, tuple(attributes), raw, reason, kinds, unlike))
    return captions


def known_text(answer: Description, min_confidence: float, constraint: Constraint | None = None) -> tuple[str, float]:
    """Return the text of an answer and its confidence.

    The text is UNKNOWN if the confidence is below ``min_confidence``. It is UNKNOWN with confidence 0 if the answer is
    empty, incomplete, or not allowed by the constraint.
    """
    if not answer.text or not answer.ended or (constraint is not None and not constraint.accepts(answer.text)):
        return UNKNOWN, 0.0
    return (answer.text if answer.confidence >= min_confidence else UNKNOWN), answer.confidence


def questions_key(settings: StepSettings) -> str:
    """Return a text that identifies what captions depend on."""
    names = ("style", "categories", "back_off", "kind_threshold", "max_new_tokens", "min_confidence")
    values = {name: getattr(settings, name) for name in names}
    return to_json({**values, "attributes": [asdict(spec) for spec in settings.attributes]}, sort_keys=True)


def _asks_category(settings: StepSettings) -> bool:
    """Return whether the category is a question of its own."""
    return settings.categories and settings.style != CATEGORY
