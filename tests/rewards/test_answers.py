"""How answers are read and compared, module by module; what verifiers make of it is in test_verifiers.py."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from mindrlhf_lite.rewards.costs import text_is_costly
from mindrlhf_lite.rewards.formulas import same_formula
from mindrlhf_lite.rewards.golds import gold_problem
from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.regions import region, same_region
from mindrlhf_lite.rewards.structure import read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25元", 25),
        ("25 个苹果", 25),
        ("7千米", 7),
        ("7千克", 7),
        ("7千", 7000),
        ("25万", 250_000),
        ("3万5000元", 35_000),
        ("1.5亿", 150_000_000),
        ("3百万円", 3_000_000),
        ("25만 원", 250_000),
        ("25명입니다", 25),
        ("7조각", 7),
        ("5分之2", Fraction(2, 5)),
        ("3又1/2", Fraction(7, 2)),
        ("负7", -7),
        ("2ダース", 24),
        ("60 千米/小时", 60),
        *(
            (text, None)
            for text in (
                "7个半",
                "7多个",
                "7的平方",
                "7の2乗",
                "7以上",
                "7和8",
                "7または8",
                "7의 제곱",
                "3成",
                "2万五千",
            )
        ),
    ],
)
def test_quantities_in_chinese_japanese_and_korean(text, value):
    found = parse_quantity(text)
    assert found is None if value is None else found.value == value


@pytest.mark.parametrize(
    ("mine", "gold", "is_same"),
    [
        (r"\frac{1}{2^{80}}", "2^{-80}", True),
        (r"\frac{1}{2^{80}}", "2^{-81}", False),
        (r"\frac{3}{30!}", r"\frac{1}{10 \cdot 29!}", True),
        ("1-10^{-30}", "1-10^{-31}", False),
        (r"\sqrt{2}\sqrt{3}-\sqrt{6}", "0", True),
        (r"e^{-90}", "0", False),
        (r"3^{-50}x", "3^{-51}x", False),
        (r"\sqrt{x^2}", "x", False),
        (r"\sin^2 x + \cos^2 x", "1", True),  # letters on one side only: math-verify decides
        (r"2x + 2y = 8", "x + y = 4", True),
        ("x + y = 4", "4", False),
        (r"1+i\sqrt{3}", r"2e^{i\frac{\pi}{3}}", True),
        (r"1-i\sqrt{3}", r"2e^{i\frac{\pi}{3}}", False),
        ("5i", "i \\cdot 5", True),
        (r"\cos 60°", r"\frac{1}{2}", True),
    ],
)
def test_formulas_by_value(mine, gold, is_same):
    assert same_formula(mine, gold) is is_same


@pytest.mark.parametrize(
    "formula",
    [
        r"\binom{10^6}{3}",
        r"\binom{123456}{7}",
        "((8!)!)!",
        "(8!)!",
        r"\gcd(9!, 8)",
        "(" * 40 + "x" + ")" * 40,
        "7^{7^{7^7}}",
        r"\ln((9!)!)",
        r"\sqrt[12345^{2^{64}}]{\log_{0} (e^{9})}",
        r"\sqrt{\cos((9)! \cdot n)^{\sin(2^{64})}}",
        r"\lim_{x \to 9} x^{x}",
        r"e^{(e^{(\lceil 12345 \rceil)^{10^{10}}})!}",
        r"\lceil \sin(2^{64}) \rceil \cdot \log_{10^7} (\log(e))",
        r"\binom{\tan(\sin(99))}{0.001}",
        "(x+1)^{900}",
        "(3^{99999})^{99999}",
    ],
)
def test_costly_formulas_are_refused_before_they_are_evaluated(formula):
    assert text_is_costly(formula) or not same_formula(formula, "2")


def test_costly_formulas_of_chance():
    """A small part of `tests/rewards/costly_expressions.py`; the limit is the script's, in processor time."""
    script = Path(__file__).with_name("costly_expressions.py")
    ran = subprocess.run(
        [sys.executable, script, "--count", "120", "--seed", "3"], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("-3 < t \\le 7", [(-3, False, 7, True)]),
        ("7 \\ge t > -3", [(-3, False, 7, True)]),
        ("t \\ne 0", [(float("-inf"), False, 0, False), (0, False, float("inf"), False)]),
        ("t > 1 and t < 4", [(1, False, 4, False)]),
        ("t < 1, t > 4", [(float("-inf"), False, 1, False), (4, False, float("inf"), False)]),
        ("[2, 5) \\cup [5, 9]", [(2, True, 9, True)]),
        ("|t - 1| \\le 2", [(-1, True, 3, True)]),
        ("t < 1 and u > 4", None),
        ("(1, 2) or (3, 4)", None),
        ("a < t < b", None),
        ("5", None),
    ],
)
def test_regions(text, pieces):
    found = region(text)
    read_pieces = found and [(each.low, each.has_low, each.high, each.has_high) for each in found.pieces]
    assert read_pieces == pieces


def test_two_intervals_in_brackets_may_be_pairs():
    assert same_region("(1, 2)", "(1, 2)") is None
    assert same_region("1 < x < 2", "(1, 2)") is True
    assert same_region("1 < x < 2", "1 < y < 2") is False


@pytest.mark.parametrize(
    ("text", "kind", "num_parts"),
    [
        ("4, 6", "list", 2),
        ("4 and 6", "list", 2),
        ("1,234, 5", "list", 2),
        ("(4, 6)", "()", 2),
        ("((4, 6))", "()", 2),
        ("[4, 6)", "[)", 2),
        ("\\{4, (6, 7)\\}", "set", 2),
        ("\\pm 4, 6", "list", 3),
        ("a = 4, b = 6", "list", 2),
        ("(a, b) = (4, 6)", "()", 2),
        ("\\begin{pmatrix}1 & 2 \\\\ 3 & 4\\end{pmatrix}", "matrix", 2),
        ("\\frac{4, 6}{2}", "", 0),
        ("a + b = 4", "", 0),
    ],
)
def test_structure(text, kind, num_parts):
    node = read(text)
    assert (node.kind, len(node.parts)) == (kind, num_parts)


@pytest.mark.parametrize(
    "gold",
    [
        "nan",
        "NaN",
        "-Infinity",
        "null",
        "N/A",
        "n/a",
        "#VALUE!",
        "#N/A",
        "TBD",
        "around 40",
        "≈ 7",
        "~7",
        "\\approx 7",
        "约7",
        "7 or so",
        "3 cats and 4 dogs",
        "$3 apples, 4 pears$",
        "1..5",
        "1.2.3",
        "3,,4",
        "?",
        "C) 7",
    ],
)
def test_golds_that_nothing_satisfies(gold):
    assert gold_problem(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "7",
        "7元",
        "\\infty",
        "infinity",
        "none",
        "undefined",
        "no solution",
        "Friday",
        "5:30 p.m.",
        "4:3",
        "June 3",
        "x=2, y=3",
        "(-\\infty, 2]",
        "\\tan 15^\\circ",
        "3 \\text{ and } 4",
        "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
        "1\\pm\\sqrt{2}",
        "5 feet 6 inches",
    ],
)
def test_golds_that_are_fine(gold):
    assert gold_problem(gold) is None
