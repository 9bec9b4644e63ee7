"""Who may use the page: requests from pages of other sites are refused, and beyond this machine a token is required."""

from __future__ import annotations

import secrets

from aiohttp import hdrs, web
from yarl import URL

from osprey_ros.errors import OspreyError
from osprey_ros.system.access_tokens import is_loopback

COOKIE = "osprey_web"
TOKEN_VARIABLE = "OSPREY_WEB_TOKEN"

# Nothing is loaded from elsewhere, no other page can frame this one, and no address of it is passed on.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "osprey",
}


class AccessError(OspreyError):
    """A request that is refused. ``status``: of the response."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Access:
    """Checks each request before anything of it is read.

    Args:
        token: What requests need, as a bearer token or as the cookie that an address with ``?token=`` sets; "" for
            none. Without a token the page must be addressed by a name of the loopback interface, so that no foreign
            name that leads here (DNS rebinding) gets an answer.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def check(self, request: web.Request) -> web.Response | None:
        """Return the response that sets the cookie, or None for a request that may go on. Raises AccessError."""
        if not self._token and not is_loopback(_host(f"http://{request.host}")):
            raise AccessError(
                f"this page is for the machine that it runs on; open it by 127.0.0.1 and not {request.host}", 403
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and _authority(origin) != _authority(f"http://{request.host}"):
            raise AccessError("a page of another site asked for this; open the page itself", 403)
        if request.path != "/" and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise AccessError("a page of another site asked for this; open the page itself", 403)
        if not self._token:
            return None
        if request.path == "/" and "token" in request.query:
            self._compare(request.query["token"])
            answer = web.Response(status=303, headers={hdrs.LOCATION: "/"})
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict", path="/")
            return answer
        scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        self._compare(bearer if scheme.lower() == "bearer" else request.cookies.get(COOKIE, ""))
        return None

    def _compare(self, given: str) -> None:
        if not secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self._token.encode()):
            raise AccessError("a token is needed; open the address that `osprey web` printed", 401)


def _host(address: str) -> str:
    try:
        return URL(address).host or ""
    except ValueError:
        return ""


def _authority(address: str) -> tuple[str, int | None]:
    """Return the host and the port of an address; ("", None) if it has none, such as the origin "null"."""
    try:
        url = URL(address)
        return url.host or "", url.explicit_port
    except ValueError:
        return "", None
