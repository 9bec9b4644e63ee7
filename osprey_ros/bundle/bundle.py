"""The bundle of a describer: its tables beside the engines, and what writes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.bundle.calibration import Calibration
from osprey_ros.bundle.engine_bundle import EngineBundle, write_atomically, write_with_files
from osprey_ros.bundle.manifest import (
    CALIBRATION,
    EMBEDDINGS,
    KINDS,
    MANIFEST,
    TOKENIZER,
    UNLIKE_TRAINING,
    EngineEntry,
    FileEntry,
    Manifest,
    onnx_engines,
)
from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.bundle.unlike_training import UnlikeTraining
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import os_reason, read_text
from osprey_ros.kinds.tree import KindTree

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Bundle(EngineBundle[Manifest]):
    """An opened bundle of a describer: engines for vision, regions and language, and the tables of its model."""

    manifest_type = Manifest

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer of the bundle. Raises BundleError if its file is invalid."""
        from tokenizers import Tokenizer

        path = self.path(TOKENIZER)
        text = read_text(path, BundleError, self.again)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises a bare Exception
            raise BundleError(f"{path} is not a tokenizer of the library tokenizers; {self.again}") from error
        tokenizer.no_truncation()  # bundles of 0.1 may keep what another program left in the file
        tokenizer.no_padding()
        return tokenizer

    def embeddings(self) -> np.ndarray:
        """Return the embedding table, float16 [vocab_size, hidden_size], mapped from disk.

        Raises BundleError if the file is unreadable or has another shape or type.
        """
        path = self.path(EMBEDDINGS)
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, TokenError) as error:  # the last: of a header that is cut short
            raise BundleError(f"{path} is not a plain numpy array; {self.again}") from error
        except OSError as error:
            raise BundleError(self._unreadable(path, error)) from error
        expected = (self.manifest.model.vocab_size, self.manifest.model.hidden_size)
        if table.shape != expected:
            raise BundleError(f"{path} has shape {table.shape}, the manifest expects {expected}; {REBUILD}")
        if table.dtype != np.float16:
            raise BundleError(f"{path} holds {table.dtype}, it must be float16; {REBUILD}")
        result: np.ndarray = table
        return result

    def calibration(self) -> Calibration:
        """Load the calibration of confidences. A bundle without one gets a calibration that changes nothing.

        Raises BundleError if its file is invalid.
        """
        if CALIBRATION not in self.manifest.files:
            return Calibration()
        path = self.path(CALIBRATION)
        text = read_text(path, BundleError, self.again)
        try:
            return Calibration.from_json(text)
        except BundleError as error:
            raise BundleError(
                f"{path} cannot be used ({error}); fit it again with `osprey eval calibration`"
            ) from error

    def kinds(self) -> KindTree | None:
        """Load the tree of kinds. Return None if the bundle has none. Raises BundleError if its file is invalid."""
        if KINDS not in self.manifest.files:
            return None
        path = self.path(KINDS)
        text = read_text(path, BundleError, self.again)
        try:
            return KindTree.from_json(text)
        except BundleError as error:
            raise BundleError(f"{path} is not a tree of kinds: {error}") from error

    def unlike_training(self) -> UnlikeTraining | None:
        """Load the score of what is unlike training. Return None if the bundle has none.

        Raises BundleError if its file is invalid, or of a model of other sizes.
        """
        if UNLIKE_TRAINING not in self.manifest.files:
            return None
        path, model = self.path(UNLIKE_TRAINING), self.manifest.model
        try:
            found = UnlikeTraining.from_bytes(path.read_bytes())
            found.check(model.hidden_size, model.feature_channels)
        except OSError as error:
            raise BundleError(self._unreadable(path, error)) from error
        except BundleError as error:
            raise BundleError(
                f"{path} cannot be used ({error}); fit it again with `osprey eval unlike_training --write`"
            ) from error
        return found


def write_calibration(directory: str | os.PathLike[str], calibration: Calibration) -> Manifest:
    """Write a calibration into a bundle, with its entry in the manifest, which is returned.

    Raises BundleError if a file of the bundle is missing or changed, or if writing fails. The bundle is then unchanged.
    """
    return _write_listed(directory, CALIBRATION, calibration.to_json().encode())


def write_kinds(directory: str | os.PathLike[str], tree: KindTree) -> Manifest:
    """Write a tree of kinds into a bundle, as `write_calibration` writes a calibration."""
    return _write_listed(directory, KINDS, tree.to_json().encode())


def write_unlike_training(directory: str | os.PathLike[str], unlike_training: UnlikeTraining) -> Manifest:
    """Write the score of what is unlike training into a bundle, with its entry in the manifest, which is returned.

    Raises BundleError as `write_calibration` does, and if the score is of a model of other sizes.
    """
    model = Bundle.open(directory, verify=False).manifest.model
    unlike_training.check(model.hidden_size, model.feature_channels)
    return _write_listed(directory, UNLIKE_TRAINING, unlike_training.to_bytes())


def write_manifest(
    directory: str | os.PathLike[str],
    *,
    name: str,
    model: ModelSpec,
    template: str,
    precisions: Mapping[str, str],
    verification: Mapping[str, Any],
    engines: Mapping[str, EngineEntry] | None = None,
) -> Manifest:
    """Write the ``manifest.json`` of a complete bundle folder as `write_with_files` does, and return it.

    Args:
        directory: Folder of the bundle.
        name, model, template, precisions, verification: As in `Manifest`.
        engines: The engine of each role; by default three ONNX graphs for the CPU.
    """
    manifest = Manifest(
        name=name,
        model=model,
        template=template,
        precisions=dict(precisions),
        files={},
        verification=dict(verification),
        engines=onnx_engines() if engines is None else dict(engines),
    )
    return write_with_files(directory, manifest)


def _write_listed(directory: str | os.PathLike[str], name: str, data: bytes) -> Manifest:
    """Write a file into a bundle, with its entry in the manifest. Raises as `write_calibration` does."""
    bundle = Bundle.open(directory)
    entry = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, name: entry})
    try:
        write_atomically({bundle.root / name: data, bundle.root / MANIFEST: manifest.to_json().encode()})
    except OSError as error:
        raise BundleError(f"bundle {bundle.root}: cannot write {name}: {os_reason(error)}") from error
    return manifest
