"""Engines whose outputs are not finite end a call with one error; several end tokens end an answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import SampleImage, TinyModel, up_to
from onnx import TensorProto, numpy_helper
from PIL import Image

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import EMBEDDINGS, MANIFEST, MASK_EXTRACTOR, VISION
from osprey_ros.describer import Describer
from osprey_ros.errors import EngineError
from osprey_ros.results import Result


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model.bundle, tmp_path / "bundle"))


def fill_with_nan(folder: Path, name: str) -> None:
    """Replace the weights in a file of a bundle, as a training that diverged does."""
    manifest = Bundle.open(folder).manifest
    if name == EMBEDDINGS:
        np.save(folder / name, np.full_like(np.load(folder / name), np.nan))
    else:
        model = onnx.load(folder / name)
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
                array = np.full_like(numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(model, folder / name)
    write_manifest(
        folder,
        name=manifest.name,
        model=manifest.model,
        template=manifest.template,
        precisions=manifest.precisions,
        verification=manifest.verification,
    )


def describe(folder: Path, sample: SampleImage) -> Result:
    with Describer(folder) as describer:
        describer.set_image(sample.rgb)
        return describer.describe(sample.ids, config=up_to(6))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (VISION, r"the vision engine returned values that are not finite .*--vision fp32"),
        (MASK_EXTRACTOR, r"the mask extractor engine returned values that are not finite .*--mask-extractor fp32"),
        (EMBEDDINGS, r"the decoder engine returned values that are not finite .*--llm fp32"),
    ],
)
def test_an_engine_that_returns_nan_is_named(folder: Path, sample: SampleImage, name: str, words: str) -> None:
    fill_with_nan(folder, name)
    with pytest.raises(EngineError, match=words):
        describe(folder, sample)


def test_every_end_token_ends_an_answer(folder: Path, sample: SampleImage) -> None:
    before = describe(folder, sample)
    end = int(before[0].tokens[1])
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["model"]["extra_eos_ids"] = [end]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    tokenizer = Bundle.open(folder).tokenizer()
    for one, other in zip(before, describe(folder, sample), strict=True):
        tokens = one.tokens.tolist()
        expected = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        assert other.tokens.tolist() == expected
        assert other.text == tokenizer.decode([token for token in expected if token != end]).strip()


def test_paths_with_other_characters_work_without_a_utf8_locale(
    folder: Path, sample: SampleImage, tmp_path: Path
) -> None:
    folder = folder.rename(tmp_path / "nänö")
    Image.fromarray(sample.rgb).save(tmp_path / "bïld.png")
    Image.fromarray(sample.ids).save(tmp_path / "mäsken.png")
    command = [sys.executable, "-m", "osprey_ros", "describe", "--bundle", str(folder), "--json"]
    command += ["--image", str(tmp_path / "bïld.png"), "--masks", str(tmp_path / "mäsken.png"), "--max-new-tokens", "1"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["image"] == str(tmp_path / "bïld.png")
    assert len(report["regions"]) == 5
