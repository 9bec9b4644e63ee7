"""Conversation template: a question about a region becomes token ids with placeholders for image and region.

Training and the robot both build their prompts here, so that the text around the image never differs between them.
Texts and the order of tokens are those of the published Osprey (arXiv 2312.10032 and its code).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from osprey_ros.errors import PromptError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from osprey_ros.bundle.spec import ModelSpec

# Placeholders in token sequences, negative so that they are never mistaken for rows of the embedding table.
IMAGE = -1  # expands to ModelSpec.image_tokens rows
MASK = -2  # one row: the mask token of the region
POSITION = -3  # one row: the position token of the region

IMAGE_TEXT = "<image>"
MASK_TEXT = "<mask>"
POSITION_TEXT = "<pos>"
REGION_TEXT = MASK_TEXT + POSITION_TEXT

QUESTIONS: dict[str, str] = {
    "short": "Please give me a short description of <mask><pos>. Using a short phrase.",
    "detailed": "Can you give me a detailed description of <mask><pos>?",
    "category": "What is the category of <mask><pos>? Using only one word or phrase.",
}
# Longest answer in tokens by style, and to any other question. It is shorter where the model has fewer positions left.
MAX_NEW_TOKENS = {"short": 32, "detailed": 192, "category": 16}
MAX_NEW_TOKENS_OTHER = 96

# Names of regions, images and roles in the texts of this and of other models, and the special tokens.
_MARKER = re.compile(r"</?[A-Za-z_][\w-]*>|<\|[\w-]+\|>", re.ASCII)
_OWN_MARKER = re.compile(r"<(?:image|mask|pos|region\d*|/?s|unk)>", re.ASCII | re.IGNORECASE)
_REGION_MARKER = re.compile(r"<region(\d*)>", re.ASCII | re.IGNORECASE)

# What stands between the role and the question. "overview": published evaluation on LVIS and PACO, and all training
# here. "dotted": published evaluation of segmentation, RefCOCOg, detailed descriptions and Ferret-Bench, whose source
# texts have a full stop behind the image. "image": published evaluation on POPE. "demo": the published demo.
_OVERVIEW = "This provides an overview of the picture.\n"
OPENINGS: dict[str, str] = {
    "overview": f"{IMAGE_TEXT}\n{_OVERVIEW}",
    "dotted": f"{IMAGE_TEXT}\n.\n{_OVERVIEW}",
    "image": f"{IMAGE_TEXT}\n",
    "demo": f"{IMAGE_TEXT}\n\n{_OVERVIEW}",
}

_CACHED_PROMPTS = 256  # frame after frame has the same questions
_SHOWN = 60  # characters of a long question in a message


@dataclass(frozen=True)
class Template:
    """The fixed words of a conversation: ``{system} {user}: {overview}{question} {assistant}:``.

    By default all styles have the same opening: with the same words up to the question, one prefix serves every style.
    ``overview`` is one of `OPENINGS`.
    """

    name: str
    system: str
    user: str = "USER"
    assistant: str = "ASSISTANT"
    overview: str = OPENINGS["overview"]


OSPREY_V1 = Template(
    name="osprey_v1",
    system=(
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    ),
)


def template_named(name: str, opening: str = "overview") -> Template:
    """The template a manifest names, with one of the `OPENINGS`. Raises PromptError for an unknown name or opening."""
    if name != OSPREY_V1.name:
        raise PromptError(f"unknown conversation template {name!r}: this version knows {OSPREY_V1.name!r} only")
    if opening not in OPENINGS:
        raise PromptError(f"unknown opening {opening!r}: choose one of {', '.join(OPENINGS)}")
    return OSPREY_V1 if opening == "overview" else replace(OSPREY_V1, overview=OPENINGS[opening])


class PromptBuilder:
    """Turns questions and answers into token ids, and token ids back into text."""

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec, template: Template = OSPREY_V1) -> None:
        for text, expected in ((MASK_TEXT, spec.mask_id), (POSITION_TEXT, spec.pos_id)):
            found = tokenizer.token_to_id(text)
            if found != expected:
                raise PromptError(
                    f"the tokenizer gives {text} the id {found}, the model expects {expected}: "
                    "they do not belong together"
                )
        self.tokenizer = tokenizer
        self.spec = spec
        self.template = template
        self._region_prompts: dict[tuple[str, int], tuple[int, ...]] = {}

    def region_prompt(self, question: str, regions: int = 1) -> tuple[int, ...]:
        """Return the prompt of a question that names exactly this number of regions; see `prompt`.

        Raises PromptError as `prompt` does, and for another number.
        """
        key = (question, regions)
        known = self._region_prompts.get(key)
        if known is None:
            known = self.prompt(question, regions)
            if known.count(MASK) != regions:
                once = "once: it is asked about each region" if regions == 1 else f"{regions} times, once per region"
                if not regions:
                    once = "nowhere: it is asked about the whole image"
                raise PromptError(f"the question {question!r} must contain {REGION_TEXT} {once}")
            if len(self._region_prompts) >= _CACHED_PROMPTS:
                self._region_prompts.clear()
            self._region_prompts[key] = known
        return known

    def check_question(self, question: str) -> None:
        """Raise PromptError if a question about one region cannot be asked or is longer than the model can read."""
        needed = len(self.region_prompt(question)) - 1 + self.spec.image_tokens
        if needed > self.spec.max_positions:
            raise PromptError(
                f"the question {question[:_SHOWN]!r}... needs {needed} positions with the image, but the model has "
                f"{self.spec.max_positions}: shorten it"
            )

    def phrase(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a phrase to score as an answer. Raises PromptError if it cannot be an answer."""
        if not text.strip():
            raise PromptError(f"the phrase {text!r} is empty: give words that could be an answer")
        if find_marker(text) is not None:
            raise PromptError(f"the phrase {text!r} names a region or contains another marker: give words only")
        return self.answer(text)

    def prompt(self, question: str, regions: int = 1) -> tuple[int, ...]:
        """Token ids of the whole conversation up to where the answer begins, with IMAGE, MASK and POSITION in it.

        ``<mask><pos>`` in the question marks where the region is named; a question without it gets
        "Regarding <mask><pos>: " in front, with as many of them as there are ``regions``; nothing for 0
        regions. Several pairs are kept in order of mention.
        ``<region>``, or ``<region1>``, ``<region2>`` and so on in this order, stand for ``<mask><pos>``.

        Raises PromptError for an empty question, for one that is not UTF-8, for ``<image>`` and other markers, and
        for a ``<mask>`` without its ``<pos>``.
        """
        question = checked_question(question)
        if REGION_TEXT not in question and regions:
            question = f"Regarding {' and '.join([REGION_TEXT] * regions)}: {question}"
        return self._opening(question)

    def dialogue(self, turns: Sequence[tuple[str, str]]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Token ids of questions and their answers, as (question, answer) pairs, and which of them are answers.

        Questions are taken as they are: they may name no region, one or several. Raises PromptError as `prompt` does.
        """
        if not turns:
            raise PromptError("a dialogue needs at least one question and its answer")
        ids: list[int] = []
        is_answer: list[bool] = []
        for question, answer in turns:
            asked = checked_question(question)
            # An answer ends with its end-of-sequence token, and the next question follows at once.
            follow_up = f"{self.template.user}: {asked} {self.template.assistant}:"
            words = self._encode(follow_up) if ids else self._opening(asked)
            reply = self.answer(answer)
            ids += [*words, *reply]
            is_answer += [False] * len(words) + [True] * len(reply)
        return tuple(ids), tuple(is_answer)

    def _opening(self, question: str) -> tuple[int, ...]:
        """Token ids from the system's words to where the first answer begins."""
        template = self.template
        text = f"{template.system} {template.user}: {template.overview}{question} {template.assistant}:"
        before, after = text.split(IMAGE_TEXT)
        # The published code tokenizes the text on both sides of the image on its own.
        return (self.spec.bos_id, *self._encode(before), IMAGE, *self._encode(after))

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as it continues a prompt, with the end-of-sequence id behind it.

        Raises PromptError for a text that has none.
        """
        check_text(text, "the answer")
        # Whether a leading space belongs to the first token depends on the tokenizer: encode the answer behind the word
        # it will follow, and keep what was added.
        lead = f"{self.template.assistant}:"
        lead_ids = self._encode(lead)
        ids = self._encode(f"{lead} {text.strip()}")
        if ids[: len(lead_ids)] != lead_ids:
            raise PromptError(f"the tokenizer merges {lead!r} with the answer {text!r}: it cannot continue a prompt")
        return (*ids[len(lead_ids) :], self.spec.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of answer tokens, without special tokens and outer white space."""
        words = [one for one in ids if one not in self.spec.extra_eos_ids]
        return self.tokenizer.decode(words, skip_special_tokens=True).strip()

    def _encode(self, text: str) -> tuple[int, ...]:
        placeholders = {self.spec.mask_id: MASK, self.spec.pos_id: POSITION}
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return tuple(placeholders.get(i, i) for i in ids)


def style_question(style: str) -> str:
    """Return the question of a style. Raises PromptError for an unknown style."""
    if style not in QUESTIONS:
        raise PromptError(f"unknown style {style!r}: choose one of {', '.join(QUESTIONS)}")
    return QUESTIONS[style]


def answer_tokens(question: str) -> int:
    """Return the usual limit of an answer to a question, in tokens."""
    return next((MAX_NEW_TOKENS[style] for style, text in QUESTIONS.items() if text == question), MAX_NEW_TOKENS_OTHER)


def answer_kind(question: str) -> str:
    """Return the kind of a question's answers in the calibration: category, description, or attribute for others."""
    from osprey_ros.bundle.calibration import ATTRIBUTE, CATEGORY, DESCRIPTION  # needs numpy, which texts do not

    if question == QUESTIONS["category"]:
        return CATEGORY
    return DESCRIPTION if question in QUESTIONS.values() else ATTRIBUTE


def check_text(text: str, what: str) -> None:
    """Raises PromptError for text that was made of bytes which are not UTF-8; ``what`` it is begins the message."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{what} {text!r} is not UTF-8 text: write it in UTF-8, or without that character") from error


def find_marker(text: str, any_model: bool = True) -> str | None:
    """Return the first marker in a text, such as "<region1>", "<mask>" or "</s>"; None if it has none.

    ``any_model``: also find markers that only other models use, such as "<box>".
    """
    found = (_MARKER if any_model else _OWN_MARKER).search(text)
    return found[0] if found else None


def checked_question(question: str) -> str:
    """Return a question with its regions named as ``<mask><pos>``; `PromptBuilder.prompt` lists the errors.

    ``<region>``, or ``<region1>``, ``<region2>`` and so on in this order, are other spellings of ``<mask><pos>``.
    """
    question = question.strip()
    check_text(question, "the question")
    if not question:
        raise PromptError("the question is empty: ask something, such as 'What color is <mask><pos>?'")
    if IMAGE_TEXT in question:
        raise PromptError(
            f"the question {question!r} contains {IMAGE_TEXT}: the template inserts the image; name a region as "
            f"{REGION_TEXT}"
        )
    numbers = _REGION_MARKER.findall(question)
    if numbers:
        in_order = all(number in ("", str(place)) for place, number in enumerate(numbers, start=1))
        if REGION_TEXT in question or not in_order:
            raise PromptError(
                f"the question {question!r} must name each region as {REGION_TEXT}, in the order of the regions, or "
                "as <region1>, <region2> and so on"
            )
        question = _REGION_MARKER.sub(REGION_TEXT, question)
    pairs = question.count(REGION_TEXT)
    if question.count(MASK_TEXT) != pairs or question.count(POSITION_TEXT) != pairs:
        raise PromptError(f"the question {question!r} must name a region as {REGION_TEXT}, the two together")
    marker = find_marker(question.replace(REGION_TEXT, ""))
    if marker is not None:
        raise PromptError(
            f"the question {question!r} contains {marker}, which is no marker of this model: name each region as "
            f"{REGION_TEXT}, in the order of the regions"
        )
    return question


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all prompts share. It never reaches past the first MASK of any of them."""
    if not prompts:
        return 0
    first = prompts[0]
    limit = min(len(p) for p in prompts)
    length = 0
    while length < limit and first[length] != MASK and all(p[length] == first[length] for p in prompts):
        length += 1
    return length
