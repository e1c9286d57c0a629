r"""Right and wrong completions in forms of answers that GSM8K's and MATH's own golds do not bring: Chinese, Japanese
and Korean, named values, tiny values, several boxes, words behind numbers, sentences with formulas, remainders; the
rest in labelled_sets.py.

Each form has right ones and, beside them, wrong twins that look alike. The values are of chance, with a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from rewards.labelled_sets import Twin, box, intervals, lists, other_forms

_UNITS = {
    "Chinese": [
        "元",
        "个",
        "美元",
        "公里",
        "千米",
        "千克",
        "平方米",
        "个苹果",
        "岁",
        "天",
        "小时",
        "分钟",
        "只",
        "本书",
        "名学生",
        "棵树",
        "米/秒",
        "厘米",
        "立方厘米",
        "度",
        "升",
    ],
    "Japanese": [
        "円",
        "個",
        "人",
        "本",
        "枚",
        "キロ",
        "メートル",
        "時間",
        "日",
        "歳",
        "冊",
        "匹",
        "回",
        "平方メートル",
        "分",
        "秒",
        "通り",
        "ドル",
    ],
    "Korean": [
        "원",
        "개",
        "명",
        "달러",
        "킬로미터",
        "시간",
        "일",
        "살",
        "권",
        "마리",
        "번",
        "제곱미터",
        "분",
        "초",
        "가지",
        "그루",
        "대",
        "송이",
    ],
}
_STATEMENTS = {
    "Chinese": [
        "答案是{}",
        "答案为：{}",
        "答案：{}",
        "因此，答案是{}。",
        "所以她每天赚{}。",
        "所以一共有{}。",
        "他总共需要{}！",
        "答：一共{}。",
        "最终答案是 {}",
        "2+3=5，所以最后得到{}。",
        "综上，小明还剩{}。\n",
    ],
    "Japanese": [
        "答えは{}です。",
        "したがって、答えは{}。",
        "答え：{}",
        "正解は{}です",
        "合計は{}になります。",
        "よって {} となります。",
    ],
    "Korean": ["정답은 {}입니다.", "따라서 답은 {}이다.", "답: {}", "정답: {}", "그래서 모두 {}입니다.", "총 {}"],
}
_DISTORTED = {
    "Chinese": [
        "{}万",
        "{}亿元",
        "{}百万",
        "{}的平方",
        "{}分之一",
        "{}个半",
        "{}多个",
        "{}以上",
        "{}和{o}",
        "{}或{o}",
        "{o}或{}",
        "不是{}",
        "第{}",
        "{}次方",
        "{o}至{}",
        "大于{}",
        "{o}除以{}",
        "3分之{}",
        "{}千元",
    ],
    "Japanese": [
        "{}万円",
        "{}億",
        "{}の2乗",
        "{}以上",
        "{}と{o}",
        "{}または{o}",
        "{}ではない",
        "{}未満",
        "{}より大きい",
        "{o}から{}",
        "3分の{}",
    ],
    "Korean": [
        "{}만 원",
        "{}억",
        "{}의 제곱",
        "{} 이상",
        "{}와 {o}",
        "{} 또는 {o}",
        "{}이 아닙니다",
        "{} 미만",
        "{}천 원",
        "{o}에서 {}",
    ],
}


def east_asian(rng: random.Random) -> Iterator[Twin]:
    for language, units in _UNITS.items():
        number, form = rng.randint(6, 999), f"{language}"
        gold, other, unit = str(number), str(number + rng.randint(1, 5)), rng.choice(units)
        statement = rng.choice(_STATEMENTS[language])
        distorted = rng.choice(_DISTORTED[language])
        for content in (f"{gold}{unit}", f"{gold} {unit}", f"{gold}\\text{{ {unit}}}", f"{gold}\\text{{{unit}}}"):
            yield f"{form}: unit in a box", box(content), gold, True
            yield f"{form}: unit in a box", box(content), other, False
        yield f"{form}: unit in the gold", box(gold), f"{gold}{unit}", True
        yield f"{form}: unit in the gold", box(gold), f"{other}{unit}", False
        for part in (
            gold,
            f"{gold}{unit}",
            f"\\boxed{{{gold}}}",
            f"\\boxed{{{gold}}}{unit}",
            f"${gold}$",
            f"$\\boxed{{{gold}}}$ {unit}",
        ):
            yield f"{form}: stated", statement.format(part), gold, True
            yield f"{form}: stated", statement.format(part), other, False
        yield f"{form}: ####", f"#### {gold}{unit}", gold, True
        yield f"{form}: ####", f"#### {other}{unit}", gold, False
        wrong = distorted.format(gold, o=other)
        yield f"{form}: another value", statement.format(wrong), gold, False
        yield f"{form}: another value", box(wrong), gold, False
        yield f"{form}: another value", f"#### {wrong}", gold, False
        boxed = distorted.format(f"\\boxed{{{gold}}}", o=other)
        yield f"{form}: around a box", f"所以{boxed}", gold, False
        letter = rng.choice("ABCDE")
        text = {
            "Chinese": "故选\\boxed{{{}}}。",
            "Japanese": "答えは\\boxed{{{}}}です。",
            "Korean": "정답은 \\boxed{{{}}}입니다.",
        }
        yield f"{form}: option", text[language].format(letter), letter, True
        yield f"{form}: option", text[language].format(letter), "F", False
    number = rng.randint(2, 99)
    for sign, factor in (
        ("万", 10**4),
        ("亿", 10**8),
        ("億円", 10**8),
        ("百万", 10**6),
        ("만", 10**4),
        ("억 원", 10**8),
        ("千", 1000),
    ):
        yield "multipliers", box(f"{number}{sign}"), str(number * factor), True
        yield "multipliers", box(f"{number}{sign}"), str(number), False
        yield "multipliers", f"答案是\\boxed{{{number}}}{sign}", str(number * factor), True
        yield "multipliers", f"答案是\\boxed{{{number}}}{sign}", str(number), False


def _values(rng: random.Random, count: int) -> list[str]:
    pool = [str(rng.randint(-20, 20)) for _ in range(8)] + [
        "\\frac{1}{2}",
        "\\sqrt{3}",
        "-\\frac{7}{3}",
        "2\\sqrt{5}",
        "\\pi",
    ]
    return rng.sample(list(dict.fromkeys(pool)), count)


def named(rng: random.Random) -> Iterator[Twin]:
    names = list(rng.choice(["xy", "xyz", "abc", "ab", "mn", "pq", "AB", ["x_1", "y_1"], ["\\alpha", "\\beta"]]))
    values = _values(rng, len(names))
    joint = rng.choice([", ", ",", "; ", " \\text{ and } ", ",\\quad "])
    pairs = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
    gold = ", ".join(pairs)
    swapped = values[1:] + values[:1]
    wrong = [f"{name}={value}" for name, value in zip(names, swapped, strict=True)]
    yield "named values", box(joint.join(pairs)), gold, True
    yield "named values", box(joint.join(pairs[::-1])), gold, True
    yield "named values", box(joint.join(wrong)), gold, False
    yield "named values", box(joint.join(wrong[::-1])), gold, False
    yield "named values", box(joint.join(pairs[:-1])), gold, False
    others = ["u", "v", "w"][: len(names)]
    yield "named values", box(joint.join(f"{n}={v}" for n, v in zip(others, values, strict=True))), gold, False
    if "_" not in names[0] and "\\" not in names[0]:
        head = f"({','.join(names)})"
        pair, turned = f"({', '.join(values)})", f"({', '.join(swapped)})"
        for text, is_right in (
            (f"{head}={pair}", True),
            (pair, True),
            (joint.join(pairs), True),
            (f"{head}={turned}", False),
            (turned, False),
            (joint.join(wrong), False),
        ):
            for about in (pair, f"{head}={pair}"):
                yield "names of a pair", box(text), about, is_right
        yield "names of a pair", box(f"({','.join(names[::-1])})=({','.join(values[::-1])})"), f"{head}={pair}", True
        yield "names of a pair", box(f"({','.join(names[::-1])})=({','.join(values)})"), f"{head}={pair}", False
    yield "names left out", box(", ".join(values)), gold, True
    yield "names left out", box(", ".join(swapped)), gold, False
    total = rng.randint(2, 30)
    yield "equations", box(f"x+y={total}"), f"x+y={total}", True
    yield "equations", box(f"y+x={total}"), f"x+y={total}", True
    yield "equations", box(f"2x+2y={2 * total}"), f"x+y={total}", True
    yield "equations", box(str(total)), f"x+y={total}", False
    yield "equations", box(f"x+y={total + 1}"), f"x+y={total}", False
    yield "equations", box(f"x-y={total}"), f"x+y={total}", False


def tiny(rng: random.Random) -> Iterator[Twin]:
    power, base = rng.randint(40, 120), rng.choice([2, 3, 5, 10])
    number = rng.randint(18, 60)
    for gold, right, wrong in (
        (f"\\frac{{1}}{{{base}^{{{power}}}}}", f"{base}^{{-{power}}}", f"\\frac{{1}}{{{base}^{{{power + 1}}}}}"),
        (f"{base}^{{-{power}}}", f"\\left(\\frac{{1}}{{{base}}}\\right)^{{{power}}}", f"{base}^{{-{power - 1}}}"),
        (f"\\frac{{1}}{{{number}!}}", f"\\frac{{{number + 1}}}{{{number + 1}!}}", f"\\frac{{1}}{{{number + 1}!}}"),
        (f"e^{{-{power}}}", f"\\frac{{1}}{{e^{{{power}}}}}", f"e^{{-{power + 1}}}"),
        (
            f"1-\\frac{{1}}{{{base}^{{{power}}}}}",
            f"\\frac{{{base}^{{{power}}}-1}}{{{base}^{{{power}}}}}",
            f"1-\\frac{{1}}{{{base}^{{{power + 9}}}}}",
        ),
        (f"(\\frac{{1}}{{2^{{{power}}}}}, 1)", f"(2^{{-{power}}}, 1)", f"(2^{{-{power + 1}}}, 1)"),
        (f"\\frac{{x}}{{2^{{{power}}}}}", f"2^{{-{power}}}x", f"2^{{-{power + 2}}}x"),
        (f"\\pi \\cdot 10^{{-{power}}}", f"\\frac{{\\pi}}{{10^{{{power}}}}}", f"\\pi \\cdot 10^{{-{power + 1}}}"),
        (
            f"\\frac{{\\sqrt{{2}}}}{{3^{{{power}}}}}",
            f"\\sqrt{{2}} \\cdot 3^{{-{power}}}",
            f"\\frac{{\\sqrt{{3}}}}{{3^{{{power}}}}}",
        ),
        (f"\\{{2^{{-{power}}}, 0\\}}", f"\\{{0, \\frac{{1}}{{2^{{{power}}}}}\\}}", f"\\{{0, 2^{{-{power + 3}}}\\}}"),
    ):
        yield "tiny values", box(right), gold, True
        yield "tiny values", box(wrong), gold, False


def boxes(rng: random.Random) -> Iterator[Twin]:
    one, two = rng.sample(range(2, 99), 2)
    joint = rng.choice(
        [
            " \\quad \\text{and} \\quad ",
            " and ",
            " \\text{ or } ",
            "$ and $",
            ", \\quad ",
            ",\\; ",
            " \\\\ \\text{and} \\\\ ",
            "$, and the other is $",
            "\\text{ as well as }",
            " 和 ",
            "、",
        ]
    )
    text = f"So $\\boxed{{{one}}}{joint}\\boxed{{{two}}}$."
    for gold, is_right in (
        (f"{one}, {two}", True),
        (f"{two}, {one}", True),
        (str(two), False),
        (str(one), False),
        (f"{one}, {two + 1}", False),
    ):
        yield "two boxes", text, gold, is_right
    text = f"So $x=\\boxed{{{one}}}{joint}y=\\boxed{{{two}}}$."
    for gold, is_right in (
        (f"x={one}, y={two}", True),
        (f"({one},{two})", True),
        (f"x={two}, y={one}", False),
        (str(two), False),
        (f"y={two}", False),
        (f"({two},{one})", False),
    ):
        yield "two boxes with names", text, gold, is_right
    yield "a box before", f"First \\boxed{{{one}}}. Then the answer is \\boxed{{{two}}}.", str(two), True
    yield "a box before", f"First \\boxed{{{one}}}. Then the answer is \\boxed{{{two}}}.", str(one), False
    for text in (
        f"\\boxed {one}",
        f"$\\boxed {one}$",
        f"\\boxed{one}.",
        f"the answer is\\boxed{{{one}}}",
        f"so\\boxed{{{one}}}",
    ):
        yield "box without braces or blank", text, str(one), True
        yield "box without braces or blank", text, str(one // 10 if one > 9 else one + 1), False
    for text in (
        f"2\\boxed{{{one}}}",
        f"x\\boxed{{{one}}}",
        f"ab\\boxed{{{one}}}",
        f"\\boxed {one}x",
        f"sin\\boxed{{{one}}}",
    ):
        yield "factor of a box", text, str(one), False
    modulus = rng.randint(one + 1, 200)
    for text in (
        f"\\boxed{{{one}}} \\pmod{{{modulus}}}",
        f"x \\equiv \\boxed{{{one}}} \\pmod{{{modulus}}}",
        box(f"{one} \\pmod{{{modulus}}}"),
        box(f"{one} \\text{{ (mod }} {modulus})"),
    ):
        yield "remainder", text, str(one), True
        yield "remainder", text, f"{one} \\pmod{{{modulus}}}", True
        yield "remainder", text, f"{one} \\pmod{{{modulus + 1}}}", False
        yield "remainder", text, str(one + 1), False
    yield "remainder", f"\\boxed{{{one + modulus}}} \\pmod{{{modulus}}}", str(one), False


def behind_numbers(rng: random.Random) -> Iterator[Twin]:
    number, other = rng.randint(2, 400), rng.randint(401, 900)
    word = rng.choice(["two", "three", "five", "seven", "ten", "twelve"])
    for text, is_right in (
        (box(f"{number} \\text{{ times}}"), True),
        (box(f"{number} times a day"), True),
        (f"\\boxed{{{number}}} times.", True),
        (f"The answer is {number} times.", True),
        (f"So he must visit {number} times as many houses.", True),
        (box(f"{number} times {other}"), False),
        (f"The answer is {number} times {word}.", False),
        (f"\\boxed{{{number}}} times {other}", False),
        (f"So it is {number} times the width.", False),
        (f"The answer is {number} dollars in {word} days.", True),
        (f"She earns {number} dollars in {word} days.", True),
        (f"The answer is {number} miles every {word} hours", True),
        (f"The answer is {number} {word} days.", False),
        (f"The answer is {number} and {word} thirds.", False),
        (f"The answer is {number} to {word}.", False),
        (f"The answer is {number}, which is less than {other}.", True),
        (f"So she has {number}, which is more than {other}.", True),
        (f"The total is {number}, not {other}.", True),
        (f"The answer is {number} rather than {other}.", True),
        (f"The answer is {number} (less than {other}).", True),
        (f"The answer is {other}, which is more than {number}.", False),
        (f"The answer is {other}, not {number}.", False),
        (f"The answer is {other} rather than {number}.", False),
        (f"It is less than {number}.", False),
        (f"The answer is not {number}, which is less than {other}.", False),
    ):
        yield "words behind a number", text, str(number), is_right


def sentences(rng: random.Random) -> Iterator[Twin]:
    a, b = rng.randint(2, 60), rng.randint(61, 99)
    total, product = a + b, a * b
    percent, amount = rng.choice([(80, 400), (25, 60), (50, 90), (10, 70)])
    share = percent * amount // 100
    for text, gold, is_right in (
        (f"So the value of $x$ is ${a}$.", a, True),
        (f"Therefore the sum of $m$ and $n$ is ${a}$.", a, True),
        (f"When $x = {b}$, the value is ${a}$.", a, True),
        (f"Hence the length of $AB$ is $\\sqrt{{{b}}}$.", f"\\sqrt{{{b}}}", True),
        (f"So the value of $x$ is ${a}$.", b, False),
        (f"So $x = {b}$ or $y$ is ${a}$.", a, False),
        (f"So twice $x$ is ${a}$.", a, False),
        (f"So $x$ is not ${a}$.", a, False),
        (f"So $x = {b}$ and $y = {a}$.", a, False),
        (f"When $x = {b}$, the value is ${a}$.", b, False),
        (f"\\begin{{align*}}\nx &= {a} + {b} \\\\\n&= {total}\n\\end{{align*}}", total, True),
        (f"We get\n\\begin{{align*}}\n2x &= {2 * total} \\\\\nx &= {total}.\n\\end{{align*}}", total, True),
        (f"$$\\begin{{aligned}} S &= {a} \\cdot {b} \\\\ &= {product} \\end{{aligned}}$$", product, True),
        (f"\\begin{{align*}}\nx &= {a} + {b} \\\\\n&= {total}\n\\end{{align*}}", b, False),
        (f"\\begin{{align*}}\nx &= {a} \\\\\ny &= {b}\n\\end{{align*}}", b, False),
        (f"\\begin{{align*}}\nx &= {a} \\\\\n&= {b} + y\n\\end{{align*}}", b, False),
        (f"{a} x {b} = {product}", product, True),
        (f"So she pays {a} x ${b} = ${product}.", product, True),
        (f"{a} x ${b} = ${product}", product, True),
        (f"{percent}% of ${amount} = ${share}", share, True),
        (f"So it costs {percent}% of ${amount} = ${share}.", share, True),
        (f"\\boxed{{{a} x {b} = {product}}}", product, True),
        (f"{a} x {b} = {product}", b, False),
        (f"\\boxed{{{a} x {b} = {product + 1}}}", product + 1, False),
        (f"{percent}% of ${amount} = ${share}", amount, False),
        (f"{percent}% of ${share}", share, False),
    ):
        yield "sentences with formulas", text, str(gold), is_right


FORMS: tuple[Callable[[random.Random], Iterator[Twin]], ...] = (
    east_asian,
    named,
    tiny,
    boxes,
    behind_numbers,
    sentences,
    lists,
    intervals,
    other_forms,
)


def twins(count: int, seed: int = 0) -> Iterator[Twin]:
    """Of every form `count` draws of its values; each draw gives some right ones and some wrong."""
    rng = random.Random(seed)
    for form in FORMS:
        for _ in range(count):
            yield from form(rng)
