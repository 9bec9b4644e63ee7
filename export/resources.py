"""Memory and disk that a build and a run of its bundle need, reckoned before work begins, and what the machine has."""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.awq import REGIONS, ROWS
from export.options import Precisions, Targets
from export.progress import quantity
from osprey_ros.prompt import QUESTIONS
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig

# Bytes that a stored weight takes; quantized ones have a float16 scale for every 32.
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0625, "int4": 0.5625}
# From this size on weights lie in files beside their graph, which could not pass 2 GB and is copied when it is written.
LARGE_BYTES = 1 << 28

VISION_PARTS = ("model.vision_tower.", "model.mm_projector.")
REGION_PARTS = ("mask_extractor.",)
LAYER_PARTS = ("model.layers.",)
HEAD_PARTS = ("model.norm.", "lm_head.")
TABLE_PARTS = ("model.embed_tokens.",)

# Of a decoder larger than this on disk only so many layers are verified, unless more are asked for.
_VERIFY_WHOLE_BYTES = 1 << 30
_VERIFY_LAYERS = 2

# What Python with PyTorch and onnxruntime takes before any weight is read, and what the runtime takes without PyTorch.
_PROGRAM = 600_000_000
_RUNTIME = 250_000_000
# Tokenizer, configuration, graphs without their weights, report, journal.
_SMALL_FILES = 8_000_000
# Rows of the key-value cache for a region: its two tokens, the end of its question, an answer.
_ROWS_OF_REGION = 48

# mallopt's number of the size from which on memory is mapped on its own (malloc.h of glibc).
_M_MMAP_THRESHOLD = -3


class ResourceError(Exception):
    """Memory or disk do not suffice; the message has the numbers and what to do."""


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk of the parts of a bundle."""

    vision: int
    regions: int
    layers: int
    head: int
    table: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, precisions: Precisions) -> Sizes:
        """precisions: resolved, see `export.options.resolved`."""

        def stored(kind: str, *prefixes: str) -> int:
            return int(weight_bytes(checkpoint, *prefixes) / 4 * BYTES_PER_WEIGHT[kind])

        return cls(
            vision=stored(precisions.vision, *VISION_PARTS),
            regions=stored(precisions.mask_extractor, *REGION_PARTS),
            layers=stored(precisions.llm, *LAYER_PARTS),
            head=stored(precisions.lm_head, *HEAD_PARTS),
            table=stored("fp16", *TABLE_PARTS),
        )

    @property
    def decoder(self) -> int:
        return self.layers + self.head

    @property
    def encoders(self) -> int:
        return self.vision + self.regions

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
    """Bytes that a build takes at its peak on disk and in memory, and a run of its bundle in memory."""

    disk: int
    memory: int
    run: int


def weight_bytes(checkpoint: Checkpoint, *prefixes: str) -> int:
    """Size, as float32, of the tensors of a checkpoint whose names begin with one of the prefixes."""
    tensors = checkpoint.tensors.items()
    return sum(4 * math.prod(tensor.shape) for name, tensor in tensors if name.startswith(prefixes))


def layers_to_verify(config: OspreyConfig, sizes: Sizes) -> int:
    """How many of the decoder's layers are compared with PyTorch where the user does not say."""
    return config.num_layers if sizes.decoder <= _VERIFY_WHOLE_BYTES else min(_VERIFY_LAYERS, config.num_layers)


def needs(
    config: OspreyConfig, sizes: Sizes, precisions: Precisions, targets: Targets, verified: int, pictures: int = 0
) -> Needs:
    """What a build needs, checkpoint not counted.

    verified: how many layers of the decoder, 0 for none. pictures: how many it is calibrated with, 0 for none.
    """
    memory = [_writing(config, precisions)]
    if verified:
        memory.append(_verifying(config, sizes, verified))
    if pictures:
        memory.append(_calibrating(config, pictures))
    return Needs(
        disk=_disk(config, sizes, targets),
        memory=max(memory),
        run=_running(config, sizes, targets),
    )


def check(needs: Needs, folder: Path, kept: int, force: bool, say: Callable[[str], None]) -> None:
    """Compares the needs of a build in `folder` with what the machine has, of which `kept` bytes lie there already.

    Raises ResourceError if something does not suffice; with `force` that is only said.
    """
    disk, memory = shutil.disk_usage(folder).free + kept, available_memory()
    say(
        f"needs: {quantity(needs.disk, 'B')} of disk ({quantity(disk, 'B')} are free), "
        f"{quantity(needs.memory, 'B')} of memory ({quantity(memory, 'B')} are available)"
    )
    problems = []
    if needs.disk > disk:
        problems.append(
            f"the disk of {folder.parent} has {quantity(disk, 'B')} free and the build takes "
            f"{quantity(needs.disk, 'B')}: make room or give --output on another disk"
        )
    if needs.memory > memory:
        problems.append(
            f"{quantity(memory, 'B')} of memory are available and the build takes {quantity(needs.memory, 'B')}: close "
            "other programs, add swap, or verify less (--verify-layers, --no-verify)"
        )
    if not problems:
        return
    if not force:
        raise ResourceError("; ".join(problems) + "; --force begins all the same")
    for problem in problems:
        say(f"warning: {problem}")


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory, swap included, that this process may still take: what the kernel has and what its cgroup allows.

    proc, cgroups: where these file systems are mounted.
    """
    fields = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    available = fields["MemAvailable"] + fields.get("SwapFree", 0)
    for limit, used in _cgroup_limits(proc, cgroups):
        available = min(available, limit - used)
    return max(0, available)


def return_freed_memory() -> None:
    """Lets the C library of this process give large pieces of memory back as soon as they are freed.

    Else glibc keeps those below 32 MB for itself once a few have been freed: a gigabyte, when a model has come and
    gone. Elsewhere than with glibc nothing happens.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        return


