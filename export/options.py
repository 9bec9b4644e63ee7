"""Options of a build. Impossible combinations are refused before it begins, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.linears import LINEAR_PRECISIONS, DecoderPrecision
from osprey_ros.engines import machine
from osprey_ros.errors import InputError
from osprey_torch.config import STRIDES, OspreyConfig
from osprey_torch.quantize import METHODS

FLOAT_PRECISIONS = ("auto", "fp32", "fp16")
RUNTIMES = ("onnxruntime", "tensorrt")
DEVICES = ("cpu", "cuda")

# Up to this many weights the output layer stays in float16: a few megabytes buy exact word choices.
_SMALL_LM_HEAD = 1 << 24
# Layers with no more weights than this are unpacked to float32 where they are int4: 64 MB, which caches still serve.
_UNPACKED_WEIGHTS = 1 << 24
# Rows that must fit behind the image tokens: a question and an answer.
_LEAST_WORDS = 64


@dataclass(frozen=True)
class Precisions:
    """How the weights of each part are stored.

    On the CPU the arithmetic is float32, except for quantized products; on the GPU it has the precision of the weights.

    Attributes:
        vision: "fp32", "fp16" or "auto": fp32 for the CPU, fp16 for the GPU. Also for the engine for crops.
        mask_extractor: as `vision`.
        llm: one of LINEAR_PRECISIONS, for the linears of the decoder's layers.
        lm_head: as `llm`, for the output layer, or "auto": fp16 for small models and TensorRT, else int8.
        method: one of `osprey_torch.quantize.METHODS`, for int4 and int8 weights.
    """

    vision: str = "auto"
    mask_extractor: str = "auto"
    llm: str = "int4"
    lm_head: str = "auto"
    method: str = "clip"

    def __post_init__(self) -> None:
        for part, choices in (("vision", FLOAT_PRECISIONS), ("mask_extractor", FLOAT_PRECISIONS)):
            _check(f"precision of {part}", getattr(self, part), choices)
        _check("precision of llm", self.llm, LINEAR_PRECISIONS)
        _check("precision of lm_head", self.lm_head, ("auto", *LINEAR_PRECISIONS))
        _check("method", self.method, METHODS)


@dataclass(frozen=True)
class Targets:
    """Where a bundle will run, and for which sizes.

    Attributes:
        runtime: what runs vision and mask extractor, one of RUNTIMES.
        decoder: what runs the decoder, one of RUNTIMES.
        device: one of DEVICES.
        max_regions: most regions in one run of a TensorRT plan, and for the estimate of memory; ONNX graphs accept any
            number.
        max_tokens: positions of the decoder, rows of image, question and answer together; by default all of the model.
        image_size: side of the square to which images are resized, by default the model's.
    """

    runtime: str = "onnxruntime"
    decoder: str = "onnxruntime"
    device: str = "cpu"
    max_regions: int = 64
    max_tokens: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        for part, choices in (("runtime", RUNTIMES), ("decoder", RUNTIMES), ("device", DEVICES)):
            _check(part, getattr(self, part), choices)
        if self.max_regions < 1:
            raise InputError(f"max_regions is {self.max_regions}: it must be at least 1")

    @property
    def tensorrt(self) -> bool:
        """Whether any engine is a TensorRT plan."""
        return "tensorrt" in (self.runtime, self.decoder)

    @property
    def half(self) -> bool:
        """Whether the decoder computes in float16."""
        return self.device == "cuda"

    def model(self, config: OspreyConfig) -> OspreyConfig:
        """Return the model's configuration for these sizes. Raises InputError for sizes that it cannot have."""
        size, most = self.image_size or config.image_size, config.max_positions
        if size < 1 or size % STRIDES[-1]:
            raise InputError(f"image size {size}: it must be a multiple of {STRIDES[-1]}, the coarsest stride")
        positions = self.max_tokens or most
        if positions > most:
            raise InputError(f"{positions} tokens: the model knows {most} positions, ask for no more")
        config = replace(config, image_size=size, max_positions=positions)
        if positions < config.image_tokens + _LEAST_WORDS:
            raise InputError(
                f"{positions} tokens: an image of {size} pixels takes {config.image_tokens} of them and a question "
                f"with its answer {_LEAST_WORDS}; raise --max-tokens or lower --image-size"
            )
        return config


def resolved(precisions: Precisions, targets: Targets, config: OspreyConfig) -> Precisions:
    """Return the precisions with every "auto" decided for a model and its targets."""
    real = "fp16" if targets.device == "cuda" else "fp32"
    lm_head = precisions.lm_head
    if lm_head == "auto":
        small = config.vocab_size * config.hidden_size <= _SMALL_LM_HEAD
        lm_head = "fp16" if small or targets.decoder == "tensorrt" else "int8"
    return replace(
        precisions,
        vision=real if precisions.vision == "auto" else precisions.vision,
        mask_extractor=real if precisions.mask_extractor == "auto" else precisions.mask_extractor,
        lm_head=lm_head,
    )


def decoder_precision(precisions: Precisions, targets: Targets, config: OspreyConfig) -> DecoderPrecision:
    """Return the precision of the decoder for resolved precisions. Raises InputError for unsupported combinations."""
    kinds = (precisions.llm, precisions.lm_head)
    if precisions.method != Precisions.method and not any(kind.startswith("int") for kind in kinds):
        raise InputError(
            f"--method {precisions.method} is how int4 and int8 weights are found, but the decoder's layers are "
            f"{precisions.llm} and its output layer is {precisions.lm_head}: leave it out or give --llm int4"
        )
    small = config.num_layers * config.layer_weights <= _UNPACKED_WEIGHTS
    on_cpu = targets.decoder == "onnxruntime" and not targets.half
    return DecoderPrecision(
        precisions.llm,
        precisions.lm_head,
        precisions.method,
        dialect=targets.decoder,
        half=targets.half,
        unpacked=small and on_cpu and precisions.llm == "int4",
    )


def check_machine(targets: Targets, verify: bool) -> None:
    """Reject at once what this machine lacks: TensorRT and its GPU for plans, a GPU to verify on.

    Raises InputError, or EngineError where there is no TensorRT or no GPU.
    """
    if targets.tensorrt and targets.device != "cuda":
        raise InputError("TensorRT runs on NVIDIA GPUs only: give --device cuda, or choose onnxruntime")
    if targets.tensorrt:
        machine.current()
    if targets.device == "cuda" and verify and "onnxruntime" in (targets.runtime, targets.decoder):
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise InputError(
                "the engines cannot be verified here: this onnxruntime has no CUDA (`pip uninstall -y onnxruntime`, "
                "then `pip install onnxruntime-gpu`; on a Jetson see docs/jetson.md, section 4); --no-verify builds "
                "them unverified"
            )


def _check(part: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{part} must be one of {', '.join(choices)}, not {value!r}")
