"""The scene file: what comes back, what is written when, how large it gets, and what a SIGKILL costs."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.errors import StorageError
from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.scene.scene_file import StoredScene
from osprey_ros.scene.store import MIB, SceneStore, model_of
from osprey_ros.scene.types import Attribute, Caption, SceneObject, State

NANO = Path(__file__).resolve().parents[2] / "engines" / "nano"
HIDDEN = 64
# Wide, because a loaded machine may let a thread wait; what was written a second ago is there all the same.
SLACK = 0.5
KINDS = (KindProbability("mug", 0.75), KindProbability("object", 1.0))
PAUSE = 0.02  # seconds between two saves


def mug(track_id: int, seen: int = 5_000, seed: int = 0, **changes: object) -> SceneObject:
    attributes = (Attribute("colour", "red", 0.5), Attribute("material", "unknown", 0.25))
    known = SceneObject(
        track_id=track_id,
        state=State.FRESH,
        reason="",
        caption=Caption("mug", "a small red mug ☕", 0.75, 4_000, attributes, 0.875, kinds=KINDS, unlike_training=0.25),
        first_seen=1_700_000_000_123_456_789,
        last_seen=seen,
        visible=True,
        instance_id=7,
        box=(1, 2, 30, 40),
        area=900,
        appearance=np.random.default_rng([seed, track_id]).normal(size=HIDDEN).astype(np.float32),
        position=(0.25, -0.5, 1.0),
        size=(0.125, 0.125, 0.0),
        label="cup",
        score=0.5,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def same(stored: SceneObject, saved: SceneObject) -> bool:
    np.testing.assert_allclose(stored.appearance, saved.appearance, rtol=1e-3)
    return replace(stored, appearance=None) == replace(saved, appearance=None, visible=False)  # type: ignore[arg-type]


def save(store: SceneStore, objects: Sequence[SceneObject], next_id: int, questions: str = "") -> None:
    store.save(lambda: StoredScene(objects, next_id, questions))


def loaded(file: Path) -> dict[int, SceneObject]:
    store = SceneStore(file, "nano")
    store.close()
    return {known.track_id: known for known in store.load().objects}


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "not" / "yet" / "scene.db"


def test_a_scene_comes_back_as_it_was_saved(file: Path) -> None:
    new = mug(12, state=State.PENDING, reason="new", caption=None, position=None, size=None, label="")
    stale = mug(3, state=State.STALE, reason="its looks changed")
    store = SceneStore(file, "nano")
    assert store.load().objects == ()
    save(store, (new, stale), 20, "short words")
    store.close()

    store = SceneStore(file, "nano")
    stored = store.load()
    assert (stored.next_id, stored.questions) == (20, "short words")
    assert same(stored.objects[0], stale)
    assert same(stored.objects[1], new)
    save(store, (stored.objects[1],), 20)
    store.close()
    assert list(loaded(file)) == [12]


def test_a_scene_file_of_0_1_is_read_and_continued(file: Path) -> None:
    store = SceneStore(file, "nano")
    save(store, (mug(1),), 2)
    store.close()
    for column in ("raw_confidence", "kinds", "unlike_training", "pose"):  # 0.1 had no such columns
        change(file, f"ALTER TABLE objects DROP COLUMN {column}")
    store = SceneStore(file, "nano")
    (old,) = store.load().objects
    assert old.caption is not None
    assert (old.caption.description, old.caption.confidence) == ("a small red mug ☕", 0.75)
    assert (old.caption.raw_confidence, old.caption.kinds, old.caption.unlike_training) == (0, (), 0)
    save(store, (mug(1), mug(2)), 3)
    store.close()
    assert loaded(file)[2].caption == mug(2).caption


def test_what_changed_is_written_and_small_changes_of_looks_are_not(file: Path) -> None:
    store = SceneStore(file, "nano", interval=0.0)
    first = mug(1)
    other = mug(2)
    save(store, (first, other), 3)
    store.flush()
    noise = np.random.default_rng(1).normal(size=HIDDEN).astype(np.float32)
    seen_again = replace(first, last_seen=6_000, appearance=first.appearance + 0.05 * noise)
    turned = replace(other, appearance=-other.appearance)
    save(store, (seen_again, turned), 3)
    store.close()
    stored = loaded(file)
    assert stored[1].last_seen == 6_000
    np.testing.assert_allclose(stored[1].appearance, first.appearance, rtol=1e-3)
    np.testing.assert_allclose(stored[2].appearance, turned.appearance, rtol=1e-3)


def test_the_file_keeps_to_its_bound_and_holds_what_comes_first(file: Path) -> None:
    store = SceneStore(file, "nano", max_bytes=2 * MIB, interval=0.0)
    scene = [mug(number, appearance=np.full(2048, number, np.float32), caption=None) for number in range(2000, 0, -1)]
    for seen in (10_000, 20_000):  # the clock may have gone back: stamps say little
        save(store, tuple(replace(known, last_seen=seen - known.track_id) for known in scene), 2001)
        store.flush()
    assert store.problem == ""
    assert sum(part.stat().st_size for part in file.parent.iterdir()) < 3.5 * MIB
    store.close()
    assert file.stat().st_size <= 2 * MIB
    stored = loaded(file)
    assert max(stored) == 2000
    assert list(stored) == list(range(min(stored), 2001))
    assert len(stored) > 200


def test_a_file_that_is_larger_than_its_bound_shrinks(file: Path) -> None:
    store = SceneStore(file, "nano")
    save(store, [mug(number, seen=number, appearance=np.ones(2048, np.float32)) for number in range(1, 1001)], 1001)
    store.close()
    assert file.stat().st_size > 3 * MIB
    store = SceneStore(file, "nano", max_bytes=MIB)
    save(store, store.load().objects[::-1], 1001)
    store.close()
    assert file.stat().st_size <= MIB
    stored = loaded(file)
    assert max(stored) == 1000
    assert len(stored) > 80


def test_a_file_of_before_is_of_unknown_questions(file: Path) -> None:
    SceneStore(file, "nano").close()
    change(file, "DELETE FROM about WHERE key = 'asked'")
    store = SceneStore(file, "nano")
    assert store.load().questions == ""
    save(store, [mug(1)], 2, "short words")
    store.close()
    store = SceneStore(file, "nano")
    store.close()
    assert store.load().questions == "short words"


def test_a_bundle_that_was_built_again_is_another_one() -> None:
    manifest = Bundle.open(NANO, verify=False).manifest
    assert model_of(manifest).startswith("nano (engines ")
    for role in ("vision", "mask_extractor"):
        name = manifest.engines[role].file
        files = {**manifest.files, name: replace(manifest.files[name], sha256="0" * 64)}
        assert model_of(replace(manifest, files=files)) != model_of(manifest)
    name = manifest.engines["decoder"].file
    files = {**manifest.files, name: replace(manifest.files[name], sha256="0" * 64)}
    assert model_of(replace(manifest, files=files)) == model_of(manifest)  # looks do not depend on it


def _open_with_little_room(file: Path, results: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    try:
        SceneStore(file, "nano")
    except StorageError as error:
        results.send(str(error))


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(
    forks: multiprocessing.context.ForkServerContext, file: Path
) -> None:
    mine, its = forks.Pipe()
    child = forks.Process(target=_open_with_little_room, args=(file, its), daemon=True)
    child.start()
    its.close()
    assert re.search(r"the disk fails to read or write the scene file .*: .* the file may be intact", mine.recv())
    child.join()


def test_a_file_without_objects_is_of_no_bundle_yet(file: Path) -> None:
    SceneStore(file, "nano").close()
    other = SceneStore(file, "osprey-7b")
    save(other, [mug(1)], 2)
    other.close()
    with pytest.raises(StorageError, match="is of the bundle 'osprey-7b', and this is 'nano'"):
        SceneStore(file, "nano")


def test_a_file_that_cannot_be_used_says_what_to_do(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("this is no database, and long enough to be sure of it " * 40)
    with pytest.raises(StorageError, match=r"notes.txt is damaged, or not a scene file: move it away"):
        SceneStore(text, "nano")
    other = tmp_path / "other.db"
    change(other, "CREATE TABLE others (name)")
    with pytest.raises(StorageError, match=r"other.db is a database, and not a scene file: name another scene_file"):
        SceneStore(other, "nano")
    with pytest.raises(
        StorageError, match=r"the folder of the scene file .* cannot be created .*: name another scene_file"
    ):
        SceneStore(text / "scene.db", "nano")
    with pytest.raises(StorageError, match=r"cannot be written because it is a folder: name another scene_file"):
        SceneStore(tmp_path, "nano")
    with pytest.raises(
        StorageError,
        match=r"~nobody_at_all/scene.db does not exist .*: name another scene_file",
    ):
        SceneStore("~nobody_at_all/scene.db", "nano")

    store = SceneStore(file, "nano")
    save(store, [mug(number) for number in range(1, 200)], 200)
    store.flush()
    with pytest.raises(StorageError, match="in use by another process: give each node a scene_file of its own"):
        SceneStore(file, "nano")
    store.close()
    with pytest.raises(StorageError, match="is of the bundle 'nano', and this is 'osprey-7b'"):
        SceneStore(file, "osprey-7b")
    change(file, "PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="has version 9, this osprey_ros writes 1"):
        SceneStore(file, "nano")
    change(file, "PRAGMA user_version = 1")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match=r"scene.db is damaged"):
        SceneStore(file, "nano")
    file.write_bytes(whole)
    assert len(loaded(file)) == 199


@pytest.mark.parametrize("named", [True, False])  # Python names the codes of SQLite since 3.11
@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("SQLITE_BUSY", "database is locked", "in use by another process: give each node a scene_file of its own"),
        ("SQLITE_READONLY_DBMOVED", "attempt to write a readonly database", "cannot be written (.*): name another"),
        ("SQLITE_CANTOPEN", "unable to open database file", "cannot be written (.*): name another"),
        ("SQLITE_FULL", "database or disk is full", "the disk is full: free some space"),
        ("SQLITE_IOERR_WRITE", "disk I/O error", "the disk fails to read or write .*: check the disk"),
        ("SQLITE_NOTADB", "file is not a database", "is damaged, or not a scene file: move it away"),
    ],
)
def test_errors_of_sqlite_are_told_apart_by_their_code_or_else_by_their_message(
    file: Path, monkeypatch: pytest.MonkeyPatch, named: bool, name: str, message: str, remedy: str
) -> None:
    # A name decides, whatever the message says.
    error = sqlite3.OperationalError("locked, full and readonly by I/O" if named else message)
    if named:
        error.sqlite_errorname = name

    def refuse(*arguments: object, **settings: object) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(StorageError, match=remedy):
        SceneStore(file, "nano")


def test_the_scene_is_read_when_it_is_written_and_not_for_each_save(file: Path) -> None:
    store = SceneStore(file, "nano", interval=60.0)
    scene = [mug(1)]
    reads = [0]

    def read() -> StoredScene:
        reads[0] += 1
        return StoredScene(tuple(scene), 2)

    store.save(read)
    store.flush()
    for area in range(1, 101):
        scene[0] = mug(1, area=area)
        store.save(read)
    store.close()
    assert reads[0] <= 3  # for the flush, at once after it, and at the end: the next commit was a minute away
    assert loaded(file)[1].area == 100


def test_what_cannot_be_written_is_a_problem_and_the_next_time_a_new_try(file: Path) -> None:
    store = SceneStore(file, "nano", interval=0.0)
    save(store, [mug(1, label="\ud800")], 2)  # half a character, which SQLite does not take
    store.flush()
    assert "cannot be written to" in store.problem
    save(store, [mug(1)], 2)
    store.flush()
    assert store.problem == ""
    store.close()
    assert list(loaded(file)) == [1]


def _save_until_killed(file: Path, interval: float, results: Connection) -> None:
    """Saves a scene of 30 objects, where ``area`` counts, 50 times a second at most, and tells what it saves."""
    store = SceneStore(file, "nano", interval=interval)
    known = {known.track_id: known.area for known in store.load().objects}
    results.send(set(known.values()))
    count = max(known.values(), default=0)
    while True:
        count += 1
        results.send(count)  # before, so that nothing is in the file that was not told
        save(store, [mug(number, seen=count, seed=count, area=count) for number in range(1, 31)], 31)
        results.poll(PAUSE)  # nothing is ever sent this way


@pytest.fixture(scope="module")
def forks() -> multiprocessing.context.ForkServerContext:
    """Children from a small process that has all modules loaded: each starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "osprey_ros.scene.store", "pytest"])
    return context


