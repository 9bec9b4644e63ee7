"""Run the page's application on an address until the process is asked to end."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from aiohttp import web

from osprey_ros.errors import InputError
from osprey_ros.web.app import Application

PORT = 8765
_SHUTDOWN_SECONDS = 1.0  # for answers that are on their way


async def serve(application: Application, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page until the task is canceled, and then end what is under way.

    Args:
        application: The application.
        host: Address or name to listen on.
        port: Port to listen on; 0: any free one.
        ready: Called with the address of the page, such as "http://127.0.0.1:8765/", once it answers.

    Raises InputError if the port is taken or the address is not one of this machine.
    """
    # No access log: what users open and ask stays in memory. A handler whose client has left is canceled.
    runner = web.AppRunner(
        application.build(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
            raise InputError(f"port {port} of {host} {reason}; choose others with --port or --host") from error
        ready(_address(host, runner.addresses[0][1]))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
