"""What the page asks for, as JSON values. Runs, steps and keys come as numbers and names that are looked up, never as
paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.observe.lab_curves import COLOURS, CURVES
from mindrlhf_lite.watch.columns import as_json, number, numbers, thin
from mindrlhf_lite.watch.run import WatchedRun
from mindrlhf_lite.watch.words import text_of

PAGE_ROWS = 20  # completions, or questions, of an answer
_MOST_CURVES = 24
_MOST_CHARACTERS, _MOST_SEGMENTS, _MOST_PIECES = 20_000, 200, 5_000  # of a text, a conversation, a turn
# what a run's card shows of the newest row that has it
SHOWN = (
    "reward/mean",
    "reward/outcome/correct",
    "eval/accuracy",
    "loss/total",
    "completion/mean_tokens",
    "speed/generated_tokens_per_s",
    "memory/rss_gb",
    "memory/peak_rss_gb",
    "host/memory_used_share",
)
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "best": lambda row: -row["reward"],
    "worst": lambda row: row["reward"],
    "grouped": lambda row: (str(row.get("group")), -row["reward"]),
}


class Views:
    """Of runs, by their place in the list."""

    def __init__(self, runs: Sequence[WatchedRun]):
        self._runs, self._kept = runs, dict[tuple[int, str], tuple[int, list[dict[str, Any]]]]()

    def state(self, language: str) -> dict[str, Any]:
        return {"runs": [self._state(place, language) for place in range(len(self._runs))], "default": _defaults()}

    def _state(self, place: int, language: str) -> dict[str, Any]:
        run = self._looked_at(place)
        state, phase = run.state, run.phase
        newest = {key: number(values[-1]) for key in SHOWN if len(values := run.columns.points(key)[1])}
        return {
            "name": run.name,
            "colour": COLOURS[place % len(COLOURS)],
            "version": run.version,
            "state": state,
            "phase": phase if state != "finished" else "",
            "step": run.step,
            "last_step": run.last_step,
            "left_s": run.seconds_left() if state == "running" else None,
            "age_s": run.age_s,
            "newest": newest,
            "concerns": self._concerns(place, language),
            "damages": [text[:500] for text in run.damages],
            "keys": run.columns.keys,
        }

    def _concerns(self, place: int, language: str) -> list[dict[str, Any]]:
        run, kept = self._runs[place], self._kept.get((place, language))
        if kept is None or kept[0] != run.version:
            found = [
                {
                    "kind": each.kind,
                    "first_step": each.first_step,
                    "last_step": each.last_step,
                    "is_over": each.last_step < run.step,
                    "text": text_of(each, language),
                    "values": numbers(each.values),
                }
                for each in run.concerns
            ]
            kept = (run.version, sorted(found, key=lambda each: (each["is_over"], -each["last_step"])))
            self._kept[place, language] = kept
        return kept[1]

    def curves(self, keys: Sequence[str]) -> dict[str, Any]:
        """For each key, each run's points: few, but with every spike; `gaps` counts values that are not finite."""
        if len(keys) > _MOST_CURVES:
            raise UserError(f"{len(keys)} curves: {_MOST_CURVES} at most")
        runs = [self._looked_at(place) for place in range(len(self._runs))]
        return {"curves": {key: [_curve(run, key) for run in runs] for key in keys}}

    def steps(self, place: int) -> dict[str, Any]:
        run = self._looked_at(place)
        return {kind: list(run.files(kind)) for kind in ("step", "eval")}

    def completions(self, place: int, step: int, order: str, start: int) -> dict[str, Any]:
        """A part of a step's completions. Args: order: of `ORDERS`."""
        if order not in ORDERS:
            raise UserError(f"order={order!r}: one of {', '.join(ORDERS)}")
        rows = sorted(self._looked_at(place).rows("step", step), key=ORDERS[order])
        largest = max((abs(value) for row in rows for value in _advantages(row)), default=0.0)
        shown = [_completion(row) for row in rows[start : start + PAGE_ROWS]]
        return {"count": len(rows), "largest_advantage": largest, "rows": shown}

    def compared(self, sides: Sequence[tuple[int, int]], show: str, start: int) -> dict[str, Any]:
        """Two evaluations side by side, by question. Args: sides: (run, step) of each; show: of `_SHOWS`."""
        if show not in _SHOWS:
            raise UserError(f"show={show!r}: one of {', '.join(_SHOWS)}")
        left, right = (
            {row["index"]: row for row in self._looked_at(place).rows("eval", step)} for place, step in sides
        )
        # of different sets of questions, those that are the same
        both = [index for index in left if index in right and left[index]["prompt"] == right[index]["prompt"]]
        gains = {index: _right(right[index]) - _right(left[index]) for index in both}
        counts = {name: sum(map(is_shown, gains.values())) for name, is_shown in _SHOWS.items()}
        chosen = [index for index in both if _SHOWS[show](gains[index])]
        rows = [_question(left[index], right[index]) for index in chosen[start : start + PAGE_ROWS]]
        shares = [sum(_right(side[index]) for index in both) / len(both) if both else None for side in (left, right)]
        return {"counts": counts, "shares": shares, "count": len(chosen), "rows": rows}

    def _looked_at(self, place: int) -> WatchedRun:
        if not 0 <= place < len(self._runs):
            raise UserError(f"run={place}: there are {len(self._runs)}")
        self._runs[place].look()
        return self._runs[place]


