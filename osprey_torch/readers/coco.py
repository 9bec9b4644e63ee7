"""Data sets in COCO's layout: one JSON file with `images`, `annotations` and `categories`.

COCO instances, Pascal-Part and PartImageNet say what a region is by its category; RefCOCO, RefCOCO+ and RefCOCOg with
masks by the sentence of their image entry (each entry is one expression, so an image occurs many times); Visual Genome
with masks by the caption of the annotation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_ros.errors import InputError
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Record, Skipped, Turn, each_record
from osprey_torch.readers.segmentation import Segmentation, with_area

PART_QUESTION = f"What is {REGION_TEXT}, and of which object is it a part? Using a short phrase."
REFERRING_QUESTION = (
    f"Please tell {REGION_TEXT} apart from everything else in the picture by its looks and its place. "
    "Using a short phrase."
)
REFERRING_QUESTION_WITHOUT_PLACE = (
    f"Please tell {REGION_TEXT} apart from everything else in the picture by its looks, without saying where it is. "
    "Using a short phrase."
)

Label = Callable[[dict[str, Any], dict[str, Any], dict[str, str]], str]


def coco_instances(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `instances_train2017.json`: the category of each object."""
    return _read(read_json(file), file, images, skipped, {QUESTIONS["category"]: _category})


