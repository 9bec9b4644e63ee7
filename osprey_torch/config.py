"""Every width and depth of an Osprey model in one place, and its translation from and to `config.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from osprey_ros.bundle.spec import ModelSpec
from osprey_torch.config_values import numbers, part, positive_number, token_ids, whole_number
from osprey_torch.language_models import FAMILIES, Family, RopeScaling, context_of, rope_scaling_of

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STRIDES = (4, 8, 16, 32)

# What `config.json` calls the fields that every language model of LLaMA's kind has.
LLAMA_KEYS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_positions",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
}
_OPTIONAL = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "bos_token_id", "eos_token_id")
_SIZES = LLAMA_KEYS.keys() - {*_OPTIONAL, "max_position_embeddings"}
# Fields that config.json has beside the "osprey" part, where a language model has them.
_TOP_LEVEL = ("kv_heads", "head_size", "tied_embeddings", "rope_scaling")
_NAMES = {"vision_backbone": "the name of a timm model", "language_model": "the name of a family of language models"}


@dataclass(frozen=True)
class OspreyConfig:
    """Shape of an Osprey model. The defaults are the published 7B model (arXiv 2312.10032)."""

    # image
    image_size: int = 512
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    # vision tower: a model of timm by name, or None for a ConvNeXt of these depths, by default open_clip's
    # convnext_large_d_320
    vision_backbone: str | None = None
    vision_depths: tuple[int, int, int, int] = (3, 3, 27, 3)
    vision_channels: tuple[int, int, int, int] = (192, 384, 768, 1536)
    vision_layer_scale: float = 1e-6
    image_token_level: int = 2  # feature level that becomes image tokens: 1 to 3 for res3 to res5; res4 as published
    # mask extractor
    mask_channels: int = 1024
    position_size: int = 112
    # second view of a region, its own crop (`osprey_ros.regions.crops`): side of the crop in pixels, 0 without this
    # view; side of its window as a multiple of the longer side of the region's box
    crop_size: int = 0
    crop_margin: float = 1.3
    # language model
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    kv_heads: int | None = None  # of keys and values; None: as many as num_heads
    head_size: int | None = None  # None: hidden_size / num_heads
    language_model: str = "llama"  # a key of osprey_torch.language_models.FAMILIES
    tied_embeddings: bool = False  # the output layer has the weights of the embedding table
    rope_scaling: RopeScaling | None = None
    vocab_size: int = 32000
    max_positions: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    bos_id: int = 1
    eos_id: int = 2
    mask_id: int = 32000
    pos_id: int = 32001
    extra_eos_ids: tuple[int, ...] = ()  # end an answer as eos_id does

    def __post_init__(self) -> None:
        if self.image_size % STRIDES[-1]:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the coarsest stride {STRIDES[-1]}")
        if self.crop_size % STRIDES[-1]:
            raise ValueError(
                f"crop_size {self.crop_size} is not a multiple of the coarsest stride {STRIDES[-1]} (0: no crops)"
            )
        if self.crop_margin < 1:
            raise ValueError(f"crop_margin is {self.crop_margin}: a window of less than the region's box cuts it off")
        if self.language_model not in FAMILIES:
            raise ValueError(f"language_model is {self.language_model!r}: it must be one of {', '.join(FAMILIES)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads do not divide into {self.num_kv_heads} groups (key-value heads)")
        if self.head_size is not None and self.head_size % 2:
            raise ValueError(f"head_size is {self.head_size}: rotary positions need an even size")
        if self.head_size is None and self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads of even size")
        if not 1 <= self.image_token_level < len(STRIDES):
            raise ValueError(
                f"image_token_level is {self.image_token_level}: it must be 1, 2 or 3 (res3, res4 or res5)"
            )
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std is {list(self.image_std)}: deviations must be above 0")

    @property
    def head_dim(self) -> int:
        """Size of a head of the language model."""
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @property
    def num_kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_heads if self.kv_heads is None else self.kv_heads

    @property
    def layer_weights(self) -> int:
        """Number of weights in the linears of a layer of the language model."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads  # of queries, keys, values and the output
        return heads * self.head_dim * self.hidden_size + 3 * self.hidden_size * self.intermediate_size

    @property
    def family(self) -> Family:
        """What sets the language model apart from other families."""
        return FAMILIES[self.language_model]

    @property
    def image_grid(self) -> int:
        """Side of the square grid of image tokens."""
        return self.image_size // STRIDES[self.image_token_level]

    @property
    def image_tokens(self) -> int:
        return self.image_grid**2

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the four feature maps."""
        return tuple((self.image_size // s, self.image_size // s) for s in STRIDES)

    @property
    def crop_feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the four feature maps of a crop."""
        return tuple((self.crop_size // s, self.crop_size // s) for s in STRIDES)

    def with_vocabulary(self, size: int) -> OspreyConfig:
        """Return the same model for a tokenizer of `size` tokens, whose next two ids are `<mask>` and `<pos>`."""
        return replace(self, vocab_size=size, mask_id=size, pos_id=size + 1)

    def model_spec(self) -> ModelSpec:
        """Return the numbers that the runtime needs, the `model` part of a manifest."""
        own = {f.name: getattr(self, f.name) for f in fields(ModelSpec) if hasattr(self, f.name)}
        return ModelSpec(feature_channels=self.vision_channels, feature_strides=STRIDES, **own)

    def to_json(self) -> dict[str, Any]:
        """Return `config.json` of the published layout; what LLaMA has no name for lies under "osprey"."""
        # A tower has a name or the shape of a ConvNeXt.
        unused = ["vision_backbone"] if self.vision_backbone is None else ["vision_depths", "vision_layer_scale"]
        if self.language_model == "llama":
            unused.append("language_model")
        if not self.crop_size:
            unused += ["crop_size", "crop_margin"]
        return {
            "architectures": ["OspreyLlamaForCausalLM"],
            "model_type": "osprey",
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": self.vision_channels[self.image_token_level],
            **{key: getattr(self, name) for key, name in LLAMA_KEYS.items()},
            **self._extra_json(),
            "osprey": {
                key: value
                for key, value in asdict(self).items()
                if key not in (*LLAMA_KEYS.values(), *_TOP_LEVEL, *unused)
            },
        }

    def _extra_json(self) -> dict[str, Any]:
        """Return the keys of `config.json` that only some language models have."""
        extra: dict[str, Any] = {}
        if self.head_size is not None:
            extra["head_dim"] = self.head_size
        if self.tied_embeddings:
            extra["tie_word_embeddings"] = True
        if self.rope_scaling is not None:
            extra["rope_scaling"] = self.rope_scaling.to_json()
        return extra

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> OspreyConfig:
        """Read a `config.json`. Published folders have no "osprey" part: its fields keep the published values.

        Null counts as a missing key. Several `eos_token_id` all end an answer.

        Raises:
            KeyError: a size is missing.
            ValueError: a model type, projector or attention layout that is not Osprey's, or a value of another kind;
                the key is named.
        """
        _check_kind(data)
        vocab_size, heads = whole_number(data, "vocab_size"), whole_number(data, "num_attention_heads")
        own = _own_values(part(data, "osprey"), {f.name: f.default for f in fields(cls) if f.name not in _TOP_LEVEL})
        kv_heads = whole_number(data, "num_key_value_heads", heads)
        head_size = whole_number(data, "head_dim", whole_number(data, "hidden_size") // heads)
        # The published end of an answer comes first, wherever the list has it.
        ends = sorted(token_ids(data, "eos_token_id", [cls.eos_id]), key=lambda one: one != cls.eos_id)
        # Families without a token for the beginning have one for the end that separates texts.
        starts = cls.bos_id if own.get("language_model", "llama") == "llama" else ends[0]
        own.setdefault("mask_id", vocab_size)
        own.setdefault("pos_id", own["mask_id"] + 1)
        if len(ends) > 1:
            own["extra_eos_ids"] = tuple(ends[1:])
        own |= {name: whole_number(data, key) for key, name in LLAMA_KEYS.items() if key in _SIZES}
        own["max_positions"] = context_of(data)
        config = cls(
            kv_heads=None if kv_heads == heads else kv_heads,
            head_size=None if head_size * heads == own["hidden_size"] else head_size,
            tied_embeddings=bool(data.get("tie_word_embeddings")),
            rope_scaling=rope_scaling_of(data),
            rms_norm_eps=positive_number(data, "rms_norm_eps", cls.rms_norm_eps),
            rope_theta=_rope_theta(data),
            bos_id=whole_number(data, "bos_token_id", starts, least=0),
            eos_id=ends[0],
            **own,
        )
        for key, ids in (("bos_token_id", (config.bos_id,)), ("eos_token_id", tuple(ends))):
            if max(ids) >= vocab_size:
                raise ValueError(f"{key} is {data[key]!r}, but the vocabulary ends at {vocab_size - 1} (vocab_size)")
        return config


def _check_kind(data: dict[str, Any]) -> None:
    """Raise ValueError for a model that is not an Osprey, or that is stored in a form that cannot be read."""
    if data.get("model_type") not in ("osprey", "osprey-stage2"):
        raise ValueError(f"model_type {data.get('model_type')!r}: expected 'osprey' or 'osprey-stage2'")
    for key, expected in (("mm_projector_type", "mlp2x_gelu"), ("hidden_act", "silu")):
        if (data.get(key) or expected) != expected:
            raise ValueError(f"{key} {data[key]!r}: expected {expected!r}")
    for key in ("attention_bias", "mlp_bias"):
        if data.get(key):
            raise ValueError(f"{key} is {data[key]!r}: such biases are not supported")
    if any(kind != "full_attention" for kind in data.get("layer_types") or ()) and data.get("sliding_window") is None:
        raise ValueError(f"layer_types is {data['layer_types']!r}: only 'full_attention' is supported")
    if data.get("quantization_config"):
        method = part(data, "quantization_config").get("quant_method", "unknown")
        raise ValueError(
            f"quantization_config says that the weights are quantized (quant_method {method!r}): "
            "use the checkpoint in float32, float16 or bfloat16"
        )


def _rope_theta(data: dict[str, Any]) -> float:
    """Return the base of the rotary positions."""
    parameters = part(data, "rope_parameters")
    return positive_number(data, "rope_theta", positive_number(parameters, "rope_theta", OspreyConfig.rope_theta))


def _own_values(data: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the checked values of the "osprey" part, as fields of the configuration. Raises ValueError."""
    unknown = set(data) - set(defaults)
    if unknown:
        raise ValueError(f"unknown keys under 'osprey' in config.json: {sorted(unknown)}")
    values: dict[str, Any] = {}
    for key, value in data.items():
        default = defaults[key]
        if value is None:
            continue
        if key in _NAMES:
            if not isinstance(value, str):
                raise ValueError(f"{key} is {value!r}: it must be {_NAMES[key]}")
            values[key] = value
        elif key == "extra_eos_ids":
            values[key] = token_ids(data, key, ()) if value else ()
        elif isinstance(default, tuple):
            kept = numbers(data, key, len(default)) or default
            whole = all(isinstance(one, int) for one in default)
            values[key] = tuple(whole_number({key: one}, key) for one in kept) if whole else kept
        else:
            least = 0 if key == "crop_size" else 1
            whole = isinstance(default, int)
            values[key] = whole_number(data, key, least=least) if whole else positive_number(data, key)
    return values


OSPREY_7B = OspreyConfig()


# The small model that ships: the same parts, a thousandth of the size, a vocabulary of its own.
OSPREY_NANO = OspreyConfig(
    image_size=192,
    vision_depths=(2, 2, 6, 2),
    vision_channels=(32, 64, 128, 256),
    vision_layer_scale=0.1,
    mask_channels=256,
    position_size=28,
    hidden_size=192,
    intermediate_size=512,
    num_layers=4,
    num_heads=6,
    vocab_size=768,
    max_positions=2048,
    mask_id=768,
    pos_id=769,
)

# The small model for real things; its recipe gives it a tower of timm. The vocabulary is without the kinds.
OSPREY_HOME = OspreyConfig(
    image_size=448,
    image_token_level=3,
    crop_size=224,
    mask_channels=384,
    position_size=28,
    hidden_size=256,
    intermediate_size=512,
    num_layers=4,
    num_heads=8,
    vocab_size=900,
    max_positions=2048,
    mask_id=900,
    pos_id=901,
)
