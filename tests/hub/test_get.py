"""`osprey bundle get` from a real server: folders, a hub, archives, broken connections and hostile contents."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_server import BundleServer, serve

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.bundle.places import DOWNLOADED, find_bundle, installed_bundles
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.cli.main import main
from osprey_ros.errors import BundleError, InputError
from osprey_ros.hub.get import BundleDownload, Downloaded
from osprey_ros.hub.source import parse_source
from osprey_ros.hub.transfer import ATTEMPTS, Transfer

DECODER = 3_000_000  # bytes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloaded bundles."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "osprey_ros" / "bundles"


@pytest.fixture
def server(tmp_path: Path, spec: ModelSpec, cache: Path) -> Iterator[BundleServer]:
    """A server with the bundle /small, whose engines are only bytes."""
    folder = tmp_path / "www" / "small"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {"vision.onnx": 900, "mask_extractor.onnx": 800, "decoder.onnx": DECODER, "tokenizer.json": 70}
    for name, size in sizes.items():
        (folder / name).write_bytes(rng.bytes(size))
    np.save(folder / "embeddings.npy", np.zeros((10, 4), np.float16))
    write_manifest(folder, name="small", model=spec, template="osprey_v1", precisions={}, verification={})
    with serve(tmp_path / "www") as found:
        yield found


def get(server: BundleServer, path: str = "/small", **options: Any) -> Downloaded:
    source = parse_source(f"{server.address}{path}")
    return BundleDownload(source, transfer=Transfer(pause=0.0), **options).run()


def same(server: BundleServer, folder: Path) -> bool:
    """Whether a folder has the files of the bundle on the server, no more and no fewer."""
    files = {path.name: path.read_bytes() for path in (server.folder / "small").iterdir()}
    return {path.name: path.read_bytes() for path in folder.iterdir()} == files


def edit(server: BundleServer, change: Callable[[dict[str, Any]], object]) -> None:
    path = server.folder / "small" / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_repository_of_a_hub_is_found_by_its_name(
    server: BundleServer, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(server.folder / "small", server.folder / "robots" / "tiny" / "resolve" / "v1")
    monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/")
    assert main(["bundle", "get", "robots/tiny", "--revision", "v1"]) == 0
    out = capsys.readouterr().out
    assert "robots/tiny: 3.0 MB downloaded in " in out
    assert "use it with --bundle robots/tiny" in out
    assert find_bundle("robots/tiny") == cache / "robots" / "tiny"
    assert Bundle.open("robots/tiny").manifest.name == "small"
    assert [place.name for place in installed_bundles() if place.origin == DOWNLOADED] == ["robots/tiny"]
    assert list((cache / ".partial").iterdir()) == []

    assert main(["bundle", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["robots/tiny"]["origin"] == "downloaded"
    assert rows["robots/tiny"]["kind"] == "describer"
    assert rows["nano"]["default"]
    assert not rows["robots/tiny"]["default"]
    assert (rows["home"]["origin"], rows["segmenter"]["kind"]) == ("shipped", "segmenter")

    # The same bundle again: only its manifest is asked for. Another one under this name replaces it.
    before = len(server.requests)
    assert main(["bundle", "get", "robots/tiny", "--revision", "v1"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert server.requests[before:] == [("/robots/tiny/resolve/v1/manifest.json", "")]
    (cache / "robots" / "tiny" / "decoder.onnx").write_bytes(b"x" * DECODER)
    assert main(["bundle", "get", "robots/tiny", "--revision", "v1"]) == 0
    assert same(server, cache / "robots" / "tiny")


def test_a_broken_connection_goes_on_where_it_broke(server: BundleServer, cache: Path) -> None:
    server.cuts["/small/decoder.onnx"] = [1_000_000, 500_000]
    seen: list[tuple[str, int, int]] = []
    found = get(server, progress=lambda *step: seen.append(step))
    assert found.new
    assert same(server, cache / "small")
    assert server.asked("/small/decoder.onnx") == ["", "bytes=1000000-", "bytes=1500000-"]
    assert seen[-1][1] == seen[-1][2] == sum(entry.bytes for entry in found.manifest.files.values())


def test_the_next_command_goes_on(server: BundleServer, cache: Path) -> None:
    server.cuts["/small/decoder.onnx"] = [1_000_000, *[0] * ATTEMPTS]
    with pytest.raises(BundleError, match=r"the connection broke before the end.*run the command again to continue"):
        get(server)
    assert not (cache / "small").exists()
    before = len(server.requests)
    assert get(server).new
    assert same(server, cache / "small")
    assert ("/small/decoder.onnx", "bytes=1000000-") in server.requests[before:]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_kept_of_another_file_does_not_stay(server: BundleServer, cache: Path, ranges: bool) -> None:
    server.cuts["/small/decoder.onnx"] = [1_000_000, *[0] * ATTEMPTS]
    with pytest.raises(BundleError):
        get(server)
    (partial,) = cache.glob(".partial/*/bundle/decoder.onnx.part")
    partial.write_bytes(b"?" * 1_000_000)
    server.ranges = ranges
    assert get(server).new
    assert same(server, cache / "small")


def test_busy_servers_are_asked_again(server: BundleServer, cache: Path) -> None:
    server.statuses |= {"/small/manifest.json": [503, 429], "/small/decoder.onnx": [500]}
    server.moved["/other/vision.onnx"] = f"{server.address}/small/vision.onnx"
    assert get(server).new
    assert server.asked("/small/manifest.json") == ["", "", ""]


def test_files_that_are_not_those_of_the_manifest(server: BundleServer, cache: Path) -> None:
    path = server.folder / "small" / "decoder.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(BundleError, match=r"small/decoder\.onnx is not the file of its manifest \(its SHA-256 differs"):
        get(server)
    path.write_bytes(content + b"more")
    with pytest.raises(BundleError, match=r"decoder\.onnx has 3000004 bytes, the manifest says 3000000"):
        get(server)
    path.unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx: the server answers 404 .*check the address or the name"):
        get(server)
    assert not (cache / "small").exists()
    path.write_bytes(content)
    assert get(server).new


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": "0"}}), r"lists '\.\./x' with 1 bytes"),
        (lambda m: m["files"].update({".x": {"bytes": 1, "sha256": "0"}}), r"lists '\.x' with 1 bytes"),
        (lambda m: m["files"]["decoder.onnx"].update(bytes=10**13), "the bundle has 10000000 MB, 64000 MB are allowed"),
        (lambda m: m["files"]["decoder.onnx"].update(bytes=-1), "lists 'decoder.onnx' with -1 bytes"),
        (lambda m: m["files"].pop("decoder.onnx"), r"does not list decoder\.onnx"),
        (lambda m: m["files"]["decoder.onnx"].update(bytes=63 * 10**9), "MB of disk in .* are free; free some space"),
        (lambda m: m.update(format_version=99), "format_version 99, this osprey_ros reads 4"),
        (lambda m: m.update(kind="toaster"), "bundle of a toaster"),
        (lambda m: m.update(filler="x" * (5 << 20)), "more than 4194304 bytes"),
    ],
)
def test_manifests_that_are_refused(
    server: BundleServer,
    cache: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(server.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=min(usage.free, 10**10)))
    edit(server, change)
    with pytest.raises(BundleError, match=message):
        get(server)
    assert [path for path, _ in server.requests] == ["/small/manifest.json"]
    assert not (cache / "small").exists()


def test_what_is_no_bundle_and_what_leads_elsewhere(
    server: BundleServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "get", f"{server.address}/nothing"]) == 2
    assert "there is no engine bundle: http" in capsys.readouterr().err
    (server.folder / "page").mkdir()
    (server.folder / "page" / MANIFEST).write_text("<html>")
    with pytest.raises(BundleError, match="is not JSON; give the folder of an engine bundle"):
        get(server, "/page")
    server.moved["/there/manifest.json"] = "file:///etc/passwd"
    with pytest.raises(BundleError, match=r"'file:///etc/passwd' is not allowed"):
        get(server, "/there")
    server.moved["/there/manifest.json"] = "ftp://host/manifest.json"
    with pytest.raises(BundleError, match=r"leads to ftp://host/manifest\.json, which is less safe"):
        get(server, "/there")
    server.statuses["/small/manifest.json"] = [401]
    with pytest.raises(BundleError, match=r"401 .*asks for a login"):
        get(server)
    for text in ("ftp://x/y", "file:///tmp/x", "justaname", "a/b/c", "../x/y", "http://", "https://me:word@x/y"):
        with pytest.raises(InputError, match="address"):
            parse_source(text)
    with pytest.raises(InputError, match=r"revision '\.\./x' is not the name"):
        parse_source("a/b", "../x")
    for name in ("../x", "a/b/c", ".hidden", "a//b"):
        with pytest.raises(InputError, match="cannot be the name of a bundle"):
            get(server, name=name)
    with pytest.raises(InputError, match="'nano' is the name of a bundle that ships"):
        get(server, name="nano")
    assert list((cache / ".partial").iterdir()) == []


def test_a_bundle_does_not_hide_others(server: BundleServer, cache: Path) -> None:
    assert get(server, name="robots/a").new
    with pytest.raises(BundleError, match="robots exists and is not a bundle"):
        get(server, name="robots")
    assert get(server, name="one").new
    with pytest.raises(BundleError, match="one is a bundle and cannot have bundles in it"):
        get(server, name="one/a")
    assert Bundle.open("robots/a").manifest.name == Bundle.open("one").manifest.name == "small"


def test_a_full_disk_is_named_and_the_rest_is_downloaded_later(server: BundleServer, cache: Path) -> None:
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        with pytest.raises(BundleError, match=r"decoder\.onnx\.part cannot be written: .*run the command again"):
            get(server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert get(server).new
    assert same(server, cache / "small")
    assert server.asked("/small/decoder.onnx") == ["", "bytes=2000000-"]


def tar_of(folder: Path, path: Path, extra: tuple[str, ...] = ()) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in extra:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        archive.add(folder, folder.name)


def zip_of(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)


def test_archives_give_the_files_of_their_manifest_only(server: BundleServer, cache: Path, tmp_path: Path) -> None:
    small = server.folder / "small"
    tar_of(small, server.folder / "one.tar.gz", ("../../escaped", "/escaped", "small/not_listed"))
    zip_of(small, server.folder / "two.zip")
    server.cuts["/one.tar.gz"] = [1_000_000]
    for name in ("one.tar.gz", "two.zip"):
        found = get(server, f"/{name}")
        assert found.new
        assert same(server, found.folder)
        assert not get(server, f"/{name}").new
    assert [place.name for place in installed_bundles() if place.origin == DOWNLOADED] == ["one", "two"]
    assert server.asked("/one.tar.gz")[:2] == ["", "bytes=1000000-"]
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_that_changed_meanwhile_begins_again(server: BundleServer, cache: Path) -> None:
    path = server.folder / "one.zip"
    zip_of(server.folder / "small", path)
    server.cuts["/one.zip"] = [1_000_000, *[0] * ATTEMPTS]
    with pytest.raises(BundleError, match="broke before the end"):
        get(server, "/one.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("NOTES", b"one more file")
    assert get(server, "/one.zip").new
    assert same(server, cache / "one")


def test_hostile_archives(server: BundleServer, cache: Path) -> None:
    small, folder = server.folder / "small", server.folder
    (folder / "noise.zip").write_bytes(b"PK\x03\x04" + os.urandom(2000))
    (folder / "noise.tar").write_bytes(os.urandom(20_000))
    with zipfile.ZipFile(folder / "none.zip", "w") as archive:
        archive.writestr("a/b/manifest.json", "{}")
    with gzip.open(folder / "bomb.tar.gz", "wb", compresslevel=9) as bomb:
        member = tarfile.TarInfo("zeros")
        member.size = 200_000_000
        bomb.write(member.tobuf())
        for _ in range(200):
            bomb.write(bytes(1_000_000))
    edit(server, lambda m: m["files"]["vision.onnx"].update(bytes=10))
    zip_of(small, folder / "longer.zip")
    edit(server, lambda m: m["files"]["vision.onnx"].update(bytes=900, sha256="0" * 64))
    zip_of(small, folder / "changed.zip")
    (small / "vision.onnx").unlink()
    tar_of(small, folder / "lacking.tar.gz")
    for name, message in {
        "noise.zip": "is not an archive, or damaged",
        "noise.tar": "is not an archive, or damaged",
        "none.zip": r"has no file manifest\.json at its top",
        "bomb.tar.gz": "unpacks to more than is allowed",
        "longer.zip": r"vision\.onnx has not the 10 bytes of the manifest",
        "changed.zip": r"vision\.onnx is not the file of the manifest",
        "lacking.tar.gz": r"has no vision\.onnx, which its manifest lists",
    }.items():
        with pytest.raises(BundleError, match=message):
            get(server, f"/{name}", max_bytes=100_000_000)
    assert installed_bundles() == [place for place in installed_bundles() if place.origin != DOWNLOADED]


def test_a_download_that_runs_already(server: BundleServer, cache: Path) -> None:
    problems: list[str] = []

    def twice(file: str, done: int, total: int) -> None:
        if not problems:
            with pytest.raises(BundleError) as caught:
                get(server)
            problems.append(str(caught.value))

    assert get(server, progress=twice).new
    assert problems == ["another osprey bundle get downloads this bundle now; wait for it"]
