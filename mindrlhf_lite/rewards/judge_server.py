"""Asking an OpenAI-compatible server for a chat completion: time limits, retries, a key that no message shows."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.files.text_file import printable

_MOST_BYTES = 1 << 20  # of a reply
_SHOWN = 200  # characters of what a server said in an error
_BUSY = (408, 409, 425, 429)  # asked again, as after an error of the server's own (5xx)
_LONGEST_WAIT_S = 30.0


class Unanswered(Exception):
    """No reply; the message says why."""


class TooLate(Unanswered):
    """Within the time limit."""


class Refused(Unanswered):
    """The server says that the request is wrong: asking again does not help."""


class _Again(Unanswered):
    """Busy or broken. `wait_s`: what the server asks for."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class JudgeServer:
    """Example: JudgeServer("http://localhost:8000/v1", timeout_s=60.0, retries=3)"""

    address: str
    timeout_s: float
    retries: int
    key: str = field(default="", repr=False)
    first_wait_s: float = 1.0  # before a request is sent again, doubled each time

    def reply_to(self, request: dict[str, Any]) -> str:
        """The text of the first choice. Raises Unanswered."""
        for attempt in range(self.retries + 1):
            try:
                return self._ask(request)
            except (TooLate, _Again) as error:
                if attempt == self.retries:
                    raise
                asked = error.wait_s if isinstance(error, _Again) else 0.0
                time.sleep(min(max(asked, self.first_wait_s * 2**attempt), _LONGEST_WAIT_S))
        raise AssertionError("unreachable")

    def _ask(self, request: dict[str, Any]) -> str:
        parts, deadline = urlsplit(self.address), time.monotonic() + self.timeout_s
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", json.dumps(request), headers)
            response = connection.getresponse()
            body = self._body(connection, response, deadline)
        except TimeoutError:
            raise TooLate(f"timeout: no reply within {self.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(self._shown(f"no reply: {type(error).__name__}: {error}")) from None
        finally:
            connection.close()
        if response.status != 200:
            said = self._shown(f"status {response.status}: {body.decode(errors='replace')[:_SHOWN]}")
            if response.status in _BUSY or response.status >= 500:
                raise _Again(said, _seconds(response.headers.get("Retry-After")))
            raise Refused(said)
        return self._text_of(body)

    def _body(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float
    ) -> bytes:
        """Of a server that may send a byte now and then, for ever."""
        found = b""
        while chunk := response.read1(1 << 16):
            found += chunk
            if len(found) > _MOST_BYTES:
                raise _Again(f"a reply of more than {_MOST_BYTES >> 20} MiB")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
        return found

    def _text_of(self, body: bytes) -> str:
        try:
            text = parse_json(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _Again(self._shown(f"no chat completion: {body.decode(errors='replace')[:_SHOWN]}"))
        return text

    def _shown(self, text: str) -> str:
        """Some servers repeat the key that they refuse."""
        return printable(text.replace(self.key, "(key)") if self.key else text)


def _seconds(text: str | None) -> float:
    """Of a Retry-After; 0 where it is none, or a date."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def request_of(model: str, question: str, temperature: float, max_tokens: int) -> dict[str, Any]:
    """Example: request_of("qwen", "Is it right?", 0.0, 16)["messages"][0]["role"] == "user" """
    messages: Sequence[dict[str, str]] = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens}
