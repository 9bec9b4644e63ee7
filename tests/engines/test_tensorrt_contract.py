"""Everything that we use of TensorRT is there, with that signature, in the bindings of each version that we support.

Needs `tools/install_tensorrt_bindings.py` to have run, as `make test` does. Nothing of TensorRT runs here.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest
import tensorrt_stand_in
from tensorrt_api import Api, Signature, Uses, compile_stubs, read_api, signatures

ROOT = Path(__file__).resolve().parents[2]
# Every file that speaks with TensorRT.
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("osprey_ros", "export", "evaluation", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "import tensorrt" in path.read_text(encoding="utf-8")
)

_spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install_tensorrt_bindings.py")
assert _spec is not None
assert _spec.loader is not None
install = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(install)


@pytest.fixture(scope="session", params=list(install.BINDINGS))
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """What the bindings of one version offer."""
    version = request.param
    if not install.has_wheel(version):
        pytest.skip(f"the bindings of {version} have no wheel for this Python and machine")
    bindings = install.default_target() / version
    assert bindings.is_dir(), f"{bindings} is missing: run `python tools/install_tensorrt_bindings.py`"
    stubs = tmp_path_factory.mktemp("stubs")
    compile_stubs(stubs, int(version.split(".")[0]))
    return read_api(bindings, stubs)


@pytest.mark.parametrize("file", FILES)
def test_bindings_have_what_we_use(file: str, api: Api) -> None:
    assert Uses((ROOT / file).read_text(encoding="utf-8"), api).problems == []


def test_the_whole_path_is_seen(api: Api) -> None:
    """The check follows types from call to call: it must come as far as the last link of each chain."""
    assert {"osprey_ros/engines/tensorrt.py", "export/tensorrt_plan.py"} <= set(FILES)
    seen = set().union(*(Uses((ROOT / file).read_text(encoding="utf-8"), api).seen for file in FILES))
    chains = {
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse_from_file",
        "ParserError.node_operator",
        "IOptimizationProfile.set_shape",
        "IProgressMonitor.step_complete",
        "ITimingCache.serialize",
        "Builder.build_serialized_network",
        "ILogger.log",
    }
    assert chains <= seen


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("trt.Calibrator", "line 2: there is no tensorrt.Calibrator"),
        ("trt.MemoryPoolType.SCRATCH", "MemoryPoolType has no SCRATCH"),
        ("trt.Builder(log).build_cuda_engine()", "Builder has no build_cuda_engine"),
        ("trt.Builder(log).create_network(1).num_nodes", "INetworkDefinition has no num_nodes"),
        ("engine = f(engine)\nengine.get_tensor_name(0)", "type is not known: annotate it"),
        ("engine.get_tensor_name()", "get_tensor_name is called without index"),
        ("engine.get_tensor_name(0, 1)", "get_tensor_name takes 1 arguments, not 2"),
        ("engine.get_tensor_name(number=0)", "get_tensor_name has no parameter number"),
        ("engine.create_execution_context().execute_async_v2()", "IExecutionContext has no execute_async_v2"),
        ("class M(trt.IProgressMonitor):\n def step_done(self, phase_name): ...", "no step_done to override"),
        ("class M(trt.IProgressMonitor):\n def phase_finish(self, name): ...", "phase_finish has other parameters"),
        ("trt.Builder()", "Builder.__init__ is called without logger"),
    ],
)
def test_what_the_bindings_do_not_have_is_noticed(api: Api, code: str, problem: str) -> None:
    uses = Uses(f"def f(engine: trt.ICudaEngine, log: trt.ILogger):\n {code.replace(chr(10), chr(10) + ' ')}", api)
    assert len(uses.problems) == 1
    assert problem in uses.problems[0]


def test_the_stand_in_has_only_what_tensorrt_has(api: Api) -> None:
    for part in tensorrt_stand_in.CLASSES:
        for name, value in vars(part).items():
            if name.startswith("_") or (part.__name__, name) == ("Builder", "builds"):
                continue
            assert name in api[part.__name__], f"{part.__name__}.{name}"
            if inspect.isfunction(value):
                own = tuple(inspect.signature(value).parameters)[1:]
                known = signatures(name, api[part.__name__][name]["doc"])
                assert any(s.refuses(0, list(own)) is None for s in known), f"{part.__name__}.{name}"


def test_flags_that_tensorrt_11_dropped_are_noticed(api: Api) -> None:
    version_11 = "EXPLICIT_BATCH" not in api["NetworkDefinitionCreationFlag"]
    uses = Uses("trt.BuilderFlag.FP16\ntrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", api)
    assert len(uses.problems) == (2 if version_11 else 0)


def test_signatures_are_read_from_docstrings() -> None:
    doc = """f(*args, **kwargs)
Overloaded function.

1. f(self: a.b.C, flags: typing.SupportsInt = 0, of: Dict[str, int] = {}) -> a.b.D

    Text f(x) -> y in between.

2. f(self: a.b.C, input: str, min: Tuple[int, int]) -> bool
"""
    assert signatures("f", doc) == [
        Signature(("flags", "of"), frozenset(), "D"),
        Signature(("input", "min"), frozenset({"input", "min"}), "bool"),
    ]
