"""Things that were never seen in training: held-out kinds, and cut-outs pasted on backgrounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from evaluation.figures import RESAMPLES, Bootstrap, Figure, auroc
from evaluation.kind_names import KindNames
from evaluation.photograph_answers import Asker, Judged, judge
from osprey_ros.errors import ImageError, InputError, OspreyError
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.packs import PackObject
from osprey_torch.readers.records import Skipped

CONFIDENT_WRONG = 0.5
_CANVAS = (480, 640)  # height, width
_SIDES = (140, 320)  # pixels of the longer side of a pasted cut-out
_BLUR = 5.0  # pixels; a background shows no object that could be taken for the cut-out
_OPAQUE = 128
_DRAWN = "cartoon"  # folder of cut-outs that are drawings


def unseen_figures(known: Sequence[Judged], unseen: Sequence[Judged], resamples: int = RESAMPLES) -> dict[str, Figure]:
    """Return figures of unseen objects.

    "wrong_specific" is the share of wrong specific kinds with a confidence over 0.5 among them; "auroc" is the chance
    that an unseen object has a higher "unlike training" than a known one.
    """
    both = [*known, *unseen]
    bootstrap = Bootstrap([(one.pack, one.image) for one in both], resamples)
    new = np.arange(len(both)) >= len(known)
    unlike = np.array([one.plain.unlike_training for one in both])
    wrong = np.array([one.wrong_specific and one.backed_off.confidence > CONFIDENT_WRONG for one in both], bool)

    def separation(rows: np.ndarray) -> float:
        return auroc(unlike[rows[~new[rows]]], unlike[rows[new[rows]]])

    return {
        "wrong_specific": bootstrap.mean(wrong, new),
        "auroc": bootstrap.statistic(separation, np.ones(len(both), bool)),
    }


def stamp_files(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return the PNG files of folders, each with its path from the name of its folder on.

    Raises:
        InputError: The folders have no PNG file.
    """
    found = [
        (file, Path(folder.resolve().name) / file.relative_to(folder))
        for folder in folders
        for file in sorted(folder.rglob("*.png"))
    ]
    if not found:
        raise InputError(f"{', '.join(map(str, folders))}: no PNG file is there; give folders of cut-outs")
    return found


def stamp_answers(
    asker: Asker,
    names: KindNames,
    files: Iterable[tuple[Path, Path]],
    photographs: Sequence[PackObject],
    skipped: Skipped,
) -> Iterator[Judged]:
    """Ask about cut-outs, each pasted on a blurred photograph, and judge the answers by the words of their paths.

    Cut-outs below a folder "cartoon" are drawings and left out. The true words of "animals/birds/barn_owl.png" are
    "barn owl", "owl", "barn", "bird" and "animal".
    """
    backgrounds = list(dict.fromkeys(obj.image for obj in photographs))
    for file, path in files:
        words = stamp_words(path)
        if _DRAWN in path.parts:
            skipped.leave_out("a cut-out is a drawing")
            continue
        try:
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:8], "big"))
            background = load_image(backgrounds[int(rng.integers(len(backgrounds)))])
            rgb, mask = pasted(read_cut_out(file), background, rng)
            ((plain, backed_off),) = asker.ask(rgb, [mask])
        except OspreyError as error:
            skipped.add(str(path), str(error))
            continue
        kinds = [names.kind(word) for word in words]
        truth = next((kind for kind in kinds if names.covers(backed_off.text, kind)), kinds[0])
        yield judge(names, ("stamps", path.as_posix(), 1), truth, float(mask.mean()), (plain, backed_off))


def stamp_words(path: Path) -> list[str]:
    """Return the words that are true of a cut-out, its full name first: those of its file name and of its folders."""
    letters = "".join(letter if letter.isalpha() else " " for letter in path.stem.lower())
    parts = letters.split()
    folders = [_singular(part.lower()) for part in reversed(path.parts[:-1])]
    return list(dict.fromkeys([" ".join(parts), *reversed(parts), *folders]))


def read_cut_out(file: Path) -> np.ndarray:
    """Return a cut-out, uint8 [H, W, 4], RGB and alpha, cut to its opaque pixels.

    Raises:
        ImageError: The file cannot be read, or has no opaque pixel.
    """
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"image {file} cannot be read; give PNG files with alpha") from error
    rows, columns = np.nonzero(pixels[:, :, 3] >= _OPAQUE)
    if not len(rows):
        raise ImageError(f"image {file} has no opaque pixel; give PNG files with alpha")
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def pasted(cut_out: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paste a cut-out at a random place and size on a blurred background.

    Returns:
        The image, uint8 [480, 640, 3], and the mask of the cut-out, bool [480, 640].
    """
    height, width = _CANVAS
    canvas = cv2.GaussianBlur(cv2.resize(background, (width, height), interpolation=cv2.INTER_AREA), (0, 0), _BLUR)
    scale = float(rng.uniform(*_SIDES)) / max(cut_out.shape[:2])
    size = (max(1, round(cut_out.shape[1] * scale)), max(1, round(cut_out.shape[0] * scale)))
    resized = cv2.resize(cut_out, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = int(rng.integers(height - size[1] + 1)), int(rng.integers(width - size[0] + 1))
    place = (slice(top, top + size[1]), slice(left, left + size[0]))
    alpha = resized[:, :, 3:].astype(np.float32) / 255
    canvas[place] = np.rint(alpha * resized[:, :, :3] + (1 - alpha) * canvas[place]).astype(np.uint8)
    mask = np.zeros(_CANVAS, bool)
    mask[place] = resized[:, :, 3] >= _OPAQUE
    return canvas, mask


def _singular(word: str) -> str:
    for plural, singular in (("ies", "y"), ("shes", "sh"), ("s", "")):
        if word.endswith(plural) and not word.endswith("ss"):
            return word.removesuffix(plural) + singular
    return word
