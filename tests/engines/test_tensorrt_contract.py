"""The names of TensorRT that we use exist in the bindings of every version that we support.

Needs `tools/install_tensorrt_bindings.py`, which `make test` runs. Nothing of TensorRT is executed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The files that use TensorRT.
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("osprey_ros", "export", "evaluation", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "import tensorrt" in path.read_text(encoding="utf-8")
)
# The libraries to which the bindings link, and the C functions that they resolve when they are imported.
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getInferLibVersion", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)
# Prints the names of the module, and of all members of its classes.
DESCRIBE = """
import inspect, json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt
members = {name: dir(value) for name, value in vars(trt).items() if inspect.isclass(value)}
print(json.dumps([list(vars(trt)), members]))
"""

_spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install_tensorrt_bindings.py")
assert _spec is not None
assert _spec.loader is not None
install = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(install)
VERSIONS = [version for version in install.BINDINGS if install.has_wheel(version)]


@pytest.fixture(scope="session")
def apis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], dict[str, set[str]]]]:
    """The names of the module and the members of its classes, by version."""
    found = {}
    for version in VERSIONS:
        bindings = install.default_target() / version
        assert bindings.is_dir(), f"{bindings} is missing: run `python tools/install_tensorrt_bindings.py`"
        stubs = tmp_path_factory.mktemp("stubs")
        (stubs / "stubs.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in LIBRARIES:
            name = f"lib{library}.so.{version.split('.')[0]}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", stubs / name, stubs / "stubs.c"]
            subprocess.run(command, check=True)
        env = os.environ | {"LD_LIBRARY_PATH": str(stubs)}
        command = [sys.executable, "-c", DESCRIBE, str(bindings)]
        names, members = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
        found[version] = (set(names), {name: set(listed) for name, listed in members.items()})
    return found


def _used(tree: ast.AST) -> tuple[set[str], set[tuple[str, str]], set[str]]:
    """Return the X of `trt.X`, the (X, Y) of `trt.X.Y`, and all attribute names."""
    names, members, attributes = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            attributes.add(node.attr)
            if isinstance(node.value, ast.Name) and node.value.id in ("trt", "tensorrt"):
                names.add(node.attr)
            inner = node.value
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "trt":
                members.add((inner.attr, node.attr))
    return names, members, attributes


@pytest.mark.skipif(not VERSIONS, reason="the bindings of TensorRT have no wheels for this Python and machine")
@pytest.mark.parametrize("file", FILES)
def test_all_supported_versions_have_the_names_that_we_use(
    file: str, apis: dict[str, tuple[set[str], dict[str, set[str]]]]
) -> None:
    names, members, attributes = _used(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    anywhere = {version: set().union(*classes.values()) for version, (_, classes) in apis.items()}
    ours = attributes & {name for name in set().union(*anywhere.values()) if "_" in name.strip("_")}
    assert ours or names, "the file uses nothing of TensorRT"
    for version, (module, classes) in apis.items():
        assert names - module == set(), version
        assert {(owner, member) for owner, member in members if member not in classes.get(owner, ())} == set(), version
        assert ours - anywhere[version] == set(), version


def test_names_of_single_versions_are_noticed(apis: dict[str, tuple[set[str], dict[str, set[str]]]]) -> None:
    """EXPLICIT_BATCH is gone in version 11."""
    if not {"10.3.0", "11.4.0.106"} <= apis.keys():
        pytest.skip("the bindings of both major versions have no wheels for this Python and machine")
    _, members, _ = _used(ast.parse("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH"))
    ((owner, member),) = members
    assert member in apis["10.3.0"][1][owner]
    assert member not in apis["11.4.0.106"][1][owner]
