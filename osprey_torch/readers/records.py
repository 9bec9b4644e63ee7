"""The records that all readers yield: an image, its regions, and dialogues about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osprey_ros.decoding.prompt import REGION_TEXT, find_marker
from osprey_ros.errors import InputError
from osprey_torch.readers.segmentation import Segmentation


@dataclass(frozen=True)
class Turn:
    """One question and its answer. The question names regions as `<mask><pos>`, once for each of `regions`."""

    question: str
    answer: str
    regions: tuple[int, ...] = ()  # indices into the record's masks, in the order of mention

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.answer.strip():
            raise ValueError(f"a turn is empty: question {self.question!r}, answer {self.answer!r}")
        marker = find_marker(self.question.replace(REGION_TEXT, "")) or find_marker(self.answer, any_model=False)
        if marker is not None:
            raise ValueError(
                f"{marker} is a marker, and questions name regions as {REGION_TEXT} and answers not at all: "
                f"question {self.question!r}, answer {self.answer!r}"
            )
        mentions = self.question.count(REGION_TEXT)
        if mentions != len(self.regions):
            raise ValueError(f"the question names {mentions} regions and lists {len(self.regions)}: {self.question!r}")


@dataclass(frozen=True)
class Record:
    """One image with dialogues about it.

    A turn can refer to earlier turns of its dialogue. Dialogues are independent, so they can be packed after one image.
    """

    image: Path
    masks: tuple[Segmentation, ...]
    dialogues: tuple[tuple[Turn, ...], ...]
    origin: str  # "file, record 12", for messages

    def __post_init__(self) -> None:
        for turns in self.dialogues:
            for turn in turns:
                if any(not 0 <= region < len(self.masks) for region in turn.regions):
                    raise ValueError(f"a question is about regions {turn.regions}, there are {len(self.masks)} masks")


@dataclass
class Skipped:
    """Counts omitted records and single masks, and keeps the first reasons.

    With `strict` the first broken record raises InputError instead. Records that are left out on purpose are no fault.

    Attributes:
        count: Number of broken records and masks.
        messages: The first of them with their reasons, up to ``keep``.
        left_out: How many records and masks were left out on purpose, by reason.
    """

    strict: bool = False
    count: int = 0
    messages: list[str] = field(default_factory=list)
    keep: int = 20
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Number of all omitted records and masks."""
        return self.count + self.left_out.total()

    def leave_out(self, reason: str) -> None:
        """Count a record or a mask that is left out on purpose."""
        self.left_out[reason] += 1

    def add(self, origin: str, reason: str) -> None:
        if self.strict:
            raise InputError(f"{origin}: {reason}")
        self.count += 1
        if len(self.messages) < self.keep:
            self.messages.append(f"{origin}: {reason}")

    def summary(self) -> str:
        """Return one line for a log, and the reasons below it: all those of `leave_out`, the first of the others."""
        if not self.total:
            return "no record was skipped"
        reasons = [f"{count} left out: {reason}" for reason, count in self.left_out.most_common()]
        more = self.count - len(self.messages)
        rest = [f"and {more} more"] if more else []
        return "\n  ".join([f"{self.total} records or single masks were skipped", *reasons, *self.messages, *rest])


def each_record(
    entries: list[dict[str, Any]], file: Path, skipped: Skipped, read: Callable[[dict[str, Any], str], Record | None]
) -> Iterator[Record]:
    """Yield read(entry, origin) of every entry; what is missing or malformed in one is counted in `skipped`.

    `read` returns None for a valid entry without a dialogue, which is not counted.
    """
    for index, entry in enumerate(entries):
        origin = f"{file}, record {index}"
        try:
            record = read(entry, origin)
        except KeyError as error:
            skipped.add(origin, f"the key {error} is missing")
        except InputError as error:
            if skipped.strict:
                raise  # it names its origin
            skipped.add(origin, str(error))
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            skipped.add(origin, str(error))
        else:
            if record is not None:
                yield record
