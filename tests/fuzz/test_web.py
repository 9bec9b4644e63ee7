"""Generated requests to the web page over HTTP: any JSON, any upload, any address end in an answer of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install -r requirements/web.txt")

from fuzz.files import ImageFile, image_files
from hypothesis import given
from hypothesis import strategies as st
from web_page import NAMES, Page, Reply, served

from osprey_ros.web.limits import Limits

NUMBERS = st.integers() | st.floats() | st.integers(-10, 140)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["click", "box", "everything"]) | ANYTHING,
        "values": st.lists(NUMBERS, max_size=5) | ANYTHING,
        "bundles": st.lists(st.sampled_from(NAMES), max_size=3) | ANYTHING,
        "style": st.sampled_from(["short", "category"]) | ANYTHING,
        "question": st.sampled_from(["What is it?", "<mask>", "<mask><pos>", "</s>", "\ud800"]) | ANYTHING,
        "region": st.integers(-1, 4) | ANYTHING,
    },
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("page"), limits=Limits(pixels=100_000, images=2, regions=8)) as running:
        yield running


def _check(reply: Reply) -> None:
    assert reply.status in (200, 400, 403, 404, 405, 413), reply.body
    if reply.status != 200:
        assert len(reply.error.splitlines()) == 1
        assert reply.error.isprintable()


@given(fields=REQUESTS | ANYTHING, place=st.sampled_from(["regions", "words", "questions"]))
def test_requests(fields: Any, place: str, page: Page) -> None:
    _check(page.request("POST", f"{page.open()}/{place}", fields))


@given(data=st.binary(max_size=60) | image_files(), name=st.text(max_size=120))
def test_uploads(data: bytes | ImageFile, name: str, page: Page) -> None:
    body = data.data if isinstance(data, ImageFile) else data
    reply = page.request("POST", f"/api/images?name={quote(name, errors='replace')}", body)
    _check(reply)
    if reply.status == 200:
        image = reply.data["image"]
        assert "/" not in image["name"]
        for download in ("report.json", "pixels"):
            _check_download(page.request("GET", f"/api/images/{image['id']}/{download}"))


def _check_download(reply: Reply) -> None:
    assert reply.status == 200
    assert reply.headers.get("Content-Disposition", "").isascii()


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "OPTIONS"]),
    parts=st.lists(st.sampled_from(["api", "images", "samples", "..", ".", "regions", "pixels"]) | st.text(max_size=6)),
)
def test_addresses(method: str, parts: list[str], page: Page) -> None:
    path = "/" + "/".join(quote(part, safe="", errors="replace") for part in parts)
    reply = page.request(method, path)
    if path not in ("/", "/api/offers"):
        _check(reply)
