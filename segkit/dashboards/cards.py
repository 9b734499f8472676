"""Cards as Panel objects: each is drawn by the script that draws it in notebooks too."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import lazy_loader
import panel as pn
import param
from panel.custom import JSComponent

from segkit import boards
from segkit.boards import Card, Facts
from segkit.dashboards.objects import ObjectsPane
from segkit.dashboards.rights import downloads, may_change, probe
from segkit.dashboards.turns import Turns, threads
from segkit.errors import ScopeError, SegkitError
from segkit.kit import Kit
from segkit.widgets import assets

if TYPE_CHECKING:
    from segkit.widgets import card as notebook_cards
else:
    notebook_cards = lazy_loader.load("segkit.widgets.card", suppress_warning=True)  # only notebooks need it

log = logging.getLogger(__name__)

#: Lets the script speak with Panel's page as it does with a notebook's.
HOST = """
export function render({ model, el }) {
  const heard = new Map();
  const host = {
    pages: true,
    get: (name) => model[name === "title" ? "heading" : name],
    on(what, call) {
      const hear = what === "msg:custom" ? (content) => call(content, []) : call;
      heard.set(call, hear);
      model.on(what.replace("change:", ""), hear);
    },
    off(what, call) { model.off?.(what.replace("change:", ""), heard.get(call)); heard.delete(call); },
    send: (content) => model.send_msg(content),
  };
  model.on("remove", drawCard({ model: host, el }));
}
"""

SCRIPT = assets.script("board.js") + HOST
SCRIPT_NAME = f"segkit-{hashlib.sha256(SCRIPT.encode()).hexdigest()}"


class PanelCard(JSComponent):
    """A card on a Panel page. It follows its card until the page's session ends."""

    kind = param.String()
    heading = param.String()
    facts = param.Dict()
    may = param.Boolean()

    _esm = SCRIPT
    _stylesheets: ClassVar[list[Any]] = [assets.style() + (assets.PAGE / "board.css").read_text("utf-8") + ":host { width: 100%; }"]

    def __init__(self, card: Card, *, may: bool, **params: Any) -> None:
        self._card = card
        self._turns = Turns()
        self._waiting = False
        super().__init__(kind=card.kind, heading=card.title, facts=card.facts(), may=may, sizing_mode="stretch_width", **params)
        self._stop = card.follow(self._news)
        if self._turns.on_page:
            pn.state.on_session_destroyed(lambda context: self._stop())

    def _get_properties(self, doc: Any) -> dict[str, Any]:
        """Name the script, so that a page runs it as it is, once for all cards, instead of translating it for each."""
        properties: dict[str, Any] = super()._get_properties(doc)
        return properties | {"bundle": SCRIPT_NAME}

    def _news(self) -> None:
        """Take the newest facts into the page at its next turn; called from another thread."""
        self._newest = self._card.facts()
        if not self._waiting:
            self._waiting = True
            self._turns.later(self._take)

    def _take(self) -> None:
        self._waiting = False
        self.facts = self._newest

    def _handle_msg(self, data: Any) -> None:
        """Answer what the page asks, off the thread that serves pages."""
        asked = data if isinstance(data, dict) else {}
        if asked.get("ask") in self._card.answers():
            threads().submit(self._answer, asked).add_done_callback(partial(self._deliver, asked.get("id")))

    def _answer(self, asked: Facts) -> Facts:
        if asked["ask"] in self._card.changes and not self.may:
            raise ScopeError
        return self._card.answers()[asked["ask"]](asked)

    def _deliver(self, number: Any, future: Future[Facts]) -> None:
        error = future.exception()
        if error is not None and not isinstance(error, SegkitError):
            log.error("A dashboard could not answer", exc_info=error)
        answer = future.result() if error is None else {"error": str(error) or type(error).__name__}
        self._turns.later(lambda: self._send_msg({**answer, "id": number}))


class Shown(pn.viewable.Viewer):
    """A card, to be put into a Panel page, or as the last line of a cell."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self._in_notebook: Any = None

    def __panel__(self) -> PanelCard:
        """Draw it on a page."""
        return PanelCard(self.card, may=may_change())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """Draw it in a notebook, in Voila or in VS Code."""
        if self._in_notebook is None:
            self._in_notebook = notebook_cards.CardView(self.card)
        return self._in_notebook._repr_mimebundle_()


def queue_card(kit: Kit) -> Shown:
    """Show the queue: jobs by state, how fast it goes, and when it will be done as far as that can be known."""
    return Shown(boards.QueueCard(kit))


def runs_card(kit: Kit) -> Shown:
    """Show the runs at work and the latest others, with buttons to retry, cancel or raise each."""
    return Shown(boards.RunsCard(kit))


def jobs_card(kit: Kit, run: int | None = None) -> Shown:
    """Show the jobs of a run, default the first at work, whatever their number; a click shows all that is known of one."""
    return Shown(boards.JobsCard(kit, run))


def failures_card(kit: Kit) -> Shown:
    """Show the jobs that were given up last, with their reasons."""
    return Shown(boards.FailuresCard(kit))


def workers_card(kit: Kit) -> Shown:
    """Show who holds jobs now."""
    return Shown(boards.WorkersCard(kit))


def pick_card(kit: Kit, run: int | None = None) -> Shown:
    """Let a person choose whose results the page shows."""
    return Shown(boards.PickCard(kit, run))


def found_card(kit: Kit, run: int | None) -> Shown:
    """Show what a run found, in numbers."""
    return Shown(boards.FoundCard(kit, run))


def plate_card(kit: Kit, run: int | None) -> Shown:
    """Show the wells of a plate, where the names of images carry wells."""
    return Shown(boards.PlateCard(kit, run))


def gallery_card(kit: Kit, run: int | None) -> Shown:
    """Show the images that most deserve a look, with the outlines of their objects."""
    return Shown(boards.GalleryCard(kit, run))


def exports_card(kit: Kit, run: int | None) -> Shown:
    """Show buttons that export a run; from the service the export is downloaded, elsewhere the place it lies in is said."""
    return Shown(boards.ExportsCard(kit, run, downloads()))


def objects_card(kit: Kit, run: int | None) -> pn.Column:
    """Show a run's objects: distributions, and two measurements against each other, with linked selection."""
    return ObjectsPane(kit, run).layout()


def performance_card(kit: Kit) -> Shown:
    """Show what took how long, memory, threads and disk, over time."""
    return Shown(boards.PerformanceCard(kit, probe()))
