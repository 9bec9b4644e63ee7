"""Captions of regions on RefCOCOg: METEOR, CIDEr, BLEU and ROUGE-L, by pycocoevalcap.

Source: osprey/eval/refcocog_eval.py of CircleRadon/Osprey, commit deb0e57. Its README leaves the scoring to
"CaptionMetrics"; the files that it writes are those of COCOEvalCap, which is called here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.published.answers import Answers
from evaluation.published.command import Task, run_task
from evaluation.published.data import counted, find_file, image_folder, read_object
from evaluation.published.items import Item, Measure, Scored, mean_measure
from evaluation.published.texts import between_colons, prompt_text, stripped
from osprey_ros.cli._edge import command
from osprey_ros.errors import InputError
from osprey_torch.readers.coco import mask_of
from osprey_torch.readers.records import Skipped
from osprey_torch.readers.segmentation import Segmentation

OPENING = "dotted"
QUESTION = "Please give me a short description of <mask><pos>."
BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
METRICS = ("CIDEr", "METEOR", "ROUGE_L", *BLEU)
_Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class CaptionData:
    """The questions, and the reference caption of each."""

    items: Sequence[Item]
    references: Mapping[str, str]


def read(data: Path, images: Path | None, annotations: Path | None, skipped: Skipped) -> CaptionData:
    """Read `finetune_refcocog_val_with_mask.json`: each entry of `images` is an expression with its annotations.

    An item is the id of an annotation; an expression with two annotations gives two items with the same reference, one
    without gives none. Image files are named by what stands behind the last "_". Raises InputError for other files;
    broken entries are counted.
    """
    file = annotations or find_file(data, "*refcocog*_with_mask.json", "--annotations")
    content = read_object(file, "images", "annotations")
    folder = image_folder(data, images)
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for index, annotation in enumerate(content["annotations"]):
        with counted(f"{file}, annotation {index}", skipped):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
    entries = [entry for entry in content["images"] if isinstance(entry, dict)]
    crowds = Counter(str(entry.get("file_name")) for entry in entries)
    items: list[Item] = []
    references: dict[str, str] = {}
    for index, entry in enumerate(content["images"]):
        with counted(f"{file}, image entry {index}", skipped):
            name, caption, size = str(entry["file_name"]), entry["caption"], (int(entry["height"]), int(entry["width"]))
            if not isinstance(caption, str):
                raise ValueError(f"its caption is {caption!r}; it must be a text")
            own = of_image.get(entry["id"], [])
            if not own:
                skipped.leave_out("an expression has no annotation")
            for annotation in own:
                one, mask = str(annotation["id"]), mask_of(annotation, *size)
                image = folder / name.rpartition("_")[2]
                items.append(Item(one, image, QUESTION, OPENING, mask, caption, crowds[name]))
                references[one] = caption
    return CaptionData(items, references)


def cleaned(answer: str) -> str:
    """Return the caption that the published script stores: cut at colons, with a new line behind each full stop."""
    return between_colons(stripped(answer)).replace(".", ".\n")


def require_java() -> None:
    """Raise InputError if there is no Java, which the PTB tokenizer and METEOR need."""
    if shutil.which("java") is None:
        raise InputError(
            "the published scores need Java for the PTB tokenizer and METEOR, and `java` is not found; install a Java "
            "runtime (such as default-jre-headless), or give --no-java for CIDEr, BLEU and ROUGE-L on plain words, "
            "which are not comparable with the published ones"
        )


def score(data: CaptionData, answers: Answers, java: bool = True) -> Scored:
    """Return the scores of pycocoevalcap for each item and for all.

    The document frequencies of CIDEr come from these references, so that a subset has other scores. BLEU of all is that
    of the corpus. ``totals_no_tokeniser`` are the scores without the PTB tokenizer, as in CaptionMetrics.

    Args:
        data: Items and references.
        answers: The answers.
        java: Whether to use what needs Java. Without it there is no ``totals`` and no METEOR.

    Raises InputError if pycocoevalcap or Java is missing.
    """
    if java:
        require_java()
    kept = [item for item in data.items if item.id in answers.texts]
    texts = {item.id: answers.texts[item.id] if answers.stored else cleaned(answers.texts[item.id]) for item in kept}
    said: _Texts = {one: [text] for one, text in texts.items()}
    true: _Texts = {one: [data.references[one]] for one in texts}
    plain_totals, each = score_captions(true, said, java)
    fields = {
        item.id: {
            "caption_out": texts[item.id],
            "mask_pixels": _pixels(item),
            "prompt": prompt_text(item.question, item.opening),
        }
        for item in kept
    }
    totals = plain_totals
    if java and kept:
        true, said = tokenized(true), tokenized(said)
        totals, each = score_captions(true, said, java)
        for one in fields:
            fields[one] |= {"tok_ref": list(true[one]), "tok_hyp": list(said[one])}
    for name, values in each.items():
        for one in fields:
            fields[one][name] = values[one]
    measures = [_measure(name, kept, each[name], true, said) for name in METRICS if name in each]
    shown = {name: totals[name] for name in METRICS if name in totals}
    worst = each.get("CIDEr", {})
    extra = {"totals_no_tokeniser": plain_totals}
    return Scored(fields, totals if java else {}, shown, measures, worst, extra)


def score_captions(true: _Texts, said: _Texts, meteor: bool) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the scores of all captions, and those of each, by name of the score.

    Args:
        true: References of each item.
        said: One caption of each item.
        meteor: Whether to compute METEOR, which needs Java.

    Raises InputError if pycocoevalcap is not installed.
    """
    scorers = _scorers(meteor)
    if not said:
        return {}, {}
    true, said = _one_line(true), _one_line(said)
    totals: dict[str, float] = {}
    each: dict[str, dict[str, float]] = {}
    for names, scorer in scorers:
        with contextlib.redirect_stdout(io.StringIO()):
            total, values = scorer.compute_score(true, said)
        several = len(names) > 1
        for number, name in enumerate(names):
            totals[name] = float(total[number] if several else total)
            own = values[number] if several else values
            each[name] = {one: float(value) for one, value in zip(said, own, strict=True)}
    return totals, each


