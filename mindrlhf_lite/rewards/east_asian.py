"""Chinese, Japanese and Korean around a number: units, multipliers, statements, joiners and denials.

There are no blanks between words, so what changes a value is searched for in the run of letters behind the number.
Numbers written in characters are not read.
"""

from __future__ import annotations

import re
from fractions import Fraction

LETTERS = "\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u9fff\uac00-\ud7a3"  # kana, han, hangul
_LETTER = re.compile(f"[{LETTERS}]")
_RUN = re.compile(rf"\s*[{LETTERS}]{{1,20}}(?:\s*/\s*[{LETTERS}]{{1,8}}|\s[{LETTERS}]{{1,12}})?")

_FACTORS = {
    **dict.fromkeys("十拾십", 10),
    **dict.fromkeys("百佰백", 100),
    **dict.fromkeys("千仟천", 1000),
    **dict.fromkeys("万萬만", 10**4),
    **dict.fromkeys("亿億억", 10**8),
    **dict.fromkeys("兆조", 10**12),
}
# kilometre, megahertz, percent, a piece: no multipliers
_MULTIPLIER = re.compile(
    r"\s*((?:千(?!米|克|瓦|卡|帕|焦|伏|赫|牛|欧|安|升|字|比|葉)|兆(?!赫|瓦|字|帕|焦|欧|比)|百(?!分|帕|葉)"
    r"|조(?!각|카|개)|백(?!분|팩)|[십천만억十拾佰仟万萬亿億])+)"
)
_NEXT_PART = re.compile(r"\d{1,8}(?:\.\d{1,8})?")
_NUMERAL = re.compile("[一二三四五六七八九零两兩半几幾数數多余餘강여]|일|이(?=[십백천])|삼(?=[십백천만])")
DOZEN = re.compile(r"\s*(?:打(?!折)|ダース)")
PERCENT = re.compile(r"\s*(?:パーセント|퍼센트|프로(?!젝)|(?:个|個)?百分[点點])")
FRACTION = r"(\d{1,100})\s*(?:分之|分の|분의)\s*(\d{1,100})"

_CHANGES_AT_ONCE = re.compile(
    r"\s*(?:多|余|餘|几|幾|数(?!据)|强(?!度)|弱|半|成(?!员|果|人)|割|折|厘(?!米)|分之|分の|분의|[点點점]\d|又|的|の|의(?!자)|乘|乗|除|加|减|減|次方"
    r"|[个個只本人名元天年月]?半(?!径|徑|球|圆|圓)|[个個只本人名元天年月]多|개?반(?!지름|복|장)|세?제곱(?!미터|킬로|센티|밀리|인치|피트|야드)|阶乘|階乗|팩토리얼|할(?!머|아))"
)
_CHANGES = re.compile(
    r"以上|以下|以内|以內|以外|未満|未满|不到|左右|上下|程度|前後|ほど|くらい|ぐらい|より|이상(?!한)|이하|미만|초과|정도|가량|쯤|보다"
    r"|不是|不对|不對|不正确|错(?!题)|錯|误|誤|間違|ではな|じゃな|ではあり|じゃあり|아니|아닙|아닌|틀[렸립린]"
    r"|平方根|立方根|的平方|的立方|的倒数|的一半|的.倍|の平方|の倍|의 ?제곱|의 ?두"
    r"|[吗嗎]|ですか|でしょうか|니까|인가요|倍以|不足|亏|欠|赤字|或|または|もしくは|또는|혹은"
)
_JOINERS = (
    r"(?:以及|或者|或|和|与|與|及び|及|跟|、|または|もしくは|あるいは|そして|と|や"
    r"|또는|혹은|그리고|이나|이랑|하고|와|과)"
)
JOINED = re.compile(_JOINERS)
_JOINS_A_NUMBER = re.compile(rf"[^\d.。]{{0,10}}{_JOINERS}\s*[$¥\\(-]{{0,3}}\d")
JOINS_AT_ONCE = re.compile(rf"[\s$\\)\]]*{_JOINERS}\s*[$\\(\[]*-?[\d\\]")

STATEMENT = (
    r"(?:(?:答案|选项|選項|選択肢|结果|結果|结论|答え|正解|解答|最終的な答え|정답|답)\s*(?:应该|應該|应|應|就)?\s*"
    r"(?:是|为|為|等于|等於|就是|は|은|는|이|가|:|：|=)|(?:^|(?<=[\n。]))\s*(?:答|解|답)\s*[:：]"
    r"|(?:故|应|應|所以|因此)?[选選][择擇项項]?\s*[:：]?(?=\s*[(（]?[A-J](?![A-Za-z])))[\s:：*]*"
)
_COPULA = re.compile(r"(?:です|でした|である|になります|となります|だ|입니다|이다|이에요|예요|이야|임|了|。)$")

