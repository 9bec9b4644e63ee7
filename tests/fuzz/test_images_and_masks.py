"""Generated images, id images, folders of masks and questions: `osprey describe` and `osprey ask`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from fuzz.commands import Outcome, new_folder, run
from fuzz.files import FORMATS, NAMES, IdImage, ImageFile, id_images, image_files
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osprey_ros.cli.main import main
from osprey_ros.describer import Describer
from osprey_ros.errors import one_line

HEIGHT, WIDTH = 40, 48


@pytest.fixture(scope="module")
def describe(tiny_model: TinyModel) -> Iterator[Callable[..., Outcome]]:
    """Run `osprey describe --json`; the engines are loaded once."""
    shared = Describer(tiny_model.bundle, threads=1)

    def call(image: Path, masks: Path, *more: str) -> Outcome:
        inputs = ["--image", str(image), "--masks", str(masks), "--bundle", str(tiny_model.bundle)]
        return run(main, ["describe", *inputs, "--threads", "1", "--max-new-tokens", "2", "--json", *more])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osprey_ros.describer.Describer", lambda *arguments, **options: shared)
        yield call


def _ids(height: int, width: int) -> np.ndarray:
    """Return an id image, uint8 [height, width], with an id in each half, or one id if there is one column."""
    ids = np.ones((height, width), np.uint8)
    ids[:, width // 2 :] = 2
    return ids


def _save_image(path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path


@given(file=image_files(), suffix=st.sampled_from([None, *FORMATS.values(), ".heic", ""]))
def test_images(file: ImageFile, suffix: str | None, describe: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    image = folder / f"image{FORMATS[file.format] if suffix is None else suffix}"
    image.write_bytes(file.data)
    ids = _ids(*file.upright)
    Image.fromarray(ids).save(folder / "ids.png")
    outcome = describe(image, folder / "ids.png", "--min-area", "1")
    if outcome.status == 0 and not outcome.err:
        assert len(outcome.json()["regions"]) == len(np.unique(ids))
    if outcome.status == 2:
        assert str(image) in outcome.err or "ids.png" in outcome.err or "image" in outcome.err


@given(file=id_images(HEIGHT, WIDTH))
def test_id_images(file: IdImage, describe: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    masks = folder / f"ids{FORMATS[file.format]}"
    masks.write_bytes(file.data)
    outcome = describe(_save_image(folder / "image.png"), masks)
    if outcome.status == 0:
        found = {region["id"] for region in outcome.json()["regions"]}
        warned = any("never compared" not in line for line in outcome.err.splitlines())
        assert found == file.ids or warned, (found, file.ids, file.format)
    elif file.exact and file.ids:
        assert outcome.status == 2
        assert masks.name in outcome.err


@given(files=st.lists(st.tuples(NAMES, st.sampled_from(["mask", "mask", "empty", "junk", "other size", "jpeg"]))))
def test_mask_folders(
    files: list[tuple[str, str]], describe: Callable[..., Outcome], tmp_path: Path, sample: SampleImage
) -> None:
    folder = new_folder(tmp_path)
    masks = folder / "masks"
    masks.mkdir()
    kinds: dict[str, str] = {}
    for number, (name, kind) in enumerate(files):
        path = masks / f"{name}.png"
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: number % HEIGHT + 1, : WIDTH // 2] = 255
        try:
            if kind == "mask":
                Image.fromarray(mask).save(path)
            elif kind == "empty":
                Image.fromarray(mask * 0).save(path)
            elif kind == "junk":
                path.write_bytes(b"Mac OS X")
            elif kind == "jpeg":
                Image.fromarray(mask).save(path, "JPEG")
            else:
                Image.fromarray(mask[:-1, :-1]).save(path)
        except OSError:  # a name that this file system refuses
            continue
        kinds[path.name] = kind
    outcome = describe(_save_image(folder / "image.png"), masks)
    visible = {name: kind for name, kind in kinds.items() if not name.startswith(".")}
    good = [name for name, kind in visible.items() if kind == "mask"]
    if outcome.status == 0:
        regions = outcome.json()["regions"]
        described = {Path(region["file"]).name for region in regions}
        assert len(described) == len(regions)
        assert described <= set(kinds)
        for name in set(visible) - described:
            assert one_line(name) in outcome.err, f"{name} is lost: {outcome.err}"
        assert set(good) <= described
    else:
        assert not good, outcome.err


@given(question=st.text(max_size=60), ask=st.booleans())
def test_questions(
    question: str, ask: bool, describe: Callable[..., Outcome], tmp_path: Path, tiny_model: TinyModel
) -> None:
    folder = new_folder(tmp_path)
    image, masks = _save_image(folder / "image.png"), folder / "ids.png"
    Image.fromarray(_ids(HEIGHT, WIDTH)).save(masks)
    if ask:
        inputs = ["--image", str(image), "--masks", str(masks), "--bundle", str(tiny_model.bundle), "--threads", "1"]
        run(main, ["ask", *inputs, "--json", "--", question])
    else:
        describe(image, masks, f"--ask={question}")


@given(name=NAMES, attribute=st.text(max_size=20), wanted=st.sampled_from(["image", "masks", "overlay", "bundle"]))
def test_names(name: str, attribute: str, wanted: str, describe: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    image, masks = _save_image(folder / "image.png"), folder / "ids.png"
    Image.fromarray(_ids(HEIGHT, WIDTH)).save(masks)
    more = [f"--attributes={attribute}"] if attribute else []
    try:
        if wanted == "image":
            image = image.rename(folder / f"{name}.png")
        elif wanted == "masks":
            masks = masks.rename(folder / f"{name}.png")
    except OSError:
        return
    if wanted == "overlay":
        more.append(f"--overlay={folder / name}")
    if wanted == "bundle":
        more.append(f"--bundle={folder / name}")
    outcome = describe(image, masks, *more)
    if outcome.status == 0:
        assert len(outcome.json()["regions"]) == 2
