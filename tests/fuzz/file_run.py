"""Damaged and forged files at every door: ``make fuzz FILES=10000``. Engines are opened, too."""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz.commands import check_text
from nano import NANO
from PIL import Image
from recordings import chatter_item, write_folder
from safetensors.numpy import save_file

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.engines.onnxruntime import OnnxEngine
from osprey_ros.errors import OspreyError
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.types import MessageTypes
from osprey_ros.regions.id_image import stored_ids
from osprey_ros.scene.scene_file import SceneFile, StoredScene
from osprey_ros.scene.types import SceneObject, State
from osprey_ros.vision.image_content import decoded_image
from osprey_torch.tensor_files import list_file

SLOWEST = 60.0  # seconds that no file may take
MEMORY = 8 << 30  # bytes of address space
NUMBERS = (-1, 0, 1, 2**31, 2**63, 1e308, "9", None, [], {}, True)
TEXTS = ("", "../../etc/passwd", "/etc/passwd", "a\nb", "\x00", "ü" * 1000, "decoder.onnx", "..")
SIDE_FILES = ("calibration.json", "config.json", "embeddings.npy", "tokenizer.json", "unlike_training.npz")


def forged(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes of a file with one to three faults."""
    for _ in range(chance.randint(1, 3)):
        place, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8, 64, 4096))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[:place] + chance.randbytes(size) + data[place + size :]
        elif kind == 2:
            data = data[:place] + chance.choice((b"\xff", b"\x00")) * min(size, 8) + data[place + min(size, 8) :]
        elif kind == 3:
            data = data[:place] + data[place + size :]
        elif kind == 4:
            data = data[:place] + data[:size] + data[place:]
        else:  # the head, where sizes are
            place = chance.randrange(min(64, len(data) + 1))
            data = data[:place] + chance.randbytes(1) + data[place + 1 :]
    return data


def forged_json(text: str, chance: random.Random) -> str:
    """Return a JSON document with another value at one place."""
    document = json.loads(text)
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return json.dumps(document)
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.85:
            place = place[key]
            continue
        if isinstance(place, dict) and chance.random() < 0.3:
            value = place.pop(key)
            if chance.random() < 0.7:
                place[chance.choice(TEXTS)] = value
        else:
            place[key] = chance.choice((*NUMBERS, *TEXTS))
        return json.dumps(document)


class FileRun:
    """Forges files and gives each to the code that reads it.

    Args:
        folder: An empty folder.
        seed: Of the faults.

    Attributes:
        counts: Files by door and by what became of them.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._folder = folder
        self._bundle = folder / "bundle"
        shutil.copytree(NANO, self._bundle)
        self._manifest = (NANO / "manifest.json").read_text()
        self._samples = self._make_samples(folder)
        self.doors: dict[str, Callable[[], None]] = {
            "manifest": self._manifest_file,
            "side file": self._side_file,
            "engine": self._engine,
            "scene": lambda: self._plain("scene.db", lambda path: SceneFile(path, "m", 1 << 20).close()),
            "image": lambda: self._plain("image", lambda path: decoded_image(path.read_bytes()).load()),
            "ids": lambda: self._plain("ids.png", lambda path: stored_ids(path.read_bytes(), turn=False)),
            "mcap": lambda: self._plain("r.mcap", _read_recording),
            "db3": lambda: self._plain("r.db3", _read_recording),
            "safetensors": lambda: self._plain("w.safetensors", list_file),
        }

    def feed(self, door: str | None = None) -> None:
        """Forge one file for one of the doors."""
        name = door or self._chance.choice(sorted(self.doors))
        try:
            self.doors[name]()
        except OspreyError as error:
            check_text(str(error), str(self._folder), "bundle", "image", "it ", "the ")
            self.counts[f"{name}: refused"] += 1
        else:
            self.counts[f"{name}: read"] += 1

    def _make_samples(self, folder: Path) -> dict[str, bytes]:
        kept = folder / "kept"
        kept.mkdir()
        rgb = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
        for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif"):
            Image.fromarray(rgb).save(kept / f"image.{suffix}")
        Image.fromarray((rgb[..., 0] // 40).astype(np.uint8)).save(kept / "ids.png")
        save_file({"a": np.ones((3, 4), np.float32), "b": np.zeros(7, np.float16)}, kept / "w.safetensors")
        scene = SceneFile(kept / "scene.db", "m", 1 << 20)
        scene.write(StoredScene([_object(number) for number in range(1, 20)], 20))
        scene.close()
        for storage in ("mcap", "sqlite3"):
            write_folder(
                kept / storage, [chatter_item("x" * 50, 1_700_000_000 * 10**9 + n) for n in range(20)], storage
            )
        found = {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
        for name, suffix in (("r.mcap", "*.mcap"), ("r.db3", "*.db3")):
            found[name] = next(kept.rglob(suffix)).read_bytes()
        return found

    def _plain(self, name: str, read: Callable[[Path], object]) -> None:
        sample = self._chance.choice([key for key in self._samples if key.startswith(name)])
        path = self._folder / sample
        for beside in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        path.write_bytes(forged(self._samples[sample], self._chance))
        read(path)

    def _manifest_file(self) -> None:
        path = self._bundle / "manifest.json"
        try:
            path.write_text(forged_json(self._manifest, self._chance))
            if self._chance.random() < 0.3:
                path.write_bytes(forged(self._manifest.encode(), self._chance))
            bundle = Bundle.open(self._bundle)
            for listed in (*bundle.manifest.files, *bundle.manifest.needed_files()):
                assert (self._bundle / listed).resolve().is_relative_to(self._bundle.resolve()), listed
            _read_tables(bundle)
        finally:
            path.write_text(self._manifest)

    def _side_file(self) -> None:
        name = self._chance.choice(SIDE_FILES)
        original = (NANO / name).read_bytes()
        data = forged(original, self._chance)
        if name.endswith(".json") and self._chance.random() < 0.7:
            data = forged_json(original.decode(), self._chance).encode()
        self._with_file(name, data, lambda: _read_tables(Bundle.open(self._bundle)))

    def _engine(self) -> None:
        name = self._chance.choice(("mask_extractor.onnx", "decoder.onnx"))
        data = forged((NANO / name).read_bytes(), self._chance)
        self._with_file(name, data, lambda: OnnxEngine(Bundle.open(self._bundle).path(name), "cpu", 1))

    def _with_file(self, name: str, data: bytes, read: Callable[[], object]) -> None:
        """Put a file into the bundle, with its right hash as a forger would, and take it out again."""
        manifest = json.loads(self._manifest)
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        try:
            (self._bundle / name).write_bytes(data)
            (self._bundle / "manifest.json").write_text(json.dumps(manifest))
            read()
        finally:
            shutil.copyfile(NANO / name, self._bundle / name)
            (self._bundle / "manifest.json").write_text(self._manifest)


def _object(number: int) -> SceneObject:
    vector = np.full(16, number, np.float32)
    return SceneObject(number, State.FRESH, "", None, 1, 2, False, number, (1, 2, 3, 4), 12, vector)


def _read_tables(bundle: Bundle) -> None:
    bundle.tokenizer()
    bundle.embeddings()
    bundle.calibration()
    bundle.kinds()
    bundle.unlike_training()


def _read_recording(path: Path) -> None:
    with Recording(path, MessageTypes()) as recording:
        for _ in recording.read():
            pass


def main(argv: list[str] | None = None) -> int:
    """Forge as many files as asked for; return 0 if each was read or refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--door", help="only this one")
    options = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("osprey_ros").setLevel(logging.ERROR)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # of remembered hashes
        run = FileRun(Path(folder), options.seed)
        for number in range(options.files):
            faulthandler.dump_traceback_later(SLOWEST, exit=True)
            try:
                run.feed(options.door)
            except Exception:
                print(f"file {number} of seed {options.seed} broke a promise", file=sys.stderr)
                raise
        faulthandler.cancel_dump_traceback_later()
    print(f"seed {options.seed}: {options.files} files in {time.monotonic() - began:.0f} s")
    for name, count in sorted(run.counts.items()):
        print(f"  {count:7} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
