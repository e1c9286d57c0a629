"""Why a job failed: which of its processes ended first and how, where it was, and what its log says last."""

from __future__ import annotations

import signal

from mindrlhf_lite.commands.tool import FAILED
from mindrlhf_lite.job.last_words import error_lines, last_lines
from mindrlhf_lite.job.members import UNSEEN, Members, name_of
from mindrlhf_lite.job.whereabouts import last_noted


def verdict(members: Members) -> tuple[int, str]:
    """(exit code of the job, what to say: nothing where a rank said it)."""
    failed = members.failed
    if first := [member for member in failed if member.was_asked_by_msrun]:
        failed = first  # msrun killed the others
    was_killed = all(member.code is not None and (member.code < 0 or member.code == UNSEEN) for member in failed)
    # what the others of a killed rank say is a consequence
    speakers = failed if was_killed else sorted(members.found.values(), key=lambda member: member.code is None)
    for member in speakers:
        if said := error_lines(members.log_of(member)):
            return max(member.code or FAILED, FAILED), "" if member.rank is not None else said[-1]
    cause = min(failed, key=lambda member: member.rank is None)
    name, log = name_of(cause), members.log_of(cause)
    assert cause.code
    at = f" in {found}" if (found := last_noted(log)) else ""
    end = f"; its log, {log}, ends with{lines}" if (lines := last_lines(log)) else f"; its log: {log}"
    if cause.code == UNSEEN:
        return FAILED, f"error: {name} ended{at}, how only msrun's own log says{end}"
    if cause.code > 0:
        return cause.code, f"error: {name} ended with exit code {cause.code}{at}{end}"
    number = -cause.code
    known = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    reason = ", as the system does when memory runs out (dmesg would say so)" if number == signal.SIGKILL else ""
    return FAILED, f"error: {name} was killed by signal {number} ({known}){at}{reason}{end}"