def _cgroup_limits(proc: Path, cgroups: Path) -> list[tuple[int, int]]:
    """(limit, use without reclaimable file pages) of every memory cgroup that this process is in."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used, reclaimable = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        # A limit of any group above holds as well. In a container the path may not be there: its own is the root.
        own = root / path.lstrip("/")
        for folder in [own, *own.parents][: len(own.parts) - len(root.parts) + 1]:
            try:
                bound = int((folder / limit).read_text())
                stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                found.append((bound, int((folder / used).read_text()) - int(stat.get(reclaimable, 0))))
            except (OSError, ValueError):
                continue  # no limit there ("max"), or not our business to read
    return found


def _disk(config: OspreyConfig, sizes: Sizes, targets: Targets) -> int:
    total = sizes.encoders + sizes.decoder + sizes.table + 8 * config.max_positions * config.head_dim + _SMALL_FILES
    if not sizes.decoder_is_large:
        total += sizes.decoder  # its weights are kept on the way as well
    if targets.runtime == "tensorrt":
        total += sizes.encoders
    if targets.decoder == "tensorrt":
        total += sizes.decoder
    return total


def _writing(config: OspreyConfig, precisions: Precisions) -> int:
    """The largest of what a unit that writes weights holds at once."""
    hidden = config.hidden_size
    # (weights of the largest linear, of it and its neighbours, precision)
    widest = max(hidden, config.intermediate_size)
    groups = [(hidden * widest, 2 * hidden * widest, precisions.llm)]
    groups.append((config.vocab_size * hidden, config.vocab_size * hidden, precisions.lm_head))
    most = 6 * config.vocab_size * hidden  # the embedding table, float32 and float16
    for one, together, kind in groups:
        if kind.startswith("int"):
            most = max(most, 4 * one + 4 * together)  # read, levels of each, joined, packed
        else:
            most = max(most, 4 * one + int(2 * BYTES_PER_WEIGHT[kind]) * together)
    return _PROGRAM + most


def _verifying(config: OspreyConfig, sizes: Sizes, layers: int) -> int:
    """The largest of what a verification holds at once: an engine, or a part of the PyTorch model."""
    layer = 4 * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    head = 4 * config.vocab_size * config.hidden_size
    # onnxruntime repacks quantized weights beside those it has read; PyTorch has a layer twice while it is read, and
    # the embedding table, which is as large as the output layer.
    engine = 2 * (sizes.layers * layers // config.num_layers + sizes.head)
    return _PROGRAM + max(2 * sizes.encoders, engine + 2 * max(layer, head) + head)


def _calibrating(config: OspreyConfig, pictures: int) -> int:
    """The larger of what `export.awq.calibrate` holds at once: while it makes prompts, and while it runs a layer."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    picture = 4 * config.image_tokens * hidden
    prompts = picture + 4 * REGIONS * len(QUESTIONS) * _ROWS_OF_REGION * hidden
    maps = 4 * sum(c * h * w for c, (h, w) in zip(config.vision_channels, config.feature_sizes, strict=True))
    pixels = 4 * 3 * config.image_size**2
    encoded = 4 * config.vocab_size * hidden + pictures * (maps + pixels + picture + prompts)
    # A layer, its gate and up joined, the rows that its linears read, joined as well; every prompt as it began and now.
    layer = 4 * (4 * hidden**2 + 3 * hidden * mlp) + 4 * 2 * hidden * mlp + 2 * 4 * ROWS * (3 * hidden + mlp)
    return _PROGRAM + max(encoded, layer + pictures * 2 * prompts)


def _running(config: OspreyConfig, sizes: Sizes, targets: Targets) -> int:
    """Memory of a process that describes `max_regions` regions of a picture."""
    prefix = config.image_tokens + _ROWS_OF_REGION
    rows = prefix + _ROWS_OF_REGION * targets.max_regions
    cache = 2 * config.num_layers * config.hidden_size * (2 if targets.half else 4) * rows
    # What is between the layers while they run: maps of the finest level, attention scores of the prefix and its MLP.
    maps = 16 * 4 * config.vision_channels[0] * config.feature_sizes[0][0] ** 2
    layer = 3 * 4 * prefix * (config.num_heads * prefix + config.intermediate_size)
    return _RUNTIME + sizes.encoders + sizes.decoder + sizes.table + cache + max(maps, layer)
