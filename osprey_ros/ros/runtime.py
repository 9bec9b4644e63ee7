"""What the node uses while it is configured: engines, scene, scene file and the answers to requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.default import default_bundle
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError, InputError, OspreyError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import COLOR, Finder
from osprey_ros.query.watch import EventFilter
from osprey_ros.ros.services.handlers import Requests
from osprey_ros.scene.attributes import attributes_from
from osprey_ros.scene.events import EventLog, SceneEvent
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.scene_file import StoredScene
from osprey_ros.scene.store import SceneStore, model_of
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.process_memory import MIB, memory_shortage, needed_memory, process_memory, release_memory

if TYPE_CHECKING:
    from osprey_ros.ros.parameters import Settings

PROGRESS_PERIOD = 5.0  # seconds between two log lines while the engines load

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedBundle:
    """Engines of a bundle, and what answers queries with them."""

    describer: Describer
    finder: Finder


class Runtime:
    """Engines and scene of a configured node. `step` and `requests` belong to the worker's thread.

    Args:
        settings: returns the current settings. Those that take effect when the node is configured are read once, here.

    Raises:
        OspreyError: The bundle, the scene file or an attribute is invalid, or there is too little memory.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        now = settings()
        self._settings = settings
        self._replacing = threading.Lock()  # held while the bundle and the appearances of the scene change
        self._reported = ""  # the problem of the scene file that was logged
        self._attributes = attributes_from(now.attributes)
        # Loading engines takes long: check everything else first.
        bundle = Bundle.open(now.bundle or default_bundle(), verify=False)
        self._store = _open_store(now, bundle)
        try:
            self._load(now, bundle)
        except BaseException:
            if self._store is not None:
                self._store.close()
            raise

    def _load(self, now: Settings, bundle: Bundle) -> None:
        loaded = self._loaded(now, bundle)
        self.bundle = loaded.describer.bundle
        self._pipeline = Pipeline(loaded.describer, Scene(now.max_objects))
        self._finder = loaded.finder
        self._filter = EventFilter(now.event_filter, self._finder)
        self.requests = Requests(
            self._pipeline, self._finder, lambda: self._events.latest, lambda: self._settings().step, self._save
        )
        if self._store is not None:
            stored = self._store.load()
            self._pipeline.restore(stored.objects, stored.next_id, stored.questions)
            logger.info("%d objects restored from %s", self.known, self._store.path)
        self._events = EventLog(self._pipeline.memory.scene)

    def _loaded(self, now: Settings, bundle: Bundle) -> LoadedBundle:
        """Load the engines of a bundle. Raises OspreyError."""
        describer = load_describer(bundle, now.threads, now.preprocessing, now.memory_reserve * MIB)
        try:
            for spec in self._attributes:
                try:
                    describer.check([spec.constraint], [spec.question])
                except OspreyError as error:
                    raise InputError(f"attribute {spec.name}: {error}") from error
            words = [spec for spec in self._attributes if spec.values]
            if all(spec.name != COLOR.name for spec in words):
                words.append(COLOR)
            return LoadedBundle(describer, Finder(describer, words))
        except BaseException:
            describer.close()
            raise

    def load(self, name: str) -> LoadedBundle:
        """Load another bundle beside the one in use, for `replace`. It may run in any thread.

        ``name``: its folder or name; "": the one in use, read again. Raises OspreyError.
        """
        return self._loaded(self._settings(), Bundle.open(name or self.bundle.root, verify=False))

    def replace(self, loaded: LoadedBundle) -> None:
        """Use another bundle from now on, in the worker's thread. The scene stays, and is described again.

        Raises OspreyError if its engines fail. The bundle before is then still in use.
        """
        manifest = loaded.describer.bundle.manifest
        with self._replacing:
            before = self._pipeline.replace_describer(loaded.describer, f"the bundle is {manifest.name} now")
            self._finder = loaded.finder
            self._filter = EventFilter(self._filter.text, self._finder)
            self.requests.use_finder(self._finder)
            self.bundle = loaded.describer.bundle
        before.close()
        release_memory()
        self._save()

    def step(self, frame: Frame, cancel: CancellationToken) -> StepResult:
        """Describe the objects of a frame and save the scene."""
        result = self._pipeline.step(frame, replace(self._settings().step, attributes=self._attributes), cancel)
        self._save()
        return result

    def events(self) -> tuple[SceneEvent, ...]:
        """Return the events since the latest call that the settings ask for; none from frames without memory."""
        now = self._settings()
        if now.event_filter != self._filter.text:
            self._filter = EventFilter(now.event_filter, self._finder)
        scene = self._pipeline.memory.scene
        return self._filter.keep(self._events.update(scene, now.events), scene.snapshot())

    @property
    def known(self) -> int:
        """Number of objects in the scene."""
        return len(self._pipeline.memory)

    @property
    def scene_file(self) -> str:
        """Path of the scene file, "" if there is none."""
        return str(self._store.path) if self._store is not None else ""

    @property
    def problem(self) -> str:
        """Reason why the scene cannot be saved, "" if it can."""
        return self._store.problem if self._store is not None else ""

    def flush(self) -> None:
        """Return when the scene is in its file or cannot be written."""
        if self._store is not None:
            self._store.flush()
            self._report()

    def close(self) -> None:
        """Write the scene and close its file."""
        if self._store is not None:
            self._store.close()
            self._report()

    def _report(self) -> None:
        if self.problem and self.problem != self._reported:
            logger.error(self.problem)
        self._reported = self.problem

    def _save(self) -> None:
        if self._store is not None:
            self._store.save(self._stored_scene)

    def _stored_scene(self) -> StoredScene:
        with self._replacing:
            scene, model = self._pipeline.memory.scene, model_of(self.bundle.manifest)
            return StoredScene(scene.persistent_objects(), scene.next_id, self._pipeline.memory.questions, model)


