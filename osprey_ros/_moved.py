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
_MODULES = """
asked=decoding.prompt_batch association=scene.association attributes=scene.attributes bag=recording.annotate
bag_frames=recording.frames bag_read=recording.reader,recording.topics bag_types=recording.types,messages.stamps
bag_write=recording.writer bilinear=regions.pooling branches=decoding.prompt_batch,decoding.kv_cache
bundle=bundle.bundle,bundle.engine_bundle,bundle.manifest,bundle.spec,bundle.hash_cache,bundle.places
calibration=bundle.calibration
constraints=decoding.constraints decoder=decoding.decoder decoder_engine=decoding.runner draw=viz.overlay
embeddings=decoding.embeddings encoders=vision.encoder,regions.encoder engines=engines.base
fingerprint=bundle.fingerprint,engines.machine generation=decoding.loop geometry=regions.geometry
image=vision.image_io,vision.preprocess key_values=decoding.kv_cache mask_codecs=regions.masks,regions.regions
mask_files=regions.files memory=system.process_memory motion=scene.camera_motion objects=scene.types
phrases=query.grammar,query.word_forms,query.question pixels=vision.preprocess prediction=decoding.logits
prompt=decoding.prompt queries=query.finder region_grids=regions.pooling regions=regions.regions
relations=query.spatial sampling=decoding.config,decoding.sampling scene=scene.scene
scene_store=scene.store,scene.scene_file scheduler=scene.scheduler scoring=decoding.scoring tracker=scene.tracker
tracks=scene.track
"""
# These are packages now, which find the old names themselves.
PACKAGES = ("bundle", "engines", "regions", "scene")
# Names of 0.1 that have another name (old=new) or place now, by the module that has them. Modules that did not move and
# lost a name end with `__getattr__ = old_names(...)`. What raised one of the old errors raises a broader class now.
_NAMES = """
decoding.constraints: Guide=CompiledConstraint Guides=ConstraintCache PatternGuide=TokenPattern Walk=ConstraintState
decoding.kv_cache: BranchRows=BranchCache KeyValueRows=KVCache
decoding.logits: Prediction=NextTokenLogits
decoding.loop: Request=DecodeRequest
decoding.prompt: MAX_NEW_TOKENS MAX_NEW_TOKENS_FREE=MAX_NEW_TOKENS_OTHER STYLES=QUESTIONS
decoding.prompt_batch: Asked=PromptBatch RowsOfBranches=RowPacker branch_together=build_joint_branch
decoding.prompt_batch: branches_of=build_branches parts=split_rows
decoding.runner: DecoderEngine=DecoderRunner
decoding.sampling: Chooser=TokenSelector
errors: NoRegionError=RegionError
query.finder: COLOUR=COLOR
recording.writer: BagWriter=RecordingWriter
regions.masks: MaskPart=MaskCrop part_from_box=mask_from_box part_from_polygon=mask_from_polygon
regions.masks: part_from_rle=mask_from_rle
regions.pooling: RegionGrids=MaskPooler Source=LabelImages
regions.regions: regions_from_parts=regions_from_crops
results: Update=StreamUpdate
scene.association: looks_center=embedding_center
scene.camera_motion: small_picture=small_image
scene.captions: questions_for
scene.detections: Observations=Detections
scene.history: Seen=ObservedFrame
scene.result: StepResult
scene.scheduler: Wave=Batch
scene.settings: StepSettings
scene.track: LiveTrack=Track
scene.types: Sighting=Detection Words=Caption
system.process_memory: available=available_memory give_back=release_memory needed=needed_memory
system.process_memory: resident=process_memory shortage=memory_shortage trim=release_freed_memory
vision.image_io: check_picture_name=check_image_name
vision.preprocess: normalise_and_square=normalize_and_square
viz.overlay: colour_of=color_of
errors: AttributeSpecError=OspreyError BagError=OspreyError CalibrationError=OspreyError ConstraintError=OspreyError
errors: CudaError=OspreyError DecoderError=OspreyError DescriberError=OspreyError FingerprintError=OspreyError
errors: FrameError=OspreyError FrameFault=OspreyError MaskError=OspreyError QueryError=OspreyError
errors: SamplingError=OspreyError SceneError=OspreyError StoreError=OspreyError TrackerError=OspreyError
"""
MODULES = {old: tuple(homes.split(",")) for old, homes in (entry.split("=") for entry in _MODULES.split())}
NAMES = {
    old: (home, new or old)
    for home, names in (line.split(": ") for line in _NAMES.strip().splitlines())
    for old, _, new in (name.partition("=") for name in names.split())
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
