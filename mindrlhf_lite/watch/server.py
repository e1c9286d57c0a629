"""The page's server, on tornado: GET only, on 127.0.0.1 only, and for requests that name a loopback host (a name that
somebody else's DNS points here is refused).

Everything that a page may load is in one table; no request names a file. Texts of runs are JSON; the policy below
keeps a browser from running anything but the page's own scripts, whatever a completion holds.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application, HTTPError, RequestHandler

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.watch.views import Views
from mindrlhf_lite.watch.words import LANGUAGES, language_of, words_of

LOOPBACK_HOSTS = r"^(127\.0\.0\.1|localhost|\[::1\])$"  # tornado leaves the port out
_STATIC = Path(__file__).with_name("static")
_MOST_START = 1_000_000_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def serve(views: Views, listener: socket.socket) -> None:
    """Until the process ends."""
    logging.getLogger("tornado.access").disabled = True
    listener.setblocking(False)
    make_application(views).listen_on(listener)
    views.state(LANGUAGES[0])  # a long run takes seconds to read: before somebody asks
    IOLoop.current().start()


class _Application(Application):
    def listen_on(self, listener: socket.socket) -> None:
        server = HTTPServer(self, max_header_size=1 << 16, max_body_size=1 << 16, idle_connection_timeout=60)
        server.add_socket(listener)


def make_application(views: Views) -> _Application:
    files = {path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.suffix in _TYPES}
    static = {f"/{name}": path for name, path in files.items()}
    static["/"] = files["index.html"]
    application = _Application(default_host="", default_handler_class=_Refused)
    handlers: list[Any] = [(rf"/api/{name}", _Api, {"views": views, "answer": own}) for name, own in _ANSWERS.items()]
    application.add_handlers(LOOPBACK_HOSTS, [*handlers, (r"(/.*)", _Static, {"files": static})])
    return application


class _Handler(RequestHandler):
    SUPPORTED_METHODS = ("GET",)

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def write_error(self, status_code: int, **about: Any) -> None:
        self.answer({"error": self._reason})

    def answer(self, values: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(values, allow_nan=False, separators=(",", ":")))


class _Refused(_Handler):
    """Of a host that is none of `LOOPBACK_HOSTS`."""

    def prepare(self) -> None:
        raise HTTPError(403, reason="only loopback names are answered")


class _Static(_Handler):
    def initialize(self, files: dict[str, Path]) -> None:
        self.files = files

    def get(self, name: str) -> None:
        if (path := self.files.get(name)) is None:
            raise HTTPError(404)
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.finish(path.read_bytes())


class _Api(_Handler):
    def initialize(self, views: Views, answer: Callable[[_Api, Views], Any]) -> None:
        self.views, self.make = views, answer

    def get(self) -> None:
        try:
            self.answer(self.make(self, self.views))
        except UserError as error:
            self.set_status(404)
            self.answer({"error": str(error)[:1000]})
        except OSError as error:  # a file that was there a moment ago
            self.set_status(404)
            self.answer({"error": error.strerror or str(error)})

    def number(self, name: str) -> int:
        text = self.get_query_argument(name, "0")
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise UserError(f"{name}={text[:40]!r}: a whole number is needed")
        return int(text)

    @property
    def language(self) -> str:
        asked = self.get_query_argument("language", "")
        return asked if asked in LANGUAGES else language_of(self.request.headers.get("Accept-Language", ""))


def _words(request: _Api, views: Views) -> Any:
    return {"language": request.language, "words": words_of(request.language)}


def _state(request: _Api, views: Views) -> Any:
    return views.state(request.language)


def _curves(request: _Api, views: Views) -> Any:
    return views.curves(request.get_query_arguments("key"))


def _steps(request: _Api, views: Views) -> Any:
    return views.steps(request.number("run"))


def _completions(request: _Api, views: Views) -> Any:
    order = request.get_query_argument("order", "best")
    return views.completions(request.number("run"), request.number("step"), order, request.number("start"))


def _compared(request: _Api, views: Views) -> Any:
    sides = [(request.number(f"run_{side}"), request.number(f"step_{side}")) for side in ("a", "b")]
    return views.compared(sides, request.get_query_argument("show", "all"), request.number("start"))


_ANSWERS: dict[str, Callable[[_Api, Views], Any]] = {
    "words": _words,
    "state": _state,
    "curves": _curves,
    "steps": _steps,
    "completions": _completions,
    "compare": _compared,
}