def pascal_part(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read Pascal-Part as VLPart distributes it; categories are "object:part"."""
    return _read(read_json(file), file, images, skipped, {PART_QUESTION: _part})


def part_imagenet(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `train_format.json` of PartImageNet; categories are "Object Part"."""
    return _read(read_json(file), file, images, skipped, {PART_QUESTION: _part})


def refcoco(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `finetune_refcoco_train_with_mask.json`, and RefCOCOg's file: the sentence that refers to the region."""
    return _read(read_json(file), file, images, skipped, {REFERRING_QUESTION: _sentence}, strip_split=True)


def refcoco_plus(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `finetune_refcoco+_train_with_mask.json`: sentences that do not say where the region is."""
    return _read(
        read_json(file), file, images, skipped, {REFERRING_QUESTION_WITHOUT_PLACE: _sentence}, strip_split=True
    )


def visual_genome(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `vg_train_with_mask.json`: a short description of each region."""
    return _read(read_json(file), file, images, skipped, {QUESTIONS["short"]: _caption})


def own_masks(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read a COCO file of your own: the category of each annotation and, if present, more facts.

    `caption`: a short phrase. `description`: a sentence or more. `attributes`: {"color": "red"}, asked for by name;
    values that are not text, such as the "occluded": false of labeling tools, say nothing.
    """
    questions: dict[str, Label] = {QUESTIONS["category"]: _category}
    questions |= {QUESTIONS[style]: _if_any(key) for style, key in (("short", "caption"), ("detailed", "description"))}
    data = read_json(file)
    annotations = data.get("annotations", ()) if isinstance(data, dict) else ()
    annotations = annotations if isinstance(annotations, list) else ()
    names = dict.fromkeys(name for annotation in annotations for name in _attributes(annotation))
    questions |= {f"What {name} is {REGION_TEXT}?": _attribute(name) for name in names}
    return _read(data, file, images, skipped, questions)


def _read(
    data: Any, file: Path, images: Path, skipped: Skipped, labels: Mapping[str, Label], strip_split: bool = False
) -> Iterator[Record]:
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise InputError(f"{file} must hold lists 'images' and 'annotations' as COCO's files do")
    categories = category_names(data, file)
    of_image = annotations_by_image(data, file, skipped)

    def read(entry: dict[str, Any], origin: str) -> Record | None:
        height, width = int(entry["height"]), int(entry["width"])
        masks: list[Segmentation] = []
        dialogues: list[tuple[Turn, ...]] = []
        annotations = of_image.get(id_text(entry["id"]), [])
        if not annotations:
            skipped.leave_out("an image has no annotation")
        for annotation in annotations:
            if annotation.get("ignore") or annotation.get("iscrowd"):
                key = "iscrowd" if annotation.get("iscrowd") else "ignore"
                skipped.leave_out(f"an annotation has {key} {annotation[key]}; set it to 0 if it is one object")
                continue
            try:
                mask = mask_of(annotation, height, width)
                answers = {question: label(entry, annotation, categories) for question, label in labels.items()}
                found = [(Turn(question, answer, (len(masks),)),) for question, answer in answers.items() if answer]
            except KeyError as error:
                skipped.add(f"{origin}, annotation {annotation.get('id')}", f"the key {error} is missing")
            except (TypeError, ValueError, IndexError, AttributeError) as error:
                skipped.add(f"{origin}, annotation {annotation.get('id')}", str(error))
            else:
                masks.append(mask)
                dialogues += found
        name = str(entry["file_name"])
        # The referring sets name images by split ("COCO_train2014_000000000009.jpg"), users have them by number.
        image = images / (name.split("_")[-1] if strip_split else name)
        return Record(image, tuple(masks), tuple(dialogues), origin) if dialogues else None

    return each_record(data["images"], file, skipped, read)


def mask_of(annotation: dict[str, Any], height: int, width: int) -> Segmentation:
    """Return the mask of an annotation for an image of this size. Raises KeyError, TypeError or ValueError."""
    data = with_area(annotation["segmentation"])
    if data == []:  # a box without a mask, or nothing but points and lines
        raise ValueError("its segmentation has no polygon")
    return Segmentation(data, height, width)


def category_names(data: dict[str, Any], file: Path) -> dict[str, str]:
    """Return the names of the categories by the text of their ids. Raises InputError if one has no id or name."""
    entries = data.get("categories") or []
    try:
        return {id_text(entry["id"]): str(entry["name"]) for entry in entries}
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: each of the 'categories' must be an object with 'id' and 'name'") from error


def annotations_by_image(data: dict[str, Any], file: Path, skipped: Skipped) -> dict[str, list[dict[str, Any]]]:
    """Return the annotations by the text of their image's id; those of no image are counted."""
    known = {id_text(entry["id"]) for entry in data["images"] if isinstance(entry, dict) and "id" in entry}
    of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, annotation in enumerate(data["annotations"]):
        if not isinstance(annotation, dict):
            skipped.add(f"{file}, annotation {number}", f"it is {type(annotation).__name__}, not an object")
        elif id_text(annotation.get("image_id")) in known:
            of_image[id_text(annotation["image_id"])].append(annotation)
        else:
            skipped.leave_out("the image_id of an annotation is not among the file's images")
    return of_image


def id_text(value: object) -> str:
    """Return an id as text: tools write the same id as 1, 1.0 and "1"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _category(entry: dict[str, Any], annotation: dict[str, Any], categories: dict[str, str]) -> str:
    return category_of(annotation, categories)


def category_of(annotation: dict[str, Any], categories: dict[str, str]) -> str:
    """Return the name of an annotation's category. Raises KeyError or ValueError if it has none of the file."""
    number = annotation["category_id"]
    if id_text(number) not in categories:
        raise ValueError(f"category_id {number} is not among the file's categories")
    return categories[id_text(number)].replace("_", " ")


def _part(entry: dict[str, Any], annotation: dict[str, Any], categories: dict[str, str]) -> str:
    name = _category(entry, annotation, categories)
    whole, separator, part = name.partition(":" if ":" in name else " ")
    if not separator:
        raise ValueError(f"category {name!r} does not name an object and its part")
    return f"{part.strip().lower()} of {_article(whole.strip().lower())}"


def _sentence(entry: dict[str, Any], annotation: dict[str, Any], categories: dict[str, str]) -> str:
    return _text(entry["caption"])


def _caption(entry: dict[str, Any], annotation: dict[str, Any], categories: dict[str, str]) -> str:
    return _text(annotation["caption"])


def _if_any(key: str) -> Label:
    """Return the text of an annotation under this key; none where it has none."""
    return lambda entry, annotation, categories: _text(annotation[key], key) if annotation.get(key) else ""


def _attribute(name: str) -> Label:
    return lambda entry, annotation, categories: _attributes(annotation).get(name, "")


def _attributes(annotation: Any) -> dict[str, str]:
    """Return the attributes of an annotation that are texts."""
    attributes = annotation.get("attributes") if isinstance(annotation, dict) else None
    if not isinstance(attributes, dict):
        return {}
    return {name: value.strip() for name, value in attributes.items() if isinstance(value, str) and value.strip()}


def _text(value: object, name: str = "caption") -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the {name} is {value!r}")
    return value.strip()


def _article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
