"""What verifiers accept, reject and cannot read."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from rewards.hostile_texts import NAMES, WRONG, hostile_texts, is_paid, judged
from rewards.one_answer import score

from mindrlhf_lite.rewards.boxes import last_boxed
from mindrlhf_lite.rewards.final_answer import final_answer, has_think_answer_format
from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.plain_form import plain_form
from mindrlhf_lite.rewards.verifiers import BUILT_IN, find_verifier
from mindrlhf_lite.types import CompletionView, FinishReason

TABLES = [
    yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    for name in ("answers.yaml", "answers_by_form.yaml")
]


ANSWERS = {kind: [row for table in TABLES for row in table[kind]] for kind in ("right", "wrong")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("$1,234.50", 1234.5),
        ("1,234,567 people.", 1234567),
        ("-3", -3),
        ("−3.5.", -3.5),
        ("5%", 5),
        ("3/4 cup", 0.75),
        (".5", 0.5),
        ("-$5", -5),
        ("$ 7", 7),
        ("\\$7", 7),
        ("1e3", 1000),
        ("1.5\\times 10^{3}", 1500),
        ("10^{-2}", Fraction(1, 100)),
        ("13 1/3", Fraction(40, 3)),
        ("13\\tfrac{1}{3}", Fraction(40, 3)),
        ("13½", Fraction(27, 2)),
        ("\\dfrac34", Fraction(3, 4)),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("1\\,234", 1234),
        ("1\u2009234", 1234),
        ("１８", 18),
        ("90^{\\circ}", 90),
        ("12\\text{ cm}^3", 12),
        ("12 m/s^2", 12),
        ("72 per 3 days", 72),
        ("6 (pictures)", 6),
        ("5 million", 5_000_000),
        ("\\textbf{18}", 18),
        ("$18$", 18),
        ("(18)", 18),
        *(
            (text, None)
            for text in (
                "2\\pi",
                "x^2",
                "1, 2, 4",
                "2^4",
                "\\sqrt{16}",
                "2 or 4",
                "2,3",
                "10-12",
                "10–12",
                "10 to 12",
                "4:1",
                "4!",
                "193_8",
            )
        ),
        *(
            (text, None)
            for text in (
                "5x",
                "5 x",
                "3+4",
                "2*4",
                "\\log 4",
                "f(4)",
                "5 squared",
                "5 thirds",
                "5 mod 7",
                "18 of 20",
                "5/0",
                "a1",
                "none",
                "",
                "4i",
            )
        ),
        *(
            (text, None)
            for text in (
                "5 hours 30 minutes",
                "5:30",
                "1.2.3",
                "x=5",
                "e^4",
                "5\\sqrt{2}",
                "5(2)",
                "{5}{2}",
                "9" * 5000,
                "1e999999999",
            )
        ),
    ],
)
def test_quantities(text, value):
    found = parse_quantity(text)
    assert found is None if value is None else found.value == value


def test_percent_is_compared_with_and_without_its_sign():
    pairs = {
        ("50%", "50"): True,
        ("50%", "0.5"): True,
        ("0.5", "50%"): True,
        ("50", "50%"): True,
        ("0.5", "50"): False,
        ("5%", "0.5"): False,
        ("50", "0.5"): False,
    }
    assert {pair: parse_quantity(pair[0]).equals(parse_quantity(pair[1])) for pair in pairs} == pairs


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\\( \\dfrac{3}{4}\\,\\text{cm} \\).", "\\frac{3}{4} cm"),
        ("$\\left( 1, 2 \\right]$", "( 1, 2 ]"),
        ("\\textbf{\\text{blue}}", "blue"),
        ("\\frac{\\pi}{3}", "\\frac{\\pi}{3}"),
        ("x²", "x^{2}"),
        ("\\leftarrow", "\\leftarrow"),
    ],
)
def test_plain_form(text, plain):
    assert plain_form(text) == plain


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{3}", "3"),
        (r"\boxed{1} then, later on, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} or $\boxed{2}$", "1, 2"),
        (r"\boxed{\text{\boxed{4}}}", r"\text{\boxed{4}}"),
        (r"\boxed{5} and \boxed{unclosed", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("no box", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a\nb</think>\n<answer>c</answer>\n", True),
        ("<think></think><answer>c</answer>", True),
        ("<think>a</think><answer></answer>", False),
        ("<think>a</think><answer> \n</answer>", False),
        ("hi <think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer> bye", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think><think>c</think><answer>b</answer>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_format(text, is_whole):
    assert has_think_answer_format(text) is is_whole


@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_table_of_answers(kind):
    """Both directions, with all mistakes at once."""
    mistakes = [
        row
        for row in ANSWERS[kind]
        if (score("qwen_accuracy_reward", row["completion"], row["gold"]).value == 1) is (kind == "wrong")
    ]
    assert not mistakes and len(ANSWERS[kind]) > 90 and all(row["source"] for row in ANSWERS[kind])


@pytest.mark.parametrize(
    ("name", "text", "gold", "value", "outcome"),
    [
        ("accuracy_reward", "so it is 18.", "18", 1, "correct"),
        ("accuracy_reward", "18 of 20", "18", 0, "wrong"),
        ("accuracy_reward", "<think>20</think><answer>$18.00</answer> ok 3", "18", 1, "correct"),
        ("accuracy_reward", "<think>18</think><answer></answer>", "18", 0, "unparsed"),
        ("accuracy_reward", "I do not know", "18", 0, "unparsed"),
        ("qwen_accuracy_reward", r"\boxed{18} not 19", "18", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{}", "18", 0, "unparsed"),
        ("qwen_accuracy_reward", r"\boxed{blue}", "18", 0, "unparsed"),
        ("qwen_accuracy_reward", r"\boxed{7x+1}", "2x+1", 0, "wrong"),
        ("r1_accuracy_reward", r"<think>x</think><answer>\boxed{4}</answer>", "4", 1, "correct"),
        ("r1_accuracy_reward", r"<think>x</think><answer>5</answer>", "4", -1, "wrong"),
        ("r1_accuracy_reward", r"<think>4</think><answer></answer>", "4", -1, "unparsed"),
        ("r1_accuracy_reward", r"\boxed{4}", "4", -1, "unparsed"),
        ("r1_accuracy_reward", r"<think><answer>4</answer>", "4", -1, "unparsed"),
        ("format_reward", "<think>a</think><answer>b</answer>", "", 1, "correct"),
        ("format_reward", "b", "", 0, "wrong"),
        ("math_reward", "no idea", "7", 0, "unparsed"),
        ("math_reward", r"\boxed{(0, 1]}", r"[0,1)", 0, "wrong"),
        (
            "kk_reward",
            "<answer>Zoey is a knight, Bob is not a knight</answer>",
            "Zoey is a knight, and Bob is a knave.",
            1,
            "correct",
        ),
        (
            "kk_reward",
            "<think>Zoey is a knight</think><answer>Zoey is a knave</answer>",
            "Zoey is a knight.",
            0,
            "wrong",
        ),
        ("kk_reward", "Zoey is a knave. Zoey is a knight.", "Zoey is a knight.", 0, "wrong"),
        ("kk_reward", "nobody knows", "Zoey is a knight.", 0, "unparsed"),
    ],
)
def test_verifiers(name, text, gold, value, outcome):
    found = score(name, text, gold)
    assert (found.value, found.outcome.value) == (value, outcome)


def test_a_number_at_the_end_of_a_cut_completion_may_lack_digits():
    assert score("qwen_accuracy_reward", "So the total is 7", "7", finish_reason=FinishReason.LENGTH).value == 0
    assert score("qwen_accuracy_reward", "So the total is 7", "7").value == 1
    for end in ("\n", "\n\n", " ", ".\n"):  # SmolLM2 writes such ends, and is cut behind them
        assert score("qwen_accuracy_reward", f"3 + 4 = 7{end}", "7", finish_reason=FinishReason.LENGTH).value == 1
    assert score("qwen_accuracy_reward", "12 + 60 = 72. So", "72", finish_reason=FinishReason.LENGTH).value == 1


@pytest.mark.parametrize("name", NAMES)
def test_long_and_hostile_texts_are_only_wrong(name):
    """In bounded time (the suite's limit), and without an exception; none is worth more than a wrong answer."""
    texts = [
        "9" * 100_000,
        "\\boxed{" * 3000,
        "{" * 20_000 + "}" * 20_000,
        "\\boxed{" + "9" * 5000 + "}",
        "<think>" * 5000,
        "the answer is " * 5000 + "x",
    ]
    texts += [
        "\\boxed{9^{9^{9^{9}}}}",
        "\\boxed{100000!}",
        "$" * 9999,
        "1," * 20_000,
        "- " * 20_000 + "1",
        "\\frac" * 5000,
        "\\text{" * 5000,
        "\x00\ud7ff\u202e",
        "((((" * 3000,
    ]
    texts += [
        "\\boxed{" + "(" * 200 + ")" * 200 + "}",
        "\\boxed{x^{" + "x^{" * 50 + "}" * 51 + "}",
        "1/" * 9999,
        "or " * 9999 + "7",
        " " * 50_000 + "7 ",
    ]
    for text in texts:
        assert score(name, text, "18").value in (BUILT_IN[name].minimum, WRONG.get(name))


@pytest.mark.parametrize("text", ["inf999999999" * 6, r"\infty \cdot 2", "73.51xy", r"\frac{1}{0}"])
def test_what_has_no_value_is_no_number(text):
    """Left to math-verify, the first was 73.51 in one process of several: it tries values by chance."""
    for name in ("qwen_accuracy_reward", "math_17k_acc"):
        assert find_verifier(name).score(CompletionView(f"\\boxed{{{text}}}"), "73.51").value == 0.0


def test_hostile_texts_of_chance():
    for name, found in judged(hostile_texts(300, seed=1), seed=1, timeout_s=20).items():
        assert len(found) == 300
        assert not [row for row in found if row[2].failure or is_paid(name, row[2])]


def test_what_is_stated_last_counts():
    assert final_answer("The answer is 5. Wait. The answer is 6.").text == "6"
    assert final_answer("<think>The answer is 5.</think>") is None
