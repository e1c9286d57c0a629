"""judge_reward: a verifier that asks a language model on a server for a mark.

A judge that does not answer, or answers without a mark, is a failure, as of any verifier: never a score. Replies are
kept in a folder, each under a hash of what was asked, so that a run that is repeated or resumed gets the same scores.
What a completion says reaches the judge as it is: it may try to talk it into a good mark.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindrlhf_lite.files.text_file import ENCODING, printable, read_text
from mindrlhf_lite.rewards.judge_server import JudgeServer, TooLate, Unanswered, request_of
from mindrlhf_lite.rewards.judge_settings import JudgeSettings, template_of
from mindrlhf_lite.rewards.pool import Verdict
from mindrlhf_lite.types import CompletionView, Outcome, Score

_PLACES = re.compile(r"\{(question|answer|gold)\}")


@dataclass
class Judge:
    """Args: folder: of the replies.

    Example: Judge(JudgeConfig(address="http://localhost:8000/v1", model="qwen"), Path("run/judge")).score(pairs, print)
    """

    settings: JudgeSettings
    folder: Path
    server: JudgeServer = field(init=False)
    template: str = field(init=False)

    def __post_init__(self) -> None:
        judge, key = self.settings, os.environ.get(self.settings.key_variable, "") if self.settings.key_variable else ""
        self.server = JudgeServer(judge.address, judge.timeout_s, judge.retries, key)
        self.template = template_of(judge)

    def score(self, pairs: Sequence[tuple[CompletionView, str]], on_result: Callable[[int, Verdict], None]) -> None:
        """Calls on_result(pair's index, verdict) for every completion and its gold answer, in order. What is asked
        alike is asked once.
        """
        requests = [self._request(*pair) for pair in pairs]
        keys = [_hash_of(request) for request in requests]
        with ThreadPoolExecutor(self.settings.concurrency) as threads:
            asked = {
                key: threads.submit(self._verdict, key, request) for key, request in dict(zip(keys, requests)).items()
            }
            try:
                for index, key in enumerate(keys):
                    on_result(index, asked[key].result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _request(self, completion: CompletionView, gold: str) -> dict[str, Any]:
        values = {"question": completion.prompt, "answer": completion.text, "gold": gold}
        question = _PLACES.sub(lambda found: values[found[1]], self.template)
        return request_of(self.settings.model, question, self.settings.temperature, self.settings.max_tokens)

    def _verdict(self, key: str, request: dict[str, Any]) -> Verdict:
        path = self.folder / key[:2] / f"{key}.json"
        try:
            is_new = not path.is_file()
            reply = self.server.reply_to(request) if is_new else str(json.loads(read_text(path))["reply"])
        except Unanswered as error:
            late = isinstance(error, TooLate)
            return Verdict(None, Outcome.TIMEOUT if late else Outcome.ERROR, f"{'' if late else 'judge: '}{error}")
        verdict = self._read(reply)
        if is_new and verdict.score is not None:  # another time the judge may keep to the form
            _keep(path, {"request": request, "reply": reply})
        return verdict

    def _read(self, reply: str) -> Verdict:
        """The mark in a reply as a score."""
        judge, marks = self.settings, list(re.finditer(self.settings.pattern, reply))
        try:
            mark = float(marks[-1][1]) if marks else math.nan
        except (TypeError, ValueError):
            mark = math.nan
        if not judge.lowest <= mark <= judge.highest:
            what = f"no mark from {judge.lowest:g} to {judge.highest:g} in the reply"
            return Verdict(None, Outcome.ERROR, f"judge: {what} ...{printable(reply[-200:])}")
        value = (mark - judge.lowest) / (judge.highest - judge.lowest)
        return Verdict(Score(value, Outcome.CORRECT if value >= judge.correct_from else Outcome.WRONG))


def _hash_of(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _keep(path: Path, value: dict[str, Any]) -> None:
    """Whole under its name, or not there: other ranks read it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent)
    with open(descriptor, "w", encoding=ENCODING) as file:
        json.dump(value, file)
    os.replace(scratch, path)
