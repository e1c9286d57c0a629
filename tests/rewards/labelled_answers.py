r"""Right and wrong completions made from the gold answers of real data sets: in which forms verifiers pay for wrong
answers, and refuse right ones.

    python tests/rewards/labelled_answers.py [--rows N] [--forms N] [--show N]

Golds: GSM8K, MATH-500, and the MATH and AIME parts of DeepScaleR in ../shared/data. Every wrong form is wrong for a
reason that its name gives; a form that happens to be right for a gold (2^2 for 4) is left out. Rows are (verifier's
name, form, completion, gold, is_right). --forms counts the forms of labelled_forms.py as well, each by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rewards.labelled_forms import twins

from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.types import CompletionView

Row = tuple[str, str, str, str, bool]
_PLAIN_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_LIST = re.compile(r"[^,()\[\]{}A-Za-z]+(?:,\s*[^,()\[\]{}A-Za-z]+)+")
_SPLIT_ARGUMENT = re.compile(r"(\^|\\sqrt|\\frac\{[^{}]+\})\{(\w)([^{}]+)\}")
_UNITS = (
    "dollars",
    "apples",
    "miles per hour",
    "square units",
    "cm^3",
    "m/s^2",
    "hours",
    "people",
    "(pictures)",
    "degrees",
    "ft",
    "per 3 days",
)


def golds(shared: Path, num_rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """(data set, gold) of up to `num_rows` rows of each."""
    rng, found = random.Random(seed), []
    gsm8k = [
        json.loads(line)["answer"].rpartition("####")[2].strip()
        for line in (shared / "gsm8k/test.jsonl").read_text().splitlines()
    ]
    math500 = [json.loads(line)["answer"] for line in (shared / "math500/math500.jsonl").read_text().splitlines()]
    deepscaler = [
        [row["answer"] for row in json.loads((shared / f"deepscaler/train_{part}.json").read_text()) if row["answer"]]
        for part in ("math", "aime")
    ]
    for name, answers in (
        ("gsm8k", gsm8k),
        ("math500", math500),
        ("deepscaler_math", deepscaler[0]),
        ("deepscaler_aime", deepscaler[1]),
    ):
        chosen = answers if len(answers) <= num_rows else rng.sample(answers, num_rows)
        found += [(name, str(answer)) for answer in chosen]
    return found


def grouped(number: str, separator: str) -> str:
    whole, _, rest = number.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return sign + f"{int(digits):,}".replace(",", separator) + (f".{rest}" if rest else "")


def right_contents(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(form, content) of an answer that is right."""
    yield "as it is", gold
    yield "period in the box", gold + "."
    yield "blanks", f"  {gold} "
    yield "displaystyle", "\\displaystyle " + gold
    yield (
        "left and right",
        re.sub(r"(?<![\\a-z])\(", r"\\left(", gold).replace(")", "\\right)")
        if gold.count("(") == gold.count(")") and "\\" not in gold
        else gold,
    )
    if _LIST.fullmatch(gold) and not _PLAIN_NUMBER.fullmatch(gold):
        yield "list with and", re.sub(r",\s*([^,]+)$", r" \\text{ and } \1", gold)
        yield "list with or", re.sub(r",\s*([^,]+)$", r" \\text{ or } \1", gold)
    if "\\frac" in gold:
        yield "dfrac", gold.replace("\\frac", "\\dfrac")
        yield "tfrac", gold.replace("\\frac", "\\tfrac")
    if "\\pi" in gold:
        yield "Unicode pi", gold.replace("\\pi", "π")
    if "-" in gold and "\\text" not in gold:
        yield "Unicode minus", gold.replace("-", "−")
    if _PLAIN_NUMBER.fullmatch(gold):
        number = gold.replace(",", "")
        unit = rng.choice(_UNITS)
        yield f"unit: {unit}", f"{number} {unit}"
        if "(" not in unit and "per" not in unit:
            yield (
                f"unit in text: {unit}",
                f"{number}\\text{{ {unit.replace('^3', '}^3{').replace('^2', '}^2{')}}}".replace("{}", ""),
            )
        yield "dollars before", f"\\${number}" if not number.startswith("-") else f"-\\${number[1:]}"
        yield "bold", f"\\mathbf{{{number}}}"
        yield "in text", f"\\text{{{number}}}"
        yield "assigned", f"x = {number}"
        yield "percent sign", f"{number}\\%"
        yield "degree sign", f"{number}^\\circ"
        if "." not in number:
            yield "decimals", f"{number}.00"
            yield "as fraction", f"\\frac{{{2 * int(number)}}}{{2}}"
            yield "plus zero", f"{int(number) - 5} + 5"
            if abs(int(number)) >= 1000:
                for separator in (",", "{,}", "\\,", "\u2009", "\u202f"):
                    yield f"separator {separator!r}", grouped(number, separator)


