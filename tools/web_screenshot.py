"""Take the screenshot of the page of `osprey web` for the README: `make web-screenshot` writes docs/web.png."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
COLORS = 256  # of the palette, so that the file stays small
PATIENCE = 120_000  # milliseconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "web.png", help="file to write")
    parser.add_argument("--sample", default="coffee", help="sample image of the page")
    parser.add_argument("--region", type=int, default=1, help="which region is selected, from 1 up")
    parser.add_argument("--question", default="What color is <mask><pos>?", help="question about it")
    parser.add_argument("web", nargs="*", help="options of `osprey web`, behind --")
    options = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed; apt-get install chromium-headless-shell")
    command = [sys.executable, "-m", "osprey_ros", "web", "--port", "0", *options.web]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                return 1
            with sync_playwright() as driver:
                running = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                data = screenshot(running.new_page(viewport={"width": 1280, "height": 860}), address, options)
        finally:
            server.terminate()
    image = Image.open(io.BytesIO(data)).convert("RGB").quantize(COLORS)
    image.save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size} bytes")
    return 0


def screenshot(page: Any, address: str, options: argparse.Namespace) -> bytes:
    """Open a sample, describe everything, ask a question about one region, and return the page as PNG."""
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    steps: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: page.get_by_role("button", name=options.sample, exact=True).click(), f"{options.sample}."),
        (lambda: page.click("#everything"), "regions ("),
        (lambda: page.locator("#regions .pick[aria-pressed=false]").nth(options.region - 1).click(), "regions ("),
        (lambda: page.fill("#question", options.question), "regions ("),
        (lambda: page.press("#question", "Enter"), "Answered"),
    )
    for action, done in steps:
        action()
        page.get_by_role("status").get_by_text(done).wait_for()
        if page.locator("#error").is_visible():
            raise SystemExit(page.locator("#error").inner_text())
    found: bytes = page.screenshot()
    return found


if __name__ == "__main__":
    sys.exit(main())
