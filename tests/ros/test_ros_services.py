"""Services and action of the node over real DDS, during frames, and the scene after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from ros_harness import BUNDLE, DEADLINE, PATIENCE, Client, osprey_node, ros_environment, tabletop
from sensor_msgs.msg import RegionOfInterest

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli.main import main
from osprey_ros.errors import StorageError
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.regions.masks import rle_from_mask
from osprey_ros.ros.interfaces import DescribeRegion, DescribeRegionAction, Forget, GetScene, QueryScene, Region
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.services.client import query_node
from osprey_ros.scene.store import SceneStore, model_of
from osprey_sim.node_process import NodeProcess
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene

STAMPS = count(1_000_000_000, 33_333_333)
TRIES = 4  # of a goal whose answer is lost
TEAPOT, CAR, BOWL, CLOCK = 1, 2, 3, 4  # what the scene holds, by instance id
PARAMETERS = ("autostart:=true", "threads:=1")


@pytest.fixture(scope="module")
def scene_image() -> tuple[np.ndarray, np.ndarray]:
    """A white teapot, a yellow car, a pink bowl and a green clock, and their ids."""
    with Renderer(320, 240) as renderer:
        frame = renderer.render(sample_scene(3, "test", (4, 5)))
    return frame.rgb, frame.instance_ids


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path_factory.mktemp("ros")) as environment:
        yield environment


@pytest.fixture
def own_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A DDS domain for one test, without the node that other tests share."""
    with ros_environment(tmp_path) as environment:
        yield environment


