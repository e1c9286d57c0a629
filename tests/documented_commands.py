"""Commands of README and docs against the programs: each is parsed by its tool's own parser, and never run.

Shell scripts are known by their usage text, msrun by MindSpore's source.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import yaml
from documented_programs import MAIN, MODULES, PROGRAMS
from documents import Document, identifiers, is_setting, pytest_problems, sections
from helpers import ROOT

from mindrlhf_lite.config.aliases.tables import VERL, find_row
from mindrlhf_lite.config.load import FLAGS, ConfigError, collect, parse_overrides
from mindrlhf_lite.config.presets import PRESETS
from mindrlhf_lite.launch.command_line import parse_command_line

# programs of the system; their arguments are not looked at
ORDINARY = {"source", "tail", "head", "cp", "wait", "unshare", "pip", "cd", "git", "openssl", "rand", "ip", "export"}
VARIABLES = {"OMP_NUM_THREADS", "PYTHONPATH", "MINDRLHF_JOB_KEY", "SMOLLM2_CACHE"}  # that any command may have
KEYWORDS = {"do", "then", "else", "exec", "time"}
_LOOP = re.compile(r"\bfor (\w+) in (\S+)[^;\n]*;\s*do\b")
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*python[\d.]* |bash |msrun |(?:\S*/)?\w+\.(?:py|sh) +-)")


class _Found(Exception):
    """Where a program would parse its arguments: (the parser, whether it takes arguments beside its own)."""


@cache
def _module(path: Path):
    """A script as a module; it does not run."""
    name = f"documented_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parser_of(script: str) -> tuple[argparse.ArgumentParser, bool] | None:
    """A program's own parser (its main() runs up to it), and whether it takes arguments beside its own; or None."""
    if "parser" not in (text := (ROOT / script).read_text(encoding="utf-8")) and "import main" not in text:
        return None
    program = PROGRAMS.get(script)
    run = (lambda: parse_command_line([], program=program)) if program else _module(ROOT / script).main
    kept = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def stop(takes_more):
        def parse(parser, *_, **__):
            raise _Found(parser, takes_more)

        return parse

    argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args = stop(False), stop(True)
    try:
        run()
    except _Found as found:
        return found.args
    finally:
        argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args = kept
    raise AssertionError(f"{script}: its main() parses no arguments")


class _WrongOption(Exception): ...


def _parse(script: str, words: list[str], is_part: bool) -> tuple[argparse.Namespace, list[str]]:
    """Raises _WrongOption. is_part: what is required may be missing."""
    found = parser_of(script)
    if found is None:
        return argparse.Namespace(), []
    parser, takes_more = found

    def error(message):
        raise _WrongOption(message)

    parser.error = error  # type: ignore[method-assign]
    for action in parser._actions:
        action.required = action.required and not is_part
    namespace, rest = parser.parse_known_args([word for word in words if word not in ("-h", "--help")])
    if rest and not takes_more:
        raise _WrongOption(f"unrecognized: {' '.join(rest)}")
    return namespace, rest


