"""A bound on what is spent at an endpoint: nothing is asked that could pass it."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """US dollars a million tokens, of what is sent and of what comes back."""

    sent: float = 0.0
    received: float = 0.0

    def of(self, sent: int, received: int) -> float:
        """Dollars."""
        return (sent * self.sent + received * self.received) / 1e6


class Purse:
    """Counts tokens and dollars; may be used from several threads.

    A request takes the most that it could cost before it is sent and gives back the rest when its answer is there, so
    that the bounds hold however many are under way.
    """

    def __init__(self, prices: Prices, most_dollars: float | None = None, most_tokens: int | None = None):
        if most_dollars is not None and prices.sent <= 0 and prices.received <= 0:
            raise ValueError("a bound in dollars needs the prices of the model's tokens")
        self.prices, self.most_dollars, self.most_tokens = prices, most_dollars, most_tokens
        self.sent = self.received = 0
        self._reserved: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    @property
    def dollars(self) -> float:
        return self.prices.of(self.sent, self.received)

    def reserve(self, sent: int, received: int) -> bool:
        """Sets aside what a request may cost at most; False where that would pass a bound."""
        with self._lock:
            self._reserved.append((sent, received))
            if not self._within():
                self._reserved.pop()
                return False
            return True

    @property
    def has_room(self) -> bool:
        """Whether what was spent and set aside is within the bounds."""
        with self._lock:
            return self._within()

    def _within(self) -> bool:
        sent = self.sent + sum(values[0] for values in self._reserved)
        received = self.received + sum(values[1] for values in self._reserved)
        if self.most_tokens is not None and sent + received > self.most_tokens:
            return False
        return self.most_dollars is None or self.prices.of(sent, received) <= self.most_dollars

    def settle(self, reserved: tuple[int, int], sent: int, received: int) -> None:
        """Counts what a request did cost in place of what was set aside for it."""
        with self._lock:
            self._reserved.remove(reserved)
            self.sent += sent
            self.received += received

    def count(self, sent: int, received: int) -> None:
        """Counts what was spent earlier."""
        with self._lock:
            self.sent += sent
            self.received += received
