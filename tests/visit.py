"""How a test comes to the page, and how long it is patient."""

from playwright.sync_api import Page, expect

READY = "Ready."
PATIENCE = 240_000  # milliseconds for a whole page on a machine that is busy
expect.set_options(timeout=60_000)


def opened(page: Page, address: str, query: str = "") -> Page:
    """The page, with everything on it."""
    page.goto(f"{address}?{query}" if query else address)
    expect(page.locator("#status .said")).to_have_text(READY, timeout=PATIENCE)
    return page


def foreign(url: str) -> bool:
    """Whether a request goes to another machine."""
    here = ("http://127.0.0.1", "http://localhost", "data:", "blob:", "file:")
    return not url.startswith(here)
