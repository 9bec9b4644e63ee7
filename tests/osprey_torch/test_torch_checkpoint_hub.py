"""Checkpoints by hub id: from a hub on this machine, only what is needed, resumed; from the cache; errors in words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from segmenter_checkpoints import tiny_model, write_tiny
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer, write_checkpoint
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.segmenters import open_segmenter

CONFIG = TINY.with_vocabulary(400)
COMMIT = "c0ffee" + "0" * 34
SHARD = "pytorch_model-00001-of-00002.bin"


class Hub(ThreadingHTTPServer):
    """What `huggingface_hub` asks of the hub for one model, "org/name", over a folder; notes which bytes it sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.break_off: str | None = None  # the file whose first download stops half way
        self.sent: dict[str, list[int]] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/models/org/name/revision/main":
            return self._reply(json.dumps({"id": "org/name", "sha": COMMIT}).encode())
        if path == f"/api/models/org/name/tree/{COMMIT}":
            files = [f for f in self.server.folder.iterdir() if f.is_file()]
            table = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            return self._reply(json.dumps(table).encode())
        resolve = f"/org/name/resolve/{COMMIT}/"
        if path.startswith(resolve):
            return self._send_file(path.removeprefix(resolve))
        return self._reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def _send_file(self, name: str) -> None:
        data = (self.server.folder / name).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        stop = len(data)
        if self.command == "GET":
            if self.server.break_off == name:
                self.server.break_off = None
                stop = len(data) // 2
            self.server.sent.setdefault(name, []).append(stop - start)
        self._reply(data[start:], 206 if start else 200, headers, stop - start)

    def _reply(
        self, data: bytes, status: int = 200, headers: dict[str, str] | None = None, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:sent])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_checkpoint(CONFIG, folder, tokenizer=make_tokenizer(CONFIG))
    (folder / "README.md").write_text("never read")
    (folder / "optimizer.pt").write_bytes(b"never read")
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, with an empty cache."""
    with Hub(folder) as hub:
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def test_only_the_files_that_are_read_are_fetched_and_only_once(hub: Hub, folder: Path) -> None:
    checkpoint = Checkpoint.open("org/name")
    assert checkpoint.digest == Checkpoint.open(folder).digest
    assert checkpoint.folder.name == COMMIT
    unread = {"README.md", "optimizer.pt"}
    assert set(hub.sent) == {file.name for file in folder.iterdir()} - unread
    hub.sent.clear()
    assert Checkpoint.open("org/name").names == checkpoint.names
    assert hub.sent == {}


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    size = (folder / SHARD).stat().st_size
    hub.break_off = SHARD
    assert Checkpoint.open("org/name").digest == Checkpoint.open(folder).digest
    first, second = hub.sent[SHARD]
    assert first == size // 2
    assert second <= size - first + 1000


def test_a_model_that_the_hub_does_not_have_is_named(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"org/other is neither a folder here nor to be had from the hub: [^\n]+$"):
        Checkpoint.open("org/other")


def test_a_model_on_the_hub_that_is_no_checkpoint_says_so(hub: Hub, tmp_path: Path) -> None:
    hub.folder = tmp_path / "empty"
    hub.folder.mkdir()
    with pytest.raises(InputError, match=r"org/name on the hub has no config\.json"):
        Checkpoint.open("org/name")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and the folder of org/name in the cache, as huggingface_hub lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "models--org--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    return model / "snapshots" / COMMIT


@pytest.mark.parametrize("form", [{}, {"shards": 1}, {"format": "safetensors", "shards": 1}], ids=str)
def test_without_network_the_cache_is_used(offline: Path, form: dict[str, object]) -> None:
    write_checkpoint(CONFIG, offline, tokenizer=make_tokenizer(CONFIG), **form)
    assert Checkpoint.open("org/name").folder == offline


def test_without_network_and_without_weights_in_the_cache_the_error_says_what_to_do(offline: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)org/name is neither a folder .*network \(HF_HUB_OFFLINE"):
        Checkpoint.open("org/name")
    write_checkpoint(CONFIG, offline, tokenizer=make_tokenizer(CONFIG), shards=1)
    (offline / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="org/name"):
        Checkpoint.open("org/name")


def test_a_segmenter_is_fetched_with_its_settings(hub: Hub, tmp_path: Path) -> None:
    hub.folder = write_tiny(tmp_path / "sam", tiny_model("sam"))
    (hub.folder / "pytorch_model.bin").write_bytes(b"never read")
    segmenter = open_segmenter("org/name")
    assert segmenter.spec == open_segmenter(hub.folder).spec
    assert set(hub.sent) == {"config.json", "preprocessor_config.json", "model.safetensors"}