def wrong_value(gold: str, rng: random.Random) -> str:
    """Another answer of the same kind."""
    digits = list(re.finditer(r"\d", gold))
    if not digits:
        return {"A": "B", "B": "C", "C": "D", "D": "A"}.get(
            gold.strip("()"), gold[::-1] + "x" if gold != gold[::-1] else gold + "x"
        )
    place = digits[-1].start() if len(digits) == 1 else rng.choice(digits).start()
    return gold[:place] + str((int(gold[place]) + rng.randint(1, 8)) % 10) + gold[place + 1 :]


def wrong_contents(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(form, content) of an answer that looks right."""
    yield "another value", wrong_value(gold, rng)
    yield "list with the gold last", f"{wrong_value(gold, rng)}, {gold}"
    yield "either or", f"{wrong_value(gold, rng)} or {gold}"
    yield "empty", ""
    yield "a word", "unknown"
    yield "text before", f"\\text{{not }} {gold}"
    if _SPLIT_ARGUMENT.search(gold):
        yield "brace moved", _SPLIT_ARGUMENT.sub(r"\1{\2}\3", gold, count=1)
    if _PLAIN_NUMBER.fullmatch(gold):
        g = gold.replace(",", "")
        value = Fraction(g)
        for form, content, result in (
            ("times pi", f"{g}\\pi", 0 if value == 0 else None),
            ("square", f"({g})^2", value**2),
            (
                "gold as power",
                f"2^{{{g}}}" if abs(value) < 50 and value == int(value) else f"x^{{{g}}}",
                None if abs(value) >= 50 or value != int(value) else Fraction(2) ** int(value),
            ),
            ("root", f"\\sqrt{{{g}}}", 0 if value == 0 else 1 if value == 1 else None),
            ("sum", f"{g} + 3", value + 3),
            ("sum with the gold last", f"3 + {g}", value + 3),
            ("product", f"2 \\times {g}", value * 2),
            ("product with a letter", f"{g}x", 0 if value == 0 else None),
            ("logarithm", f"\\log {g}", 0 if value == 1 else None),
            ("ratio", f"3:{g}", None),
            ("ratio with the gold first", f"{g}:1", None),
            ("range", f"{g}-{g}9", None),
            ("base", f"{g}_8", None),
            ("function", f"f({g})", None),
            ("fraction", f"\\frac{{{g}}}{{7}}", value / 7),
            ("pi fraction", f"\\frac{{\\pi}}{{{g}}}", None),
            ("set", f"\\{{1, {g}\\}}", value if value == 1 else None),
            ("pair", f"({g}, 0)", None),
            ("plus minus", f"\\pm {g}", value if value == 0 else None),
            ("inequality", f"x > {g}", None),
            ("opposite", f"-{g}" if not g.startswith("-") else g[1:], -value),
            ("ten times", f"{g}0" if "." not in g else None, value * 10),
            ("reciprocal", f"1/{g}" if value > 0 else None, 1 / value if value else None),
            ("factorial", f"{g}!" if value == int(value) else None, value if abs(value) in (1, 2) else None),
            ("imaginary", f"{g}i", value if value == 0 else None),
            ("equation", f"2x = {g}", None),
            ("mixed number", f"{g} 1/3", None),
            ("absolute", f"|{g}| + 1", abs(value) + 1),
        ):
            if content is not None and result != value:
                yield form, content


def completions(gold: str, rng: random.Random) -> Iterator[Row]:
    """Rows of all verifiers that judge answers, of one gold."""
    other = wrong_value(gold, rng)
    steps = rng.choice(
        [
            "First we add the two parts. ",
            "Let x be the number of days, so 2 + 3 = 5. ",
            "We know that 12 of 48 remain.\n",
        ]
    )
    for form, content in right_contents(gold, rng):
        yield "qwen_accuracy_reward", f"box: {form}", f"{steps}So the answer is $\\boxed{{{content}}}$.", gold, True
        yield "qwen_accuracy_reward", f"tags: {form}", f"<think>{steps}</think><answer>{content}</answer>", gold, True
        yield (
            "r1_accuracy_reward",
            f"box: {form}",
            f"<think>{steps}</think>\n<answer>\\boxed{{{content}}}</answer>",
            gold,
            True,
        )
        yield (
            "math_reward",
            f"stated: {form}",
            f"{steps}The answer is ${content.rstrip('.')}$." if "\\$" not in content else f"The answer is {content}",
            gold,
            True,
        )
    for form, content in wrong_contents(gold, rng):
        yield "qwen_accuracy_reward", f"box: {form}", f"{steps}So the answer is $\\boxed{{{content}}}$.", gold, False
        yield "qwen_accuracy_reward", f"tags: {form}", f"<think>{steps}</think><answer>{content}</answer>", gold, False
        yield (
            "r1_accuracy_reward",
            f"box: {form}",
            f"<think>{gold}</think>\n<answer>\\boxed{{{content}}}</answer>",
            gold,
            False,
        )
        yield "math_reward", f"stated: {form}", f"{steps}The answer is ${content}$.", gold, False
    for name in ("qwen_accuracy_reward", "math_reward", "r1_accuracy_reward"):
        yield name, "right thought, wrong answer", f"<think>It is {gold}.</think><answer>{other}</answer>", gold, False
        yield name, "right thought, empty answer", f"<think>maybe {gold}</think><answer></answer>", gold, False
        yield name, "right thought, no answer", f"<think>The answer is \\boxed{{{gold}}}", gold, False
        yield (
            name,
            "right thought, refusal",
            f"<think>{gold}</think><answer>I cannot determine the answer.</answer>",
            gold,
            False,
        )
        yield name, "empty box", f"We get {gold}, so \\boxed{{}}", gold, False
        yield name, "refusal", f"I computed {gold}. But I do not know the answer.", gold, False
        yield name, "noise", "".join(rng.choice("abxyz 0123456789+-=\\{}$.") for _ in range(60)) + gold[-1], gold, False
    if _PLAIN_NUMBER.fullmatch(gold):
        for name in ("qwen_accuracy_reward", "math_reward", "accuracy_reward"):
            for form, text in (
                ("####", f"{steps}\n#### {gold}"),
                ("sentence", f"{steps}So she has {gold} eggs left."),
                ("the answer is", f"{steps}The answer is {gold}."),
                ("Answer:", f"{steps}\n\n**Answer:** {gold}"),
                (
                    "equation",
                    f"{steps}So {int(float(gold.replace(',', ''))) - 3} + 3 = {gold}."
                    if "." not in gold
                    else f"It is {gold}.",
                ),
                ("answer with a unit", f"The final answer is: {gold} dollars a day. I hope this helps!"),
                ("label in the box", f"\\boxed{{\\text{{Total: }}{gold}}}"),
                ("colour in the box", f"\\boxed{{\\color{{red}}{{{gold}}}}}"),
                ("option in the box", f"\\boxed{{\\textbf{{(C) }}{gold}}}"),
                ("chain in the box", f"\\boxed{{x = {gold} = {gold}}}"),
                ("reason behind", f"The answer is {gold} since 20 - 2 is not enough."),
                (
                    "money",
                    f"{steps}It costs ${gold} every day." if not gold.startswith("-") else f"It costs {gold} dollars.",
                ),
            ):
                yield name, form, text, gold, True
            for form, text in (
                ("#### another", f"{gold}\n#### {other}"),
                ("answer is another", f"She has {gold} eggs. The answer is {other}."),
                ("or", f"The answer is {other} or {gold}."),
                ("of", f"The answer is {other} of {gold}."),
                ("between", f"It is between {other} and {gold}."),
                ("not", f"The answer is not {gold}."),
                ("more than", f"The answer is more than {gold}."),
                ("unfinished sum", f"The answer is 3 + {gold}"),
                ("list of equations in the box", f"\\boxed{{x = {other}, x = {gold}}}"),
                ("false equation in the box", f"\\boxed{{{other} = {gold}}}"),
                ("hedged box", f"\\boxed{{{gold}}} or {other}"),
                ("taken back", f"The answer is {gold}. No wait, it is {other}."),
                ("denied", f"The answer isn't {gold}."),
                ("denied behind", f"So {gold} is not the right answer."),
                ("asked", f"Is it {gold}?"),
                ("and a half", f"The answer is {gold} and a half."),
                ("out of ten", f"The answer is {gold} out of ten."),
                ("half of a formula", f"Half of ${gold}$"),
                ("factor of a box", f"So it is $2\\boxed{{{gold}}}$."),
                ("sign of a box", f"So it is $-\\boxed{{{gold}}}$." if gold.strip("0.,") else f"It is {other}."),
                ("operand of a box", f"So it is $3 + \\boxed{{{gold}}}$."),
                ("box in a fraction", f"So it is $\\frac{{\\boxed{{{gold}}}}}{{7}}$." if gold.strip("0.,") else other),
                ("box and another", f"\\boxed{{{gold}}}, {other}"),
                ("box with a letter", f"\\boxed{{{gold}}}x" if gold.strip("0.,") else other),
                ("box taken back", f"The answer is \\boxed{{{gold}}}. Wait, that is wrong. It is {other}."),
                ("reciprocal in words", f"The answer is the reciprocal of {gold}." if gold != "1" else other),
                ("two numbers", f"#### {other} {gold}"),
            ):
                yield name, form, text, gold, False


def rows(shared: Path, num_rows: int, seed: int = 0) -> Iterator[tuple[str, Row]]:
    rng = random.Random(seed)
    for name, gold in golds(shared, num_rows, seed):
        for row in completions(gold, rng):
            yield name, row


def judge(row: Row) -> bool:
    verifier, _, text, gold, _ = row
    return BUILT_IN[verifier].score(CompletionView(text), gold).outcome.value == "correct"


def count_forms(draws: int, show: int) -> None:
    """Prints, of every form of labelled_forms.py, how many wrong ones are accepted and right ones rejected."""
    counts: dict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    mistakes: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
    for form, text, gold, is_right in twins(draws):
        is_judged = judge(("qwen_accuracy_reward", form, text, gold, is_right)) is is_right
        counts[form][is_right, is_judged] += 1
        if not is_judged:
            mistakes[form, is_right].append((text, gold))
    total: Counter[tuple[bool, bool]] = sum(counts.values(), Counter())
    for form, count in [*counts.items(), ("all forms", total)]:
        paid, refused = (
            f"{count[label, False]} of {count[label, False] + count[label, True]:,}" for label in (False, True)
        )
        print(f"{form:32} wrong ones accepted {paid:>14}, right ones rejected {refused:>14}")
    for (form, is_right), found in mistakes.items():
        for text, gold in found[:show]:
            print(f"  {'REFUSED' if is_right else 'PAID'} {form}: gold {gold!r}: {text[-160:]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100, help="golds of each data set (default: 100)")
    parser.add_argument("--show", type=int, default=0, help="mistakes shown of every form (default: 0)")
    parser.add_argument("--forms", type=int, default=0, help="draws of each form of labelled_forms.py (default: 0)")
    args = parser.parse_args()
    if args.forms:
        count_forms(args.forms, args.show)
    counts: dict[tuple[str, bool], Counter[bool]] = defaultdict(Counter)
    mistakes: dict[tuple[str, str, bool], list[tuple[str, str]]] = defaultdict(list)
    for source, row in rows(ROOT.parent / "shared/data", args.rows):
        verifier, form, text, gold, is_right = row
        found = judge(row)
        counts[f"{verifier:22} {source}", is_right][found == is_right] += 1
        if found != is_right:
            mistakes[verifier, form, is_right].append((text, gold))
    for (name, is_right), count in sorted(counts.items()):
        wrong = count[False]
        print(
            f"{name:40} {'right ones refused' if is_right else 'wrong ones paid':18} {wrong:6} of "
            f"{wrong + count[True]:6} {wrong / (wrong + count[True]):8.3%}"
        )
    for (verifier, form, is_right), found in sorted(mistakes.items(), key=lambda item: -len(item[1])):
        print(f"{len(found):5} {verifier} {'REFUSED' if is_right else 'PAID'} {form}")
        for text, gold in found[: args.show]:
            print(f"        gold {gold!r}: {text[-160:]!r}")


if __name__ == "__main__":
    main()
