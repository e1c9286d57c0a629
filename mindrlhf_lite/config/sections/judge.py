"""reward_config.judge: the server that the verifier judge_reward asks."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, Bounds, setting
from mindrlhf_lite.rewards.judge_settings import JudgeSettings


@dataclass(frozen=True)
class JudgeConfig(JudgeSettings):
    address: str = setting(
        "",
        "judge_reward: an OpenAI-compatible server, http://HOST:PORT/v1; its /chat/completions is asked",
        resume=FREE,
    )
    model: str = setting("", "name of the judging model on that server")
    template: str = setting(
        "",
        "text file of what the judge is asked, with {question}, {answer} and, if it shall see the gold answer, {gold}; "
        "empty: a mark from 0 to 10 against the gold answer",
        resume=FREE,
    )
    pattern: str = setting(
        r"(?i)mark\W{1,5}(-?\d+(?:\.\d+)?)",
        "regular expression whose last match in the reply has the mark as its first group",
    )
    lowest: float = setting(0.0, "the mark that scores 0; a mark below it is a failure")
    highest: float = setting(10.0, "the mark that scores 1; a mark above it is a failure")
    correct_from: float = setting(
        1.0,
        "score from which an answer counts as correct",
        bounds=Bounds("must lie in (0, 1]", lambda value: 0 < value <= 1),
    )
    temperature: float = setting(0.0, "of the judge's own sampling", bounds=NOT_NEGATIVE)
    max_tokens: int = setting(512, "most tokens of a reply", bounds=POSITIVE, unit="tokens")
    timeout_s: float = setting(60.0, "seconds that a reply may take", bounds=POSITIVE, unit="s", resume=FREE)
    retries: int = setting(
        3,
        "times that a request is sent again, after 1, 2, 4 ... s, where the server is busy, broken or does not answer",
        bounds=NOT_NEGATIVE,
        resume=FREE,
    )
    concurrency: int = setting(
        8,
        "requests of a rank at a time",
        bounds=Bounds("must lie in 1..256", lambda value: 1 <= value <= 256),
        resume=FREE,
    )
    cache_dir: str = setting(
        "",
        "folder of replies, by a hash of what was asked: nothing is asked twice, also by a resumed run; empty: "
        "OUTPUT/judge",
        resume=FREE,
    )
    key_variable: str = setting(
        "",
        "environment variable that holds the server's key; the key itself is written nowhere; empty: none is sent",
        resume=FREE,
    )
