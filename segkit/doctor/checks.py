"""What a look at one part finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was found about one part."""

    part: str
    state: str  #: "ok", "note" (works, but know this) or "fault"
    detail: str
    advice: str = ""
