"""Generated recordings: `osprey bag`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from fuzz.commands import Outcome, new_folder, run
from hypothesis import given
from hypothesis import strategies as st
from recordings import (
    IMAGE,
    PERIOD,
    SEGMENTATION,
    START,
    Item,
    arrays,
    chatter_item,
    ids_item,
    image_item,
    shifted,
    write_folder,
)

from osprey_ros.cli.main import main
from osprey_ros.describer import Describer

STAMPS = st.one_of(st.integers(0, 4).map(lambda number: START + number * PERIOD), st.sampled_from([0, 1, 2**62]))


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, int, int]:
    """Return the kind, the stamp and a number of a message."""
    kind = draw(st.sampled_from(["image", "ids", "ids", "image", "small ids", "float ids", "chatter", "broken"]))
    return kind, draw(STAMPS), draw(st.integers(0, 50))


@pytest.fixture(scope="module")
def bag(tiny_model: TinyModel) -> Iterator[Callable[..., Outcome]]:
    """Run `osprey bag --json`; the engines are loaded once."""
    shared = Describer(tiny_model.bundle, threads=1)

    def call(recording: Path, output: Path, *more: str) -> Outcome:
        topics = ["--image", IMAGE, "--segmentation", SEGMENTATION, "--output", str(output)]
        model = ["--bundle", str(tiny_model.bundle), "--threads", "1", "--max-new-tokens", "2"]
        return run(main, ["bag", str(recording), *topics, *model, "--json", *more])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osprey_ros.describer.Describer", lambda *arguments, **options: shared)
        yield call


def _item(kind: str, stamp: int, number: int, sample: SampleImage) -> Item:
    if kind == "image":
        return image_item(shifted(sample, number), stamp)
    if kind == "chatter":
        return chatter_item(str(number), stamp)
    if kind == "broken":
        topic, name, data, moment = ids_item(sample.ids, stamp)
        return topic, name, data[:number], moment
    ids: dict[str, Any] = {"ids": sample.ids, "small ids": sample.ids[::2, ::2], "float ids": sample.ids.astype("f4")}
    return ids_item(np.ascontiguousarray(ids[kind]), stamp)


@given(
    parts=st.lists(messages(), max_size=6),
    storage=st.sampled_from(["mcap", "sqlite3"]),
    compression=st.sampled_from(["NONE", "FILE", "MESSAGE"]),
    damage=st.sampled_from(["none", "none", "cut", "no metadata", "file alone", "junk", "other storage"]),
    cut=st.integers(0, 5000),
    node=st.one_of(st.just("/osprey"), st.text(max_size=6)),
)
def test_recordings(
    parts: list[tuple[str, int, int]],
    storage: str,
    compression: str,
    damage: str,
    cut: int,
    node: str,
    bag: Callable[..., Outcome],
    sample: SampleImage,
    tmp_path: Path,
) -> None:
    folder = new_folder(tmp_path)
    items = [_item(*part, sample) for part in parts]
    recording = write_folder(folder / "in", items, storage, compression)
    files = sorted(path for path in recording.iterdir() if path.suffix != ".yaml")
    metadata = recording / "metadata.yaml"
    if damage == "no metadata":
        metadata.unlink()
    elif damage == "other storage":
        metadata.write_text(metadata.read_text().replace(f"storage_identifier: {storage}", "storage_identifier: ''"))
    elif damage == "file alone" and files:
        recording = files[0]
    elif damage in ("cut", "junk") and files:
        data = files[0].read_bytes()
        files[0].write_bytes(data[:cut] if damage == "cut" else b"Mac OS X" * 20)
    output = folder / "out.mcap"
    outcome = bag(recording, output, f"--node={node}")
    if outcome.status == 2:
        assert not output.exists()
        assert [path.name for path in folder.iterdir()] == ["in"]
    else:
        summary = outcome.json()
        assert output.exists()
        assert summary["described"] + len(summary["failed"]) == summary["frames"]
        if damage == "none":
            assert summary["kept"] == len(items)
        if node == "/osprey":
            assert sum(len(array.objects) for _, array in arrays(output)) == summary["objects"]
        wanted = {stamp for kind, stamp, _ in parts if kind == "image"}
        if len(wanted) > summary["described"]:
            assert summary["notes"] or summary["failed"], "frames are left out and nothing says so"
    shutil.rmtree(folder)
