"""Knights and knaves: who is what, of a text that says it."""

from __future__ import annotations

import re

_STATEMENT = re.compile(r"\b([A-Z]\w{0,40}) is (not )?(?:actually )?an? (knight|knave)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"[.\n;]|(?<=\?)")
_UNSURE = re.compile(
    r"\b(?:if|unless|whether|suppose|assume[sd]?|assuming|false|not true|not the case|cannot|can't|would|could|might"
    r"|may|maybe|perhaps|possibly|probably|doubt|neither|either|nor)\b|\?",
    re.IGNORECASE,
)
_OTHER = {"knight": "knave", "knave": "knight"}


def knight_statements(text: str) -> dict[str, str] | None:
    """ "(1) Zoey is a knight" gives {"zoey": "knight"}; None if the text says two things of one person."""
    said: dict[str, str] = {}
    sure = ". ".join(sentence for sentence in _SENTENCES.split(text) if not _UNSURE.search(sentence))
    for name, denial, role in _STATEMENT.findall(sure):
        meant = _OTHER[role.lower()] if denial else role.lower()
        if said.setdefault(name.lower(), meant) != meant:
            return None
    return said
