"""Signatures of what ranks tell one another: whoever can write to their ports, and has not the job's key, cannot speak
for a rank, nor say again what a rank has said.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter

_BYTES = hashlib.sha256().digest_size


class ForgedMessage(Exception):
    """A message that no rank of this job sent, or not now."""


class Signer:
    """One rank's side. Every message of a group counts: its ranks gather in one order.

    Args: key: the job's secret; rank: this one.
    """

    def __init__(self, key: bytes, rank: int):
        self._key, self._rank, self._sent = key, rank, Counter[str]()

    def sign(self, group: str, data: bytes) -> bytes:
        """The next message to a group, with its signature in front."""
        self._sent[group] += 1
        return self._of(group, self._rank, data) + data

    def verified(self, group: str, sender: int, message: bytes) -> bytes:
        """The data of the message that `sender` sent with this rank's last one. Raises ForgedMessage."""
        signature, data = message[:_BYTES], message[_BYTES:]
        if not hmac.compare_digest(signature, self._of(group, sender, data)):
            raise ForgedMessage(
                f"what arrived as a message of rank {sender} is not signed with this job's key: another program wrote "
                "to the ports between ranks, or ranks were given different keys (MINDRLHF_JOB_KEY); docs/security.md"
            )
        return data

    def _of(self, group: str, sender: int, data: bytes) -> bytes:
        head = f"{group} {sender} {self._sent[group]} {len(data)}\n".encode()
        digest = hmac.new(self._key, head, hashlib.sha256)
        digest.update(data)
        return digest.digest()
