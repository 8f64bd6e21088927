"""Chromium for the pages, by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def page() -> Iterator[Page]:
    """Open a page; its console's errors and what it could not load fail the test."""
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page()
        opened.set_default_timeout(60_000)
        lost: list[str] = []

        def note(status: int, url: str) -> None:
            if status >= 400 and not url.endswith("/favicon.ico"):
                lost.append(f"{status} {url}")

        opened.on("response", lambda response: note(response.status, response.url))
        yield opened
        browser.close()
    assert lost == []
