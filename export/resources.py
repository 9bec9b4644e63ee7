"""Estimates the disk and memory that a build and its bundle need, and compares them with this machine."""

from __future__ import annotations

import ctypes
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from export.options import Precisions, Targets
from osprey_ros.errors import InputError
from osprey_ros.regions.crops import MOST_CROPS
from osprey_ros.system.process_memory import available_memory
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.weight_layout import CROP

log = logging.getLogger(__name__)

# Bytes of a stored weight; quantized ones have a float16 scale for every 32 weights.
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0625, "int4": 0.5625}
# Weights from this total size on are stored beside their graph, which must stay below 2 GB.
LARGE_BYTES = 1 << 28

# Decoders larger than this on disk are verified on their first layers only, unless the user asks for more.
_VERIFY_WHOLE_BYTES = 1 << 30
_VERIFY_LAYERS = 2

_PROGRAM = 600_000_000  # bytes of Python with PyTorch and onnxruntime
_RUNTIME = 250_000_000  # bytes of Python with onnxruntime
_SMALL_FILES = 8_000_000  # bytes of tokenizer, configuration, report, and graphs without their weights
_ROWS_OF_REGION = 48  # cache rows per region: its two tokens, the end of its question, an answer

_M_MMAP_THRESHOLD = -3  # mallopt parameter (malloc.h of glibc)


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk of the parts of a bundle."""

    encoders: int
    vision: int
    layers: int
    head: int
    table: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, precisions: Precisions) -> Sizes:
        """Estimate the sizes for resolved precisions (see `export.options.resolved`)."""

        def stored(kind: str, *prefixes: str) -> int:
            tensors = checkpoint.tensors.items()
            count = sum(math.prod(tensor.shape) for name, tensor in tensors if name.startswith(prefixes))
            return int(count * BYTES_PER_WEIGHT[kind])

        vision = stored(precisions.vision, "model.vision_tower.", "model.mm_projector.")
        # The engine for crops has the tower again.
        crops = any(name.startswith(CROP) for name in checkpoint.tensors)
        crop = stored(precisions.vision, "model.vision_tower.") if crops else 0
        return cls(
            encoders=vision + crop + stored(precisions.mask_extractor, "mask_extractor."),
            vision=vision,
            layers=stored(precisions.llm, "model.layers."),
            head=stored(precisions.lm_head, "model.norm.", "lm_head."),
            table=stored("fp16", "model.embed_tokens."),
        )

    @property
    def decoder(self) -> int:
        return self.layers + self.head

    @property
    def vision_is_large(self) -> bool:
        """Whether the vision graph keeps its weights in a file beside it."""
        return self.vision >= LARGE_BYTES

    @property
    def decoder_is_large(self) -> bool:
        """Whether the decoder graph keeps its weights in files beside it."""
        return self.decoder >= LARGE_BYTES


@dataclass(frozen=True)
class Needs:
    """Bytes that a build needs on disk and in memory, and that a process needs to run its bundle."""

    disk: int
    memory: int
    run: int


def layers_to_verify(config: OspreyConfig, sizes: Sizes) -> int:
    """Return how many decoder layers are compared with PyTorch by default."""
    return config.num_layers if sizes.decoder <= _VERIFY_WHOLE_BYTES else min(_VERIFY_LAYERS, config.num_layers)


def needs(config: OspreyConfig, sizes: Sizes, precisions: Precisions, targets: Targets, layers: int) -> Needs:
    """Estimate what a build needs at its peak, without the checkpoint; `layers` are verified, 0 for none."""
    return Needs(
        disk=_disk(config, sizes, targets),
        memory=_PROGRAM + max(_writing(config, precisions), _verifying(config, sizes, layers) if layers else 0),
        run=_running(config, sizes, targets),
    )


def check(needs: Needs, folder: Path, present: int, force: bool) -> None:
    """Compare the needs of a build in `folder`, which holds `present` bytes of it, with the disk and memory.

    Raises InputError if one is too small; with `force` a warning is logged instead.
    """
    free, available = shutil.disk_usage(folder).free + present, available_memory()
    known = "unknown" if available is None else _size(available)
    log.info(
        "needs: %s of disk (available: %s), %s of memory (available: %s)",
        *(_size(needs.disk), _size(free), _size(needs.memory), known),
    )
    problems = []
    if needs.disk > free:
        problems.append(
            f"the disk of {folder.parent} has {_size(free)} free and the build takes {_size(needs.disk)}: make room or "
            "give --output on another disk"
        )
    if available is not None and needs.memory > available:
        problems.append(
            f"{_size(available)} of memory are available and the build takes {_size(needs.memory)}: close other "
            "programs, or verify less (--verify-layers, --no-verify)"
        )
    if problems and not force:
        raise InputError("; ".join(problems) + "; --force begins anyway")
    for problem in problems:
        log.warning(problem)


def return_freed_memory() -> None:
    """Let glibc return pieces of memory from 1 MB on as soon as they are freed; without glibc, do nothing.

    By default it keeps those below 32 MB: a gigabyte after a model was loaded and freed.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        return


def _size(count: float) -> str:
    result: str = tqdm.format_sizeof(count, "B")
    return result


def _disk(config: OspreyConfig, sizes: Sizes, targets: Targets) -> int:
    tables = 8 * config.max_positions * config.head_dim  # of the rotary embedding
    total = sizes.encoders + sizes.decoder + sizes.table + tables + _SMALL_FILES
    if not sizes.decoder_is_large:
        total += sizes.decoder  # the data files from which the graph is written
    if targets.runtime == "tensorrt":
        total += sizes.encoders
    if targets.decoder == "tensorrt":
        total += sizes.decoder
    return total


def _writing(config: OspreyConfig, precisions: Precisions) -> int:
    """Return the peak while weights are written: the largest tensors as read, converted and joined."""
    largest = config.hidden_size * max(config.hidden_size, config.intermediate_size, config.vocab_size)
    return (20 if "fp32" in (precisions.llm, precisions.lm_head) else 12) * largest


def _verifying(config: OspreyConfig, sizes: Sizes, layers: int) -> int:
    """Return the peak of a verification: an engine, or a part of the PyTorch model."""
    layer = 4 * config.layer_weights
    head = 4 * config.vocab_size * config.hidden_size
    # onnxruntime repacks quantized weights; PyTorch holds a layer twice while it is read, and the embedding table.
    engine = 2 * (sizes.layers * layers // config.num_layers + sizes.head)
    return max(2 * sizes.encoders, engine + 2 * max(layer, head) + head)


def _running(config: OspreyConfig, sizes: Sizes, targets: Targets) -> int:
    """Return the memory of a process that describes `max_regions` regions of an image."""
    prefix = config.image_tokens + _ROWS_OF_REGION
    rows = prefix + _ROWS_OF_REGION * targets.max_regions
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * (2 if targets.half else 4) * rows
    # Activations: maps of the finest level; attention scores of the prefix and its MLP.
    side = max(config.feature_sizes[0][0], config.crop_feature_sizes[0][0] * math.isqrt(MOST_CROPS))
    maps = 16 * 4 * config.vision_channels[0] * side**2
    layer = 3 * 4 * prefix * (config.num_heads * prefix + config.intermediate_size)
    return _RUNTIME + sizes.encoders + sizes.decoder + sizes.table + cache + max(maps, layer)
