"""Serve the tools over streamable HTTP, for this machine only or with a token."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from osprey_ros.errors import InputError
from osprey_ros.mcp.limits import Limits

PATH = "/mcp"
_LOOPBACK = ["127.0.0.1:*", "localhost:*", "[::1]:*"]


class TokenCheck:
    """An ASGI application that lets requests with the token pass. Nothing of a refused request is read."""

    def __init__(self, application: ASGIApp, token: str) -> None:
        self._application, self._expected = application, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                refusal = PlainTextResponse(
                    "a token is needed: send the header Authorization: Bearer TOKEN",
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._application(scope, receive, send)


async def serve_http(
    server: MCPServer[Any], host: str, port: int, token: str, limits: Limits, ready: Callable[[str], object]
) -> None:
    """Serve until the task is canceled or the process is asked to end.

    Args:
        server: The tools.
        host, port: Where to listen; port 0: any free one.
        token: What requests need; "" for none, which only a loopback address may have.
        limits: Bounds of requests and connections.
        ready: Called with the address, such as "http://127.0.0.1:8766/mcp", once it answers.

    Raises InputError if the port is taken or the address is not one of this machine.
    """
    # Without a token, foreign names that lead here (DNS rebinding) and pages of other sites get no answer.
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=not token, allowed_hosts=_LOOPBACK, allowed_origins=[]
    )
    application: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=limits.request_bytes,
        transport_security=security,
        host=host,
    )
    if token:
        application = TokenCheck(application, token)
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            application,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        number = listener.getsockname()[1]
        ready(f"http://[{host}]:{number}{PATH}" if ":" in host else f"http://{host}:{number}{PATH}")
        await uvicorn.Server(config).serve(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise InputError(f"port {port} of {host} {reason}; choose others with --port or --host") from error
