"""The page that tools/lab_report.py writes."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import run_python
from observe.made_runs import make_run, settings

from mindrlhf_lite.observe.lab_curves import COLOURS, mean_and_range
from mindrlhf_lite.observe.lab_report import page_of
from mindrlhf_lite.observe.runs import read_run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    base, other = (
        make_run(folder / "base", 0.0, settings(0.1, "base")),
        make_run(folder / "no_format", 0.5, settings(0.0, "no_format")),
    )
    unfinished = make_run(folder / "unfinished", 1.0)
    result = run_python("tools/lab_report.py", base, other, unfinished, "--output", folder / "report")
    assert result.returncode == 0, result.stderr
    return folder / "report"


def test_the_page(report):
    page = (report / "report.html").read_text()
    assert page.count("<figure") == page.count("<svg") == len(list(report.glob("*.png"))) == 7
    # self-contained: nothing is fetched, nothing runs, texts of models are text
    assert (
        not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)", page)
        and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        and "<b>4</b>" not in page
    )
    table = page.partition("<h2>Settings that differ</h2>")[2].partition("<h2>")[0]
    assert "reward_config.verifier_weight" in table and "[1.0, 0.0]" in table
    assert (
        "num_generations" not in table and "output_dir" not in table and "Settings of unfinished are not known" in table
    )
    assert (
        "<mark>Wait</mark>" in page and "30.0%" in page and "80.0% (10.0% to 90.0%)" in page and "not finished" in page
    )


def test_what_a_person_should_look_at_is_said(tmp_path):
    folder = make_run(tmp_path / "run", 0.0)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "reward/outcome/timeout": 0.5}\n')
    page = page_of([read_run(str(folder), "<b>run")], {})
    said = "&lt;b&gt;run, steps 41 to 41: verifiers failed for 50.0% of the completions (error or timeout)."
    assert f'<p class="warning">{said}</p>' in page


def test_settings_of_a_run_that_goes_on(tmp_path):
    going_on, done = make_run(tmp_path / "a", 0.0), make_run(tmp_path / "b", 0.0, settings(0.1, "b"))
    (going_on / "run.json").write_text(json.dumps({"last_step": 60, "config": settings(0.3, "a"), "world_size": 2}))
    page = page_of([read_run(str(folder), folder.name) for folder in (going_on, done)], {})
    table = page.partition("<h2>Settings that differ</h2>")[2].partition("<h2>")[0]
    assert "not known" not in table and "[1.0, 0.3]" in table and "[1.0, 0.1]" in table and "not finished" in page


def test_runs_of_one_name_are_seeds(tmp_path):
    runs = [
        make_run(tmp_path / name, shift, settings(0.1, name)) for name, shift in (("a0", 0.0), ("a1", 0.5), ("b", 0.2))
    ]
    assert mean_and_range([[(0, 1.0), (1, 4.0)], [(0, 2.0)]]) == [(0, 1.5, 1.0, 2.0)]
    result = run_python("tools/lab_report.py", *runs, "--names", "a", "a", "b", "--output", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("a (2 seeds)") == 1 and "seeds 80.0% to 80.0%" in page and page.count("<h3>") == 2
    assert page.count("<h1>Lab report: a, b</h1>") == 1 and "Runs of one name are seeds" in page


def test_names_are_text(tmp_path):
    run = make_run(tmp_path / "run", 0.0)
    result = run_python(
        "tools/lab_report.py",
        run,
        make_run(tmp_path / "other", 0.5),
        "--names",
        r"a$\foo$",
        "_b",
        "--output",
        tmp_path / "report",
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("_b</text>") == page.count("$\\foo$</text>") == 7


def test_damaged_files_are_named(tmp_path):
    run = make_run(tmp_path / "run", 0.0)
    (run / "completions/step_000040.jsonl").write_text('{"prompt": "a')
    result = run_python("tools/lab_report.py", run, "--output", tmp_path / "report")
    assert result.returncode == 2 and "step_000040.jsonl:1: not valid JSON" in result.stderr


def test_mistakes_are_named(tmp_path):
    for arguments, message in (
        ((tmp_path,), "no metrics.jsonl with at least one step"),
        ((tmp_path, "--names", "a", "b"), "2 names for 1 runs"),
        ((tmp_path, tmp_path), "a run is given twice"),
    ):
        result = run_python("tools/lab_report.py", *arguments, "--output", tmp_path / "report")
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.full
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")
def test_a_browser_draws_every_curve(report, tmp_path):
    """Headless Chromium, without a network: inside every figure's box there are pixels of every run's colour."""
    from PIL import Image

    size = 1300, 4000
    script = (
        "<script>document.body.dataset.boxes = JSON.stringify([...document.querySelectorAll('figure')].map(f => "
        "[f.id, f.getBoundingClientRect()]))</script>"
    )
    probe = tmp_path / "probe.html"  # the page, and a script that says where its figures are
    probe.write_text((report / "report.html").read_text().replace("</body>", script + "</body>"))

    def chromium(page, *options):
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={size[0]},{size[1]}",
            "--hide-scrollbars",
        )
        command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    boxes = json.loads(re.search(r'data-boxes="([^"]*)"', chromium(probe, "--dump-dom"))[1].replace("&quot;", '"'))
    assert len(boxes) == 7
    chromium(report / "report.html", f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.array(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    for name, box in boxes:
        assert box["bottom"] < size[1]
        part = pixels[int(box["top"]) : int(box["bottom"]), int(box["left"]) : int(box["right"])]
        for colour in COLOURS[:3]:
            wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
            columns = (np.abs(part - wanted).max(-1) < 12).any(0)
            lines_end = np.flatnonzero(columns)
            assert lines_end.size and np.ptp(lines_end) > 0.5 * part.shape[1], (
                name,
                colour,
            )  # a line over the plot, not only its entry in the legend
