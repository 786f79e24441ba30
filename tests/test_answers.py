from __future__ import annotations

import sys

import pytest

from reasoning_guard.answers import answers_equal
from reasoning_guard.plain_numbers import plain_number

NO_MATH_VERIFY = "expressions are compared by math-verify, which comes with the extra math"
EQUAL = [
    ("18", "18"),
    ("1,234", "1234"),
    ("$18", "18"),
    ("$18.00", "18"),
    ("72.0", "72"),
    ("1/2", "0.5"),
    ("50%", "50"),
    ("−3", "-3"),
    ("-$3", "-3"),
    ("18 dollars", "18"),
    ("18 eggs per day.", "18"),
    ("3 million", "3,000,000"),
    ("x = 5", "5"),
    ("**18**", "18"),
    (".5", "1/2"),
    ("$.50", "0.5"),
    ("2½", "2.5"),
    ("2 1/2", "5/2"),
    ("½", "1/2"),
    (r"2\frac{1}{2}", "2.5"),
    ("3 millions", "3,000,000"),
    ("2 dozen eggs", "24"),
    ("5 kg", "5"),
    ("5 kg", "5 kilograms"),
    ("5 L", "5 litres"),
    ("5 hrs", "5 hours"),
    ("10 AM", "10 a.m."),
    ("5 apples", "5 pieces of fruit"),
    ("3 quarters", "3"),
    ("5 months", "5"),
    ("3 times", "3"),
    ("7 times a week", "7"),
    ("5 or so", "5"),
    ("5 to go", "5"),
    ("5 feet", "5"),
    ("The  Nile", "the nile."),
    ("\uff11\uff18", "18"),
    (r"10,\!080", "10080"),
    (r"10{,}080", "10,080"),
    (r"\$18", "18"),
    (r"18\%", "18%"),
    (r"90^\circ", "90 degrees"),
    (r"90^{\circ}", "90"),
    ("5 °C", "5"),
    (r"18\text{ cm}", "18 cm"),
    (r"18 \text{ cm}^2", "18"),
    ("18 cm²", "18"),
    ("18kg", "18"),
    ("18kg", "18 kilograms"),
    ("60mph", "60"),
    ("$18.50/hour", "18.5"),
    ("5pm", "5 p.m."),
    ("$5", "5 dollars"),
    ("$5$", "5 cents"),
    ("$18$", "18"),
    ("–5", "-5"),
    ("– 5", "– 5"),
    ("18!", "18"),
    ("18 V.", "18"),
    ("25 degrees C", "25"),
    ("4 Ω", "4"),
    ("18 W/m", "18"),
    ("18 type B cookies", "18"),
    ("3 more than he had", "3"),
    ("20 percent of students are girls", "20"),
    ("18 is the answer", "18"),
    ("2516_8", "2516_{8}"),
    ("4 e-mails", "4"),
    ("4 x-rays", "4"),
    ("18 m^2", "18"),
    ("9.8 m/s^2", "9.8"),
    ("$18$ dollars", "18"),
    (r"$\frac{1}{2}$ cup", "0.5"),
    (r"\(18\) eggs", "18"),
    (r"\[18\]", "18"),
    ("10⁻³", "10^{-3}"),
    ("well\u2011known", "well-known"),
    ("\u20115", "-5"),
    ("3 billion", "3,000,000,000"),
    ("5 log books", "5"),
    ("--3", "3"),
    ("$$18$$", "18.0"),
    ("**18.0**", "18"),
    ("$x = 5", "5"),
    ("370g", "370"),
    ("370g", "370 grams"),
    ("130miles", "130 miles"),
    ("2.5hours", "2½ hours"),
    ("80 000", "80000"),
    ("80\u2009000", "80,000"),
    ("1\u202f234\u00a0567 km", "1,234,567"),
    (r"5\,000", "5000"),
    (r"\frac12", "0.5"),
    (r"-\dfrac1{20}", "-1/20"),
    (r"3\frac12", "3.5"),
    ("three million", "3,000,000"),
    ("two million, three hundred thousand", "2300000"),
    ("Three million dollars", "$3 million"),
    ("eighteen", "18"),
    ("five hours", "5 hours"),
    ("18 (eighteen)", "18"),
    ("Eighteen (18)", "18"),
    ("$1,000 (one thousand dollars)", "1000"),
    ("10:30 a.m.", "10:30 AM"),
    ("10:30pm", "10:30 P. M."),
    ("25 degrees Celsius", "25 °C"),
    ("25 degrees", "25 °F"),
    ("25℃", "25°C"),
    ("$5 a month", "$5 per month"),
    ("$5 a month", "5 dollars"),
    ("$50 cents", "50 cents"),
    ("5¥", "¥5"),
    ("101₂", "101_{2}"),
    ("H₂O", "H2O"),
]
DIFFERENT = [
    ("18", "118"),
    ("18", "1"),
    ("18.5", "18"),
    ("1,800", "18"),
    ("-3", "3"),
    ("3 or 4", "3"),
    ("18th", "18"),
    ("Paris", "Pairs"),
    ("3 million", "3"),
    ("1/0", "0"),
    ("", "0"),
    (".5", "5"),
    ("$.50", "50"),
    ("2½", "10.5"),
    ("10²", "102"),
    ("2 and a half", "2"),
    ("3 or four", "3"),
    ("10 to one", "10"),
    ("2 pi", "2"),
    ("2 x", "2"),
    ("5 squared", "5"),
    ("3 trillion", "3"),
    ("5 hundredths", "5"),
    ("2 thirds", "2"),
    ("5 dollars and fifty cents", "5"),
    ("10 AM", "10 PM"),
    ("5 May", "5 June"),
    ("5 kg", "5 g"),
    ("2 hours", "2 minutes"),
    ("2 hours and a half", "2"),
    ("5 ms", "5 s"),
    ("5 lbs", "5 kg"),
    ("5 inches", "5 feet"),
    ("5pm", "5am"),
    ("$50", "50 cents"),
    ("€4", "$4"),
    ("–5", "5"),
    ("3–5", "-5"),
    ("3 cos x", "3"),
    ("3 log 2", "3"),
    ("3 i", "3"),
    ("5 factorial", "5"),
    ("3/pi", "3"),
    ("18k", "18"),
    ("1 2 3", "123"),
    (r"2\text{ or }3", "2"),
    ("5 n^2", "5"),
    ("5 s²", "5"),
    ("36 π", "36"),
    ("5 πr²", "5"),
    ("5–7", "5"),
    ("5—7", "5"),
    ("$5 or $6", "5"),
    ("5 January", "5"),
    ("2secx", "2"),
    ("4€", "$4"),
    ("5 metres", "5 km"),
    ("5 litres", "5 ml"),
    ("10 a.m.", "10 p.m."),
    ("5 hrs", "5 minutes"),
    ("5 ounces", "5 lbs"),
    ("9" * 201, "9" * 202),
    ("80 00", "8000"),
    ("80 0000", "800000"),
    ("100 200/3", "100200/3"),
    (r"\frac12", "12"),
    (r"\frac123", "0.5"),
    ("three million", "3"),
    ("three dozen", "3"),
    ("twenty-first", "20"),
    ("Seven Samurai", "seven dwarfs"),
    ("One Direction", "1"),
    ("18 (seventeen)", "18"),
    ("10:30 a.m.", "10:30 p.m."),
    ("25 °C", "25 °F"),
    ("25 degrees C", "25 degrees Fahrenheit"),
    ("$5 a month", "€5 a month"),
    ("$5 a month", "5 euros"),
    ("$5/hour", "$5/minute"),
    ("101₂", "1012"),
    ("101_2", "101_3"),
]
EXPRESSIONS = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "1/2"),
    ("x+1", "1 + x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(1,2)", "(1, 2)"),
    (r"$\frac{3}{4}$", "0.75"),
    ("10²", "100"),
    ("10⁻³", "0.001"),
    ("(–1, 2)", "(-1, 2)"),
    ("5–7", "5-7"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{pmatrix}\frac{1}{2}\\2\end{pmatrix}"),
    ("10⁻²", "0.01"),
    ("10¹²", "1000000000000"),
    ("2*log(x)", "log(x)*2"),
]


