"""JSON files that users bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none, and why.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise UserError(f"{path}: not valid JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (nested too deeply)") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return values
