"""`osprey mcp` as a process, and the client of the SDK that talks to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

TOKEN = "a-token-of-these-tests"


@contextmanager
def over_http(arguments: list[str], env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a server on a free port of this machine; yield its address."""
    command = [sys.executable, "-m", "osprey_ros", "mcp", "--http", "--port", "0", *arguments]
    environment = {**(env or os.environ), "OSPREY_MCP_TOKEN": TOKEN}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address, _, said = process.stdout.readline().strip().partition(" ")
        assert said == f"with the token {TOKEN}"
        yield address
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def http_client(address: str, token: str = TOKEN) -> Client:
    """A client over HTTP, not connected yet."""
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    return Client(streamable_http_client(address, http_client=http))


def stdio_client(arguments: list[str]) -> Client:
    """A client that starts its own server, not connected yet."""
    command = ["-m", "osprey_ros", "mcp", *arguments]
    return Client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ)))


async def called(client: Client, tool: str, **arguments: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Call a tool that answers; return its values and its images."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    text, *images = result.content
    return json.loads(text.text), [base64.b64decode(one.data) for one in images]


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that refuses; return the reason."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (text,) = result.content
    return str(text.text)
