"""`osprey web`: it prints the address of the page and ends cleanly; errors are one line."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install -r requirements/web.txt")

from color_segmenter import write_bundle
from nano import NANO
from web_page import sample_png

from osprey_ros.cli.main import main


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_bundle(tmp_path_factory.mktemp("web") / "segmenter"))


@pytest.mark.parametrize(("number", "token"), [(signal.SIGTERM, ""), (signal.SIGINT, "a-token-from-the-environment")])
def test_address_is_printed_and_signals_end_it(
    segmenter: str, tmp_path: Path, number: signal.Signals, token: str
) -> None:
    (tmp_path / "mine.png").write_bytes(sample_png())
    command = [sys.executable, "-m", "osprey_ros", "web", "--port", "0", "--bundle", str(NANO), "--compare"]
    more = ["--segmenter", segmenter, "--threads", "1", "--samples", str(tmp_path)]
    environment = {**os.environ, "OSPREY_WEB_TOKEN": token}
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert address.endswith(f"/?token={token}" if token else "/")
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        connection.request("GET", "/api/offers", headers={"Authorization": f"Bearer {token}"})
        assert b'"samples": ["mine"]' in connection.getresponse().read()
        running.send_signal(number)
        assert running.wait(60) == 128 + number


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["web", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_errors(
    segmenter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--segmenter", segmenter, "--threads", "1", "--compare"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in _error(capsys, *common, "--port", port)
    assert "--host" in _error(capsys, *common, "--host", "192.0.2.1", "--port", "0")
    assert "no engine bundle 'nonesuch'" in _error(capsys, *common, "nonesuch")
    assert "has no images" in _error(capsys, *common, "--samples", str(tmp_path))
    assert "cannot be read as a folder of images" in _error(capsys, *common, "--samples", str(tmp_path / "none"))
    monkeypatch.setenv("OSPREY_WEB_TOKEN", "short")
    assert "OSPREY_WEB_TOKEN" in _error(capsys, *common)
    with pytest.raises(SystemExit, match="2"):
        main(["web", "--port", "70000"])
