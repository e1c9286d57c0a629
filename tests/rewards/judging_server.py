"""An OpenAI-compatible server for tests: answers chat completions by a function of the prompt, and remembers them."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgingServer(ThreadingHTTPServer):
    """Args: answer: (prompt, number of times that it was asked before) -> a reply's text, or (status, headers, body
    bytes), or a float: seconds until nothing is said.
    """

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.asked, self.keys, self.lock = answer, [], [], threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, server = body["messages"][0]["content"], self.server
        with server.lock:
            before = server.asked.count(prompt)
            server.asked.append(prompt)
            server.keys.append(self.headers.get("Authorization"))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        found = server.answer(prompt, before) if self.path == "/v1/chat/completions" else (404, {}, b"no such path")
        with server.lock:
            server.at_once -= 1
        if isinstance(found, float):
            time.sleep(found)
            return
        if isinstance(found, str):
            reply = {"choices": [{"message": {"role": "assistant", "content": found}}], "model": body["model"]}
            found = 200, {}, json.dumps(reply).encode()
        status, headers, data = found
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextmanager
def judging(answer):
    server = JudgingServer(answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
