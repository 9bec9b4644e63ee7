"""`~/load_bundle` over real DDS: another bundle while frames go on."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import GetParameters
from ros_harness import BUNDLE, Client, osprey_node, ros_environment, tabletop

from osprey_ros.ros.interfaces import LoadBundle, QueryScene
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene

STAMPS = count(1_000_000_000, 33_333_333)
HOME = str(Path(BUNDLE).parent / "home")


def test_a_bundle_is_replaced_between_two_frames(tmp_path: Path) -> None:
    with Renderer(320, 240) as renderer:
        frame = renderer.render(sample_scene(3, "test", (4, 5)))
    damaged = tmp_path / "damaged"
    shutil.copytree(BUNDLE, damaged)
    (damaged / "decoder.onnx").write_bytes((damaged / "decoder.onnx").read_bytes()[:-1] + b"!")
    with ros_environment(tmp_path) as env, osprey_node(env, tmp_path, "autostart:=true", "threads:=1"):
        client = Client(env)
        client.listen_to_diagnostics()
        client.wait_until_heard()

        def show(rgb: np.ndarray, ids: np.ndarray) -> dict[int, tuple[int, str, int]]:
            """Send a frame and wait for its objects: track, description and status by instance."""
            stamp = next(STAMPS)
            client.send(stamp, rgb, ids)
            return {o.instance_id: (o.track_id, o.description, o.state) for o in client.described(stamp).objects}

        def load(bundle: str) -> tuple[bool, str, int]:
            """Ask for a bundle, and send frames until the answer; return it and the number of described frames."""
            answer = client.service(LoadBundle, "/osprey/load_bundle").call_async(LoadBundle.Request(bundle=bundle))
            frames = 0
            while not answer.done():
                show(frame.rgb, frame.instance_ids)
                frames += 1
            return answer.result().success, answer.result().message, frames

        before = show(frame.rgb, frame.instance_ids)
        # Bundles that cannot be used: the old one stays.
        for bundle, reason in {
            str(tmp_path / "nowhere"): "no engine bundle",
            str(damaged): "decoder.onnx was changed (its SHA-256 differs",
        }.items():
            success, message, _ = load(bundle)
            assert not success
            assert reason in message
            client.status("bundle", DiagnosticStatus.WARN, f"nano stays in use, load_bundle failed: {message}")
            assert show(frame.rgb, frame.instance_ids) == before

        client.results.clear()
        success, message, frames = load(HOME)
        assert success, message
        assert f"home in {HOME} is in use, in place of nano" in message
        assert len(client.results) == frames > 1  # each of them was described
        after = show(frame.rgb, frame.instance_ids)
        assert {name: found[0] for name, found in after.items()} == {name: found[0] for name, found in before.items()}
        assert {state for _, _, state in after.values()} == {1}  # fresh
        assert {text for _, text, _ in after.values()} != {text for _, text, _ in before.values()}
        client.status("bundle", DiagnosticStatus.OK, "home, verified against its PyTorch model")
        found = client.call(QueryScene, "/osprey/query_scene", QueryScene.Request(text="the teapot"))
        assert found.success
        names = GetParameters.Request(names=["bundle"])
        values = client.call(GetParameters, "/osprey/get_parameters", names).values
        assert values[0].string_value == HOME

        # Two at once, and one while the node stops.
        service = client.service(LoadBundle, "/osprey/load_bundle")
        both = [service.call_async(LoadBundle.Request(bundle=BUNDLE)) for _ in range(2)]
        client.wait_for(lambda: all(answer.done() for answer in both), "both are answered")
        assert sorted(answer.result().success for answer in both) == [False, True]
        refused = next(answer.result().message for answer in both if not answer.result().success)
        assert refused == f"the bundle {BUNDLE} is being loaded; try again when it is in use"
        assert show(*tabletop())
        late = service.call_async(LoadBundle.Request(bundle=HOME))
        client.deactivate()
        client.wait_for(late.done, "the late one is answered")
        in_time = late.result().success  # on a machine that is busy elsewhere
        assert in_time or "inactive" in late.result().message or "deactivated" in late.result().message
        assert client.change_state("activate")
        client.wait_until_heard()
        assert show(*tabletop())
        level = DiagnosticStatus.OK if in_time else DiagnosticStatus.WARN
        client.status("bundle", level, "home, verified" if in_time else "nano stays in use")
        client.close()
