"""README and docs against the code: what a machine can see of their truth. tests/documents.py and
tests/documented_commands.py say what is recognised.

The second half breaks a document in every way that is looked for, so that each check is seen to fail.
"""

import re

import pytest
from documented_commands import all_command_problems, parser_of, setting_problems
from documents import (
    Document,
    _exists,
    documents,
    glossary,
    identifiers,
    link_problems,
    name_problems,
    path_problems,
    source_text,
)
from helpers import ROOT

from mindrlhf_lite.algorithms.names import ADVANTAGE_NAMES, AGGREGATION_NAMES, CORRECTIONS, KL_ESTIMATORS, LOSS_NAMES
from mindrlhf_lite.config.load import known_keys
from mindrlhf_lite.config.presets import PRESETS, preset_settings
from mindrlhf_lite.observe.health import CHECKS
from mindrlhf_lite.rewards.verifiers import BUILT_IN

CHECKED = {
    "commands": all_command_problems,
    "settings": setting_problems,
    "paths": path_problems,
    "names": name_problems,
    "links": link_problems,
}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
# what the code counts, by the words that a document has for it
COUNTED = {
    "presets": len(PRESETS),
    "health checks": len(CHECKS),
    "settings": len(known_keys()),
    "built-in verifiers": len(BUILT_IN),
    "tools": len(list(ROOT.glob("tools/*.py"))),
    "metrics": len(glossary()),
}
OWN_IDIOM = ("theirs", "rooms", "what it gave", "who keeps", "the house")
MOST_LINES, MOST_WORDS = 150, 22_000  # without docs/config.md, which is generated, and looked up by key


@pytest.mark.parametrize("kind", CHECKED)
def test_what_documents_name_is_there(kind):
    found = [f"{each.path.relative_to(ROOT)}: {problem}" for each in documents() for problem in CHECKED[kind](each)]
    assert not found, "\n".join(found)


def count_problems(document):
    problems = []
    for text, noun in re.findall(
        rf"\b(\d+|{'|'.join(NUMBERS)}) ({'|'.join(COUNTED)})\b", document.prose, re.IGNORECASE
    ):
        number = NUMBERS.index(text.lower()) if text.lower() in NUMBERS else int(text)
        problems += [] if number == COUNTED[noun.lower()] else [f"{text} {noun}: the code has {COUNTED[noun.lower()]}"]
    return problems


def test_counts_are_the_codes():
    found = [f"{each.path.name}: {problem}" for each in documents() for problem in count_problems(each)]
    assert not found, "\n".join(found)


def test_every_metric_of_the_glossary_is_written_somewhere():
    for key in glossary():
        kind, _, name = key.partition("/")
        last = key.rpartition("/")[2]
        is_made = f"{kind}/" in source_text() and last in identifiers()
        assert key in source_text() or (name and is_made), key


def idiom_problems(document):
    return [word for word in OWN_IDIOM if re.search(rf"\b{word}\b", document.prose, re.IGNORECASE)]


def test_documents_have_no_idiom_of_their_own():
    found = [f"{each.path.name}: {word!r}" for each in documents() for word in idiom_problems(each)]
    assert not found, found


def test_sizes():
    texts = {each.path: each.text for each in documents()}
    for name in ("README.md", "README_CN.md"):
        assert len(texts[ROOT / name].splitlines()) <= MOST_LINES, name
    folders = (ROOT / "docs", ROOT / "docs/guides")
    words = {path.name: len(text.split()) for path, text in texts.items() if path.parent in folders}
    del words["config.md"]
    assert sum(words.values()) <= MOST_WORDS, (sum(words.values()), words)


def test_readme_has_every_folder_and_tool():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = set(re.findall(r"^  (\w+)/", text, re.MULTILINE))
    assert tree == {path.parent.name for path in ROOT.glob("mindrlhf_lite/*/*") if path.parent.name != "__pycache__"}
    listed = {
        name for row in re.findall(r"^\| (`tools/.*?) \|", text, re.MULTILINE) for name in re.findall(r"\w+\.\w+", row)
    }
    tools = {path.name for path in ROOT.glob("tools/*.*")} - {"ascend_kit.py", "document_config.py"}  # .sh; for CI
    assert listed == tools


