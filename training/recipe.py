"""Training recipes: YAML files read into dataclasses, with every key checked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from osprey_ros.errors import InputError
from osprey_sim.render import HEIGHT, WIDTH
from training.lora import LoraSettings
from training.stages import Stage

PRECISIONS = ("fp32", "bf16")
SAVE_DTYPES = ("fp32", "fp16", "bf16")

_OLD_KEYS = {"recolour": "recolor"}  # spelling of recipes before 0.2
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}

T = TypeVar("T")


@dataclass(frozen=True)
class TowerStart:
    """A vision tower out of timm: the name of a convolutional backbone, and a file of its weights, else random ones."""

    name: str
    weights: str | None = None


@dataclass(frozen=True)
class ModelStart:
    """What the weights are at first: one of three.

    preset: a model of this name in osprey_torch.config, with random weights and a tokenizer trained on the data;
    shape: the fields of its OspreyConfig that are to be others, such as image_size.
    checkpoint: a folder in the published layout, such as that of an earlier stage, with vision_weights if it has none;
    or the folder of a bundle for onnxruntime.
    llm: a LLaMA folder, with vision_weights, an open_clip file, or a tower; projector and mask extractor are random.
    tower: the vision tower in place of that of the preset, or of open_clip's ConvNeXt with an llm.
    """

    preset: str | None = None
    checkpoint: str | None = None
    llm: str | None = None
    vision_weights: str | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    tower: TowerStart | None = None

    def __post_init__(self) -> None:
        if self.shape and self.preset is None:
            raise InputError("model: shape goes with preset; a checkpoint or an LLM brings its own")
        given = [name for name in ("preset", "checkpoint", "llm") if getattr(self, name)]
        if len(given) != 1:
            raise InputError(f"model: give one of preset, checkpoint and llm, not {given or 'none'}")
        if self.tower is not None and (self.checkpoint is not None or self.vision_weights is not None):
            raise InputError("model: tower goes with preset or llm, without vision_weights; a checkpoint has a tower")
        if self.llm is not None and self.vision_weights is None and self.tower is None:
            raise InputError("model: an llm needs vision_weights, an open_clip file, or a tower")
        if self.preset is not None and self.vision_weights is not None:
            raise InputError("model: vision_weights go with llm or checkpoint; a preset has a tower of its own")


@dataclass(frozen=True)
class RecordSource:
    """A data set: its reader (a key of osprey_torch.readers.registry.READERS), annotations, images and share."""

    reader: str
    file: str
    images: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(f"data.sources: the weight of {self.file} is {self.weight}: it must be above 0")


@dataclass(frozen=True)
class PhotographPack:
    """A pack of photographs with masks in COCO's layout; training goes on without it where its folder is absent.

    source: where it comes from in public. license: of its images. cut_out: each image shows one object, which is also
    cut out and pasted on other images.
    """

    folder: str
    source: str
    license: str
    cut_out: bool = False


@dataclass(frozen=True)
class Views:
    """Views of real things whose features the frozen vision tower computes once.

    composed: number of views made of the photographs of the packs. rooms: number of simulated rooms, with the models
    that ship with the simulator and those in the folders `models`; tabletops: share of them with its primitives.
    cap: about the largest number of photographs of a kind in a pass. shares: of an item of training: composed views,
    photographs as they are, rooms. kinds: the tree of kinds.
    """

    composed: int
    packs: tuple[PhotographPack, ...] = ()
    rooms: int = 0
    models: tuple[str, ...] = ()
    tabletops: float = 0.2
    cap: int = 40
    shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    kinds: str = "training/home/kinds.yaml"

    def __post_init__(self) -> None:
        if self.composed < 0 or self.rooms < 0 or self.composed + self.rooms < 1:
            raise InputError("data.views: give composed or rooms, whole numbers above 0")
        if self.composed and not self.packs:
            raise InputError("data.views: composed views need packs")
        if not 0 <= self.tabletops <= 1:
            raise InputError(f"data.views: tabletops is {self.tabletops}: it must be 0 to 1")
        if len(self.shares) != 3 or min(self.shares) < 0 or not sum(self.shares):
            raise InputError(f"data.views: shares are {list(self.shares)}: give three numbers of 0 or more")


@dataclass(frozen=True)
class DataSources:
    """Simulated scenes (how many), data sets on disk, or both.

    scenes_weight: the share of the scenes beside that of each data set. scene_size: width and height of rendered
    images. strict: whether a broken record ends the run.
    """

    scenes: int = 0
    scenes_weight: float = 1.0
    scene_size: tuple[int, int] = (WIDTH, HEIGHT)
    sources: tuple[RecordSource, ...] = ()
    strict: bool = False
    views: Views | None = None

    def __post_init__(self) -> None:
        if self.views is not None and (self.scenes or self.sources):
            raise InputError("data: views stand alone, without scenes and sources")
        if self.views is None and (self.scenes < 0 or not (self.scenes or self.sources)):
            raise InputError("data: give scenes, a number above 0, or a list of sources, or both")
        if not self.scenes_weight > 0:
            raise InputError(f"data: scenes_weight is {self.scenes_weight}: it must be above 0")


@dataclass(frozen=True)
class Recipe:
    """Everything on which a run depends, except the machine.

    precision: of the arithmetic; weights and optimizer stay float32. max_length: tokens of one dialogue, image
    included, beyond which it is cut off. save_dtype: of the checkpoint that is written, fp32, fp16 or bf16. lora: where
    given, the language model itself is frozen and adapters learn in its place.
    """

    name: str
    model: ModelStart
    data: DataSources
    stages: tuple[Stage, ...]
    seed: int = 1
    precision: str = "bf16"
    max_grad_norm: float = 1.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    max_length: int = 2048
    save_dtype: str = "fp32"
    log_every: int = 20  # steps
    lora: LoraSettings | None = None
    dropout: float = 0.0  # of the features of views

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}: it must be one of {', '.join(PRECISIONS)}")
        if self.save_dtype not in SAVE_DTYPES:
            raise InputError(f"save_dtype is {self.save_dtype!r}: it must be one of {', '.join(SAVE_DTYPES)}")
        if self.gradient_accumulation < 1:
            raise InputError(f"gradient_accumulation is {self.gradient_accumulation}: it must be 1 or more")
        if self.lora is not None and any(stage.int4_aware for stage in self.stages):
            raise InputError("lora: the weights below adapters do not move, so no stage can be int4_aware")
        if not self.stages:
            raise InputError("stages: there are none")
        if self.data.views is not None and (moving := [s.name for s in self.stages if "vision" in s.trains]):
            raise InputError(f"stage {moving[0]}: views are for a frozen tower; leave vision out of trains")
        if self.data.sources:
            changed = [s.name for s in self.stages if s.selection != s.selection.of_records()]
            if changed and not self.data.scenes:
                raise InputError(
                    f"stage {changed[0]}: flip, zoom, recolor and weights are for simulated scenes, not data sets"
                )
            labeled = [stage.name for stage in self.stages if not stage.learns_words]
            if labeled:
                raise InputError(
                    f"stage {labeled[0]}: data sets have words and no labels, set selection.questions to 1 or more"
                )

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with `factor` times the scenes and steps, for trials."""
        stages = tuple(replace(s, steps=max(2, round(s.steps * factor)) if s.steps else None) for s in self.stages)
        scenes = max(8, round(self.data.scenes * factor)) if self.data.scenes else 0
        views = self.data.views
        if views is not None:
            composed, rooms = (max(8, round(n * factor)) if n else 0 for n in (views.composed, views.rooms))
            views = replace(views, composed=composed, rooms=rooms)
        return replace(self, stages=stages, data=replace(self.data, scenes=scenes, views=views))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises InputError for a file that is missing or has keys or values that are not possible."""
    return load_yaml(Recipe, path)


def load_yaml(kind: type[T], path: Path) -> T:
    """Read a dataclass from a YAML file, with errors as those of `load_recipe`."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    try:
        return _make(kind, data, "the recipe")
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def recipe_from_mapping(data: Any) -> Recipe:
    """Return a recipe from plain data, as YAML gives it. Raises InputError, or ValueError of a part."""
    return _make(Recipe, data, "the recipe")


