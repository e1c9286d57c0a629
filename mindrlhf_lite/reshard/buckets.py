"""How large a reshard's messages are: large enough that a link's latency is a small share of what a message takes, and
no larger, because as much has to lie beside the models. Bytes as the planner counts them, four a number.
"""

from __future__ import annotations

LINK_BYTES_PER_S = 25e9  # that a device receives from another: one HCCS link, or 200 Gbit/s between hosts
MESSAGE_LATENCY_S = 100e-6  # a broadcast between two devices, with the operators that cut and write what it carries
_MOST_OF_LATENCY = 0.05  # of a message's time
_OF_HOST = 8 << 20
_MESSAGES_OF_HOST = 8  # a broadcast on CPU holds up to six copies of its message
_MESSAGES_OF_DEVICE = 2  # cut, packed and written


def bytes_of_bucket(wanted_mb: int, is_of_host: bool) -> int:
    """Args: wanted_mb: rl_config.reshard_bucket_mb; is_of_host: whether parameters lie in the host's memory, where
    there is no link to fill.
    """
    if wanted_mb:
        return wanted_mb << 20
    return _OF_HOST if is_of_host else _MESSAGES_OF_DEVICE * least_message_bytes()


def message_bytes(bucket: int, is_of_host: bool) -> int:
    """Of a collective's message, of which a bucket holds several copies."""
    return max(1, bucket // (_MESSAGES_OF_HOST if is_of_host else _MESSAGES_OF_DEVICE))


def least_message_bytes(bytes_per_s: float = LINK_BYTES_PER_S, latency_s: float = MESSAGE_LATENCY_S) -> int:
    """The smallest power of two whose time on the link makes the latency at most a twentieth of the whole, in the
    two-byte types of a device.

    Example: 25 GB/s and 100 us: 47.5 MB have to cross, 95 MB as the planner counts: 128 MiB
    """
    crossing = latency_s * bytes_per_s * (1 / _MOST_OF_LATENCY - 1)
    size = 1 << 20
    while size < 2 * crossing:
        size *= 2
    return size
