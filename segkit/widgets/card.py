"""A card of a dashboard in a notebook, in Voila or in VS Code: what Panel draws too, with the same script."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import traitlets

from segkit import boards
from segkit.boards import Card, Stop
from segkit.errors import ScopeError
from segkit.kit import Kit
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Answering, Asked

#: A page that said nothing for so long has gone; it says something every ten seconds.
GONE_SECONDS = 60.0


class CardView(Answering):
    """Shows a card and keeps it up to date.

    Parameters
    ----------
    card : Card
        What is shown.
    may : bool
        Whether who looks may also change something.
    """

    _esm = assets.script("board.js") + "export default { render: drawCard };\n"
    _css = assets.style() + (assets.PAGE / "board.css").read_text("utf-8")

    kind = traitlets.Unicode(help="Which card the page draws.").tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    facts = traitlets.Dict(help="What it shows.").tag(sync=True)
    may = traitlets.Bool(True, help="Whether buttons that change something are there.").tag(sync=True)

    def __init__(self, card: Card, *, may: bool = True, **traits: Any) -> None:
        self._card = card
        self._following: Stop | None = None
        self._seen = time.monotonic()
        super().__init__(kind=card.kind, title=card.title, facts=card.facts(), may=may, **traits)
        self._follow()

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page may ask of the card."""
        return {"here": self._here, **{name: partial(self._answer, name) for name in self._card.answers()}}

    def _answer(self, name: str, asked: Asked, buffers: Sequence[Any]) -> Answer:
        if name in self._card.changes and not self.may:
            raise ScopeError
        return self._card.answers()[name](dict(asked)), []

    def _here(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """Note that a page is there, which says so now and then."""
        self._seen = time.monotonic()
        if self._following is None:
            self.facts = self._card.facts()
            self._follow()
        return {}, []

    def _follow(self) -> None:
        self._following = self._card.follow(self._take)

    def _take(self) -> None:
        """Show what is new; to nobody nothing, so that a kernel whose page has gone falls idle and can be culled."""
        if time.monotonic() - self._seen > GONE_SECONDS:
            self._leave()
        else:
            self.facts = self._card.facts()

    def _leave(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following()

    def close(self) -> None:
        """Close the widget, and look no more."""
        if hasattr(self, "_following"):
            self._leave()
        super().close()


def queue_card(kit: Kit) -> CardView:
    """Show the queue: jobs by state, how fast it goes, and when it will be done as far as that can be known."""
    return CardView(boards.QueueCard(kit))


def runs_card(kit: Kit) -> CardView:
    """Show the runs at work and the latest others, with buttons to retry, cancel or raise each."""
    return CardView(boards.RunsCard(kit))


def jobs_card(kit: Kit, run: int | None = None) -> CardView:
    """Show the jobs of a run, default the first at work, whatever their number."""
    return CardView(boards.JobsCard(kit, run))


def failures_card(kit: Kit) -> CardView:
    """Show the jobs that were given up last, with their reasons."""
    return CardView(boards.FailuresCard(kit))


def workers_card(kit: Kit) -> CardView:
    """Show who holds jobs now."""
    return CardView(boards.WorkersCard(kit))


def performance_card(kit: Kit) -> CardView:
    """Show what took how long, memory, threads and disk, over time."""
    return CardView(boards.PerformanceCard(kit))
