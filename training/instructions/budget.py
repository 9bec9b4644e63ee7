"""Limits the tokens and dollars spent at an endpoint: a request that could exceed the limit is not sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from osprey_ros.errors import InputError


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens sent and received."""

    sent: float = 0.0
    received: float = 0.0

    def of(self, sent: int, received: int) -> float:
        """Return the price of tokens in dollars."""
        return (sent * self.sent + received * self.received) / 1e6


class Budget:
    """Counts tokens and dollars, from several threads.

    A request reserves the most that it could cost and settles what it did cost, so the limits hold for any number of
    concurrent requests.
    """

    def __init__(self, prices: Prices, most_dollars: float | None = None, most_tokens: int | None = None):
        if most_dollars is not None and prices.sent <= 0 and prices.received <= 0:
            raise InputError("a limit in dollars needs --price-sent or --price-received")
        self.prices, self.most_dollars, self.most_tokens = prices, most_dollars, most_tokens
        self.sent = self.received = 0
        self._reserved: list[tuple[int, int]] = []
        self._settled = threading.Condition()

    @property
    def dollars(self) -> float:
        return self.prices.of(self.sent, self.received)

    @property
    def is_exceeded(self) -> bool:
        """Whether the spent and reserved tokens exceed a limit."""
        with self._settled:
            return not self._fits(0, 0)

    def reserve(self, sent: int, received: int) -> bool:
        """Reserve tokens for a request, waiting for others to settle if necessary. Return False if it cannot fit."""
        with self._settled:
            while not self._fits(sent, received):
                if not self._reserved:
                    return False
                self._settled.wait()
            self._reserved.append((sent, received))
            return True

    def settle(self, reserved: tuple[int, int], sent: int, received: int) -> None:
        """Replace a reservation by the tokens that were spent."""
        with self._settled:
            self._reserved.remove(reserved)
            self.sent += sent
            self.received += received
            self._settled.notify_all()

    def count(self, sent: int, received: int) -> None:
        """Add tokens that were spent without a reservation."""
        with self._settled:
            self.sent += sent
            self.received += received

    def _fits(self, sent: int, received: int) -> bool:
        sent += self.sent + sum(tokens[0] for tokens in self._reserved)
        received += self.received + sum(tokens[1] for tokens in self._reserved)
        if self.most_tokens is not None and sent + received > self.most_tokens:
            return False
        return self.most_dollars is None or self.prices.of(sent, received) <= self.most_dollars
