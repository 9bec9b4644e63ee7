"""Requests about the scene as the worker's thread answers them."""

from __future__ import annotations

import numpy as np
import pytest

from osprey_ros.describer import Describer
from osprey_ros.frame import Frame
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.pipeline import Pipeline, StepSettings
from osprey_ros.query.finder import Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.ros.messages import QueryScene
from osprey_ros.ros.services.handlers import Requests
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """It has seen a white teapot, a yellow car, a pink bowl and a green clock."""
    with Renderer(320, 240) as renderer:
        picture = renderer.render(sample_scene(3, "test", (4, 5)))
    pipeline = Pipeline(Describer("nano", threads=1))
    pipeline.step(Frame(7, "camera", picture.rgb, regions_from_id_image(picture.instance_ids)), StepSettings())
    return pipeline


def test_a_query_that_is_stopped_says_so(pipeline: Pipeline) -> None:
    requests = Requests(pipeline, Finder(pipeline.describer), StepSettings, lambda: None)
    request = QueryScene.Request(text="the pink bowl")
    asked = 0

    def why_stop() -> str:
        nonlocal asked
        asked += 1
        return "no longer wanted" if asked > 1 else ""

    stopped = requests.query_scene(request, QueryScene.Response(), why_stop)
    assert (stopped.success, stopped.message, list(stopped.matches)) == (False, "no longer wanted", [])
    assert stamp_of(stopped) == 7
    found = requests.query_scene(request, QueryScene.Response(), lambda: "")
    assert found.success
    assert [match.object.category for match in found.matches] == ["bowl"]
    assert np.isclose(found.matches[0].score, 1, atol=0.1)
