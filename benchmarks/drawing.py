"""Until something is drawn in a page, to the frame: playwright's own waiting looks twice a second after the first few times."""

from __future__ import annotations

from playwright.sync_api import Page

#: Looks into shadow roots too, in which Panel draws.
DRAWN = """selector => {
    const find = (root) => {
        const found = root.querySelector(selector);
        if (found) return found;
        for (const each of root.querySelectorAll("*")) {
            const inside = each.shadowRoot && find(each.shadowRoot);
            if (inside) return inside;
        }
        return null;
    };
    const found = find(document);
    return found !== null && found.getClientRects().length > 0;
}"""


def wait_until_drawn(page: Page, selector: str) -> None:
    """Wait until something of a page has a place on it."""
    page.wait_for_function(DRAWN, arg=selector, polling="raf", timeout=120_000)