def shell_commands(document: Document, text: str) -> list[list[str]]:
    """The simple commands of a shell text. A loop is gone through with its first value."""
    text = _LOOP.sub(lambda loop: document.variables.update({loop[1]: loop[2]}) or "", text.replace("\\\n", " "))
    found: list[list[str]] = []
    for line in text.splitlines():
        for name, value in document.variables.items():
            line = re.sub(rf"\${name}\b|\$\{{{name}\}}", lambda _, value=value: value, line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                found += [words] if words else []
                words = []
            else:
                words.append(word)
        exported = [word.partition("=") for words in found if words[0] == "export" for word in words[1:]]
        document.variables.update({name: value for name, _, value in exported})
    return found


def command_problems(document: Document, words: list[str], is_part: bool = False) -> list[str]:
    """Whether a command could be typed: its program is there, and its own parser takes the options."""
    is_part = is_part or "..." in words
    words = [re.sub(r"(^|=)[A-Z]$", r"\g<1>1", word) for word in words if word != "..."]  # N, S: any number
    while words and words[0] in KEYWORDS:
        words = words[1:]
    environment = []
    while words and re.match(r"[A-Z_0-9]+=", words[0]):
        environment.append(words.pop(0).partition("=")[0])
    if not words or words[0] in ("done", "{", "}", "<", ">"):
        return []
    program = Path(words[0]).name
    try:
        if program.startswith("python"):
            return _python_problems(document, words[1:], is_part)
        if program == "msrun":
            return _msrun_problems(document, words[1:])
        if program == "bash" and words[1:2] == ["-c"]:
            return [
                problem
                for each in shell_commands(document, words[2])
                for problem in command_problems(document, each, is_part)
            ]
        if program == "bash" or program.endswith(".sh"):
            return _bash_problems(document, words[program == "bash" :], environment, is_part)
        if program.endswith(".py"):
            return _script_problems(document, words[0], words[1:], is_part)
    except _WrongOption as wrong:
        return [f"{' '.join(words)}: {wrong}"]
    if program == "unshare":
        return command_problems(document, words[words.index("bash") :], is_part)
    return [] if program in ORDINARY else [f"{' '.join(words)}: {program} is no program of this project"]


def _python_problems(document: Document, words: list[str], is_part: bool) -> list[str]:
    if words[:1] == ["-c"] or words[:2] in (["-m", "venv"], ["-m", "pip"], ["-m", "pstats"]):
        return []
    if words[:2] == ["-m", "pytest"]:
        return pytest_problems(words[2:])
    if words[:1] == ["-m"] and words[1:2] and words[1] in MODULES:
        return _script_problems(document, MODULES[words[1]], words[2:], is_part)
    if words and words[0].startswith("-"):
        return [f"python {' '.join(words)}: not understood"]
    return _script_problems(document, words[0], words[1:], is_part) if words else []


def _msrun_problems(document: Document, words: list[str]) -> list[str]:
    count = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    given = [word.partition("=")[0] for word in words[:count]]
    problems = [f"msrun has no {option}" for option in given if option not in msrun_options()]
    return problems + (_script_problems(document, words[count], words[count + 1 :], True) if words[count:] else [])


@cache
def msrun_options() -> set[str]:
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None and spec.origin is not None
    return set(re.findall(r'"(--\w+)"', (Path(spec.origin).parent / "parallel/cluster/run.py").read_text()))


def _script_problems(document: Document, script: str, words: list[str], is_part: bool) -> list[str]:
    script = MAIN if script in ("main.py", "python main.py") else str(Path(script))
    if not (ROOT / script).is_file():
        is_shown = any(text.startswith(f"# {script}\n") for _, text in document.blocks)
        return [] if is_shown else [f"{script}: no such file"]
    namespace, rest = _parse(script, words, is_part)
    if script == "tools/start_job.py" and namespace.script:
        return _script_problems(document, namespace.script, namespace.arguments, is_part)
    if script == "tools/sweep.py" and namespace.command:
        return command_problems(document, namespace.command[namespace.command[0] == "--" :], True)
    flags = [f"--{FLAGS[name]}={value}" for name, value in vars(namespace).items() if name in FLAGS and value]
    problems = settings_problems([*flags, *rest]) if script in PROGRAMS or rest else []
    given = getattr(namespace, "config", None) or ""
    if script in PROGRAMS and given.startswith(("examples/", "model_configs/")) and not (ROOT / given).is_file():
        problems.append(f"--config {given}: no such file")
    if script == MAIN and namespace.preset and namespace.preset not in (*PRESETS, "NAME"):
        problems.append(f"--preset {namespace.preset}: no such preset")
    return problems


def settings_problems(words: list[str]) -> list[str]:
    """Of --section.key=value: whether the key exists and takes the value; a placeholder is any value."""
    try:
        values = parse_overrides(words)
    except ConfigError as error:
        return error.problems
    ours = {key: value for key, value in values.items() if find_row(VERL, key) is None}
    placeholders = {key for key, value in ours.items() if isinstance(value, str) and re.search(r"^[A-Z]+$|\$", value)}
    problems = [f"{key}: no such setting" for key in placeholders if not is_setting(key)]
    return problems + collect({key: value for key, value in ours.items() if key not in placeholders})[1]


@cache
def script_options(script: str) -> dict[str, bool]:
    """Options of a shell script, by its usage text: whether each takes a value."""
    text = (ROOT / script).read_text(encoding="utf-8")
    usage = "\n".join(re.findall(r"<<'EOF'\n(.*?)\nEOF", text, re.DOTALL))
    options = {"--help": False}
    for name, value in re.findall(r"(?:^ +|\[)(--[a-z_]+)( [A-Z]+)?(?=[] ]|$)", usage, re.MULTILINE):
        options[name] = options.get(name, False) or bool(value)
    return options


def _bash_problems(document: Document, words: list[str], environment: list[str], is_part: bool) -> list[str]:
    script, words = str(Path(words[0])), words[1:]
    if not (ROOT / script).is_file():
        return [f"{script}: no such script"]
    text = (ROOT / script).read_text(encoding="utf-8")
    problems = [
        f"{script} does not read {name}"
        for name in environment
        if name not in VARIABLES and not re.search(rf"\b{name}\b", text)
    ]
    if script == "tests/run.sh":
        return problems + pytest_problems([word for word in words if word != "--full"])
    if script == "tools/ascend_kit.sh":
        return problems + _script_problems(document, "tools/ascend_kit.py", words, is_part)
    own, rest, place = script_options(script), [], 0
    while place < len(words):
        if words[place] in own:
            place += 1 + own[words[place]]
        else:
            rest.append(words[place])
            place += 1
    if script.endswith("run_grpo.sh") or "run_grpo_" in script:
        return problems + _script_problems(document, MAIN, rest, True)
    return problems + [f"{script} has no {word}" for word in rest if word.startswith("--")]


def all_command_problems(document: Document) -> list[str]:
    problems = []
    for language, text in document.blocks:
        if language == "bash":
            for words in shell_commands(document, text):
                problems += command_problems(document, words)
    for span in document.spans:
        if _COMMAND.match(span):
            try:
                for words in shell_commands(document, span):
                    problems += command_problems(document, words, is_part=True)
            except ValueError as error:
                problems.append(f"{span}: {error}")
    return problems


@cache
def every_option() -> set[str]:
    """Of all programs and scripts."""
    scripts = [path for pattern in ("*.sh", "tools/*.sh", "examples/*/*.sh") for path in ROOT.glob(pattern)]
    options = {"--full", *msrun_options()}
    options |= {option for path in scripts for option in script_options(str(path.relative_to(ROOT)))}
    for path in [*ROOT.glob("tools/*.py"), ROOT / MAIN, *ROOT.glob("tests/*/*.py")]:
        if path.name.startswith(("test_", "conftest")) or "main()" not in path.read_text(encoding="utf-8"):
            continue
        if found := parser_of(str(path.relative_to(ROOT))):
            options |= set(found[0]._option_string_actions)
    return options


def setting_problems(document: Document) -> list[str]:
    """Options and settings in prose, and YAML blocks of settings."""
    problems = []
    for span in document.spans:
        if span.startswith("--"):
            for word in re.findall(r"(?:^| )(--[\w.-]+(?:=\S+)?)", span):
                name = word.partition("=")[0]
                if "." in name and not name.startswith("--section."):
                    problems += settings_problems([word]) if "=" in word else []
                    problems += [] if is_setting(name.lstrip("-")) else [f"{name}: no such setting"]
                elif name not in every_option() and not name.startswith("--section."):
                    problems.append(f"{name}: no program has this option")
        elif (found := re.match(r"(\w+(?:\.[\w*]+)+)(?:$|[ :=])", span)) and found[1].partition(".")[0] in sections():
            problems += [] if is_setting(found[1]) else [f"{found[1]}: no such setting"]
        elif (found := re.match(r"([a-z_]+): \S", span)) and found[1] not in identifiers():
            problems.append(f"{found[1]}: no such key")
    for language, text in document.blocks:
        values = yaml.safe_load(text) if language == "yaml" else None
        if isinstance(values, dict) and set(values) <= sections():
            problems += collect(_flat(values))[1]
    return problems


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