def _scorers(meteor: bool) -> list[tuple[tuple[str, ...], Any]]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
    except ModuleNotFoundError as error:
        raise InputError(f"captions need {error.name}, which is not installed; run `make eval-extras`") from error
    scorers: list[tuple[tuple[str, ...], Any]] = [(BLEU, Bleu(4)), (("ROUGE_L",), Rouge()), (("CIDEr",), Cider())]
    return [*scorers, (("METEOR",), Meteor())] if meteor else scorers


def tokenized(texts: _Texts) -> _Texts:
    """Return texts as the PTB tokenizer of pycocoevalcap leaves them. It needs Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    as_records = {one: [{"caption": text} for text in own] for one, own in texts.items()}
    result: dict[str, list[str]] = PTBTokenizer().tokenize(as_records)
    return result


def _one_line(texts: _Texts) -> _Texts:
    """Return texts without line breaks, because METEOR reads one line for each text."""
    return {one: [text.replace("\n", " ") for text in own] for one, own in texts.items()}


def _measure(name: str, kept: Sequence[Item], values: Mapping[str, float], true: _Texts, said: _Texts) -> Measure:
    """Return the figure of one score over any choice of items.

    Corpus BLEU is computed again; the other figures are means over items, CIDEr with the document frequencies of all.
    METEOR of all is not such a mean.
    """
    mean = mean_measure("METEOR_item_mean" if name == "METEOR" else name, kept, values)
    if name not in BLEU:
        return mean
    order = BLEU.index(name)
    counts = np.array([_bleu_counts(true[item.id][0], said[item.id][0]) for item in kept], np.float64).reshape(-1, 10)

    def corpus(rows: np.ndarray) -> float:
        sums = counts[rows].sum(axis=0)
        return _bleu(sums, order + 1) if len(rows) else np.nan

    return Measure(name, mean.groups, corpus, mean.rows)


def _bleu_counts(true: str, said: str) -> list[int]:
    """Return lengths of caption and reference, then for n of 1 to 4 the n-grams of the caption that match, and all."""
    words, reference = said.split(), true.split()
    counts = [len(words), len(reference)]
    for size in range(1, 5):
        own, others = Counter(_grams(words, size)), Counter(_grams(reference, size))
        counts += [sum((own & others).values()), max(0, len(words) - size + 1)]
    return counts


def _grams(words: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _bleu(sums: np.ndarray, order: int) -> float:
    """Return corpus BLEU of summed `_bleu_counts` (Papineni et al., ACL 2002), smoothed as pycocoevalcap does."""
    tiny, small = 1e-15, 1e-9
    product = 1.0
    for size in range(order):
        product *= (sums[2 + 2 * size] + tiny) / (sums[3 + 2 * size] + small)
    ratio = (sums[0] + tiny) / (sums[1] + small)
    return float(product ** (1 / order) * (np.exp(1 - 1 / ratio) if ratio < 1 else 1.0))


def _pixels(item: Item) -> int:
    assert isinstance(item.mask, Segmentation)
    return item.mask.area


class _Captioning(Task):
    name = "captioning"
    about = __doc__ or ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--no-java",
            dest="java",
            action="store_false",
            help="compute CIDEr, BLEU and ROUGE-L on plain words, without the PTB tokenizer and METEOR",
        )

    def check(self, arguments: argparse.Namespace) -> None:
        _scorers(meteor=False)
        if arguments.java:
            require_java()

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> CaptionData:
        return read(arguments.data, arguments.images, arguments.annotations, skipped)

    def score(
        self, data: CaptionData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        return score(data, answers, arguments.java)


@command("osprey eval captioning")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_Captioning(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
