"""What a pipeline remembers: the scene, and the latest frames, whose regions refer to its objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from osprey_ros.scene.captions import questions_key
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import SceneObject, Snapshot

_FRAMES = 8  # that questions can refer to


class SceneMemory:
    """The scene and the latest frames. Use it from one thread at a time.

    A frame without `StepSettings.remember` has objects of its own, whose track ids are the ids of its regions. They
    are known until the next frame.

    Attributes:
        scene: The remembered objects, as they are after the latest frame with `StepSettings.remember`.
        questions: Identifies the questions of the captions in the scene, for `restore`; "" before the first frame.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.questions = ""
        self._frame_scene: Scene | None = None  # objects of the latest frame if it was processed without memory
        self._frames: deque[ObservedFrame] = deque(maxlen=_FRAMES)

    def __len__(self) -> int:
        """Return the number of objects in `snapshot`."""
        return len(self._latest_scene)

    @property
    def latest(self) -> ObservedFrame | None:
        """The latest frame that had a region; None before the first."""
        return self._frames[-1] if self._frames else None

    @property
    def recent(self) -> tuple[ObservedFrame, ...]:
        """The latest frames that had a region, eight at most, the newest last."""
        return tuple(self._frames)

    @property
    def known(self) -> set[int]:
        """Track ids that `forget` takes."""
        return {obj.track_id for scene in {self.scene, self._latest_scene} for obj in scene.snapshot().objects}

    def snapshot(self) -> Snapshot:
        """Return the remembered objects; after a frame without `StepSettings.remember`, those of that frame."""
        return self._latest_scene.snapshot()

    def prioritize(self, track_ids: Iterable[int]) -> None:
        """Describe these objects before all others, until their captions hold. Unknown ones are ignored."""
        if self._frame_scene is None:  # else the ids are those of regions, and the next frame has others
            self.scene.prioritize(track_ids)

    def forget(self, track_ids: Iterable[int] | None = None) -> tuple[int, ...]:
        """Forget objects, all by default. Return the known ones among them.

        After a frame without `StepSettings.remember`, both its objects and remembered ones have these ids.
        """
        wanted = None if track_ids is None else list(track_ids)
        gone = self.scene.forget(wanted)
        if self._frame_scene is not None:
            gone = tuple(dict.fromkeys(self._frame_scene.forget(wanted) + gone))
        for frame in self._frames:
            if frame.scene is not None:
                frame.scene.forget(wanted)
        return gone

    def restore(self, objects: Sequence[SceneObject], next_id: int = 1, questions: str = "") -> None:
        """Replace all remembered objects; see `Scene.restore`.

        ``questions`` is that of the memory that had them: if the first frame asks others, captions are stale.
        """
        self.scene.restore(objects, next_id)
        self._detach_frames()
        self.questions = questions

    def replace_model(self, latest: ObservedFrame | None, size: int | None, reason: str) -> None:
        """Keep the objects for another model; their captions are stale.

        Args:
            latest: The latest frame, encoded by the other model; the other frames are dropped. None: there is none.
            size: Length of the mask tokens of the other model, if they cannot be compared with those of the one before.
                The appearance of the objects is that of the frame then.
            reason: Why the captions are stale.
        """
        for scene in {self.scene, self._latest_scene}:
            appearances: dict[int, np.ndarray] = {}
            if latest is not None and latest.scene is scene:
                appearances = dict(zip(latest.track_ids.tolist(), latest.encoded.mask_tokens, strict=True))
            if size is not None:
                scene.set_appearances(appearances, size)
            scene.invalidate(reason)
        self._frames = deque([] if latest is None else [latest], maxlen=_FRAMES)

    def scene_for(self, settings: StepSettings) -> Scene:
        """Return the scene that the next frame updates: a new one for each frame without `StepSettings.remember`."""
        if settings.remember == (self._frame_scene is not None):
            self._detach_frames()
        if not settings.remember:
            self._frame_scene = Scene(self.scene.max_objects)
            return self._frame_scene
        self._frame_scene = None
        questions = questions_key(settings)
        if questions != self.questions:
            self.scene.invalidate("the questions changed since it was described")
            self.questions = questions
        return self.scene

    def add(self, frame: ObservedFrame) -> None:
        """Add a frame; the oldest one is dropped."""
        self._frames.append(frame)

    @property
    def _latest_scene(self) -> Scene:
        return self.scene if self._frame_scene is None else self._frame_scene

    def _detach_frames(self) -> None:
        """Let earlier frames name no objects: ids of regions and track ids are not to be confused."""
        self._frames = deque((replace(frame, scene=None) for frame in self._frames), maxlen=_FRAMES)
