"""The scene of the node and its file under different parameters, and refused files and requests."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from ros_harness import BUNDLE
from sensor_msgs.msg import RegionOfInterest

from osprey_interfaces.msg import Region, RegionArray
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.default import VARIABLE
from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.bundle.manifest import MANIFEST, FileEntry
from osprey_ros.errors import BundleError, InputError, OspreyError, StorageError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.messages.regions import regions_from_message
from osprey_ros.ros import runtime
from osprey_ros.ros.interfaces import DescribeRegion, Forget, GetScene
from osprey_ros.ros.parameters import Settings
from osprey_ros.ros.runtime import Runtime
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.types import State
from osprey_ros.system.cancellation import CancellationToken

COLORS = {1: (200, 30, 30), 2: (20, 160, 40), 3: (30, 40, 190)}


def test_a_node_that_is_given_no_bundle_takes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, name in (("nano", "nano"), ("", "home")):
        monkeypatch.setenv(VARIABLE, value)
        node = Runtime(lambda: Settings(threads=1))
        assert node.bundle.manifest.name == name
        node.close()


def frame(stamp: int, label: str = "") -> Frame:
    """Three colored patches on gray."""
    rgb, ids = np.full((120, 160, 3), 150, np.uint8), np.zeros((120, 160), np.uint8)
    for number, color in COLORS.items():
        rgb[20:80, 50 * number - 40 : 50 * number] = color
        ids[20:80, 50 * number - 40 : 50 * number] = number
    return Frame(stamp, "camera", rgb, ids, labels={1: RegionLabel(label, 0.5)} if label else {})


class Node:
    """A runtime with settings that can be changed."""

    def __init__(self, file: Path, **settings: Any) -> None:
        self.settings = replace(Settings(threads=1, scene_file=str(file)), **settings)
        self.runtime = Runtime(lambda: self.settings)
        self._stamp = 0

    def step(self, label: str = "", **settings: Any) -> StepResult:
        self.settings = replace(self.settings, step=replace(self.settings.step, **settings))
        self._stamp += 1
        return self.runtime.step(frame(self._stamp, label), CancellationToken())

    def forget(self, **request: Any) -> Any:
        return self.runtime.requests.forget(Forget.Request(**request), Forget.Response())

    def describe(self, **request: Any) -> Any:
        asked = DescribeRegion.Request(**request)
        return self.runtime.requests.describe_region(asked, DescribeRegion.Response(), CancellationToken())

    def known(self) -> list[int]:
        response = self.runtime.requests.get_scene(GetScene.Request(), GetScene.Response())
        return [thing.track_id for thing in response.objects]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scene.db"


@pytest.fixture
def node(file: Path) -> Iterator[Node]:
    node = Node(file)
    yield node
    node.runtime.close()


def stored(file: Path, **settings: Any) -> list[int]:
    """Return the track ids that a node restores from the file."""
    node = Node(file, **settings)
    node.runtime.close()
    return node.known()


def test_the_file_keeps_its_objects_while_remember_is_false(node: Node, file: Path) -> None:
    node.step()
    node.step(remember=False)
    assert node.known() == [1, 2, 3]  # of the segmentation
    node.step(remember=True)
    node.runtime.close()
    assert stored(file) == [1, 2, 3]
    again = Node(file)
    assert again.step().reused == 3
    again.runtime.close()


def test_forget_deletes_from_the_file_while_remember_is_false(node: Node, file: Path) -> None:
    node.step()
    node.runtime.close()
    other = Node(file)
    other.step(remember=False)
    assert other.forget(track_ids=[2]).success
    other.runtime.close()
    assert stored(file) == [1, 3]
    other = Node(file)
    other.step(remember=False)
    assert other.forget(everything=True).success
    other.runtime.close()
    assert stored(file) == []


def test_captions_of_other_settings_are_stale_after_a_restart(
    node: Node, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    node.step()
    node.runtime.close()
    other = Node(file, attributes=("color = red | green | blue",))
    assert caplog.messages[-1] == f"3 objects restored from {file}"
    result = other.step(max_regions=1)
    assert sorted(thing.state for thing in result.objects) == [State.FRESH, State.SKIPPED, State.SKIPPED]
    assert result.described == 1
    other.runtime.close()


def test_a_file_of_a_bundle_that_was_built_again_is_refused(node: Node, file: Path, tmp_path: Path) -> None:
    node.step()
    node.runtime.close()
    rebuilt = tmp_path / "nano"
    shutil.copytree(node.runtime.bundle.root, rebuilt)
    manifest = node.runtime.bundle.manifest
    vision = rebuilt / manifest.engines["vision"].file
    vision.write_bytes(vision.read_bytes() + b"\x12\x01x")  # another producer_name
    entry = FileEntry(vision.stat().st_size, sha256_of(vision))
    (rebuilt / MANIFEST).write_text(replace(manifest, files={**manifest.files, vision.name: entry}).to_json())
    with pytest.raises(StorageError, match=r"is of the bundle 'nano \(engines .*name another scene_file, or delete"):
        Node(file, bundle=str(rebuilt))
    assert stored(file) == [1, 2, 3]


def test_a_file_that_cannot_be_used_is_refused_before_the_engines_load(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE things (name)")
    monkeypatch.setattr(runtime, "load_describer", None)  # which cannot be called
    with pytest.raises(StorageError, match=r"scene.db is a database, and not a scene file"):
        Node(file)


def test_engines_that_do_not_load_leave_the_file_to_another_bundle(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="lower memory_reserve"):
        Node(file, memory_reserve=1_000_000)
    assert stored(file) == []
    renamed = tmp_path / "other"
    shutil.copytree(BUNDLE, renamed)
    (renamed / MANIFEST).write_text(replace(Bundle.open(BUNDLE).manifest, name="other").to_json())
    assert stored(file, bundle=str(renamed)) == []


def test_fewer_objects_than_the_file_holds(node: Node, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    node.step()
    node.runtime.close()
    other = Node(file, max_objects=2)
    assert caplog.messages[-1] == f"2 objects restored from {file}"
    other.runtime.close()


def test_forgotten_objects_cannot_be_described(node: Node) -> None:
    node.step()
    node.forget(track_ids=[2])
    with pytest.raises(InputError, match="unknown track id 2"):
        node.describe(track_ids=[2])
    with pytest.raises(InputError, match="unknown track id 0"):
        node.describe(track_ids=[0])
    pointed = node.describe(points=[Point(x=80.0, y=50.0)])
    assert pointed.success
    assert list(pointed.track_ids) == [0]


@pytest.mark.parametrize("remember", [True, False])
def test_a_point_in_the_latest_frame_is_not_looked_for_in_an_older_one(node: Node, remember: bool) -> None:
    there = {"points": [Point(x=80.0, y=50.0)]}
    node.step(remember=remember)
    assert node.describe(**there).success
    node.runtime.step(replace(frame(90_000_000_000), regions=np.zeros((120, 160), np.uint8)), CancellationToken())
    reason = r"the latest frame \(90.000\) has no region, the last one with a region is 0.000; set this stamp, or wait"
    with pytest.raises(InputError, match=reason):
        node.describe(**there)
    assert node.describe(**there, stamp=Time(nanosec=1)).success
    assert node.describe(track_ids=[2]).success  # a track may be one of before


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_a_last_write_that_fails_is_logged_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.step(label="\ud800")  # half a character, which the file does not take
    assert errors(caplog) == []
    node.runtime.flush()
    (error,) = errors(caplog)
    assert "the scene cannot be written to" in error
    node.runtime.close()
    assert len(errors(caplog)) == 1


def test_a_score_that_is_no_number_does_not_keep_the_scene_from_its_file(
    node: Node, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corner = RegionOfInterest(width=20, height=20)
    region = Region(id=1, encoding=Region.BOX, roi=corner, label="cup", score=float("nan"))
    regions, labels = regions_from_message(RegionArray(height=120, width=160, regions=[region]))
    result = node.runtime.step(replace(frame(1), regions=regions, labels=labels), CancellationToken())
    assert [(thing.label, thing.score) for thing in result.objects] == [("cup", 0.0)]
    node.runtime.close()
    assert errors(caplog) == []
    assert stored(file) == [1]


HOME = str(Path(BUNDLE).parent / "home")


def test_another_bundle_keeps_the_scene_and_describes_it_again(node: Node, file: Path) -> None:
    first = node.step()
    without_2 = replace(frame(2), regions=np.where(frame(2).regions == 2, 0, frame(2).regions))
    gone = node.runtime.step(without_2, CancellationToken())
    assert [thing.track_id for thing in gone.objects] == [1, 3]
    loaded = node.runtime.load(HOME)
    assert node.runtime.bundle.manifest.name == "nano"
    before = loaded.describer.image_id
    node.runtime.replace(loaded)
    assert loaded.describer.image_id != before  # questions about the latest frame
    assert node.runtime.bundle.manifest.name == "home"
    scene = node.runtime.requests.get_scene(GetScene.Request(), GetScene.Response()).objects
    assert {(thing.state, thing.reason) for thing in scene} == {(scene[0].STALE, "the bundle is home now")}
    assert [thing.description for thing in scene] == [thing.description for thing in first.objects]
    assert node.describe(track_ids=[1]).success
    # In the next frame the objects are known, by the appearance that the new bundle saw or by their place.
    result = node.step()
    assert [thing.track_id for thing in result.objects] == [1, 2, 3]
    assert (result.described, result.reused) == (3, 0)
    assert {len(thing.appearance) for thing in result.objects} == {256}
    assert node.step().reused == 3
    node.runtime.close()

    # The file is that of the new bundle, and of no other.
    with pytest.raises(StorageError, match=r"is of the bundle 'home \(engines "):
        Node(file)
    again = Node(file, bundle=HOME)
    assert again.step().reused == 3
    again.runtime.close()


def test_a_bundle_with_the_same_eyes_keeps_what_objects_look_like(node: Node, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(BUNDLE, copy)
    (copy / MANIFEST).write_text(replace(Bundle.open(BUNDLE).manifest, name="copy").to_json())
    before = {thing.track_id: thing.appearance for thing in node.step().objects}
    moved = replace(frame(5), regions=np.zeros((120, 160), np.uint8))
    node.runtime.step(moved, CancellationToken())  # nothing is in view
    node.runtime.replace(node.runtime.load(str(copy)))
    result = node.step()
    assert {thing.track_id for thing in result.objects} == set(before)
    assert result.described == 3
    for thing in result.objects:
        np.testing.assert_allclose(thing.appearance, before[thing.track_id], atol=1e-4)


def test_a_bundle_that_cannot_be_used_changes_nothing(node: Node, tmp_path: Path) -> None:
    node.step()
    before = node.runtime.bundle
    for name, reason in ((str(tmp_path), "no manifest.json"), ("segmenter", "bundle of a segmenter")):
        with pytest.raises(BundleError, match=reason):
            node.runtime.load(name)
    node.settings = replace(node.settings, memory_reserve=1_000_000)
    with pytest.raises(BundleError, match="memory_reserve keeps 1000000 MB free"):
        node.runtime.load(HOME)
    assert node.runtime.bundle is before
    assert node.step().reused == 3


def test_questions_that_cannot_be_asked_are_refused(file: Path) -> None:
    for question in ("Is <mask><pos> near <mask><pos>?", "What is <image>?"):
        with pytest.raises(OspreyError, match="near"):
            Node(file, attributes=(f"near; {question}",))
