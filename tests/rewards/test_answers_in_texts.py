"""Answers as texts give them: boxes, sentences, mathematics without LaTeX, repetitions."""

import time
from collections import Counter, defaultdict

import pytest
from rewards.labelled_answers import judge
from rewards.labelled_forms import twins

from mindrlhf_lite.rewards.boxes import last_box, last_boxed
from mindrlhf_lite.rewards.congruences import same_congruence
from mindrlhf_lite.rewards.final_answer import with_opened_thought
from mindrlhf_lite.rewards.phrases import last_line, without_aside
from mindrlhf_lite.rewards.plain_form import plain_form
from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.types import CompletionView


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"$a=\boxed{4}$ and hence $b=\boxed{6}$", "a=4, b=6"),
        (r"\boxed{4}\qquad\text{or}\qquad\boxed{6}", "4, 6"),
        (r"\boxed{4}. After that, \boxed{6}", "6"),
        (r"\boxed{4}, so the total is \boxed{6}", "6"),
        (r"\boxed 46.", "46"),
        (r"\boxed{4} \pmod{7}", r"4 \pmod{7}"),
        (r"答案是\boxed{46}万元", "46万"),
        (r"so\boxed{46}", "46"),
        (r"the result is\boxed{46}", "46"),
        (r"k\boxed{46}", None),
        (r"不是\boxed{46}", None),
        (r"\boxed{46} times 3", None),
        (r"\boxed{46} times", "46"),
    ],
)
def test_what_stands_around_boxes(text, content):
    assert last_box(text) == content


def test_boxes_in_a_row_keep_their_names():
    assert last_boxed(r"$p = \boxed{1}, q = \boxed{2}$") == "p=1, q=2"


@pytest.mark.parametrize(
    ("mine", "gold", "is_same"),
    [
        (r"4 \pmod{7}", "4", True),
        ("4 (mod 7)", r"4 \pmod{7}", True),
        (r"11 \pmod{7}", r"4 \pmod{7}", True),
        (r"11 \pmod{7}", "4", False),
        (r"11 \pmod{7}", "11", False),
        (r"4 \pmod{8}", r"4 \pmod{7}", False),
        ("4", "4", None),
        ("x", r"4 \pmod{7}", None),
    ],
)
def test_remainders(mine, gold, is_same):
    assert same_congruence(mine, gold) is is_same


@pytest.mark.parametrize(
    ("typed", "latex"),
    [
        ("3pi", "3\\pi"),
        ("sqrt(x+1)", "\\sqrt{x+1}"),
        ("√15", "\\sqrt{15}"),
        ("2√(3)/5", "2\\sqrt{3}/5"),
        ("x^(1/3)", "x^{1/3}"),
        ("4 cis 30^\\circ", "4 e^{i(\\frac{30 \\pi}{180})}"),
        ("\\left[\\begin{array}{c} 1 \\\\ 2 \\end{array}\\right]", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("spiral", "spiral"),
        ("\\sqrt{15}", "\\sqrt{15}"),
    ],
)
def test_mathematics_without_latex(typed, latex):
    assert plain_form(typed) == latex


def test_sentences():
    assert without_aside("61, which is more than 40") == "61"
    assert without_aside("61 rather than 40") == "61"
    assert without_aside("less than 40") == "less than 40"
    assert last_line("\\begin{align*}\nx &= 3 + 4\\\\\n&= 7.\n\\end{align*}") == "7."
    assert last_line("\\begin{align*}\nx &= 3\\\\\ny &= 4\n\\end{align*}") == "x=3, y=4"
    assert last_line("\\begin{align*}\nx &= 3\\\\\ny &= 4\n\\end{align*}\nSo we add them.") is None


def test_a_prompt_may_open_the_thought():
    opened, text = "<user>1+2=<assistant><think>\n", "1+2 is 3</think><answer>3</answer>"
    for name in ("format_reward", "r1_accuracy_reward", "qwen_accuracy_reward", "accuracy_reward", "format"):
        assert BUILT_IN[name].score(CompletionView(text, prompt=opened), "3").value == 1
    unended = CompletionView("It may be <answer>3</answer>", prompt=opened)
    assert BUILT_IN["r1_accuracy_reward"].score(unended, "3").value == -1
    assert BUILT_IN["qwen_accuracy_reward"].score(unended, "3").value == 0
    told = "Think in <think> and </think>, then answer. 1+2="
    assert with_opened_thought(text, told) == text
    assert with_opened_thought(text, "<think>\n\n</think>\n\n") == text


def test_twins_of_every_form():
    """A small part of what docs/reliability.md reports, form by form."""
    found: dict[tuple[str, bool], Counter[bool]] = defaultdict(Counter)
    mistakes = []
    for form, text, gold, is_right in twins(4, seed=5):
        is_judged = judge(("qwen_accuracy_reward", form, text, gold, is_right)) is is_right
        found[form, is_right][is_judged] += 1
        if not is_judged:
            mistakes.append((form, text, gold, is_right))
    assert not mistakes and len(found) > 40


_REPEATED = [
    "sqrt(",
    "√(",
    "x^(",
    "cis(",
    "\\begin{align*}",
    "\\end{align*}",
    "(\\begin{array}{c}",
    "です",
    "7元和",
    "7个半",
    "万",
    "x=1, ",
    "(1, ",
    "\\{1, ",
    "\\boxed{1}, ",
    "\\boxed 1 ",
    "x=\\boxed{1}, ",
    "1 and ",
    "\\pm 1, ",
    "x < 1 or ",
    "(1, 2) \\cup ",
    "1 of ",
    "in two ",
    "7 times ",
    "which is less than 7, ",
    "so ",
    "yes, ",
    "{ , }",
    "1,000, ",
    "| x",
    "\\in ",
    " \\pmod{7}",
    "不是",
    "答案是",
    "1 x 1 = ",
]


@pytest.mark.parametrize("part", _REPEATED)
def test_what_repeats_costs_no_more_than_its_length(part):
    """A pattern that went back at every one of them would take minutes on longer ones."""
    repeated = part * (6000 // len(part))
    start = time.process_time()
    for text in (repeated, f"\\boxed{{{repeated}}}", f"#### {repeated}", f"The answer is 7{' ' * 500}{repeated}"):
        for gold in ("7", "x=2, y=3"):
            assert BUILT_IN["qwen_accuracy_reward"].score(CompletionView(text), gold).value in (0, 1)
    assert time.process_time() - start < 4
