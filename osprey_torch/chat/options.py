"""Options of commands that ask a language model, and the model that they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osprey_ros.cli._options import positive
from osprey_torch.chat.endpoint import Endpoint
from osprey_torch.chat.ledger import Ledger, Limits
from osprey_torch.chat.writer import Writer


def add_endpoint_options(group: Any) -> None:
    """Add the options that belong to --endpoint: name and key of the model, bounds on spending, retries."""
    group.add_argument("--model", metavar="NAME", help="as the endpoint calls it")
    group.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="holds the key (%(default)s)")
    group.add_argument("--most-tokens", type=positive, metavar="N", help="bound on tokens sent and received in all")
    group.add_argument("--most-dollars", type=float, metavar="USD", help="bound on spending; needs the two prices")
    group.add_argument("--price-sent", type=float, default=0.0, metavar="USD", help="of a million tokens sent")
    group.add_argument("--price-received", type=float, default=0.0, metavar="USD", help="of a million tokens received")
    group.add_argument("--parallel", type=positive, default=4, metavar="N", help="requests at a time (%(default)s)")
    group.add_argument("--timeout", type=float, default=120.0, metavar="S", help="of one request (%(default)g)")
    group.add_argument("--attempts", type=positive, default=6, metavar="N", help="of one request (%(default)s)")
    group.add_argument("--backoff", type=float, default=1.0, metavar="S", help="first wait, then doubled (%(default)g)")


@contextmanager
def opened_writer(arguments: argparse.Namespace, file: Path) -> Iterator[Writer]:
    """Yield the language model of the options, with its answers in a file.

    Raises InputError for options that do not belong together.
    """
    limits = Limits(arguments.most_tokens, arguments.most_dollars, arguments.price_sent, arguments.price_received)
    ledger = Ledger(file, limits)
    key = os.environ.get(arguments.key_variable)
    try:
        endpoint = Endpoint(
            arguments.endpoint, key, arguments.timeout, arguments.attempts, arguments.backoff, ledger.lose
        )
        yield Writer(endpoint, arguments.model, ledger, arguments.parallel)
    finally:
        ledger.close()


def spending(writer: Writer) -> dict[str, float]:
    """Return the tokens and the dollars of all runs."""
    ledger = writer.ledger
    dollars = round(ledger.limits.price(ledger.sent, ledger.received), 6)
    return {"tokens_sent": ledger.sent, "tokens_received": ledger.received, "dollars": dollars}