# right before a number: a denial, a bound, a part of an operation or of a list
_PART_BEFORE = re.compile(
    r"(?:(?<!是)不是|并非|並非|而非|不等于|不等於|不为|不為|不可能是|不能是|不会是|大于|小于|超过|超過|多于|少于|高于|低于|不到|不足|不少于|不多于|至少|至多|最多|最少|除了"
    r"|除以|乘以|乘|加上|加|减去|减|減|介于|少なくとも|多くとも|최소|최대|적어도|많아야|负|負|マイナス|마이너스|第|제|根号|√|分之|分の|분의)\s*(?:有|是|为)?\s*[$\\(]*$"
    rf"|\d[^\d。.]{{0,10}}(?:{_JOINERS}|(?<![得达達])到|至|から|부터|에서|的|の|의)\s*[$\\(]*$"
    r"|(?:要么|不是|要么是|どちらか)[^。]{0,12}就是\s*$"
)
_DENIED_BEHIND = re.compile(
    rf"\s*[{LETTERS}]{{0,8}}?(?:不是(?:正确|最终|所求|最后|我们要)?的?(?:答案|结果|解)|不是[\s,，。]*$|不对|不對|不正确|是错|是錯|错误|錯誤|有误"
    r"|は?間違|は?誤り|ではな|ではあり|じゃな|じゃあり|[이가은는] ?아[니닙]|틀[렸립린])"
)


def is_letter(character: str) -> bool:
    """Whether it is a letter (and no digit or sign) of one of the three scripts."""
    return _LETTER.match(character) is not None


def has_letters(text: str) -> bool:
    """Whether any letter of the three scripts is in it."""
    return _LETTER.search(text) is not None


def scaled(text: str, end: int, value: Fraction) -> tuple[Fraction, int] | None:
    """The value with the multipliers behind it, and where they end; None: what follows makes another number.

    Example: of 3 in "3万5000元", 35000.
    """
    total, amount, last = Fraction(0), value, 0
    while (multiplier := _MULTIPLIER.match(text, end)) is not None:
        factor = 1
        for character in multiplier[1]:
            factor *= _FACTORS[character]
        if last and factor >= last:
            return None
        total, last, end = total + amount * factor, factor, multiplier.end()
        if _NUMERAL.match(text, end):
            return None
        following = _NEXT_PART.match(text, end)
        if following is None:
            return total, end
        amount, end = Fraction(following.group()), following.end()
    if not last:
        return value, end
    return (total + amount, end) if amount < last else None


def end_of_unit(text: str, start: int) -> int | None:
    """Where a unit in one of the three scripts ends that begins at `start`; `start`: there is none; None: it changes
    the value before it.
    """
    run = _RUN.match(text, start)
    if run is None:
        return start
    if _CHANGES_AT_ONCE.match(text, start) or _CHANGES.search(run.group()) or _JOINS_A_NUMBER.match(text, start):
        return None
    return run.end() if text[run.end() : run.end() + 1] not in ("(", "^", "_", "{") else None


def is_changed_behind(behind: str) -> bool:
    """Whether what follows a number or a box makes another value of it, joins another one to it, or denies it."""
    return end_of_unit(behind, 0) is None or _DENIED_BEHIND.match(behind) is not None


def multiplier_behind(behind: str) -> str:
    """The multipliers that follow a box at once, as they stand."""
    found = _MULTIPLIER.match(behind.lstrip(" $"))
    return found[1] if found else ""


def is_part_before(before: str) -> bool:
    """Whether what stands right before a number denies it or makes it a part of something."""
    return _PART_BEFORE.search(before[-40:]) is not None


def without_copula(phrase: str) -> str:
    """The phrase without a verb at its end that only says "is"."""
    shorter = _COPULA.sub("", phrase).rstrip()
    return shorter or phrase


def without_unit(formula: str) -> str:
    """A formula without a unit in one of the three scripts behind it; with it, where it changes the value."""
    match = re.search(rf"(?<=[\d)}}\]a-z°])\s*([{LETTERS}]{{1,12}}(?:/[{LETTERS}]{{1,8}})?)$", formula)
    if match is None or _MULTIPLIER.match(match[1]) or end_of_unit(match[1], 0) is None:
        return formula
    return formula[: match.start()].rstrip()
