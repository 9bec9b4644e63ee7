"""Creates models of timm by name. timm is imported only here, and only for a vision tower that it defines.

timm needs torchvision for image transforms and one norm layer, which no backbone uses here. torchvision cannot be
imported beside a CPU build of PyTorch, and transformers fails where it is installed beside one. So placeholders take
its place while timm is imported, unless it works.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from osprey_ros.errors import InputError

_TORCHVISION = "torchvision"


def create_timm_model(name: str, **options: Any) -> nn.Module:
    """Return the timm model of this name with random weights, on the current default device of PyTorch.

    options: passed to timm.create_model. Raises InputError if timm is not installed or has no such model.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models() for the names"
        raise InputError(f"vision tower {name!r}: timm {timm.__version__} has no model of this name; {hint}")
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


def _timm(name: str) -> Any:
    """Import timm for the tower of this name. Raises InputError if it is not installed."""
    try:
        return import_timm()
    except ModuleNotFoundError as error:
        raise InputError(
            f"vision tower {name!r}: {error.name} is not installed; "
            "run `pip install --no-deps -r requirements/timm.txt` in a checkout"
        ) from error


@cache
def import_timm() -> ModuleType:
    """Return the module timm, without torchvision where that cannot be imported. Raises ModuleNotFoundError."""
    if _torchvision_works():
        return importlib.import_module("timm")
    with _torchvision_placeholders():
        return importlib.import_module("timm")


@contextmanager
def timm_in_transformers() -> Iterator[None]:
    """Let transformers make models of timm inside the `with` block; it refuses to without torchvision.

    Raises ModuleNotFoundError if timm is not installed.
    """
    timm = import_timm()
    if _torchvision_works():
        yield
        return
    from transformers.utils import import_utils

    checks = (import_utils.is_torchvision_available, import_utils.is_timm_available)
    with _torchvision_placeholders():
        try:
            for check in checks:
                check.cache_clear()
            from transformers.models.timm_wrapper import configuration_timm_wrapper, modeling_timm_wrapper

            # If they were imported before, it was without timm.
            vars(modeling_timm_wrapper)["timm"] = timm
            for name in ("ImageNetInfo", "infer_imagenet_subset"):
                vars(configuration_timm_wrapper)[name] = getattr(timm.data, name)
            yield
        finally:
            for check in checks:
                check.cache_clear()


def _torchvision_works() -> bool:
    try:
        importlib.import_module(_TORCHVISION)
    except (ImportError, RuntimeError, OSError):  # missing, or built for another PyTorch
        _forget_torchvision()
        return False
    return True


@contextmanager
def _torchvision_placeholders() -> Iterator[None]:
    """Let every import from torchvision give a placeholder inside the `with` block."""
    finder = _PlaceholderFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget_torchvision()


def _forget_torchvision() -> None:
    for module in [name for name in sys.modules if _is_torchvision(name)]:
        del sys.modules[module]


def _is_torchvision(name: str) -> bool:
    return name.partition(".")[0] == _TORCHVISION


class _PlaceholderMeta(type):
    """Makes a class on first use for each name that is read from a placeholder."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _PlaceholderMeta(name, (_Placeholder,), {})
        setattr(cls, name, made)
        return made


class _Placeholder(metaclass=_PlaceholderMeta):
    """Stands for a name of torchvision."""


class _PlaceholderModule(ModuleType):
    def __getattr__(self, name: str) -> type:
        return getattr(_Placeholder, name)  # type: ignore[no-any-return]


class _PlaceholderFinder(MetaPathFinder, Loader):
    """Finds a placeholder for every module of torchvision."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if _is_torchvision(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has no code."""
