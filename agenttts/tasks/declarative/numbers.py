"""Numbers in texts, in the forms in which models and data sets write them."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from agenttts.tasks.metrics import plain_marks

# A hyphen after a number or a word is not a minus sign: "3-5", "2019-2020".
_SIGN = r"(?<![\w.)\]%])[-+]"
_NUMBER = (
    rf"(?:{_SIGN})?(?<!\d)"
    r"(?:(?:(?<!\d,)\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d+)?|(?<![\w)])\.\d+)"
    r"(?:[eE][-+]?\d{1,2}(?!\w))?(?!\d)"
)
_NUMBERS = re.compile(_NUMBER, re.ASCII)
# 7/2, -2 1/2, but no part of a date (1/2/2024)
_FRACTION = (
    rf"(?P<sign>{_SIGN})?(?<![\d/.,])(?:(?P<whole>\d{{1,9}}) )?"
    r"(?P<above>\d{1,9}) ?/ ?(?P<below>0{0,8}[1-9]\d{0,8})(?![\d/]|[.,]\d)"
)
_NUMBERS_AND_FRACTIONS = re.compile(rf"{_FRACTION}|{_NUMBER}", re.ASCII)
_LATEX_FRACTION = re.compile(
    r"\\[dt]?frac *(?:\{ *(-?\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d))", re.ASCII
)
_FRACTION_SIGN = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_LARGEST_WHOLE = 10**18
_TOO_LARGE = 10**300
# Thousands as in LaTeX (10{,}000, 10,\!000, 10\,000), or with a space that does not break.
_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,\\!|\\[,;]|[\u00a0\u2009\u202f])\d{3})+(?!\d)", re.ASCII
)
# 1.5 \times 10^{-6}, 1.5 * 10**-6, 10^6, and with a cross, a dot or superscripts
_POWER_OF_TEN = re.compile(
    r"(?:(?<=\d)\s*(?:\\times|\\cdot|[*x\u00b7\u00d7])\s*|(?<![\w.]))10"
    r"(?:\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,2})(?!\d)\s*\}?"
    r"|([\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{1,2}))",
    re.ASCII,
)
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-"
)
_DOTTED = re.compile(r"(?<!\d)\d+(?:\.\d+){2,}", re.ASCII)
"""A date or a version, such as 5.12.2023."""
_MONEY = re.compile(rf"({_SIGN})(\\?[$\u20ac\u00a3\u00a5])(?=\.?\d)", re.ASCII)
_INSIDE_MORE = re.compile(
    r"(?:\d%? ?[/^*+-] ?(?:\\?\$)?|\d[ ,.:]|\^|(?:\\sqrt|\\log|[\^_}\]\d]) ?\{)$", re.ASCII
)
"""What stands before the last number of a date, a range, a formula, or after a decimal comma."""


def last_number(text: str) -> float | None:
    """Return the last number in a text; None if there is none.

    A fraction (7/2, 2 1/2, LaTeX's) is one number. Whole numbers are ints.
    """
    found = _last(_plain(text))
    value = None if found is None else _value(found)
    if value is None or abs(value) >= _TOO_LARGE:
        return None
    return int(value) if value.denominator == 1 and abs(value) <= _LARGEST_WHOLE else float(value)


def numbers_in(text: str) -> tuple[Fraction, ...]:
    """Return all numbers of a text; those of a fraction or a date apart."""
    plain = _DOTTED.sub(lambda date: date[0].replace(".", " "), _plain(text))
    return tuple(_decimal(number) for number in _NUMBERS.findall(plain))


def is_inside_more(text: str) -> bool:
    """Return whether a text's last number is a part of a date, a formula or the like."""
    plain = _plain(text)
    found = _last(plain)
    return found is not None and bool(_INSIDE_MORE.search(plain[: found.start()]))


def _last(plain: str) -> re.Match[str] | None:
    found = list(_NUMBERS_AND_FRACTIONS.finditer(plain))
    return found[-1] if found else None


def _value(number: re.Match[str]) -> Fraction:
    if not number["below"]:
        return _decimal(number[0])
    value = Fraction(int(number["above"]), int(number["below"]))
    if number["whole"] and value < 1:
        value += int(number["whole"])
    return -value if number["sign"] == "-" else value


def _decimal(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _plain(text: str) -> str:
    """Return a text with all numbers in the form of Python's."""
    text = plain_marks(text).replace("\u2044", "/")
    text = _FRACTION_SIGN.sub(
        lambda sign: _apart(sign, unicodedata.normalize("NFKC", sign[0]).replace("\u2044", "/")),
        text,
    )
    text = _LATEX_FRACTION.sub(lambda f: _apart(f, f"{f[1] or f[2]}/{f[3] or f[4]}"), text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    return _MONEY.sub(r"\2\1", _POWER_OF_TEN.sub(_with_exponent, text))


def _apart(match: re.Match[str], fraction: str) -> str:
    """Return a fraction with a space after it.

    If a whole number is before it, there is a space between them.
    """
    whole = match.string[max(match.start() - 1, 0) : match.start()].isdigit()
    return f"{' ' if whole else ''}{fraction} "


def _with_exponent(power: re.Match[str]) -> str:
    exponent = (power[1] or power[2]).translate(_SUPERSCRIPTS)
    return f"{'1' if power[0].startswith('10') else ''}e{exponent} "
