"""Names of version 0.1, which work until version 0.3 with a DeprecationWarning. Remove this file then."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

# Modules of 0.1 and those that have their names now, below osprey_ros. Modules of the command line and of `ros` are not
# among them.
MODULES = {
    "asked": ("decoding.prompt_batch",),
    "association": ("scene.association",),
    "attributes": ("scene.attributes",),
    "bag": ("recording.annotate",),
    "bag_frames": ("recording.frames",),
    "bag_read": ("recording.reader", "recording.topics"),
    "bag_types": ("recording.types", "messages.stamps"),
    "bag_write": ("recording.writer",),
    "bilinear": ("regions.pooling",),
    "branches": ("decoding.prompt_batch", "decoding.kv_cache"),
    "bundle": ("bundle.bundle", "bundle.manifest", "bundle.spec", "bundle.hash_cache"),
    "calibration": ("bundle.calibration",),
    "constraints": ("decoding.constraints",),
    "decoder": ("decoding.decoder",),
    "decoder_engine": ("decoding.runner",),
    "draw": ("viz.overlay",),
    "embeddings": ("decoding.embeddings",),
    "encoders": ("vision.encoder", "regions.encoder"),
    "engines": ("engines.base",),
    "fingerprint": ("bundle.fingerprint", "engines.machine"),
    "generation": ("decoding.loop",),
    "geometry": ("regions.geometry",),
    "image": ("vision.image_io", "vision.preprocess"),
    "key_values": ("decoding.kv_cache",),
    "mask_codecs": ("regions.masks", "regions.regions"),
    "mask_files": ("regions.files",),
    "memory": ("system.process_memory",),
    "motion": ("scene.camera_motion",),
    "objects": ("scene.types",),
    "phrases": ("query.grammar", "query.word_forms", "query.question"),
    "pixels": ("vision.preprocess",),
    "prediction": ("decoding.logits",),
    "prompt": ("decoding.prompt",),
    "queries": ("query.finder",),
    "region_grids": ("regions.pooling",),
    "regions": ("regions.regions",),
    "relations": ("query.spatial",),
    "sampling": ("decoding.config", "decoding.sampling"),
    "scene": ("scene.scene",),
    "scene_store": ("scene.store", "scene.scene_file"),
    "scheduler": ("scene.scheduler",),
    "scoring": ("decoding.scoring",),
    "tracker": ("scene.tracker",),
    "tracks": ("scene.track",),
}
# These are packages now, which find the old names themselves.
PACKAGES = ("bundle", "engines", "regions", "scene")
# Names of 0.1 that have another name or place now, also in modules that did not move: these end with
# `__getattr__ = old_names(...)`.
NAMES = {
    # What raised these raises one of a few broader classes now.
    **dict.fromkeys(
        (
            "AttributeSpecError",
            "BagError",
            "CalibrationError",
            "ConstraintError",
            "CudaError",
            "DecoderError",
            "DescriberError",
            "FingerprintError",
            "FrameError",
            "FrameFault",
            "MaskError",
            "QueryError",
            "SamplingError",
            "SceneError",
            "StoreError",
            "TrackerError",
        ),
        ("errors", "OspreyError"),
    ),
    "Asked": ("decoding.prompt_batch", "PromptBatch"),
    "BagWriter": ("recording.writer", "RecordingWriter"),
    "BranchRows": ("decoding.kv_cache", "BranchCache"),
    "COLOUR": ("query.finder", "COLOR"),
    "Chooser": ("decoding.sampling", "TokenSelector"),
    "DecoderEngine": ("decoding.runner", "DecoderRunner"),
    "Guide": ("decoding.constraints", "CompiledConstraint"),
    "Guides": ("decoding.constraints", "ConstraintCache"),
    "KeyValueRows": ("decoding.kv_cache", "KVCache"),
    "LiveTrack": ("scene.track", "Track"),
    "MAX_NEW_TOKENS": ("decoding.prompt", "MAX_NEW_TOKENS"),
    "MAX_NEW_TOKENS_FREE": ("decoding.prompt", "MAX_NEW_TOKENS_OTHER"),
    "MaskPart": ("regions.masks", "MaskCrop"),
    "NoRegionError": ("errors", "RegionError"),
    "Observations": ("scene.detections", "Detections"),
    "PatternGuide": ("decoding.constraints", "TokenPattern"),
    "Prediction": ("decoding.logits", "NextTokenLogits"),
    "RegionGrids": ("regions.pooling", "MaskPooler"),
    "Request": ("decoding.loop", "DecodeRequest"),
    "RowsOfBranches": ("decoding.prompt_batch", "RowPacker"),
    "STYLES": ("decoding.prompt", "QUESTIONS"),
    "Seen": ("scene.history", "ObservedFrame"),
    "Sighting": ("scene.types", "Detection"),
    "Source": ("regions.pooling", "LabelImages"),
    "StepResult": ("scene.result", "StepResult"),
    "StepSettings": ("scene.settings", "StepSettings"),
    "Update": ("results", "StreamUpdate"),
    "Walk": ("decoding.constraints", "ConstraintState"),
    "Wave": ("scene.scheduler", "Batch"),
    "small_picture": ("scene.camera_motion", "small_image"),
    "Words": ("scene.types", "Caption"),
    "available": ("system.process_memory", "available_memory"),
    "branch_together": ("decoding.prompt_batch", "build_joint_branch"),
    "branches_of": ("decoding.prompt_batch", "build_branches"),
    "check_picture_name": ("vision.image_io", "check_image_name"),
    "colour_of": ("viz.overlay", "color_of"),
    "give_back": ("system.process_memory", "release_memory"),
    "looks_center": ("scene.association", "embedding_center"),
    "needed": ("system.process_memory", "needed_memory"),
    "normalise_and_square": ("vision.preprocess", "normalize_and_square"),
    "part_from_box": ("regions.masks", "mask_from_box"),
    "part_from_polygon": ("regions.masks", "mask_from_polygon"),
    "part_from_rle": ("regions.masks", "mask_from_rle"),
    "parts": ("decoding.prompt_batch", "split_rows"),
    "questions_for": ("scene.captions", "questions_for"),
    "regions_from_parts": ("regions.regions", "regions_from_crops"),
    "resident": ("system.process_memory", "process_memory"),
    "shortage": ("system.process_memory", "memory_shortage"),
    "trim": ("system.process_memory", "release_freed_memory"),
}


def old_names(module: str) -> Callable[[str], object]:
    """Return the `__getattr__` of a module of 0.1: it finds names in the modules that have them now.

    ``module`` is a name below osprey_ros, or "" for osprey_ros itself.
    """
    path = f"osprey_ros.{module}".rstrip(".")

    def __getattr__(name: str) -> object:
        from importlib.util import find_spec

        # `from package import module` asks for the attribute before it imports the module.
        is_module = module in PACKAGES and find_spec(f"{path}.{name}") is not None
        if not name.startswith("_") and not is_module:
            places = [NAMES[name]] if name in NAMES else [(home, name) for home in MODULES.get(module, ())]
            found = {
                place: value
                for place in places
                if (value := getattr(import_module(f"osprey_ros.{place[0]}"), place[1], None)) is not None
                and not isinstance(value, ModuleType)
            }
            if found:
                # The module that defines the name, not one that imports it.
                defined = [
                    place for place in found if getattr(found[place], "__module__", "") == f"osprey_ros.{place[0]}"
                ]
                home, new_name = place = (defined or list(found))[0]
                warnings.warn(
                    f"{path}.{name} is now osprey_ros.{home}.{new_name}; the old name will be removed in 0.3",
                    DeprecationWarning,
                    stacklevel=2,
                )
                return found[place]
        raise AttributeError(f"module {path!r} has no attribute {name!r}")

    return __getattr__


class _MovedModules:
    """Import finder and loader of the modules of 0.1 whose names are free now."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package == "osprey_ros" and module in MODULES and module not in PACKAGES:
            return ModuleSpec(name, _MovedModules)  # type: ignore[arg-type]
        return None

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        module.__dict__["__getattr__"] = old_names(module.__name__.partition(".")[2])


def install() -> None:
    """Make the modules of 0.1 importable. Files of 0.1 that an installation left behind are not loaded."""
    sys.meta_path.insert(0, _MovedModules)