def _make(kind: type[T], data: Any, where: str) -> T:
    """Return a dataclass from a mapping whose keys are all known and whose required ones are all there."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where} must be a mapping of keys to values, not {data!r}")
    values = {str(_OLD_KEYS.get(name, name)): value for name, value in data.items()}
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    hints = get_type_hints(kind)
    return kind(**{name: _value(value, hints[name], f"{where}: {name}") for name, value in values.items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    """Return the value of a field, checked against its type: a part of its own, a list as a tuple, or a plain value."""
    allowed = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    if value is None and NoneType in allowed:
        return None
    for kind in allowed:
        if is_dataclass(kind):
            return _make(kind, value, where)  # type: ignore[arg-type]
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                raise InputError(f"{where} is {value!r}: it must be a list")
            return tuple(_value(item, get_args(kind)[0], f"{where}[{n}]") for n, item in enumerate(value))
    kinds = allowed & {int, float, str, bool}
    if not kinds:
        return value  # the dataclass itself checks it
    if float in kinds and isinstance(value, str):
        with suppress(ValueError):
            return float(value)  # YAML takes 1e-3 for a text, 1.0e-3 for a number
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        raise InputError(f"{where} is {value!r}: it must be {' or '.join(sorted(_WORDS[kind] for kind in kinds))}")
    return value