@pytest.fixture(scope="module")
def active(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all tests that leave it active."""
    folder = tmp_path_factory.mktemp("node")
    with osprey_node(env, folder, *PARAMETERS, "attributes:=['color = red | green | white']") as child:
        yield child


@pytest.fixture
def client(env: dict[str, str], active: NodeProcess, scene_image: tuple[np.ndarray, np.ndarray]) -> Iterator[Client]:
    """A client, after one frame of the scene."""
    client = Client(env)
    show(client, scene_image)
    yield client
    client.close()


def show(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> dict[int, Any]:
    """Sends a frame; returns its described objects by instance id."""
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, *scene_image)
    return {thing.instance_id: thing for thing in client.described(stamp).objects}


def latest(client: Client) -> dict[int, Any]:
    """The objects of the latest frame by instance id."""
    return {thing.instance_id: thing for thing in client.results[max(client.results)].objects}


def query(client: Client, text: str, limit: int = 0) -> Any:
    return client.call(QueryScene, "/osprey/query_scene", QueryScene.Request(text=text, limit=limit))


def describe(client: Client, **request: Any) -> Any:
    return client.call(DescribeRegion, "/osprey/describe_region", DescribeRegion.Request(**request))


def scene(client: Client, visible_only: bool = False) -> dict[int, Any]:
    """All objects by track id."""
    response = client.call(GetScene, "/osprey/get_scene", GetScene.Request(visible_only=visible_only))
    assert response.success
    return {thing.track_id: thing for thing in response.objects}


def middle(ids: np.ndarray, instance_id: int) -> Point:
    """The pixel of a region that is nearest to the mean of them."""
    pixels = np.argwhere(ids == instance_id)
    line, column = pixels[np.abs(pixels - pixels.mean(axis=0)).sum(axis=1).argmin()]
    return Point(x=float(column), y=float(line))


def test_words_find_the_object_that_they_mean(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    things = latest(client)
    for text, meant in (("where is the yellow car?", CAR), ("a small green clock", CLOCK)):
        response = query(client, text, limit=1)
        assert response.success
        assert response.header.frame_id == "camera_optical_frame"
        assert stamp_of(response) == max(client.results)
        (match,) = response.matches
        assert match.object == things[meant]
        assert 0.5 <= match.score <= 1
        assert match.reason
    response = query(client, "the purple elephant")
    assert response.success
    assert response.matches == []
    assert "purple elephant" in response.message
    assert not query(client, "   ").success


def test_the_scene_remembers_what_is_out_of_view(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, ids = scene_image
    things = latest(client)
    track = things[TEAPOT].track_id
    shown = scene(client)
    assert shown[track] == things[TEAPOT]
    assert shown[track].state == shown[track].FRESH
    assert [(a.name, a.value) for a in shown[track].attributes] == [("color", "white")]
    assert {t for t, thing in shown.items() if thing.visible} == {thing.track_id for thing in things.values()}

    show(client, (rgb, np.where(ids == TEAPOT, 0, ids).astype(ids.dtype)))
    assert track not in scene(client, visible_only=True)
    gone = scene(client)[track]
    assert not gone.visible
    assert gone.last_seen == things[TEAPOT].last_seen
    assert gone.description == things[TEAPOT].description
    assert query(client, "the white teapot", limit=1).matches[0].object.track_id == track
    both = describe(client, track_ids=[track, things[CAR].track_id], question="What is between them?")
    assert both.success
    assert both.header.stamp == things[TEAPOT].last_seen  # the frame before, which shows both


def test_a_region_is_described_however_it_is_given(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    _, ids = scene_image
    thing = latest(client)[BOWL]
    described = describe(client, track_ids=[thing.track_id])
    assert described.success, described.message
    assert described.text == thing.description
    assert described.confidence == pytest.approx(thing.confidence, abs=0.02)
    assert list(described.track_ids) == [thing.track_id]
    assert stamp_of(described) == max(client.results)

    pointed = describe(client, points=[middle(ids, BOWL)])
    assert (pointed.text, list(pointed.track_ids)) == (thing.description, [thing.track_id])
    category = describe(client, track_ids=[thing.track_id], style="category")
    assert category.text == thing.category
    mask = Region(encoding=Region.RLE, rle=rle_from_mask(ids == BOWL).tolist())
    assert describe(client, regions=[mask]).text == thing.description
    box = describe(client, regions=[Region(encoding=Region.BOX, roi=thing.roi)], style="detailed")
    assert box.success
    assert len(box.text) > len(thing.description)
    assert list(box.track_ids) == [0]
    asked = describe(client, track_ids=[thing.track_id], question="What color is <mask><pos>?", max_new_tokens=2)
    assert asked.success
    assert asked.text


def test_a_region_of_an_earlier_frame(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, ids = scene_image
    before = latest(client)[BOWL]
    show(client, (np.zeros_like(rgb), np.where(ids == CAR, ids, 0).astype(ids.dtype)))
    stamp = before.last_seen
    for request in ({"points": [middle(ids, BOWL)], "stamp": stamp}, {"track_ids": [before.track_id]}):
        described = describe(client, **request)
        assert described.text == before.description
        assert described.header.stamp == stamp
    late = describe(client, points=[middle(ids, BOWL)], stamp=messages.time_message(5))
    assert not late.success
    assert "no frame with the stamp 0.000 is in memory, only the latest" in late.message


def test_what_cannot_be_described_is_said(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    _, ids = scene_image
    things = latest(client)
    tracks = [things[BOWL].track_id, things[CAR].track_id]
    background = np.argwhere(ids == 0)[0]
    outside = RegionOfInterest(x_offset=300, y_offset=0, width=30, height=10)
    for request, reason in (
        ({}, "the request is empty; set track_ids, points or regions"),
        ({"track_ids": [99]}, "unknown track id 99; get_scene lists the known objects"),
        ({"track_ids": tracks}, "a description needs exactly one region, the request has 2"),
        ({"track_ids": tracks, "question": "What is <mask><pos>?"}, "<mask><pos>"),
        ({"track_ids": tracks[:1], "style": "poem"}, "unknown style 'poem'; use one of short, detailed"),
        (
            {"track_ids": tracks[:1], "style": "short", "question": "Why?"},
            "a question and a style; set one of them",
        ),
        ({"points": [Point(x=320.0, y=1.0)]}, "the point (320, 1) is outside the image of 320x240 pixels"),
        ({"points": [Point(x=float(background[1]), y=float(background[0]))]}, "no region covers the point"),
        ({"regions": [Region(encoding=Region.BOX, roi=outside)]}, "region 1 of the request: "),
        ({"regions": [Region(encoding=Region.RLE, rle=[320 * 240])]}, "has no pixel inside the image of 320x240"),
    ):
        response = describe(client, **request)
        assert not response.success
        assert reason in response.message
    assert show(client, scene_image)


def test_questions_are_answered_while_frames_flow(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    track = latest(client)[CAR].track_id
    # Once each, so that the node knows where this client listens.
    assert query(client, "the yellow car").success
    assert describe(client, track_ids=[track]).success
    finder, teller = client.clients["/osprey/query_scene"], client.clients["/osprey/describe_region"]
    before = len(client.results)
    futures = [finder.call_async(QueryScene.Request(text="the yellow car")) for _ in range(4)]
    futures += [teller.call_async(DescribeRegion.Request(track_ids=[track])) for _ in range(4)]

    def flows() -> bool:
        client.send(next(STAMPS), *scene_image)
        return all(future.done() for future in futures) and len(client.results) >= before + 3

    client.wait_for(flows, "all are answered, and frames come out")
    for future in futures:
        assert future.result().success
    stamps = [stamp_of(future.result()) for future in futures]
    for own in (stamps[:4], stamps[4:]):  # the two kinds take turns
        assert own == sorted(own)
    assert min(stamps) >= max(list(client.results)[:before])


def enter(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the DDS domain of these variables with this process."""
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
        monkeypatch.setenv(name, env[name])


def test_the_command_line_queries_the_node(
    env: dict[str, str], client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(env, monkeypatch)
    clock = latest(client)[CLOCK]
    assert main(["ask", "the green clock", "--json", "--limit", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (match,) = answer["matches"]
    assert (match["id"], match["description"]) == (clock.track_id, clock.description)
    assert match["box"] == [clock.roi.x_offset, clock.roi.y_offset, clock.roi.width, clock.roi.height]
    assert match["visible"]
    assert answer["frame_id"] == "camera_optical_frame"
    assert main(["ask", "the green clock"]) == 0
    assert clock.description in capsys.readouterr().out
    assert main(["ask", "the purple elephant"]) == 1
    assert "purple elephant" in capsys.readouterr().out
    assert main(["ask", "a cup", "--node", "/nobody", "--timeout", "5"]) == 2
    error = capsys.readouterr().err
    assert "no node offers /nobody/query_scene after 5 s; found /osprey/query_scene" in error
    assert main(["ask", "a cup", "--node", "/bad name"]) == 2
    assert "'/bad name' is not the name of a node" in capsys.readouterr().err
    assert main(["ask", "   "]) == 2
    assert "/osprey cannot answer: the question is empty" in capsys.readouterr().err


def test_the_response_to_an_earlier_attempt_is_accepted(
    own_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(own_env, monkeypatch)
    server = Client(own_env, publish=False)
    again, over = threading.Event(), threading.Event()
    asked = count(1)

    def answer(request: Any, response: Any) -> Any:
        number = next(asked)
        if number > 1:
            again.set()
        assert (again if number == 1 else over).wait(DEADLINE)
        response.message = f"answer {number}"
        return response

    server.node.create_service(QueryScene, "/slow/query_scene", answer, callback_group=ReentrantCallbackGroup())
    executor = MultiThreadedExecutor(4, context=server.context)
    executor.add_node(server.node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        assert query_node("/slow", "a cup", 0, 9.0).message == "answer 1"
    finally:
        again.set()
        over.set()
        executor.shutdown()
        thread.join()
        server.close()


class Goal:
    """A goal of the action with its feedback and result."""

    def __init__(self, client: Client, before: Callable[[], Any] = lambda: None, **goal: Any) -> None:
        """Send a goal; ``before`` is called when the action server is ready."""
        self.client, self.feedback = client, []
        self._actions = client.action(DescribeRegionAction, "/osprey/describe_region")
        before()
        for _ in range(TRIES):
            self.handle = self._answer(DescribeRegionAction.Goal(**goal))
            if self.handle is not None:
                break
        else:
            raise AssertionError(f"{TRIES} goals were not answered")

    def _answer(self, goal: Any) -> Any:
        """Return the handle of the goal, or None if the response is presumably lost (see `Client.call`)."""
        feedback = self.feedback = []
        sent = self._actions.send_goal_async(goal, lambda message: feedback.append(message.feedback))
        asked = time.monotonic()
        self.client.wait_for(lambda: sent.done() or time.monotonic() - asked > PATIENCE, "the goal is answered")
        return sent.result() if sent.done() else None

    def result(self) -> tuple[int, Any]:
        """Wait for the result; return status and result. No feedback arrives afterwards."""
        answer = self.handle.get_result_async()
        self.client.wait_for(answer.done, "the goal ends")
        return answer.result().status, answer.result().result


def test_the_action_streams_the_text(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    things = latest(client)
    goal = Goal(client, track_ids=[things[TEAPOT].track_id], style="detailed")
    client.wait_for(lambda: len(goal.feedback) > 5, "words come one after the other")
    status, result = goal.result()
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert result.success
    texts = [feedback.text for feedback in goal.feedback]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert result.text.startswith(texts[-1])
    assert {stamp_of(feedback) for feedback in goal.feedback} == {stamp_of(result)}
    assert result.text == describe(client, track_ids=[things[TEAPOT].track_id], style="detailed").text

    status, result = Goal(client, track_ids=[99]).result()
    assert status == GoalStatus.STATUS_ABORTED
    assert "unknown track id 99" in result.message


def test_a_canceled_goal_ends_early(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    track = latest(client)[TEAPOT].track_id
    whole = describe(client, track_ids=[track], style="detailed").text
    # Behind other requests, so that the goal still waits, or has just begun, when it is canceled.
    teller = client.clients["/osprey/describe_region"]  # of the call above, so the node knows where it listens
    request = DescribeRegion.Request(track_ids=[track], style="detailed")
    before: list[Any] = []

    def keep_busy() -> None:
        before.extend(teller.call_async(request) for _ in range(8))  # ROS 2 keeps 10 that are not yet taken

    for _ in range(20):  # on a busy machine the goal may end before it is canceled
        goal = Goal(client, keep_busy, track_ids=[track], style="detailed")
        goal.handle.cancel_goal_async()
        status, result = goal.result()
        client.wait_for(lambda: all(answer.done() for answer in before), "the others are answered")
        assert all(answer.result().text == whole for answer in before)
        if status == GoalStatus.STATUS_CANCELED:
            break
    assert status == GoalStatus.STATUS_CANCELED
    assert not result.success
    assert result.message == "canceled"
    assert whole.startswith(result.text)
    assert len(result.text) < len(whole)
    assert show(client, scene_image)


def test_a_forgotten_object_gets_a_new_track_id(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    def forget(**request: Any) -> Any:
        return client.call(Forget, "/osprey/forget", Forget.Request(**request), again=False)

    before = {i: thing.track_id for i, thing in show(client, scene_image).items()}
    known = scene(client)
    refused = client.call(Forget, "/osprey/forget", Forget.Request())  # may be asked again
    assert "set either track_ids or everything" in refused.message
    refused = forget(track_ids=[before[CAR], 99])
    assert not refused.success
    assert "unknown track id 99, nothing was deleted" in refused.message
    assert scene(client) == known

    assert forget(track_ids=[before[CAR]]).message == "1 objects deleted"
    assert list(scene(client)) == [track for track in known if track != before[CAR]]
    after = {i: thing.track_id for i, thing in show(client, scene_image).items()}
    assert after[CAR] > max(known)
    assert {i: t for i, t in after.items() if i != CAR} == {i: t for i, t in before.items() if i != CAR}
    assert forget(everything=True).success
    assert scene(client) == {}
    assert min(thing.track_id for thing in show(client, scene_image).values()) > after[CAR]


def test_a_static_scene_is_described_once(client: Client, scene_image: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, ids = scene_image
    first = show(client, scene_image)
    renumbered = np.where(ids == CAR, 9, ids).astype(ids.dtype)
    again = show(client, (rgb, renumbered))
    assert again[9].track_id == first[CAR].track_id
    for number, thing in {**again, CAR: again[9]}.items():
        if number != 9:
            assert thing.described_at == first[number].described_at
            assert thing.description == first[number].description
            assert thing.last_seen != thing.described_at
    client.listen_to_diagnostics()
    values = client.status("scene", DiagnosticStatus.OK, "known objects; ")
    assert int(values["reused"]) >= 4
    assert values["file"] == "none"


def test_a_scene_survives_a_kill(
    own_env: dict[str, str], tmp_path: Path, scene_image: tuple[np.ndarray, np.ndarray]
) -> None:
    file = tmp_path / "memory" / "scene.db"
    parameters = (*PARAMETERS, f"scene_file:={file}")
    client = Client(own_env)
    try:
        with osprey_node(own_env, tmp_path, *parameters) as child:
            before = {thing.track_id: thing for thing in show(client, scene_image).values()}
            client.wait_for(lambda: stored(file, tmp_path / "copy") == set(before), "the scene is written")
            child.stop(signal.SIGKILL)
    finally:
        client.close()
    assert len(before) == 4

    client = Client(own_env)  # which has never heard of the one that was killed
    client.listen_to_diagnostics()
    try:
        with osprey_node(own_env, tmp_path, *parameters) as child:
            client.wait_until_heard()
            assert f"4 objects restored from {file}" in child.output()
            known = scene(client)
            assert texts(known) == texts(before)
            assert not any(thing.visible for thing in known.values())
            assert query(client, "the pink bowl", limit=1).matches[0].object in known.values()
            after = {thing.track_id: thing for thing in show(client, scene_image).values()}
            assert texts(after) == texts(before)
            assert all(thing.described_at == before[t].described_at for t, thing in after.items())
            assert client.status("scene", DiagnosticStatus.OK, "4 known objects")["file"] == str(file)

            assert client.change_state("deactivate")
            assert client.change_state("cleanup")
            whole = file.read_bytes()
            file.write_text("this is no scene")
            assert not client.change_state("configure")
            client.status("lifecycle", DiagnosticStatus.ERROR, f"the scene file {file} is damaged, or not a scene file")
            file.write_bytes(whole)
            assert client.change_state("configure")
            assert client.change_state("activate")
            assert texts(scene(client)) == texts(before)
            assert child.stop() == 0
    finally:
        client.close()


def frames(client: Client) -> dict[str, str]:
    """Return the values of the status "frames"."""
    status = client.statuses.get("osprey: frames")
    return {} if status is None else {value.key: value.value for value in status.values}


def keep_busy(client: Client, image: np.ndarray, ids: np.ndarray) -> None:
    """Send frames until one of them has arrived that waited for another, or took its place."""

    def dropped() -> int:
        return int(frames(client).get("dropped for later frames", "0"))

    before = dropped()
    for _ in range(3):  # one is in work, one waits, one takes its place
        client.send(next(STAMPS), image, ids)
    client.wait_for(lambda: dropped() > before, "the node is busy")


def stored(file: Path, folder: Path) -> set[int]:
    """Return the track ids in a scene file that another process has open."""
    shutil.copytree(file.parent, folder, dirs_exist_ok=True)
    try:
        store = SceneStore(folder / file.name, model_of(Bundle.open(BUNDLE, verify=False).manifest))
    except StorageError:  # copied while it was written
        return set()
    store.close()
    return {thing.track_id for thing in store.load().objects}


def texts(things: dict[int, Any]) -> dict[int, tuple[str, str, int]]:
    """Return category, description and state of objects by track id."""
    return {track: (thing.category, thing.description, thing.state) for track, thing in things.items()}


def test_an_inactive_node_refuses_requests(own_env: dict[str, str], tmp_path: Path) -> None:
    client = Client(own_env)
    # Work for much longer than a few seconds: requests wait meanwhile.
    ids = np.kron(np.arange(1, 1801, dtype=np.uint16).reshape(40, 45), np.ones((8, 8), np.uint16))
    image = np.full((*ids.shape, 3), 128, np.uint8)
    heavy = ("max_regions:=4096", "min_area:=1", "style:=detailed", "max_new_tokens:=256", "threads:=1")
    try:
        with osprey_node(own_env, tmp_path, *heavy) as child:
            unconfigured = "the node is unconfigured; configure and activate it, or start it with autostart:=true"
            assert query(client, "a mug").message == unconfigured
            assert client.change_state("configure")
            assert query(client, "a mug").message == "the node is inactive; activate it"
            status, result = Goal(client, track_ids=[1]).result()
            assert (status, result.message) == (GoalStatus.STATUS_ABORTED, "the node is inactive; activate it")
            assert client.change_state("activate")
            assert query(client, "a mug").message == "no object is known yet"
            assert describe(client, track_ids=[1]).message.startswith("no frame with a region has been processed yet")
            client.wait_until_heard()
            asking = client.clients["/osprey/query_scene"]  # of the calls above: the node knows where it listens
            client.listen_to_diagnostics()
            keep_busy(client, image, ids)
            answers = [asking.call_async(QueryScene.Request(text="a mug")) for _ in range(5)]
            goal = Goal(client, track_ids=[1])
            client.deactivate()
            client.wait_for(lambda: all(answer.done() for answer in answers), "all are answered")
            status, result = goal.result()
            assert status == GoalStatus.STATUS_ABORTED
            reasons = {result.message, *(answer.result().message for answer in answers)}
            before = "the node was deactivated before the answer was complete"
            # The last requests may have arrived after the deactivation.
            assert before in reasons <= {before, "the node is inactive; activate it"}
            client.status("lifecycle", DiagnosticStatus.OK, "inactive")
            client.statuses.clear()
            assert client.change_state("activate")
            client.wait_until_heard()
            # The canceled frame may have ended before its objects were known.
            shown = {thing.track_id for thing in show(client, tabletop()).values()}
            assert shown <= scene(client).keys()
            # A signal does not wait for waiting requests.
            keep_busy(client, image, ids)
            waiting = asking.call_async(QueryScene.Request(text="a mug"))
            Goal(client, track_ids=[1])
            assert not waiting.done()
            assert child.stop(patience=DEADLINE) == 0  # within one run of an engine
        assert "Traceback" not in child.output()
    finally:
        client.close()