def _open_store(settings: Settings, bundle: Bundle) -> SceneStore | None:
    """Open the scene file; return None if no file is set. Raises StorageError."""
    if not settings.scene_file:
        return None
    return SceneStore(settings.scene_file, model_of(bundle.manifest), settings.scene_file_size * MIB)


def load_describer(bundle: Bundle, threads: int, preprocessing: str, reserve: int) -> Describer:
    """Check that memory suffices for a bundle, verify its files, and load its engines. Progress is logged.

    Args:
        bundle: the bundle, opened without verifying its files.
        threads: threads of the engines; 0: one for each core.
        preprocessing: as of `Describer`.
        reserve: bytes of memory that must stay free.

    Raises:
        OspreyError: The bundle is invalid or too large.
    """
    size = sum(entry.bytes for entry in bundle.manifest.files.values()) / MIB
    logger.info(
        "bundle %s in %s: %.0f MB in %d files", bundle.manifest.name, bundle.root, size, len(bundle.manifest.files)
    )
    shortage = memory_shortage(bundle, reserve)
    if shortage:
        raise BundleError(shortage)
    started = time.monotonic()
    with _progress("checking the files"):
        bundle.verify()
    checked = time.monotonic()
    need = needed_memory(bundle) / MIB
    logger.info("files checked in %.1f s; loading the engines (at most %.0f MB of memory)", checked - started, need)
    with _progress("loading the engines"):
        describer = Describer(bundle, threads=threads or None, preprocessing=preprocessing)
    logger.info("engines loaded in %.1f s%s", time.monotonic() - checked, _memory_held())
    return describer


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Log every few seconds, from a thread, that something is still running."""
    done = threading.Event()
    started = time.monotonic()

    def report() -> None:
        while not done.wait(PROGRESS_PERIOD):
            logger.info("still %s, %.0f s%s", what, time.monotonic() - started, _memory_held())

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _memory_held() -> str:
    held = process_memory()
    return "" if held is None else f", {held / MIB:.0f} MB of memory held"
