r"""Right and wrong completions whose answers are lists, sets, pairs or intervals, and in the small forms: yes and no,
complex numbers, mathematics in plain text. Part of labelled_forms.py, which says how.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations

Twin = tuple[str, str, str, bool]  # (form, completion, gold, is_right)


def box(content: str) -> str:
    return f"So \\boxed{{{content}}}."


def lists(rng: random.Random) -> Iterator[Twin]:
    a, b, c = rng.sample(range(2, 40), 3)
    gold = f"{a}, {b}"
    for text in (
        f"{a} and {b}",
        f"{b} \\text{{ and }} {a}",
        f"\\{{{b}, {a}\\}}",
        f"{a}; {b}",
        f"x={a} \\text{{ or }} x={b}",
        f"x = {b}, {a}",
    ):
        yield "lists", box(text), gold, True
        yield "lists", box(text), f"{a} \\text{{ and }} {b}", True
        yield "lists", box(text), f"{a}, {c}", False
        yield "lists", box(text), str(b), False
    yield "lists", f"The answer is {a} and {b}.", gold, True
    yield "lists", f"The solutions are ${a}$ and ${b}$.", f"{a}, {c}", False
    yield "lists", box(f"{a}, {b}, {c}"), gold, False
    yield "lists", box(f"{a}, {a}"), gold, False
    for text, about, is_right in (
        (f"\\pm {a}", f"{a}, -{a}", True),
        (f"x = \\pm {a}", f"-{a}, {a}", True),
        (f"{a}, -{a}", f"\\pm {a}", True),
        (f"{a} \\pm \\sqrt{{{b}}}", f"{a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}}", True),
        (
            f"\\frac{{{a} \\pm \\sqrt{{{b}}}}}{{2}}",
            f"\\frac{{{a}-\\sqrt{{{b}}}}}{{2}}, \\frac{{{a}+\\sqrt{{{b}}}}}{{2}}",
            True,
        ),
        (str(a), f"{a}, -{a}", False),
        (f"\\pm {a}", str(a), False),
        (f"\\pm {b}", f"{a}, -{a}", False),
        (f"{a}+\\sqrt{{{b}}}", f"{a} \\pm \\sqrt{{{b}}}", False),
        (f"{a} \\pm \\sqrt{{{c}}}", f"{a} \\pm \\sqrt{{{b}}}", False),
    ):
        yield "plus and minus", box(text), about, is_right
    pairs = [(a, b), (b, c), (c, a)]
    text = [f"({one}, {two})" for one, two in pairs]
    turned = [f"({two}, {one})" for one, two in pairs]
    mixed = [f"({pairs[k][0]}, {pairs[(k + 1) % 3][1]})" for k in range(3)]
    for order in rng.sample(list(permutations(range(3))), 3):
        again = [text[place] for place in order]
        yield "brackets in brackets", box(", ".join(again)), ", ".join(text), True
        yield "brackets in brackets", box("\\{" + ",".join(again) + "\\}"), "\\{" + ", ".join(text) + "\\}", True
        yield "brackets in brackets", box("\\{" + ",".join(again) + "\\}"), ", ".join(text), True
    for wrong in (turned, mixed, [*text[:2], turned[2]], text[:2], [text[0]] * 3):
        yield "brackets in brackets", box(", ".join(wrong)), ", ".join(text), False
        yield "brackets in brackets", box("\\{" + ",".join(wrong) + "\\}"), "\\{" + ", ".join(text) + "\\}", False
    nested, other = f"(({a}, {b}), {c})", f"({a}, ({b}, {c}))"
    yield "brackets in brackets", box(nested), nested, True
    yield "brackets in brackets", box(other), nested, False
    yield (
        "brackets in brackets",
        box(f"\\{{\\{{{b}, {a}\\}}, \\{{{c}\\}}\\}}"),
        f"\\{{\\{{{a},{b}\\}},\\{{{c}\\}}\\}}",
        True,
    )
    yield (
        "brackets in brackets",
        box(f"\\{{\\{{{a}, {c}\\}}, \\{{{b}\\}}\\}}"),
        f"\\{{\\{{{a},{b}\\}},\\{{{c}\\}}\\}}",
        False,
    )


def intervals(rng: random.Random) -> Iterator[Twin]:
    low, high = sorted(rng.sample(range(-20, 20), 2))
    x = rng.choice(["x", "t", "a", "\\theta"])
    for text, about, is_right in (
        (f"{low}<{x}<{high}", f"({low},{high})", True),
        (f"{high}>{x}>{low}", f"({low},{high})", True),
        (f"{low}\\le {x}<{high}", f"[{low},{high})", True),
        (f"[{low}, {high})", f"{low} \\leq {x} < {high}", True),
        (f"{x} > {low} \\text{{ and }} {x} < {high}", f"({low},{high})", True),
        (f"{x}<{high}", f"(-\\infty,{high})", True),
        (f"{high} > {x}", f"(-\\infty,{high})", True),
        (f"{x} \\geq {low}", f"[{low},\\infty)", True),
        (f"{x}<{low}\\text{{ or }}{x}>{high}", f"(-\\infty,{low})\\cup({high},\\infty)", True),
        (f"{x} > {high} \\text{{ or }} {x} < {low}", f"(-\\infty,{low})\\cup({high},\\infty)", True),
        (f"(-\\infty,{low}] \\cup ({high},\\infty)", f"{x} \\le {low} \\text{{ or }} {x} > {high}", True),
        (f"{x} \\neq {low}", f"(-\\infty,{low})\\cup({low},\\infty)", True),
        (f"{x} \\in ({low},{high})", f"{low}<{x}<{high}", True),
        (f"{low}\\le {x}<{high}", f"({low},{high})", False),
        (f"{low}<{x}\\le {high}", f"[{low},{high})", False),
        (f"{x}>{high}", f"(-\\infty,{high})", False),
        (f"{x}\\le {high}", f"(-\\infty,{high})", False),
        (f"{low}<{x}<{high + 1}", f"({low},{high})", False),
        (f"{x}<{low}\\text{{ or }}{x}\\ge {high}", f"(-\\infty,{low})\\cup({high},\\infty)", False),
        (f"{low}<{x}<{high}", f"(-\\infty,{low})\\cup({high},\\infty)", False),
        (f"{x} > {high}", f"(-\\infty,{low})\\cup({high},\\infty)", False),
        (f"({low},{high}]", f"{low} \\leq {x} < {high}", False),
        (f"{low}<y<{high}", f"{low}<{x}<{high}", False),
        (str(high), f"{x}<{high}", False),
    ):
        yield "intervals and inequalities", box(text), about, is_right


def other_forms(rng: random.Random) -> Iterator[Twin]:
    number, square = rng.randint(2, 9), rng.choice([2, 3, 5, 6, 7, 10, 11, 13])
    for text, about, is_right in (
        ("Yes, it is", "Yes", True),
        ("\\text{No, it is not}", "\\text{No}", True),
        ("Yes", "Yes, it is", True),
        ("Yes, because the sum is even", "Yes", True),
        ("\\text{False, since } 2 > 1", "False", True),
        ("Yes, it is", "No", False),
        ("Yes or no", "Yes", False),
        ("Yes, but not always", "Yes", False),
        ("No, yes", "No", False),
        ("It is not", "Yes", False),
    ):
        yield "yes and no", box(text), about, is_right
    for text, about, is_right in (
        (f"{number}e^{{i\\pi}}", f"-{number}", True),
        (f"{number}\\sqrt{{2}} e^{{i\\pi/4}}", f"{number}+{number}i", True),
        (f"{number} e^{{\\frac{{i \\pi}}{{2}}}}", f"{number}i", True),
        (f"{number}\\operatorname{{cis}}(\\pi/2)", f"{number}i", True),
        (f"{number}\\text{{cis}} 90^\\circ", f"{number}i", True),
        (f"{number}(\\cos \\pi + i \\sin \\pi)", f"-{number}", True),
        (f"{number}+{number}i", f"{number}\\sqrt{{2}} e^{{i\\pi/4}}", True),
        (f"{number}e^{{i\\pi}}", str(number), False),
        (f"{number}e^{{i\\pi/4}}", f"{number}+{number}i", False),
        (f"{number}\\sqrt{{2}} e^{{-i\\pi/4}}", f"{number}+{number}i", False),
        (f"{number}\\operatorname{{cis}}(\\pi/3)", f"{number}i", False),
        (f"{number}-{number}i", f"{number}+{number}i", False),
    ):
        yield "complex numbers", box(text), about, is_right
    matrix = f"\\begin{{pmatrix}} {number} & 1 \\\\ 0 & {square} \\end{{pmatrix}}"
    for text, about, is_right in (
        (f"{number}pi", f"{number}\\pi", True),
        (f"{number}*pi", f"{number}\\pi", True),
        (f"pi/{number}", f"\\frac{{\\pi}}{{{number}}}", True),
        (f"sqrt({square})", f"\\sqrt{{{square}}}", True),
        (f"\u221a{square}", f"\\sqrt{{{square}}}", True),
        (f"{number}\u221a{square}", f"{number}\\sqrt{{{square}}}", True),
        (f"({number}+sqrt({square}))/2", f"\\frac{{{number}+\\sqrt{{{square}}}}}{{2}}", True),
        (f"{square}^(1/2)", f"\\sqrt{{{square}}}", True),
        (f"x**{number}", f"x^{{{number}}}", True),
        (f"ln({number})", f"\\ln {number}", True),
        ("infinity", "\\infty", True),
        (f"\\left(\\begin{{array}}{{cc}} {number} & 1 \\\\ 0 & {square} \\end{{array}}\\right)", matrix, True),
        (f"\\begin{{bmatrix}} {number} & 1 \\\\ 0 & {square} \\end{{bmatrix}}", matrix, True),
        (f"{number}pi", str(number), False),
        (f"sqrt({square})", str(square), False),
        (f"\u221a{square}{number}", f"\\sqrt{{{square}}}", False),
        (f"{number}\u221a{square}", f"\\sqrt{{{square}}}", False),
        (f"x*{number}", f"x^{{{number}}}" if number != 1 else "y", False),
        (f"\\begin{{bmatrix}} {number} & 0 \\\\ 1 & {square} \\end{{bmatrix}}", matrix, False),
        (f"\\begin{{bmatrix}} 1 & {number} \\\\ 0 & {square} \\end{{bmatrix}}", matrix, False),
    ):
        yield "mathematics in plain text", box(text), about, is_right
