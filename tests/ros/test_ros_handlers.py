"""Answers to requests about the scene, and the limits of the services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from geometry_msgs.msg import Point
from kind_trees import ONE_TOKEN, bundle_with_kinds
from ros_harness import Client, ros_environment
from sensor_msgs.msg import RegionOfInterest

from osprey_interfaces.msg import Region
from osprey_ros.describer import Describer
from osprey_ros.errors import StoppedError
from osprey_ros.frame import Frame
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.ros.interfaces import DescribeRegion, DescribeRegionAction, QueryScene
from osprey_ros.ros.services.handlers import Requests
from osprey_ros.ros.services.server import Services
from osprey_ros.ros.worker import LatestWorker
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """A pipeline after one frame with a white teapot, a yellow car, a pink bowl and a green clock."""
    with Renderer(320, 240) as renderer:
        image = renderer.render(sample_scene(3, "test", (4, 5)))
    pipeline = Pipeline(Describer("nano", threads=1))
    pipeline.step(Frame(7, "camera", image.rgb, regions_from_id_image(image.instance_ids)), StepSettings())
    return pipeline


def test_a_canceled_query_stops(pipeline: Pipeline) -> None:
    requests = Requests(pipeline, Finder(pipeline.describer), list, StepSettings, lambda: None)
    request = QueryScene.Request(text="the pink bowl")
    token = CancellationToken()
    token.cancel()
    stopped = QueryScene.Response()
    with pytest.raises(StoppedError):
        requests.query_scene(request, stopped, token)
    assert (stopped.success, list(stopped.matches), stamp_of(stopped)) == (False, [], 7)
    found = requests.query_scene(request, QueryScene.Response(), CancellationToken())
    assert found.success
    assert [match.object.category for match in found.matches] == ["bowl"]
    assert np.isclose(found.matches[0].score, 1, atol=0.1)


def test_a_region_of_which_no_pixel_is_left_is_unknown_with_a_reason(pipeline: Pipeline) -> None:
    requests = Requests(pipeline, Finder(pipeline.describer), list, StepSettings, lambda: None)
    speck = Region(encoding=Region.BOX, roi=RegionOfInterest(x_offset=0, y_offset=0, width=1, height=1))
    request = DescribeRegion.Request(regions=[speck])
    answer = requests.describe_region(request, DescribeRegion.Response(), CancellationToken())
    assert (answer.success, answer.text, answer.confidence) == (True, "unknown", 0.0)
    assert "no pixel of its mask (1 pixels) is left at the scales of the model" in answer.message
    things = pipeline.memory.snapshot().objects
    known = DescribeRegion.Request(track_ids=[things[0].track_id])
    assert requests.describe_region(known, DescribeRegion.Response(), CancellationToken()).message == ""


def test_a_category_comes_with_its_kinds(tiny_model: TinyModel, sample: SampleImage, tmp_path: Path) -> None:
    bundle = bundle_with_kinds(tiny_model.bundle, tmp_path / "kinds", ONE_TOKEN)
    pipeline = Pipeline(Describer(bundle, threads=1))
    (thing, *_) = pipeline.step(
        Frame(7, "camera", sample.rgb, regions_from_id_image(sample.ids)), StepSettings()
    ).objects
    assert thing.caption is not None
    assert thing.caption.kinds
    settings = StepSettings()
    requests = Requests(pipeline, Finder(pipeline.describer), list, lambda: settings, lambda: None)
    request = DescribeRegion.Request(track_ids=[thing.track_id], style="category")
    answer = requests.describe_region(request, DescribeRegion.Response(), CancellationToken())
    assert (answer.success, answer.text) == (True, thing.category)
    assert answer.kinds == [kind.name for kind in thing.caption.kinds]
    assert list(answer.kind_probabilities) == pytest.approx([k.probability for k in thing.caption.kinds], abs=1e-4)
    settings = StepSettings(back_off=False)
    assert requests.describe_region(request, DescribeRegion.Response(), CancellationToken()).kinds == []


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with ros_environment(tmp_path) as env:
        client = Client(env, publish=False)
        yield client
        client.close()


def test_the_service_ends_a_long_answer_itself(pipeline: Pipeline, client: Client) -> None:
    requests = Requests(pipeline, Finder(pipeline.describer), list, StepSettings, lambda: None)
    worker: LatestWorker[None] = LatestWorker(lambda item, cancel: None, "test")
    services = Services(client.node, service_seconds=0.0)
    services.serve(requests, worker)
    try:
        regions = pipeline.memory.latest.regions  # type: ignore[union-attr]
        x, y, *_ = (int(v) for v in regions.boxes[0])
        inside = np.argwhere(regions.crop(0))[0]
        request = DescribeRegion.Request(points=[Point(x=float(x + inside[1]), y=float(y + inside[0]))])
        answer = client.call(DescribeRegion, "/client/describe_region", request)
        assert not answer.success
        assert answer.message.startswith("the answer was not complete after 0 s; use the action of the same name")
    finally:
        worker.close()
        services.close()


def test_the_service_and_the_action_have_the_same_fields() -> None:
    assert DescribeRegion.Request.get_fields_and_field_types() == (
        DescribeRegionAction.Goal.get_fields_and_field_types()
    )
    assert DescribeRegion.Response.get_fields_and_field_types() == (
        DescribeRegionAction.Result.get_fields_and_field_types()
    )
