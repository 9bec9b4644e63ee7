"""Real parts that several test files share: a tiny random model, its bundle, and an image with regions."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from osprey_ros.bundle.default import VARIABLE
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.config import GenerationConfig, Sampling
from osprey_ros.describer import Describer
from osprey_ros.system.warn_once import forget_warnings

# The bundle of tests that name none: they expect the words of nano about tabletops.
os.environ[VARIABLE] = "nano"

# Folders and files whose tests start nodes, and those whose tests build, train, render or measure for seconds.
ROS = ("ros", "osprey_sim/test_ros_demo.py")
SLOW = (
    "cli/test_programs.py",
    "evaluation",
    "export",
    "examples",
    "osprey_sim",
    "osprey_torch",
    "training",
    "bundle/test_nano.py",
)


# A shell starts jobs in the background with SIGINT ignored, nohup ignores SIGHUP, and programs under test would inherit
# that.
_SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
for _number, _handler in _SIGNALS.items():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(autouse=True)
def signals_of_the_process() -> Iterator[None]:
    """Undo what programs that run in this process do to signals: a node ignores them while it ends."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its place as ``ros``, ``slow`` or, where neither holds and no GPU is needed, ``unit``."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        for marker, places in (("ros", ROS), ("slow", SLOW)):
            if path.startswith(places):
                item.add_marker(marker)
        if not any(item.get_closest_marker(marker) for marker in ("ros", "slow", "gpu")):
            item.add_marker("unit")


@pytest.fixture(autouse=True)
def warnings_are_logged_in_each_test() -> Iterator[None]:
    """Log the warnings again that a process logs once."""
    yield
    forget_warnings()


@dataclass(frozen=True)
class TinyModel:
    """A random Osprey as a checkpoint folder and as an fp32 bundle folder of the same weights."""

    checkpoint: Path
    bundle: Path


@dataclass(frozen=True)
class SampleImage:
    """An image uint8 [H, W, 3] and its id image uint16 [H, W] with regions 3, 7, 9, 12 and 300."""

    rgb: np.ndarray
    ids: np.ndarray


def up_to(max_new_tokens: int, sampling: Sampling | None = None) -> GenerationConfig:
    """Return a configuration for answers of at most this number of tokens."""
    return GenerationConfig(max_new_tokens=max_new_tokens, sampling=sampling)


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """The numbers of a small model that exists only on paper."""
    return ModelSpec(
        image_size=64,
        image_mean=(0.5, 0.4, 0.3),
        image_std=(0.2, 0.2, 0.25),
        feature_channels=(8, 16, 24, 32),
        image_tokens=16,
        position_size=14,
        hidden_size=4,
        num_layers=2,
        num_heads=2,
        head_dim=2,
        vocab_size=10,
        max_positions=128,
        bos_id=1,
        eos_id=2,
        mask_id=10,
        pos_id=11,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def crop_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The tiny model with crops of 32 pixels; all other weights are the same."""
    return make_tiny_model(tmp_path_factory.mktemp("crops"), crop_size=32)


def make_tiny_model(folder: Path, crop_size: int = 0) -> TinyModel:
    # Imported here: tests that need no model do not wait for torch.
    import torch
    from tiny import TINY

    from export.build import Precisions, build_bundle
    from osprey_ros.decoding.prompt import QUESTIONS
    from osprey_torch.checkpoint import save_checkpoint
    from osprey_torch.model import Osprey
    from training.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(list(QUESTIONS.values()) * 5, vocab_size=300)
    config = replace(TINY.with_vocabulary(tokenizer.token_to_id("<mask>")), max_positions=256, crop_size=crop_size)
    torch.manual_seed(3)
    model = Osprey(config).eval()
    # Sure of its words, so that no near tie flips between two ways of computing the same, and each region and each
    # token before matters: with fresh weights all answers would be one.
    model.lm_head.weight.data *= 60
    model.mask_extractor.feat_linear.weight.data *= 10
    model.mask_extractor.mask_linear.layers[2].weight.data *= 10
    for layer in model.model.layers:
        for part in layer.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.data *= 8
    # The bundle keeps embeddings in fp16: the checkpoint gets the very same numbers.
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data.half().float()
    if crop_size:
        torch.nn.init.normal_(model.mask_extractor.crop.feat_linear.weight, std=4.0)
    save_checkpoint(model, tokenizer, folder / "checkpoint")
    build_bundle(
        folder / "checkpoint",
        folder / "bundle",
        name="tiny",
        verify=False,
        precisions=Precisions(llm="fp32", lm_head="fp32"),
    )
    return TinyModel(folder / "checkpoint", folder / "bundle")


@pytest.fixture(scope="session")
def sample() -> SampleImage:
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    ids = np.zeros((60, 80), np.uint16)
    ids[5:25, 5:30] = 3
    ids[10:50, 40:70] = 7
    ids[30:55, 8:33] = 9
    ids[20:26, 45:60] = 12
    ids[58, 2:78] = 300
    for region in (3, 7, 9, 12):
        rgb[ids == region] = rng.integers(0, 256, 3)
    return SampleImage(rgb, ids)


@pytest.fixture(scope="module")
def describer(tiny_model: TinyModel) -> Describer:
    """A describer of the tiny model."""
    return Describer(tiny_model.bundle, threads=1)


@pytest.fixture
def ready(describer: Describer, sample: SampleImage) -> Describer:
    """The describer with the sample image."""
    describer.set_image(sample.rgb)
    return describer
