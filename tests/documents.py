"""README and docs as data, and what of them a machine can hold against the code: paths, links, metrics and names.
Commands and settings are in documented_commands.py. Every check returns a list of problems, one line each.

What is recognised is written down as patterns below; what matches none of them is not checked. Output paths, files of
the reader's own and the meaning of a sentence are left out.
"""

import ast
import importlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers import ROOT

from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, VERL, find_row
from mindrlhf_lite.config.load import known_keys

PACKAGE = ROOT / "mindrlhf_lite"
PLACES = (".", "mindrlhf_lite", "tests", "examples", "docs")  # where a path of the text may begin
READERS_FILES = {"mine.py", "mine.yaml", "data.yaml", "ours.yaml", "grpo_config.yaml", "THEIR.yaml", "IN.yaml"}
READERS_FILES |= {"ascend_report.md", "OUT.yaml", "FILE.yaml", "FILE.py", "small.yaml", "NAME.yaml", "manifest.json"}
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass
class Document:
    """A text in Markdown. Example: Document(ROOT / "README.md", "# Title\\n`tools/score.py`")"""

    path: Path
    text: str
    variables: dict[str, str] = field(default_factory=lambda: {"REPO": "."})  # of the shell, as blocks set them

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(language, text) of every fenced block."""
        return [(language, text) for _, language, text in _BLOCK.findall(self.text)]

    @property
    def prose(self) -> str:
        return _BLOCK.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """What stands between backticks in prose."""
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]


def documents() -> list[Document]:
    paths = [*(ROOT / name for name in ("README.md", "README_CN.md", "CONTRIBUTING.md"))]
    paths += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return [Document(path, path.read_text(encoding="utf-8")) for path in sorted(paths)]


@cache
def settings() -> set[str]:
    """Every setting, and every section of some."""
    parts = [key.split(".") for key in known_keys()]
    return {".".join(key[:count]) for key in parts for count in range(1, len(key) + 1)}


@cache
def sections() -> set[str]:
    return {name for name in settings() if "." not in name}


def is_setting(name: str) -> bool:
    """Whether it is a setting, or a section of some, of this toolkit or of one whose files are read."""
    name = re.sub(r"\.\*$", "", name)
    return name in settings() or any(find_row(toolkit, name) is not None for toolkit in (MINDRLHF, MINDSPEED_RL, VERL))


@cache
def glossary() -> list[str]:
    """The keys of docs/metrics.md."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    return [
        key
        for row in re.findall(r"^- ((?:`[^`]*`(?:, )?)+)(?: \(.*?\))?: ", text, re.MULTILINE)
        for key in _SPAN.findall(row)
    ]


def path_problems(document: Document) -> list[str]:
    """Paths and file names between backticks, metrics among them."""
    problems = []
    for span in document.spans:
        for word in span.split():
            word = word.rstrip(",;").partition("::")[0]
            if re.fullmatch(r"[\w.*-]+(?:/[\w.*-]+)*/?", word) and "/" in word:
                problems += [] if _exists(word) else [f"{word}: neither a path nor a metric"]
            elif re.fullmatch(r"\w+\.(?:py|sh|md|toml|txt|yaml)", word) and " " not in span:
                is_shown = word in READERS_FILES or any(f"# {word}\n" in text for _, text in document.blocks)
                problems += [] if is_shown or word in file_names() else [f"{word}: no such file"]
    return problems


def _exists(word: str) -> bool:
    first = word.partition("/")[0]
    metric_kinds = {key.partition("/")[0] for key in glossary()}
    if first in metric_kinds and (
        word in glossary() or f"{word.rstrip('/')}/" in {k[: len(word) + 1] for k in glossary()}
    ):
        return True
    if word.endswith("/") and first in metric_kinds:
        return True
    folders = {path.name for place in (ROOT, PACKAGE) for path in place.iterdir() if path.is_dir()} - {"output"}
    if first not in folders | metric_kinds:
        return True  # of a run, or of the reader
    return any(list((ROOT / place).glob(word.rstrip("/").replace("NAME", "*"))) for place in PLACES)


@cache
def _sources() -> list[Path]:
    found = [ROOT / name for name in ("build.sh", "setup.py", "pyproject.toml", "constraints.txt", ".ci/run")]
    for folder in ("mindrlhf_lite", "tools", "tests", "examples", "model_configs"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh", ".yaml", ".c")]
    return [path for path in found if path.name not in ("documents.py", "documented_commands.py", "test_documents.py")]


@cache
def source_text() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in _sources())


@cache
def identifiers() -> set[str]:
    return set(re.findall(r"\w+", source_text()))


@cache
def file_names() -> set[str]:
    return {path.name for path in _sources()} | {path.name for path in [*ROOT.glob("*.*"), *ROOT.glob("docs/**/*.*")]}


def name_problems(document: Document) -> list[str]:
    """Names of code between backticks: snake_case, CamelCase.member and VARIABLES; what Python blocks import."""
    problems = []
    for span in document.spans:
        name = span.removesuffix("()")
        if re.fullmatch(r"[a-z]+\d*(?:_[a-z0-9]+)+|[A-Z]\w*[a-z]\w*\.\w+|[A-Z]+(?:_[A-Z]+)+", name):
            missing = [part for part in name.split(".") if part not in identifiers()]
            problems += [f"{name}: the sources have no {missing[0]}"] if missing else []
    for language, text in document.blocks:
        if language == "python":
            for module, names in re.findall(r"^from (mindrlhf_lite[\w.]*) import (.+)$", text, re.MULTILINE):
                found = importlib.import_module(module)
                problems += [f"{module} has no {each}" for each in names.split(", ") if not hasattr(found, each)]
    return problems


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().replace("`", "")).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def link_problems(document: Document) -> list[str]:
    problems = []
    for target in _LINK.findall(document.prose):
        if re.match(r"https?://|arxiv:", target, re.IGNORECASE):
            continue
        file, _, anchor = target.partition("#")
        path = document.path.parent / file if file else document.path
        if not path.exists():
            problems.append(f"{target}: no such file")
        elif anchor:
            text = document.text if path == document.path else path.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
            problems += [] if anchor in map(slug, headings) else [f"{target}: no such heading"]
    return problems


@cache
def _test_names(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def pytest_problems(words: list[str]) -> list[str]:
    """Whether the files, folders, ::names and -k words of a test command exist."""
    problems, chosen = [], []
    wanted = [words[place + 1] for place, word in enumerate(words[:-1]) if word == "-k"]
    for word in words:
        file, _, name = word.partition("::")
        if file.startswith("tests/"):
            path = ROOT / file
            files = list(path.rglob("test_*.py")) if path.is_dir() else [path] if path.is_file() else []
            chosen += files
            problems += [] if files else [f"{file}: no such test file"]
            problems += (
                [f"{word}: no such test"] if name and not any(name in _test_names(each) for each in files) else []
            )
    names = {name for path in chosen or ROOT.glob("tests/**/test_*.py") for name in (*_test_names(path), path.stem)}
    for each in re.findall(r"\w+", " ".join(wanted)):
        if each not in ("and", "or", "not") and not any(each in name for name in names):
            problems.append(f"-k {each}: no test has that in its name")
    return problems