def test_both_readmes_say_the_same():
    one, other = (
        Document(ROOT / name, (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "README_CN.md")
    )

    def numbers(document):
        return sorted(set(re.findall(r"\d[\d.,]*\d|\d", document.text)))

    def code(document):
        return [re.sub(r" +#.*", "", text) for language, text in document.blocks if language == "bash" or "%" in text]

    def rows(document):
        return [re.findall(r"`[^`]+`", line) for line in document.prose.splitlines() if line.startswith("| ")]

    assert numbers(one) == numbers(other)
    assert code(one) == code(other)
    assert rows(one) == rows(other)
    links = [set(re.findall(r"\]\((docs/[^)]+)\)", each.text)) for each in (one, other)]
    assert links[0] <= links[1]


def table_rows(page, first):
    """The rows of a page's table with that first column, as lists of cells."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"\n| {first} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines()[2:]]


def test_tables_have_what_the_code_has():
    presets = {row[0].strip("`"): row[1:4] for row in table_rows("docs/algorithms.md", "preset")}
    assert presets.keys() == set(PRESETS)
    for name, (advantage, loss, aggregation) in presets.items():
        settings = preset_settings(name)
        said = {"advantage": advantage, "loss": loss.partition(",")[0], "loss_aggregation": aggregation}
        assert said == {key: settings[f"rl_config.{key}"] for key in said}, name
    choices = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", " ".join(row))) for row in table_rows("docs/algorithms.md", "key")
    }
    assert set(ADVANTAGE_NAMES) <= choices["advantage"] and set(LOSS_NAMES) <= choices["loss"]
    assert set(AGGREGATION_NAMES) <= choices["loss_aggregation"] and set(KL_ESTIMATORS) <= choices["kl_estimator"]
    assert set(CORRECTIONS) <= choices["rollout_correction"]
    types = {row[0].split("`")[1] for row in table_rows("docs/data.md", "type")}
    (option,) = (each for each in parser_of("tools/rlhf_data.py")[0]._actions if each.dest == "dataset_type")
    assert types == set(option.choices)
    checks = {key.removeprefix("health/") for key in glossary() if key.startswith("health/")}
    assert checks - {"max_weight", "taught_share", "failing"} == {check.name for check in CHECKS}


FIGURE = r"\d[\d.]* %|\d+ of \d+|\d+e-\d+|\d+ runs|[\d.]+ times"


def figure_problems(document):
    """Figures in a line that links to docs: one of the pages has to have them."""
    problems = []
    for line in document.prose.splitlines():
        if pages := re.findall(r"\]\((docs/[^)#]+\.md)", line):
            text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
            problems += [f"{each}: not in {', '.join(pages)}" for each in re.findall(FIGURE, line) if each not in text]
    return problems


def test_figures_of_readme_stand_on_the_page_that_is_linked():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(FIGURE, text)) > 5
    assert not figure_problems(Document(ROOT / "README.md", text))
    assert figure_problems(Document(ROOT / "README.md", text.replace("127 of 127", "128 of 128")))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("commands", "```bash\npython tools/evaluate.py --modle x --dataset y\n```"),
        ("commands", "```bash\npython tools/plan_reshard.py --src dp=1\n```"),  # a required option is missing
        ("commands", "```bash\npython tools/gone.py --dataset y\n```"),
        ("commands", "`python tools/plan_reshard.py --source dp=1`"),
        ("commands", "`tools/bench_grpo.py --num_prompts 8`"),
        ("commands", "```bash\npython examples/qwen_grpo/main.py --config a.yaml --rl_config.sede=1\n```"),
        ("commands", "`python examples/qwen_grpo/main.py --config a.yaml --rl_config.seed=high`"),
        ("commands", "`python examples/qwen_grpo/main.py --config examples/gone.yaml`"),
        ("commands", "`main.py --preset nothing`"),
        ("commands", "```bash\nbash examples/quickstart/run_grpo.sh --outputs x\n```"),
        ("commands", "```bash\nMODLE=x bash examples/qwen_grpo/run_grpo.sh\n```"),
        ("commands", "```bash\nbash build.sh --everything\n```"),
        ("commands", "```bash\nmsrun --workers=2 examples/qwen_grpo/main.py --config a.yaml\n```"),
        ("commands", "```bash\nfor seed in 0 1; do python tools/sweep.py --seed $seed; done\n```"),
        ("commands", "```bash\npython tools/sweep.py --seeds 0 --output o -- bash examples/gone.sh\n```"),
        (
            "commands",
            "```bash\npython tools/start_job.py --ranks 2 examples/qwen_grpo/main.py --config a --beta=1\n```",
        ),
        ("commands", "`bash tests/run.sh tests/gone`"),
        ("commands", "`bash tests/run.sh tests/rewards -k nothing_like_it`"),
        ("commands", "`python -m pytest tests/test_layers.py::test_gone`"),
        ("commands", "```bash\nmindrlhf train\n```"),
        ("settings", "`rl_config.sede`"),
        ("settings", "`--rl_config.sede`"),
        ("settings", "`--rl_config.seed=high`"),
        ("settings", "`--dryrun`"),
        ("settings", "`no_such_key_at_all: 1`"),
        ("settings", "```yaml\nrl_config: {sede: 1}\n```"),
        ("paths", "`tests/test_gone.py`"),
        ("paths", "`rollout/gone.py`"),
        ("paths", "`rollout/gone`"),  # a metric, or a module
        ("paths", "`gone.py`"),
        ("names", "`no_such_function`"),
        ("names", "`Actor.no_such_method`"),
        ("names", "`NO_SUCH_VARIABLE`"),
        ("names", "```python\nfrom mindrlhf_lite.types import Gone\n```"),
        ("links", "[a](gone.md)"),
        ("links", "[a](README.md#gone)"),
        ("links", "![a](docs/images/gone.png)"),
    ],
)
def test_a_mistake_is_found(kind, text):
    assert CHECKED[kind](Document(ROOT / "README.md", f"# A\n{text}\n")), text


def test_what_is_right_is_no_mistake():
    text = "`reward/NAME/mean` `output/x/y.json` `mine.py` `bash build.sh --vllm` `health/` `rl_config.*` [a](#a)"
    document = Document(ROOT / "README.md", f"# A\n{text}\n")
    assert not [problem for check in CHECKED.values() for problem in check(document)]
    assert not _exists("tests/test_gone.py")


def test_wrong_counts_and_idiom_are_found():
    assert count_problems(Document(ROOT / "README.md", f"{len(PRESETS) + 1} presets, two health checks"))
    assert idiom_problems(Document(ROOT / "README.md", "in rooms of its own"))
