r"""Remainders with their modulus: 9 \pmod{11}, x \equiv 9 (mod 11)."""

from __future__ import annotations

import re

_MODULUS = re.compile(
    r"^(?:\\?[A-Za-z](?:_\w)?\s*(?:\\equiv(?![A-Za-z])|≡|=)\s*)?([-+]?\d{1,30})\s*,?\s*"
    r"(?:\\pmod\s*(?:\{\s*(\d{1,30})\s*\}|(\d))|\(\s*\\?(?:bmod|mod(?:ulo)?)\s*(?:\{\s*(\d{1,30})\s*\}|(\d{1,30}))\s*\))$"
)
_BARE = re.compile(r"[-+]?\d{1,30}")


def same_congruence(candidate: str, gold: str) -> bool | None:
    """Whether two plain forms are the same remainder; one without a modulus has to be the least one that is not
    negative. None: neither has a modulus, or one is no remainder.
    """
    found, expected = _read(candidate), _read(gold)
    if found is None or expected is None or not (found[1] or expected[1]):
        return None
    if found[1] and expected[1]:
        return found[1] == expected[1] and (found[0] - expected[0]) % found[1] == 0
    modulus = found[1] or expected[1]
    return found[0] == expected[0] and 0 <= found[0] < modulus


def _read(text: str) -> tuple[int, int] | None:
    """(remainder, modulus), which is 0 where none is given."""
    if _BARE.fullmatch(text):
        return int(text), 0
    match = _MODULUS.match(text)
    if match is None:
        return None
    modulus = int(next(group for group in match.groups()[1:] if group))
    return (int(match[1]), modulus) if modulus else None