_SHOWS: dict[str, Callable[[float], bool]] = {
    "all": lambda gain: True,
    "changed": lambda gain: gain != 0,
    "better": lambda gain: gain > 0,
    "worse": lambda gain: gain < 0,
}


def _defaults() -> list[str]:
    """Curves shown at first: the lab report's, and memory."""
    return [key for _, key in CURVES.values()] + ["policy/entropy", "memory/rss_gb"]


def _curve(run: WatchedRun, key: str) -> dict[str, Any]:
    steps, values = run.columns.points(key)
    drawn_steps, drawn = thin(steps, values)
    gaps = int(np.count_nonzero(~np.isfinite(values)))
    return {"steps": drawn_steps.astype(int).tolist(), "values": as_json(drawn), "gaps": gaps}


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a row of completions/step_N.jsonl; others' may lack all that their readers do not check."""
    scores = row.get("rewards")
    return {
        "prompt": _cut(row["prompt"]),
        "gold": _cut(row["gold"]),
        "reward": row["reward"],
        "scores": {str(name): _real(value) for name, value in scores.items()} if isinstance(scores, dict) else {},
        "outcome": _cut(row["outcome"]),
        "advantage": _real(row.get("advantage")),
        "tokens": row["tokens"],
        "finish": _cut(str(row.get("finish_reason", ""))),
        "group": _cut(str(row.get("group", ""))),
        "segments": _segments(row, row["completion"]),
        "failure": _cut(str(row.get("failure", ""))),
        "end": _cut(str(row.get("end", ""))),
    }


def _advantages(row: Mapping[str, Any]) -> list[float]:
    """All that a completion's tokens have."""
    found = [value for turn in row.get("token_advantages", ()) for _, value in turn] or [row.get("advantage")]
    return [value for each in found if (value := _real(each)) is not None]


def _segments(row: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """What the policy wrote, and between it what an environment answered."""
    segments = row.get("segments") or [{"written": True, "text": text}]
    by_turn, shown = iter(row.get("token_advantages", ())), []
    for each in segments[:_MOST_SEGMENTS]:
        shown.append({"written": bool(each["written"]), "text": _cut(each["text"])})
        if each["written"] and (pieces := next(by_turn, None)):
            shown[-1]["tokens"] = [[_cut(piece), _real(value)] for piece, value in pieces[:_MOST_PIECES]]
    return shown


def _question(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    def answers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "correct": each["correct"],
                "tokens": each.get("tokens"),
                "segments": _segments(each, each["text"]),
            }
            for each in row["completions"][:PAGE_ROWS]
        ]

    return {
        "index": left["index"],
        "prompt": _cut(left["prompt"]),
        "gold": _cut(left["gold"]),
        "left": answers(left),
        "right": answers(right),
    }


def _right(row: Mapping[str, Any]) -> float:
    """Share of a question's answers that are right; 0 where nobody judged."""
    return sum(bool(each["correct"]) for each in row["completions"]) / len(row["completions"])


def _cut(text: str) -> str:
    more = len(text) - _MOST_CHARACTERS
    return text if more <= 0 else f"{text[:_MOST_CHARACTERS]} ... (+{more})"


def _real(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None
