"""Code that was written for version 0.1 can import modules and names that moved."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import osprey_ros
from osprey_ros import _moved

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", _moved.MODULES)
def test_the_modules_of_0_1_can_be_imported(module: str) -> None:
    import_module(f"osprey_ros.{module}")
    for home in _moved.MODULES[module]:
        import_module(f"osprey_ros.{home}")


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used() -> None:
    from osprey_ros.query.finder import Finder

    with pytest.warns(DeprecationWarning, match=r"queries\.Finder is now osprey_ros\.query\.finder\.Finder") as caught:
        from osprey_ros.queries import Finder as OldFinder
    assert OldFinder is Finder
    assert caught[0].filename == __file__


def test_names_of_a_module_that_is_a_package_now_are_found_in_it() -> None:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.scene.scene import Scene

    with pytest.warns(DeprecationWarning, match=r"bundle\.Bundle is now osprey_ros\.bundle\.bundle\.Bundle"):
        from osprey_ros.bundle import Bundle as OldBundle
    with pytest.warns(DeprecationWarning, match="removed in 0.3"):
        from osprey_ros.scene import Scene as OldScene
    assert (OldBundle, OldScene) == (Bundle, Scene)


@pytest.mark.parametrize("name", _moved.NAMES)
def test_names_with_another_name_are_found(name: str) -> None:
    home, new_name = _moved.NAMES[name]
    assert hasattr(import_module(f"osprey_ros.{home}"), new_name)


def test_an_error_of_0_1_is_a_class_that_catches_what_is_raised_now() -> None:
    from osprey_ros import OspreyError

    with pytest.warns(DeprecationWarning, match=r"StoreError is now osprey_ros\.errors\.OspreyError"):
        from osprey_ros.scene_store import StoreError
    assert StoreError is OspreyError


@pytest.mark.parametrize(
    ("module", "name", "home", "new_name"),
    [
        ("asked", "Asked", "decoding.prompt_batch", "PromptBatch"),
        ("bundle", "ModelSpec", "bundle.spec", "ModelSpec"),
        ("bundle", "sha256_of", "bundle.hash_cache", "sha256_of"),
        ("decoder_engine", "DecoderEngine", "decoding.runner", "DecoderRunner"),
        ("describer", "MAX_NEW_TOKENS", "decoding.prompt", "MAX_NEW_TOKENS"),
        ("draw", "colour_of", "viz.overlay", "color_of"),
        ("encoders", "region_tokens", "regions.encoder", "region_tokens"),
        ("image", "load_image", "vision.image_io", "load_image"),
        ("image", "Preprocessor", "vision.preprocess", "Preprocessor"),
        ("mask_codecs", "part_from_rle", "regions.masks", "mask_from_rle"),
        ("memory", "resident", "system.process_memory", "process_memory"),
        ("objects", "Words", "scene.types", "Caption"),
        ("pipeline", "Seen", "scene.history", "ObservedFrame"),
        ("region_grids", "RegionGrids", "regions.pooling", "MaskPooler"),
        ("regions", "Regions", "regions.regions", "Regions"),
        ("results", "Update", "results", "StreamUpdate"),
    ],
)
def test_a_name_of_0_1_warns_once(
    module: str, name: str, home: str, new_name: str, recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    found = getattr(import_module(f"osprey_ros.{module}"), name)
    assert found is getattr(import_module(f"osprey_ros.{home}"), new_name)
    (warning,) = recwarn
    assert f"osprey_ros.{module}.{name} is now osprey_ros.{home}.{new_name};" in str(warning.message)


@pytest.mark.parametrize(("module", "name"), [("describer", "DescriberError"), ("frame", "FrameError")])
def test_errors_of_0_1_are_found_in_modules_that_did_not_move(module: str, name: str) -> None:
    from osprey_ros import OspreyError

    with pytest.warns(DeprecationWarning, match=f"{name} is now"):
        assert getattr(import_module(f"osprey_ros.{module}"), name) is OspreyError


def test_a_public_name_of_0_1_with_another_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_moved.NAMES, "OldDescription", ("results", "Description"))
    with pytest.warns(DeprecationWarning, match=r"osprey_ros\.OldDescription is now osprey_ros\.results\.Description"):
        from osprey_ros import OldDescription  # type: ignore[attr-defined]
    assert OldDescription is osprey_ros.Description


@pytest.mark.parametrize("module", ["queries", "bundle"])
def test_unknown_names_are_errors(module: str) -> None:
    with pytest.raises(ImportError, match="Fnder"):
        exec(f"from osprey_ros.{module} import Fnder", {})
    with pytest.raises(AttributeError, match=f"osprey_ros.{module}' has no attribute 'Fnder'"):
        import_module(f"osprey_ros.{module}").Fnder  # noqa: B018


def test_unknown_modules_are_errors() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"osprey_ros\.querys"):
        import_module("osprey_ros.querys")


def test_modules_are_imported_from_packages_without_a_warning() -> None:
    packages = ("bundle", "engines", "regions", "scene")
    code = f"""
import importlib, pkgutil
for package in {packages}:
    package = importlib.import_module("osprey_ros." + package)
    for found in pkgutil.iter_modules(package.__path__):
        exec(f"from {{package.__name__}} import {{found.name}} as module")
        assert module.__name__ == f"{{package.__name__}}.{{found.name}}"
"""
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_changelog_lists_all_moved_modules() -> None:
    changelog = (ROOT / "CHANGELOG.rst").read_text()
    for old, homes in _moved.MODULES.items():
        assert f"* - ``{old}``\n     - {', '.join(f'``{home}``' for home in homes)}\n" in changelog


def test_a_module_of_a_package_can_be_the_first_import() -> None:
    # While it is imported, its package has no modules yet, and old names must not import the others.
    for module in ("regions.encoder", "regions.pooling", "engines.machine", "scene.store", "bundle.fingerprint"):
        subprocess.run([sys.executable, "-c", f"import osprey_ros.{module}"], check=True)
