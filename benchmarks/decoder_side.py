"""Run a bundle's decoder through its public interface, and measure the time inside and outside of the engine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.embeddings import Embeddings
from osprey_ros.decoding.loop import DecodeRequest
from osprey_ros.decoding.prompt_batch import Branches
from osprey_ros.engines.base import BoundRun, Engine, load_engine
from osprey_ros.system.cancellation import CancellationToken

NO_TOKEN = -1  # as end-of-sequence id: answers never end before the limit


class TimedEngine:
    """Forward to an engine, and record when its runs start and end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.runs: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def bind(self, *arguments: Any) -> BoundRun:
        bound, now, runs = self._engine.bind(*arguments), time.perf_counter, self.runs

        def run(cancel: CancellationToken | None = None) -> None:
            start = now()
            bound(cancel)
            runs.append((start, now()))

        return run


class OwnDecoder:
    """Decode branches greedily after a prefix of token ids, as `Describer` does."""

    name = "osprey_ros"

    def __init__(self, bundle: Bundle, threads: int, prefix: np.ndarray, steps: int) -> None:
        entry = bundle.engine("decoder")
        self.engine = TimedEngine(load_engine(bundle.path(entry.file), entry.runtime, entry.device, threads))
        self._rows = Embeddings(bundle.embeddings())
        self._decoder = Decoder(self.engine, bundle.manifest.model)
        self._prefix = self._decoder.prefill(self._rows(prefix))
        self._steps = steps
        self._first = np.zeros(0, np.int64)
        self._tokens = np.zeros((0, 0), np.int64)
        self.between = 0.0  # share of the last steps between runs of the engine
        self.outside = 0.0  # share of the whole call outside of these runs, including start and end

    def prepare(self, first: np.ndarray) -> None:
        """Set the first token of every branch; the prefix is computed already."""
        self._first = first

    def run(self) -> float:
        """Return the seconds of `steps` steps after a first one; each step is one run of the engine."""
        self.engine.runs.clear()
        start = time.perf_counter()
        branches = Branches(list(self._rows(self._first)[:, None]))
        answers = self._decoder.generate(DecodeRequest(self._prefix, branches, self._rows, self._steps + 1, NO_TOKEN))
        whole = time.perf_counter() - start
        self._tokens = np.array([answer.tokens for answer in answers]).T
        runs = self.engine.runs
        assert len(runs) == self._steps + 1, "more branches than are decoded together"
        inside = [end - begin for begin, end in runs]
        steps = runs[-1][1] - runs[0][1]
        self.between = 1.0 - sum(inside[1:]) / steps
        self.outside = 1.0 - sum(inside) / whole
        return steps

    def tokens(self, branches: int) -> np.ndarray:
        """Return the tokens of the last run, [steps + 1, branches]."""
        return self._tokens[:, :branches]

    def close(self) -> None:
        """Do nothing: memory is freed automatically."""