@pytest.mark.parametrize(("given", "reference"), EQUAL)
def test_equal(given: str, reference: str) -> None:
    assert answers_equal(given, reference, mathematical=True)
    assert answers_equal(reference, given, mathematical=True)


@pytest.mark.parametrize(("given", "reference"), DIFFERENT)
def test_different(given: str, reference: str) -> None:
    assert not answers_equal(given, reference, mathematical=True)
    assert not answers_equal(reference, given, mathematical=True)


def test_a_base_may_be_left_out_where_the_reference_says_it() -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    assert answers_equal("101", "101_2")
    assert not answers_equal("101_2", "101")
    assert not answers_equal("101_2", "5")


def test_text_is_compared_as_text_unless_mathematical() -> None:
    assert not answers_equal("1/2", "0.5", mathematical=False)
    assert answers_equal(" YES. ", "yes", mathematical=False)


@pytest.mark.parametrize(("given", "reference"), EXPRESSIONS)
def test_expressions_are_left_to_math_verify(given: str, reference: str) -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    assert answers_equal(given, reference)
    assert not answers_equal(given, "17")


def test_without_math_verify_plain_numbers_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert answers_equal("$1,234.00", "1234")
    assert not answers_equal(r"\sqrt{4}", "2")


def test_plain_numbers_are_exact() -> None:
    assert plain_number("0.1") * 3 == plain_number("0.3")
    assert plain_number("$x = 5") == 5
    assert plain_number("9" * 200) == 10**200 - 1
    assert plain_number("9" * 201) is None, "a broken model writes digits without end"
