"""Text files are UTF-8 in any locale; the console shows what it cannot encode as escapes."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, clean_environment

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import printable, printable_lines, read_text, say, write_text

TEXT = "name: 训练 ½\r\nend: \N{GRINNING FACE}\n"
PROJECT = [
    *(path for folder in ("mindrlhf_lite", "tools", "examples") for path in (ROOT / folder).rglob("*.py")),
    ROOT / "setup.py",
]


def opens_with_the_locale(node: ast.Call) -> bool:
    """Whether a call opens text, or a pipe of text, without saying in which encoding."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = {word.arg: word.value for word in node.keywords}
    if "encoding" in given:
        return False
    if any(getattr(given.get(word), "value", None) is True for word in ("text", "universal_newlines")):
        return True
    if isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text"):
        return True
    if name not in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return False
    owner = getattr(node.func, "value", None)
    if isinstance(owner, ast.Name) and owner.id in ("os", "gzip", "zipfile") and name == "open":
        return False
    modes = [value.value for value in (*node.args, given.get("mode")) if isinstance(value, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str) and set(mode) <= set("rwaxb+t")]
    if name.startswith(("Named", "Temp")):
        return bool(modes) and "b" not in modes[0]
    looks_like_a_file = isinstance(node.func, ast.Name) or modes or getattr(owner, "id", "") == "path"
    return bool(looks_like_a_file) and "b" not in "".join(modes)


@pytest.mark.parametrize(
    ("source", "is_wrong"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.open('a')", True),
        ("p.open('wb')", False),
        ("p.read_text()", True),
        ("p.read_text(errors='replace')", True),
        ("read_text(p)", False),
        ("subprocess.run(c, text=True)", True),
        ("os.open(p, os.O_RDONLY)", False),
        ("Conversion(a).open()", False),
    ],
)
def test_the_search_finds_what_it_should(source, is_wrong):
    assert opens_with_the_locale(ast.parse(source).body[0].value) is is_wrong


@pytest.mark.parametrize("path", PROJECT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_opened_in_the_encoding_of_the_locale(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and opens_with_the_locale(node)]
    assert not found, f"{path}: lines {found}: use mindrlhf_lite.files.text_file, or say the encoding"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_passed_over(tmp_path, mark):
    file = tmp_path / "a.yaml"
    file.write_bytes(mark + TEXT.encode())
    assert read_text(file) == TEXT.replace("\r", "")
    (tmp_path / "a.json").write_bytes(mark + b'{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("训练".encode("gbk"), "not UTF-8 text .byte 0xc1 in line 1.; save it as UTF-8"),
        (b"a\nb\nc\xff", "byte 0xff in line 3"),
        ("a".encode("utf-16"), "but UTF-16"),
    ],
)
def test_another_encoding_is_said_in_words(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100000, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "too many digits"),
        ('{"a" 1}', "not valid JSON"),
        ("[]", "an object is needed"),
    ],
)
def test_json_that_cannot_be_read_is_said_in_words(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message.replace("an object", "a JSON object")):
        read_json(tmp_path / "a.json")


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path):
    write_text(tmp_path / "a", "x\ud83dy")
    assert (tmp_path / "a").read_bytes() == b"x\\ud83dy"


@pytest.fixture(scope="module")
def gbk(tmp_path_factory):
    """The environment of a locale in GBK."""
    folder = tmp_path_factory.mktemp("locales")
    if subprocess.run(["localedef", "-f", "GBK", "-i", "zh_CN", folder / "zh_CN.GBK"], check=False).returncode > 1:
        pytest.skip("no localedef, or no sources of locales")
    return clean_environment(LOCPATH=str(folder), LC_ALL="zh_CN.GBK", PYTHONPATH=str(ROOT))


def python(environment, *arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, env=environment, timeout=300)


def test_prompts_are_shown_on_a_console_in_gbk(gbk, tmp_path, quickstart_model):
    script = "import locale; print(locale.getpreferredencoding())"
    assert python(gbk, "-c", script).stdout.strip().lower() == b"gbk"
    rows = tmp_path / "行.jsonl"
    rows.write_text('{"question": "1+2= \u00bd 训 \U0001f600", "answer": "3"}\n', encoding="utf-8")
    keys = '{"prompt": "question", "response": "answer"}'
    arguments = ("--tokenizer_dir", quickstart_model, "--map_keys", keys, "--file_path", rows, "--inspect", 1)
    result = python(gbk, ROOT / "tools/rlhf_data.py", *arguments)
    assert result.returncode == 0, result.stderr
    shown = result.stdout.decode("gbk")
    assert "训" in shown and "\\U0001f600" in shown


