"""Which versions go together for vLLM on Ascend, as vllm-mindspore's releases name them. Not run here."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from mindrlhf_lite.config.schema import Config

# by version of vllm-mindspore: of the packages beside it; CANN and Python as words
_RELEASES = {"0.5.1": ({"mindspore": "2.7.1.post1", "vllm": "0.11.0"}, "CANN 8.3.RC1", (3, 11))}


def version_notes(config: Config) -> tuple[str, ...]:
    """What differs here from what vllm-mindspore was released for: worth knowing before devices are taken."""
    if not config.engine_copies_weights or not (ours := _version("vllm-mindspore")):
        return ()
    if ours not in _RELEASES:
        return (f"note: vllm-mindspore {ours}: the code was written against {', '.join(_RELEASES)}",)
    packages, cann, newest = _RELEASES[ours]
    here = {name: _version(name).partition("+")[0] for name in packages}
    others = [f"{name} {here[name] or 'is not installed'}" for name in packages if here[name] != packages[name]]
    if sys.version_info[:2] > newest:
        others.append(f"Python {sys.version_info.major}.{sys.version_info.minor}")
    if not others:
        return ()
    wanted = ", ".join(f"{name} {number}" for name, number in packages.items())
    return (
        f"note: vllm-mindspore {ours} was released for {wanted}, {cann} and Python up to "
        f"{'.'.join(map(str, newest))}; here: {', '.join(others)}. Whether they work together is not known; "
        "generate_config.use_vllm=0 needs none of it",
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
