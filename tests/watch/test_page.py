"""The page in a real browser, headless Chromium: what people see, and that nothing of a completion runs."""

import re
import time

import pytest
from watch import browser
from watch.browser import Browser
from watch.made import completion, held, lines, make_watched, metrics_row, watching

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason=browser.ABSENT)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(browser, address, folder) of a run that goes on, and another."""
    folder = tmp_path_factory.mktemp("runs")
    make_watched(folder / "one")
    make_watched(folder / "<script>two", steps=5)
    with held(folder / "one"), watching(folder / "one", folder / "<script>two") as url, Browser(folder) as opened:
        opened.size(1280, 900)
        yield opened, url, folder


def text_of(opened, url, part, wanted):
    opened.call("Page.navigate", url="about:blank")
    opened.open(f"{url}#{part}")
    opened.wait(f"document.body.innerText.includes({wanted!r})")
    return opened.text()


def nothing_ran(opened):
    assert opened.value("window.ran === undefined && document.title.startsWith('mindrlhf_lite')")
    assert opened.value("document.querySelectorAll('main script, main img, main iframe, main [onerror]').length") == 0
    assert opened.complaints() == []


def test_how_runs_stand(page):
    opened, url, _ = page
    text = text_of(opened, url, "overview", "running")
    assert "step 12 of 20" in text and "0:16 left" in text and "ended early" in text
    assert re.search(r"1\.25 GiB \(peak 1\.5 GiB\)", text) and "<script>two" in text
    assert opened.value("document.querySelectorAll('.curve canvas').length") >= 6
    assert opened.value("document.querySelector('progress').value") == 12
    drawn = (
        "[...document.querySelector('.curve canvas').getContext('2d').getImageData(0, 0, 400, 200).data].some(Boolean)"
    )
    assert opened.value(drawn)
    nothing_ran(opened)


def test_a_script_in_a_completion_is_text(page):
    opened, url, _ = page
    text = text_of(opened, url, "completions?run=0&order=worst", "first <script>")
    assert text.index("first <script>") < text.index("third") < text.index("it is 89") < text.index("second")
    assert "60+29= <script>document.title = 'ran'" in text and "<img src=x onerror=" in text
    assert "third a<U+202E>b\N{SYMBOL FOR ESCAPE}[2J" in text  # what is unseen is shown
    assert re.search(r"policy, turn 1\s+look up 89\s+environment\s+found <script>.*\s+policy, turn 2\s+it is 89", text)
    assert "accuracy 0.75" in text and "gold 89" in text and "outcome correct" in text
    shades = opened.value(
        "[...document.querySelectorAll('.row')].map((row) => row.querySelector('span[title]').className)"
    )
    assert shades == ["d5", "", "u3", "u5"]  # advantages -0.5, 0, 0.25, 0.5; the largest is 0.5
    by_token = "[...document.querySelectorAll('.row')].pop().querySelectorAll('span[title]')"
    pieces = opened.value(f"[...{by_token}].map((each) => [each.textContent, each.className, each.title])")
    assert pieces == [["se", "u5", "advantage 0.5"], ["cond", "d3", "advantage -0.25"]]
    nothing_ran(opened)


def test_inline_scripts_are_refused_even_if_they_got_in(page):
    opened, url, _ = page
    text_of(opened, url, "overview", "running")
    made = (
        "const each = document.createElement('script'); each.textContent = 'window.ran = 2'; document.body.append(each)"
    )
    opened.value(made)
    opened.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 3\">')")
    time.sleep(0.3)
    assert opened.value("window.ran === undefined")
    assert "Content Security Policy" in str(opened.complaints())
    opened.events.clear()


def test_two_checkpoints_side_by_side(page):
    opened, url, _ = page
    text = text_of(opened, url, "compare?run_a=0&step_a=0&run_b=0&step_b=12&show=changed", "changed (2)")
    assert "better (1)" in text and "worse (1)" in text and "4 questions in both: 50.0 % → 50.0 %" in text
    assert "question 1" in text and "question 3" in text and "question 0\n" not in text
    nothing_ran(opened)


def test_it_updates_by_itself(page):
    opened, url, folder = page
    text_of(opened, url, "overview", "step 12 of 20")
    with open(folder / "one/metrics.jsonl", "a") as file:
        file.write(lines([metrics_row(13, **{"reward/outcome/error": 0.25})]))
    opened.wait("document.body.innerText.includes('step 13 of 20')")
    opened.wait("document.body.innerText.includes('verifiers failed for 25.0%')")
    text_of(opened, url, "completions", "first <script>")
    (folder / "one/completions/step_000013.jsonl").write_text(lines([completion("the newest", 1.0)]))
    opened.wait("document.body.innerText.includes('the newest')")


def test_any_metric_can_be_chosen(page):
    opened, url, _ = page
    text_of(opened, url, "overview", "running")
    before = opened.value("document.querySelectorAll('.curve').length")
    opened.value("document.getElementById('chooser').open = true")
    opened.value(
        "const box = document.getElementById('search'); box.value = 'metric_07'; box.dispatchEvent(new Event('input'))"
    )
    opened.wait("document.querySelectorAll('#metrics label').length === 1")
    opened.value("document.querySelector('#metrics input').click()")
    opened.wait(f"document.querySelectorAll('.curve').length === {before + 1}")
    assert "made/metric_07" in opened.value("[...document.querySelectorAll('.curve h3')].pop().textContent")


def test_chinese_and_the_switch(page, tmp_path):
    with Browser(tmp_path, "zh-CN") as chinese:
        text = text_of(chinese, page[1], "overview", "训练中")
        assert "总览" in text and "提前结束" in text and chinese.value("document.documentElement.lang") == "zh"
        chinese.value("document.getElementById('language').click()")
        chinese.wait("document.body.innerText.includes('ended early')")
        text_of(chinese, page[1], "completions", "highest reward first")  # it is kept


@pytest.mark.parametrize("part", ["overview", "completions", "compare"])
def test_a_phone_is_wide_enough(page, part):
    opened, url, _ = page
    try:
        opened.size(390, 844)
        text_of(opened, url, part, "mindrlhf_lite")
        opened.wait(f"!document.getElementById('{part}').hidden")
        assert opened.value("document.documentElement.scrollWidth") <= 390
        shown = "[...document.querySelectorAll('main:not([hidden]) *')].map((each) => each.getBoundingClientRect())"
        assert opened.value(f"Math.max(...{shown}.map((each) => each.right))") <= 391
    finally:
        opened.size(1280, 900)


def test_it_says_when_the_server_is_gone(tmp_path):
    make_watched(tmp_path / "run")
    with Browser(tmp_path) as opened:
        with watching(tmp_path / "run") as url:
            text_of(opened, url, "overview", "ended early")
        opened.wait("!document.getElementById('offline').hidden")
        assert "No answer from the server" in opened.text()


def test_ten_thousand_steps_without_lag(tmp_path):
    make_watched(tmp_path / "run", steps=10_000, last_step=20_000)
    with watching(tmp_path / "run") as url, Browser(tmp_path) as opened:
        opened.size(1280, 900)
        text_of(opened, url, "overview", "step 10000 of 20000")
        updates = []
        for step in range(10_001, 10_004):
            with open(tmp_path / "run/metrics.jsonl", "a") as file:
                file.write(lines([metrics_row(step)]))
            opened.wait(f"document.body.innerText.includes('step {step} of 20000')")
            opened.wait(f"Number(document.body.dataset.updates) >= {len(updates) + 2}")
            updates.append(float(opened.value("document.body.dataset.updateMs")))
    print("update of the page, ms:", updates)
    assert min(updates) < 100, updates