def test_a_template_file_is_read_in_gbk(gbk, tmp_path, quickstart_model):
    (tmp_path / "mine.yaml").write_text("cn: '问题{question}'\n", encoding="utf-8-sig")
    result = python(
        gbk,
        ROOT / "tools/rlhf_data.py",
        *("--tokenizer_dir", quickstart_model, "--dataset_type", "arithmetic", "--num_rows", 1, "--inspect", 1),
        *("--prompt_type", f"{tmp_path}/mine.yaml:cn"),
    )
    assert result.returncode == 0 and "问题" in result.stdout.decode("gbk"), result.stderr


def test_a_tool_in_an_ascii_locale_ends_in_words(tmp_path):
    environment = {**clean_environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = python(environment, ROOT / "tools/rlhf_data.py", "--config", os.fsencode(tmp_path).decode() + "/数.yaml")
    assert result.returncode == 2 and b"Traceback" not in result.stderr and b"no such file" in result.stderr


def test_a_verifier_may_print_what_the_console_lacks(gbk, tmp_path):
    (tmp_path / "prints.py").write_text(
        "def verify(completion, gold):\n    print('\\ufffd', completion)\n    return 1.0\n", encoding="utf-8"
    )
    script = (
        "from mindrlhf_lite.rewards.pool import VerifierPool\n"
        "from mindrlhf_lite.types import CompletionView\n"
        "if __name__ == '__main__':\n"
        "    pool, verdicts = VerifierPool(['prints.verify'], 60, 1), []\n"
        "    pool.score([(CompletionView('\\U0001f600'), '1')], lambda place, verdict: verdicts.append(verdict))\n"
        "    pool.close()\n"
        "    print(verdicts[0].problem or verdicts[0].score.value)\n"
    )
    (tmp_path / "run.py").write_text(script, encoding="utf-8")
    environment = {**gbk, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    result = python(environment, tmp_path / "run.py")
    assert result.stdout.strip() == b"1.0", result.stderr


def test_a_conversation_may_be_utf_8_in_an_ascii_locale(quickstart_model):
    environment = {**clean_environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, ROOT / "tools/generate.py", "--model", quickstart_model, "--chat", "--max_tokens", "2"]
    result = subprocess.run(
        [*map(str, command), "--prompt_type", "plain"],
        input="训 1+2=\n".encode() + b"\xff\n",
        capture_output=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0 and result.stderr.decode().count("not UTF-8 text") == 1, result.stderr


def test_foreign_text_is_one_line_that_moves_no_cursor():
    assert printable("a\nerror: rank 0: x\x1b[2J\u2028b\u202e 心 \ud83d") == (
        "a\\nerror\\x3a rank 0: x\\x1b[2J\\u2028b\\u202e 心 \\ud83d"
    )
    assert printable_lines("two:\n  - one\nerror: rank 0: forged\r") == ("two:\n  - one\nerror\\x3a rank 0: forged\\r")
    assert printable_lines("error: rank 1: it said error: rank 0: x") == "error: rank 1: it said error\\x3a rank 0: x"
    assert printable_lines("a\nerror: b") == "a\n  error: b"


def test_what_others_say_never_looks_like_an_error(capsys):
    say("error: a\r\x1b[2Jb\nerror: rank 0: c", Path("error: rank 1: d"))
    shown = capsys.readouterr().out
    assert shown == "  error: a\\r\\x1b[2Jb\nerror\\x3a rank 0: c\nerror\\x3a rank 1: d\n"


def prints_as_it_is(node: ast.AST) -> bool:
    """Whether a call prints something that is neither written here nor made printable."""
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "print":
        return False
    made = {getattr(each.func, "id", "") for each in ast.walk(node) if isinstance(each, ast.Call)}
    return not all(isinstance(each, ast.Constant) for each in node.args) and not any(
        name.startswith("printable") for name in made
    )


def test_text_of_others_is_printed_by_one_function():
    """tools/bench_*.py print their own figures; job and trainer have messages of their own."""
    found = []
    for path in PROJECT:
        place = str(path.relative_to(ROOT))
        if not place.startswith(
            (
                "tools/bench_",
                "mindrlhf_lite/job/",
                "mindrlhf_lite/trainer/",
                "mindrlhf_lite/launch/",
                "mindrlhf_lite/commands/signals",
                "examples/",
                "setup",
            )
        ):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [f"{place}:{node.lineno}" for node in ast.walk(tree) if prints_as_it_is(node)]
    assert not found, f"{found}: use text_file.say, or printable"
