"""`osprey doctor`: what it says of good and bad environments, and of a running graph."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from osprey_ros.bundle.default import VARIABLE
from osprey_ros.cli.main import main
from osprey_ros.doctor.finding import Finding, Level
from osprey_ros.doctor.graph import judge
from osprey_ros.doctor.ros import check_ros
from osprey_ros.doctor.software import check_python
from osprey_ros.doctor.storage import check_bundles, check_folders

IMAGE = "sensor_msgs/msg/Image"


def levels(findings: Iterable[Finding]) -> dict[str, tuple[str, str]]:
    """The level, and the text with the remedy, of each name. Each bad finding has a remedy, in one line."""
    found = {}
    for finding in findings:
        assert bool(finding.remedy) == (finding.level is not Level.OK), finding
        assert "\n" not in finding.text + finding.remedy
        found[finding.name] = (finding.level.value, f"{finding.text}; {finding.remedy}")
    return found


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    status = main(["doctor", "--json", "--seconds", "0", *options])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (status == 0)
    findings = [Finding(**{**finding, "level": Level(finding["level"])}) for finding in report["findings"]]
    return status, levels(findings)


def test_a_good_machine_has_no_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, found = doctor(capsys, "--scene-file", str(tmp_path / "scene.db"))
    assert status == 0
    for name in ("Python", "libraries", "memory", "home", "nano", "segmenter", "cache", "scene file"):
        assert found[name][0] == "ok", found[name]
    assert "files as listed, the default" in found["nano"][1]
    assert re.search(r"\d+\.\d+\.\d+ with .*CPU", found["onnxruntime"][1])
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_comes_with_its_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv(VARIABLE, "nonesuch")
    monkeypatch.setenv("ROS_LOG_DIR", str(file / "logs"))
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_ccp")
    status, found = doctor(capsys, "--scene-file", str(tmp_path))
    assert status == 1
    for name, text in {
        "nonesuch": "of the environment variable OSPREY_BUNDLE",
        "logs of ROS": "set ROS_LOG_DIR to a folder that can be written",
        "scene file": "is a folder; name a file in it",
        "domain": "ROS_DOMAIN_ID is 'seven'; set it to a number from 0 to 101",
        "RMW": "did you mean rmw_fastrtps_cpp?",
    }.items():
        assert found[name][0] == "problem"
        assert text in found[name][1]


def test_a_bundle_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from nano import NANO

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "osprey_ros" / "bundles" / "mine"
    shutil.copytree(NANO, folder)
    assert levels(check_bundles())["mine"][0] == "ok"
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    assert levels(check_bundles())["mine"][0] == "warning"
    assert levels(check_bundles(hashes=False))["mine"][0] == "ok"
    monkeypatch.setenv(VARIABLE, "mine")
    level, text = levels(check_bundles())["mine"]
    assert level == "problem"
    assert "decoder.onnx was changed" in text


def test_folders_that_do_not_exist_yet_are_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "b"))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "c"))
    assert {level for level, _ in levels(check_folders(str(tmp_path / "d" / "scene.db"))).values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_libraries_that_are_missing_are_named_and_the_rest_is_still_looked_at() -> None:
    blocked = "import sys\nfor name in ('onnxruntime', 'tokenizers', 'rclpy'): sys.modules[name] = None\n"
    run = f"{blocked}from osprey_ros.cli.main import main\nsys.exit(main(['doctor', '--json']))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["libraries"]["remedy"] == "pip install onnxruntime tokenizers"
    assert found["Python"]["level"] == "ok"


def test_versions_of_python() -> None:
    assert [check_python(version).level.value for version in ((3, 9), (3, 10), (3, 14), (3, 15))] == [
        *("problem", "ok", "ok", "warning")
    ]


@pytest.mark.parametrize(
    ("env", "name", "level", "text"),
    [
        ({"ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": "/tmp"}, "ROS", "ok", "humble, 1 folder in AMENT_PREFIX_PATH"),
        ({"ROS_DISTRO": "foxy", "AMENT_PREFIX_PATH": "/tmp"}, "ROS", "warning", "made for humble, jazzy, kilted"),
        ({"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/nowhere/x"}, "ROS", "warning", "/nowhere/x does not exist"),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "RMW", "problem", "apt install ros-$ROS_DISTRO-rmw-cyclonedds"),
        ({"RMW_IMPLEMENTATION": "rmw_cyclone_dds"}, "RMW", "problem", "did you mean rmw_cyclonedds_cpp?"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, "profile", "problem", "names /nowhere.xml, which cannot"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": __file__}, "profile", "problem", "which is not XML"),
        ({"CYCLONEDDS_URI": "file:///x.xml"}, "profile", "warning", "rmw_fastrtps_cpp ignores it"),
        ({"ROS_DOMAIN_ID": "42"}, "domain", "ok", "42"),
        ({"ROS_DOMAIN_ID": "150"}, "domain", "warning", "its ports overlap"),
        ({"ROS_DOMAIN_ID": "300"}, "domain", "problem", "from 0 to 101"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "discovery", "warning", "no node is found"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "NEAR"}, "discovery", "problem", "use one of SUBNET, LOCALHOST"),
        ({"ROS_LOCALHOST_ONLY": "1"}, "discovery", "ok", "this machine only"),
    ],
)
def test_settings_of_ros(env: Mapping[str, str], name: str, level: str, text: str, tmp_path: Path) -> None:
    index = tmp_path / "share" / "ament_index" / "resource_index" / "rmw_typesupport"
    index.mkdir(parents=True)
    (index / "rmw_fastrtps_cpp").touch()
    found = [finding for finding in check_ros(env, str(tmp_path)) if finding.name == name]
    bad = [finding for finding in found if finding.level is not Level.OK] or found
    assert (bad[0].level.value, text in f"{bad[0].text}; {bad[0].remedy}") == (level, True), bad


def test_little_shared_memory() -> None:
    found = levels(check_ros({}, shm=Path("/proc")))  # a file system without room
    assert found["shared memory"][0] == "warning"


def topic(name: str, kind: str = IMAGE, by: str = "/camera", to: str = "", **others: Any) -> dict[str, Any]:
    reliability = others.pop("reliability", ["reliable"] if by else [])
    ends = {"publishers": [by] if by else [], "subscribers": [to] if to else [], "refused": []}
    return {"name": name, "types": [kind], "reliability": reliability, **ends, **others}


def graph(*topics: dict[str, Any], rates: Mapping[str, float] | None = None, osprey: tuple[str, ...] = ()) -> Any:
    nodes = sorted({node for found in topics for node in found["publishers"] + found["subscribers"]})
    return levels(
        judge({"nodes": nodes, "topics": topics, "rates": rates or {}, "osprey": list(osprey), "seconds": 2.0})
    )


def test_graphs_that_lack_something() -> None:
    assert graph() == {"nodes": ("ok", "no other node is running in this domain; ")}
    found = graph(topic("/camera/image_raw"), topic("/camera/depth/image"), rates={"/camera/image_raw": 30.0})
    assert found["image"] == ("ok", "/camera/image_raw, sensor_msgs/Image of /camera, reliable, 30.0 Hz; ")
    assert found["masks"][0] == "warning"
    found = graph(topic("/sam/masks"), topic("/osprey/overlay", by="/osprey"), osprey=("/osprey",))
    assert (found["image"][0], found["masks"][0], found["osprey"][0]) == ("warning", "ok", "ok")
    found = graph(topic("/rgb", reliability=["best_effort"]), rates={"/rgb": 0.0})
    assert found["image"][0] == "warning"
    assert "more shared memory" in found["image"][1]
    found = graph(topic("/image", by="", to="/osprey"), topic("/rgb"), osprey=("/osprey",))
    assert found["inputs"][1].startswith("/osprey listens to /image, where nobody publishes; start its publisher, or")
    found = graph(topic("/rgb", refused=["listener gets nothing of camera: Best effort publisher"]))
    assert found["QoS"][0] == "warning"


def test_colors_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "osprey_ros", "doctor", "--seconds", "0", "--quick"]

    def on_a_terminal(**env: str) -> str:
        master, slave = pty.openpty()
        process = subprocess.Popen(command, stdout=slave, env={**os.environ, "TERM": "xterm", **env})
        os.close(slave)
        text = b""
        try:
            while piece := os.read(master, 4096):
                text += piece
        except OSError:  # the other end is closed
            pass
        os.close(master)
        assert process.wait() == 0
        return text.decode()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[32mok" in on_a_terminal()
    assert "\033" not in on_a_terminal(NO_COLOR="1")
    assert "\033" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
