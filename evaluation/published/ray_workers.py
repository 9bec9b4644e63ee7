"""Images of a task on the workers of a Ray cluster. The regions of an image stay together, so answers do not change."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.published.asking import Asking, BundleAsker, Found, answer_or_reason
from evaluation.published.items import Item
from osprey_ros.errors import InputError

LOCAL = "local"
_AHEAD = 2  # images of each worker that wait for it


class RayWorkers:
    """Workers on Ray. Use it in a ``with`` statement.

    Every worker needs this checkout, the bundles and the images under the same paths.

    Args:
        address: Address of a cluster, or "local" for processes of this machine.
        count: Number of workers.

    Raises InputError if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str, count: int) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise InputError(
                "--ray needs Ray, which is not installed; run `pip install -r requirements/ray.txt` in the environment"
            ) from error
        self._ray: Any = ray
        self._count = count
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        where: dict[str, Any] = {"num_cpus": count} if address == LOCAL else {}
        if address == LOCAL:
            os.environ.setdefault("RAY_worker_niceness", "0")  # Ray gives its workers the lowest priority
        try:
            ray.init(
                address,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
                include_dashboard=False if address == LOCAL else None,
                logging_level=logging.WARNING,
                log_to_driver=False,
                **where,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster at {address!r}: {error}; start it, or give --ray without an address"
            ) from error

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def answers(self, bundle: str, asking: Asking, groups: Sequence[list[Item]]) -> Iterator[tuple[list[Item], Found]]:
        """Yield the items of each image, in this order, with their answers."""
        worker = self._ray.remote(_Worker)
        workers = [worker.options(num_cpus=1).remote(bundle, asking) for _ in range(min(self._count, len(groups)))]
        running: list[Any] = []
        sent = 0
        for number, group in enumerate(groups):
            while sent < len(groups) and sent < number + _AHEAD * len(workers):
                running.append(workers[sent % len(workers)].answer.remote(groups[sent]))
                sent += 1
            yield group, self._ray.get(running[number])
            running[number] = None  # releases the answer


class _Worker:
    """One process with the bundle."""

    def __init__(self, bundle: str, asking: Asking) -> None:
        self._asker = BundleAsker(bundle, asking)

    def answer(self, group: list[Item]) -> Found:
        return answer_or_reason(self._asker, group)
