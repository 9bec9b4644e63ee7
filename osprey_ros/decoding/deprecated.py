"""Arguments of version 0.1 that still work, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.system.cancellation import PolledToken

P = ParamSpec("P")
R = TypeVar("R")


def old_arguments(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method also take ``max_new_tokens``, ``sampling`` and ``should_stop``, the first one also by position."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        old: dict[str, Any] = {n: kwargs.pop(n) for n in ("max_new_tokens", "sampling", "should_stop") if n in kwargs}
        if len(args) > 3 and type(args[3]) is int:  # behind self, regions and question
            old["max_new_tokens"] = args[3]
            args = (*args[:3], *args[4:])  # type: ignore[assignment]
        if old:
            warnings.warn(
                f"{', '.join(old)} will go: use config=GenerationConfig(max_new_tokens=..., sampling=...) and "
                "cancel=CancellationToken()",
                DeprecationWarning,
                stacklevel=2,
            )
            should_stop = old.pop("should_stop", None)
            if old:
                config: Any = kwargs.get("config", GenerationConfig())
                kwargs["config"] = replace(config, **old)
            if should_stop is not None:
                kwargs["cancel"] = PolledToken(should_stop)
        return method(*args, **kwargs)

    return wrapper
