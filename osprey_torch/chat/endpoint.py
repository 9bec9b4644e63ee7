"""Client of a language model behind an OpenAI-compatible endpoint, with retries and counted tokens."""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from osprey_ros.errors import InputError
from osprey_ros.strict_json import to_json

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # answers that may differ the next time
NEW_FIELDS = {"temperature": 0.7, "image": "", "image_tokens": 0}  # fields of Request since 0.3, with their defaults
_LONGEST_WAIT = 60.0  # seconds between two attempts


@dataclass(frozen=True)
class Request:
    """A request: the model, its instructions ("" for none), the question, and the most tokens of an answer.

    Attributes:
        temperature: How freely the model draws its words.
        image: A data URL of an image that the question is about, or "".
        image_tokens: Upper bound of the tokens of the image.
    """

    model: str
    system: str
    user: str
    max_tokens: int
    temperature: float = 0.7
    image: str = field(default="", repr=False)
    image_tokens: int = 0

    @property
    def most_sent(self) -> int:
        """Upper bound of the tokens: a token has at least one byte, and the roles take a few tokens."""
        return len(self.system.encode()) + len(self.user.encode()) + self.image_tokens + 64

    def body(self) -> dict[str, Any]:
        content: Any = self.user
        if self.image:
            content = [
                {"type": "image_url", "image_url": {"url": self.image}},
                {"type": "text", "text": self.user},
            ]
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": content})
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }


@dataclass(frozen=True)
class Reply:
    """The text of an answer, and the tokens that were paid for."""

    content: str
    sent: int
    received: int


@dataclass(frozen=True)
class Endpoint:
    """Client for `url` (such as http://localhost:8000/v1) that repeats requests after temporary errors.

    Attributes:
        timeout: seconds without a byte.
        attempts: most attempts of a request; the wait doubles from `backoff` seconds, or is what the endpoint requests.
        lost: called with a request that was sent and got no answer, because it may have to be paid.
    """

    url: str
    key: str | None = field(repr=False)
    timeout: float
    attempts: int
    backoff: float
    lost: Callable[[Request], None]

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"the endpoint is {self.url!r}: it must begin with http:// or https://")
        object.__setattr__(self, "url", self.url.rstrip("/") + "/chat/completions")

    def ask(self, request: Request) -> Reply:
        """Return the model's answer. Raises InputError if it is refused or the last attempt fails."""
        reason = ""
        for attempt in range(self.attempts):
            wait = 0.0
            try:
                return self._reply(request, self._post(request))
            except urllib.error.HTTPError as error:
                said = error.read(500).decode(errors="replace").strip()
                reason = f"HTTP {error.code}: {said}"
                if error.code not in _AGAIN:
                    raise InputError(f"{self.url} refuses: {reason}{_remedy(error.code)}") from error
                wait = _seconds(error.headers.get("Retry-After"))
            except urllib.error.URLError as error:
                reason = str(error.reason)
            except (OSError, http.client.HTTPException) as error:
                # The request was sent: a time-out, or the connection broke.
                self.lost(request)
                reason = str(error) or type(error).__name__
            if attempt + 1 < self.attempts:
                # Random, so that requests that failed together are not repeated together.
                time.sleep(max(wait, min(_LONGEST_WAIT, self.backoff * 2**attempt * random.uniform(0.5, 1.0))))
        raise InputError(f"{self.url} gives no answer in {self.attempts} attempts, the last: {reason}")

    def _post(self, request: Request) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = to_json(request.body()).encode()
        posted = urllib.request.Request(self.url, data=data, headers=headers, method="POST")
        with urllib.request.urlopen(posted, timeout=self.timeout) as response:
            result: bytes = response.read()
            return result

    def _reply(self, request: Request, body: bytes) -> Reply:
        try:
            data = json.loads(body)
            content = data["choices"][0]["message"]["content"] or ""
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{self.url} does not answer as OpenAI's endpoints do: {body[:200].decode(errors='replace')!r}; "
                "give the URL that ends before /chat/completions"
            ) from error
        usage = data.get("usage") or {}
        # If the endpoint does not report tokens, count the upper bound.
        sent, received = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return Reply(
            str(content),
            request.most_sent if sent is None else int(sent),
            request.max_tokens if received is None else int(received),
        )


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header, a number or a date, within limits."""
    if not retry_after:
        return 0.0
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)


def _remedy(code: int) -> str:
    if code in (401, 403):
        return "; put the key into the environment variable that --key-variable names"
    if code == 404:
        return "; check --endpoint, which ends before /chat/completions, and --model"
    return ""