def _killed(
    forks: multiprocessing.context.ForkServerContext, file: Path, interval: float, saves: int, later: float
) -> tuple[set[int], int, int]:
    """Kill a saving child ``later`` seconds after ``saves`` saves.

    Return the counts that it loaded, the last saved count, and the count that the file must have. The latter follows
    from the number of saves, not from a clock: on a loaded machine, child and clock can pause at different times.
    """
    mine, its = forks.Pipe()
    child = forks.Process(target=_save_until_killed, args=(file, interval, its), daemon=True)
    child.start()
    its.close()
    found = mine.recv()
    last = 0
    for _ in range(saves):
        last = mine.recv()
    child.join(later)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    try:
        while mine.poll():
            last = mine.recv()
    except EOFError:
        pass
    return found, last, last - round((interval + SLACK) / PAUSE)


def test_twenty_kills_leave_a_whole_file(forks: multiprocessing.context.ForkServerContext, file: Path) -> None:
    moments = random.Random(4)
    last = before = 0
    for _ in range(20):
        found, new_last, new_before = _killed(forks, file, PAUSE, moments.randint(1, 6), moments.uniform(0, PAUSE))
        # What the killed one had written comes back as one scene, never a mixture of two.
        assert len(found) <= 1
        assert before <= max(found, default=0) <= last
        last, before = new_last, max(new_before, max(found, default=0))
    stored = loaded(file)
    assert len(stored) == 30
    assert before <= stored[1].area <= last


def test_a_kill_costs_the_last_second_at_most(forks: multiprocessing.context.ForkServerContext, file: Path) -> None:
    _, last, before = _killed(forks, file, 1.0, 130, 0.0)
    stored = loaded(file)
    assert 0 < before <= stored[1].area <= last
    assert len({known.area for known in stored.values()}) == 1
