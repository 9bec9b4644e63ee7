"""The page in a real browser, without a network: open, click, words, question, keyboard, comparison, downloads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install -r requirements/web.txt")
pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -r requirements/browser.txt"
)

from playwright.sync_api import expect, sync_playwright
from web_page import BLUE, RED, Page, sample_png, served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium-headless-shell"
)
PATIENCE = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that resolves no name: whatever is not on this machine cannot be reached."""
    cut = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-sandbox", "--disable-gpu"]
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=cut)
        yield running
        running.close()


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Any]:
    """The page in a new tab. No request may leave it for another place, and nothing may be wrong in its console."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    opened, wrong = context.new_page(), []
    opened.on("request", lambda one: one.url.startswith((page.address, "data:")) or wrong.append(one.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.goto(page.address)
    opened.wait_for_function("document.querySelector('#bundle').options.length > 0")
    opened.wrong = wrong
    yield opened
    context.close()
    assert wrong == []


def _upload(tab: Any) -> None:
    tab.set_input_files("#file", {"name": "mugs.png", "mimeType": "image/png", "buffer": sample_png()})
    _status(tab, "mugs.png, 128×96")


def _status(tab: Any, text: str) -> None:
    expect(tab.locator("#status")).to_contain_text(text, timeout=PATIENCE)


def _at(tab: Any, x: float, y: float) -> tuple[float, float]:
    """Return the place in the tab of a place in the image, in pixels."""
    box = tab.locator("#pixels").bounding_box()
    return box["x"] + x * box["width"] / 128, box["y"] + y * box["height"] / 96


def _middle(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _download(tab: Any, button: str) -> Any:
    with tab.expect_download() as found:
        tab.click(button)
    return json.loads(Path(found.value.path()).read_text())


def test_open_click_words_question_download(tab: Any) -> None:
    _upload(tab)
    tab.mouse.click(*_at(tab, *_middle(RED)))
    _status(tab, "One region")
    label = tab.locator("#labels span")
    expect(label).to_have_count(1)
    text, confidence = label.inner_text().rsplit(" ", 1)
    assert text
    assert 0 < float(confidence) <= 1
    expect(tab.locator("#shapes path.selected")).to_have_count(1)
    assert tab.locator("#about").input_value() == "1"

    tab.fill("#question", "What color is it?")
    tab.press("#question", "Enter")
    _status(tab, "Answered")
    assert "nano: red" in tab.locator("#answers li").first.inner_text()

    report = _download(tab, "#report")
    (region,) = report["regions"]
    assert region["box"] == list(RED)
    assert region["words"]["nano"]["text"] == text
    assert report["asked"][0]["words"]["nano"]["text"] == "red"
    (annotation,) = _download(tab, "#coco")["annotations"]
    assert (annotation["bbox"], annotation["caption"]) == (list(RED), text)


def test_box_everything_compare_and_remove(tab: Any) -> None:
    tab.click("#samples button")
    _status(tab, "sample.png")
    tab.check("input[value=box]")
    x, y, width, height = BLUE
    tab.mouse.move(*_at(tab, x, y))
    tab.mouse.down()
    tab.mouse.move(*_at(tab, x + width, y + height), steps=3)
    assert tab.locator("#shapes .draft").count() == 1
    tab.mouse.up()
    _status(tab, "One region")
    assert _download(tab, "#report")["regions"][0]["box"] == list(BLUE)

    tab.click("#everything")
    _status(tab, "2 regions")
    expect(tab.locator("#regions li")).to_have_count(3)
    tab.select_option("#other", "twin")
    _status(tab, "Described")
    item = tab.locator("#regions li").first.inner_text()
    assert "nano: " in item
    assert "twin: " in item
    tab.click("[aria-label='Remove region 1']")
    _status(tab, "Removed")
    tab.click("#clear")
    expect(tab.locator("#regions li")).to_have_count(0)
    tab.click("#forget")
    _status(tab, "has forgotten the image")
    assert tab.locator("#pixels").is_hidden()


def test_keyboard_alone(tab: Any) -> None:
    _upload(tab)
    tab.focus("#stage")
    for _ in range(25):  # from the middle of the image
        tab.keyboard.press("ArrowLeft")
    for _ in range(20):
        tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    _status(tab, "One region")
    pick = tab.locator("#regions .pick")
    assert pick.get_attribute("aria-pressed") == "true"
    pick.focus()
    tab.keyboard.press("Enter")
    assert pick.get_attribute("aria-pressed") == "false"
    assert _download(tab, "#report")["regions"][0]["box"] == list(RED)


def test_errors_are_one_sentence_and_narrow_screens_fit(tab: Any) -> None:
    tab.set_viewport_size({"width": 360, "height": 700})
    tab.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"hello"})
    error = tab.locator("#error")
    expect(error).to_be_visible(timeout=PATIENCE)
    assert error.inner_text().startswith("the image cannot be read: it is not an image of a known format")
    _upload(tab)
    assert error.is_hidden()
    tab.mouse.click(*_at(tab, *_middle(RED)))
    _status(tab, "One region")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("[...document.querySelectorAll('input, select')].every(one => one.labels.length > 0)")
    tab.wrong[:] = [text for text in tab.wrong if "400" not in text]  # Chromium logs the refused upload, too
