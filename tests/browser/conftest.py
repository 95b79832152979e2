"""Chromium for the browser tests: one process for all of them, a fresh context each, every request and console line recorded."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium_path() -> str | None:
    """The browser to use: `COURSE_CHROMIUM`, or what is installed."""
    chosen = os.environ.get("COURSE_CHROMIUM")
    return chosen or next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium (Playwright's synchronous interface)."""
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium: install it (apt-get install chromium) or name it in COURSE_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Record:
    """What a page did: where it sent requests, what it wrote to the console."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """Requests that left the machine."""
        local = ("127.0.0.1", "localhost", "")
        return [
            u
            for u in self.requests
            if urlsplit(u).scheme not in ("data", "blob") and urlsplit(u).hostname not in (None, *local)
        ]


@pytest.fixture
def open_page(chromium):
    """Call it with a path or an address: gives a Playwright page whose `.record` is a `Record`. Checked when the test ends."""
    contexts, records = [], []

    def open_(target, *, width=1280, height=900, scheme="light", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        record = Record()
        records.append(record)
        page.record = record
        page.set_default_timeout(60_000)
        page.on("request", lambda request: record.requests.append(request.url))
        page.on("console", lambda m: record.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: record.errors.append(str(error)))
        page.on("dialog", lambda dialog: (record.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(Path(target).resolve().as_uri() if isinstance(target, Path) else target)
        return page

    yield open_
    for context in contexts:
        context.close()
    for record in records:
        assert record.errors == []
        assert record.dialogs == []
        assert record.outside() == []
