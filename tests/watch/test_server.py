"""The page's server, asked as a browser, a stranger's page and a fuzzer would ask it."""

import http.client
import json
import re
import time
from urllib.parse import urlsplit

import pytest
from helpers import run_python
from watch.made import SCRIPT, lines, make_watched, metrics_row, watching


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, folder) of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    make_watched(folder / "one")
    make_watched(folder / "two", steps=5)
    with watching(folder / "one", folder / "two") as url:
        yield urlsplit(url), folder


def ask(served, path, method="GET", **headers):
    connection = http.client.HTTPConnection(served[0].hostname, served[0].port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def asked(served, path, status=200, **headers):
    answer, body = ask(served, path, **headers)
    assert answer.status == status, body
    return json.loads(body)


def test_everything_that_the_page_loads_is_its_own(served):
    answer, page = ask(served, "/")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="([^"#][^"]*)"', page.decode())
    assert {"main.js", "watch.css", "uplot/uPlot.iife.min.js"} <= set(loaded)
    for name in (each for each in loaded if not each.startswith("data:")):
        answer, text = ask(served, f"/{name}")
        assert answer.status == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(rb"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text), name
    assert b"<style" not in page and not re.search(rb"<script(?! src=| type=\"module\" src=)|\son\w+=|style=", page)


def test_what_a_browser_may_do_with_it(served):
    for path in ("/", "/main.js", "/api/state", "/nothing", "/api/completions?run=9"):
        headers = ask(served, path)[0].headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers and "Set-Cookie" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", ""]
)
def test_other_names_for_this_host_are_refused(served, host):
    for path in ("/", "/api/state", "/main.js"):
        answer, body = ask(served, path, Host=host)
        assert answer.status in (400, 403) and b"reward" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:6006"])
def test_loopback_names_are_answered(served, host):
    assert ask(served, "/api/state", Host=host)[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_it_can_only_be_read(served, method):
    assert ask(served, "/api/state", method)[0].status == 405 and ask(served, "/", method)[0].status == 405


def test_it_listens_on_loopback_only(served):
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file if f":{served[0].port:04X} 0" in line]
    assert {row[1].partition(":")[0] for row in rows if row[3] == "0A"} == {"0100007F"}  # 127.0.0.1


@pytest.mark.parametrize(
    "path",
    [
        *("/../setup.py", "/..%2f..%2fsetup.py", "//etc/passwd", "/uplot/../../server.py", "/%2e%2e/server.py"),
        *("/server.py", "/uplot/", "/uplot/LICENSE%00.js", "/static/main.js", "/metrics.jsonl", "/one/metrics.jsonl"),
        *("/api/", "/api/state/", "/api/files", "/api/completions?run=0&step=../../etc/passwd"),
        *("/api/completions?run=-1&step=12", "/api/completions?run=0&step=11", "/api/completions?run=2&step=12"),
        *("/api/completions?run=0&step=12&order=__class__", "/api/completions?run=0&step=" + "9" * 5000),
        *("/api/compare?run_a=0&step_a=0&run_b=1&step_b=12", "/api/compare?step_a=0&step_b=12&show=x"),
        *("/api/curves?" + "&".join(["key=a"] * 30), "/api/steps?run=%F0%9F%98%80"),
    ],
)
def test_nothing_else_is_found(served, path):
    answer, body = ask(served, path)
    assert answer.status in (400, 404) and set(json.loads(body)) == {"error"} and b"Traceback" not in body


def test_completions_by_reward(served):
    found = asked(served, "/api/completions?run=0&step=12&order=worst")
    assert [row["reward"] for row in found["rows"]] == [0.0, 0.5, 0.75, 1.0] and found["count"] == 4
    assert found["largest_advantage"] == 0.5 and found["rows"][0]["scores"] == {"accuracy": 0.0, "format": 1.0}
    assert SCRIPT in found["rows"][0]["prompt"] and found["rows"][0]["gold"] == "89"
    assert [part["written"] for part in found["rows"][2]["segments"]] == [True, False, True]
    best = asked(served, "/api/completions?run=0&step=12&start=3")["rows"]
    assert [row["reward"] for row in best] == [0.0]
    assert asked(served, "/api/steps?run=0") == {"step": [12], "eval": [0, 12]}


def test_two_checkpoints_by_question(served):
    found = asked(served, "/api/compare?run_a=0&step_a=0&run_b=0&step_b=12")
    assert found["counts"] == {"all": 4, "changed": 2, "better": 1, "worse": 1} and found["shares"] == [0.5, 0.5]
    worse = asked(served, "/api/compare?run_a=0&step_a=0&run_b=1&step_b=5&show=worse")["rows"]
    assert [row["index"] for row in worse] == [3]
    assert worse[0]["left"][0]["correct"] and worse[0]["right"][0]["segments"] == [{"written": True, "text": SCRIPT}]


def test_words_follow_the_browser_and_the_switch(served):
    assert asked(served, "/api/words", Accept_Language="zh-CN,zh;q=0.9")["language"] == "zh"
    assert asked(served, "/api/words?language=en", Accept_Language="zh-CN")["words"]["overview"] == "Overview"
    assert asked(served, "/api/words?language=xx")["language"] == "en"


def test_it_goes_on_with_the_run(tmp_path):
    make_watched(tmp_path / "run", steps=3)
    with watching(tmp_path / "run") as url:
        served = (urlsplit(url), tmp_path)
        (before,) = asked(served, "/api/state")["runs"]
        with open(tmp_path / "run/metrics.jsonl", "a") as file:
            file.write(lines([metrics_row(4, **{"reward/mean": float("nan")})]))
        time.sleep(0.5)
        (after,) = asked(served, "/api/state")["runs"]
        (curve,) = asked(served, "/api/curves?key=reward/mean")["curves"]["reward/mean"]
    assert (before["step"], after["step"]) == (3, 4) and after["version"] > before["version"]
    assert after["newest"]["reward/mean"] == "nan" and after["concerns"][0]["kind"] == "not_finite"
    assert curve["steps"] == [1, 2, 3, 4] and curve["values"][3] is None and curve["gaps"] == 1


def test_ten_thousand_steps_are_no_burden(tmp_path):
    """The first answer reads 30 MB; an update afterwards is a few new rows, and few points of each curve."""
    make_watched(tmp_path / "run", steps=10_000, last_step=20_000)
    keys = "&".join(f"key={key}" for key in ("reward/mean", "loss/total", "loss/kl", "policy/entropy", "memory/rss_gb"))
    with watching(tmp_path / "run") as url:
        served, seconds = (urlsplit(url), tmp_path), []
        asked(served, "/api/state")
        for step in range(10_001, 10_006):
            with open(tmp_path / "run/metrics.jsonl", "a") as file:
                file.write(lines([metrics_row(step)]))
            time.sleep(0.45)
            started = time.perf_counter()
            (state,) = asked(served, "/api/state")["runs"]
            (curve,) = asked(served, f"/api/curves?{keys}")["curves"]["reward/mean"]
            seconds.append(time.perf_counter() - started)
            assert state["step"] == curve["steps"][-1] == step and len(curve["steps"]) <= 600
    assert min(seconds) < 0.1, seconds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone: no such folder; give the output folder of a run"),
        ([".", "--names", "a", "b"], "--names: 2 names for 1 runs"),
        ([".", "."], "a run is given twice"),
        ([".", "--port", "70000"], "a whole number from 0 to 65535"),
    ],
)
def test_mistakes_are_said_in_words(tmp_path, arguments, said):
    result = run_python("tools/watch.py", *arguments)
    assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_a_taken_port_is_said(served):
    result = run_python("tools/watch.py", served[1] / "one", "--port", served[0].port)
    assert result.returncode == 2 and f"--port={served[0].port}: Address already in use" in result.stderr
    result = run_python("tools/watch.py", served[1] / "one", "--once")
    assert result.returncode == 0 and "one: ended, step 12 of 20" in result.stdout
