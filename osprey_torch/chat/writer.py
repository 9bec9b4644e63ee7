"""A language model that answers many requests at a time, each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

from tqdm import tqdm

from osprey_torch.chat.endpoint import Endpoint, Request
from osprey_torch.chat.ledger import Ledger


@dataclass
class Writer:
    """A language model whose answers are kept and paid for in a ledger."""

    endpoint: Endpoint
    model: str
    ledger: Ledger
    parallel: int = 4
    ended: Event = field(default_factory=Event)  # the remaining requests are not sent

    def ask_all(self, requests: Sequence[Request]) -> int:
        """Send the requests without an answer in the ledger. Return how many did not fit the budget.

        Raises InputError; answers that arrived before are in the ledger.
        """
        missing = list(dict.fromkeys(request for request in requests if self.ledger.get(request) is None))
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                answered = tqdm(pool.map(self._ask, missing), total=len(missing), desc="answers", disable=None)
                return sum(not fitted for fitted in answered)
            finally:
                self.ended.set()

    def _ask(self, request: Request) -> bool:
        if self.ended.is_set() or not self.ledger.reserve(request):
            return False
        reply = None
        try:
            reply = self.endpoint.ask(request)
        except BaseException:
            self.ended.set()
            raise
        finally:
            self.ledger.settle(request, reply)
        return True
