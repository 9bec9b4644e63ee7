"""What the node sees and remembers with while it is configured: engines, scene, its file, and answers from all that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline, StepResult
from osprey_ros.query.finder import COLOR, Finder
from osprey_ros.ros.loading import load_describer
from osprey_ros.ros.services.handlers import Requests
from osprey_ros.scene.attributes import attributes_from
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.store import SceneStore, model_of
from osprey_ros.system import process_memory as memory

if TYPE_CHECKING:
    from osprey_ros.ros.parameters import Settings


class Perception:
    """Made where the node is configured; `step` and `requests` belong to the worker's thread.

    Args:
        settings: asked for the settings of the moment; those that count from configuring on are read here, once.
        log: takes lines about the loading. complain: takes what went wrong when the scene was written at last.

    Raises OspreyError where the bundle, the scene's file or an attribute is no good.
    """

    def __init__(
        self, settings: Callable[[], Settings], log: Callable[[str], object], complain: Callable[[str], object]
    ) -> None:
        now = settings()
        self._settings, self._complain = settings, complain
        self._said = ""  # the problem that was complained of
        self._attributes = attributes_from(now.attributes)
        # First what is soon said to be no good: loading engines takes long.
        self._store = _store(now)
        try:
            self._load(now, log)
        except BaseException:
            if self._store is not None:
                self._store.close()
            raise

    def _load(self, now: Settings, log: Callable[[str], object]) -> None:
        describer = load_describer(now.bundle, now.threads, now.preprocessing, now.memory_reserve * memory.MIB, log)
        for spec in self._attributes:
            try:
                describer.check([spec.constraint], [spec.question])
            except OspreyError as error:
                raise InputError(f"attribute {spec.name}: {error}") from error
        self.bundle = describer.bundle
        self._pipeline = Pipeline(describer, Scene(now.max_objects))
        words = [spec for spec in self._attributes if spec.values]
        if all(spec.name != COLOR.name for spec in words):
            words.append(COLOR)
        self.requests = Requests(self._pipeline, Finder(describer, words), lambda: self._settings().step, self._save)
        if self._store is not None:
            stored = self._store.load()
            self._pipeline.restore(stored.objects, stored.next_id, stored.asked)
            log(f"{self.known} objects are known from {self._store.path}")

    def step(self, frame: Frame, should_stop: Callable[[], bool]) -> StepResult:
        """Looks at a frame, and saves what is known then."""
        result = self._pipeline.step(frame, replace(self._settings().step, attributes=self._attributes), should_stop)
        self._save()
        return result

    @property
    def known(self) -> int:
        """How many objects the scene has."""
        return len(self._pipeline.scene)

    @property
    def scene_file(self) -> str:
        """Full name of the scene's file, "" where there is none."""
        return str(self._store.path) if self._store is not None else ""

    @property
    def problem(self) -> str:
        """Why the scene could not be saved, "" where it could."""
        return self._store.problem if self._store is not None else ""

    def flush(self) -> None:
        """Returns when the scene is in its file, or cannot be written."""
        if self._store is not None:
            self._store.flush()
            self._report()

    def close(self) -> None:
        """Writes what is known and closes the file."""
        if self._store is not None:
            self._store.close()
            self._report()

    def _report(self) -> None:
        if self.problem and self.problem != self._said:
            self._complain(self.problem)
        self._said = self.problem

    def _save(self) -> None:
        if self._store is not None:
            self._store.save(
                self._pipeline.remembered.persistent_objects(), self._pipeline.next_id, self._pipeline.asked
            )


def _store(settings: Settings) -> SceneStore | None:
    """The scene's file, opened; None where there is to be none. Raises BundleError, StorageError."""
    if not settings.scene_file:
        return None
    model = model_of(Bundle.open(settings.bundle, verify=False).manifest)
    return SceneStore(settings.scene_file, model, settings.scene_file_size * memory.MIB)
