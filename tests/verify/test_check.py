"""`check`: types, reasons, limits, misuse, and inputs that mean harm."""

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import VerifyError
from niwaki.verify import symbolic
from niwaki.verify.check import check, infer_type
from niwaki.verify.sandbox import Reply
from niwaki.verify.verdict import Reason, Type, Verdict


@pytest.mark.parametrize(
    "gold, kind",
    [
        ("A", "mc"), ("(B)", "mc"), ("\\text{(C)}", "mc"),
        ("42", "number"), ("-1,000", "number"), ("10 m", "number"),
        ("$5", "number"), ("50\\%", "number"),
        ("2\\pi", "number"), ("3:2", "set"), ("12 apples", "number"),
        ("x", "expression"), ("2x+1", "expression"), ("x = 2y", "expression"), ("x^2+y^2=4", "expression"),
        ("\\int x dx", "expression"), ("9^{9^{9^9}}", "number"), ("\\{1,2\\}", "set"), ("(1,2)", "set"),
        ("[1,2)", "set"), ("x<2", "set"), ("\\pm 2", "set"),
        ("2, 3", "set"), ("dog", "text"), ("not guilty", "text"),
        ("yes", "text"), ("H2O", "text"), ("10-20", "text"), ("9/11/2001", "text"), ("4WD", "text"),
        ("\\text{even}", "text"), ("World War 2", "text"),
    ],
)  # fmt: skip
def test_the_type_is_inferred_from_gold(gold, kind):
    assert infer_type(gold) == kind
    assert check(gold, gold).type == kind


def test_options_make_it_multiple_choice():
    assert infer_type("Paris", ["Paris", "Rome"]) is Type.MC


@pytest.mark.parametrize(
    "answer, gold, reason",
    [
        ("42", "42", Reason.SAME_TEXT), ("42.0", "42", Reason.EQUAL_VALUE), ("A", "(A)", Reason.SAME_OPTION),
        ("41", "42", Reason.DIFFERENT),
        ("10 cm", "10 m", Reason.UNIT_DIFFERS), ("10", "10 m", Reason.UNIT_MISSING),
        ("50", "50%", Reason.UNIT_MISSING),
        ("50%", "50", Reason.UNIT_DIFFERS), ("{1,2}", "(1,2)", Reason.KIND_DIFFERS),
        ("5 = 5", "5", Reason.IDENTITY), ("", "5", Reason.NO_ANSWER),
        ("<think>5", "5", Reason.UNFINISHED_THINKING),
        ("\\boxed{5", "5", Reason.UNCLOSED), ("\\boxed{}", "5", Reason.EMPTY_ANSWER),
        ("4\n5", "5", Reason.SEVERAL_ANSWERS), ("A or B", "A", Reason.SEVERAL_ANSWERS),
        ("not \\boxed{5}", "5", Reason.NEGATED), ("\\boxed{5} is wrong", "5", Reason.RETRACTED),
        ("what?", "5", Reason.UNREADABLE),
        ("1" * 3_000, "5", Reason.TOO_LONG), ("9^9^9^9", "5", Reason.TOO_LARGE),
        ("5", "  ", Reason.BAD_GOLD),
    ],
)  # fmt: skip
def test_every_verdict_says_why(answer, gold, reason):
    assert check(answer, gold, limit_s=30).reason is reason


def test_an_option_that_is_none_and_a_gold_that_is_none():
    assert check("Z", "A", options=["x", "y"]).reason is Reason.NOT_AN_OPTION
    assert check("A", "Q", options=["x", "y"]).reason is Reason.BAD_GOLD


def test_a_verdict_names_what_was_graded():
    assert check("So \\boxed{\\frac12}.", "0.5") == Verdict(True, Reason.EQUAL_VALUE, Type.NUMBER, "\\frac12")
    assert check("", "1").extracted is None


def test_exact_is_the_same_string_only():
    assert check("\\boxed{0.5}", "0.5", type="exact").correct
    assert not check("\\boxed{1/2}", "0.5", type="exact").correct


def test_a_tolerance_is_relative_and_off_by_default():
    assert not check("9.81", "9.8").correct
    assert check("9.81", "9.8", tolerance=0.01).reason is Reason.WITHIN_TOLERANCE
    assert not check("2e-10", "1e-10", tolerance=0.01).correct
    assert not check("-9.8", "9.8", tolerance=0.5).correct


@pytest.mark.parametrize(
    "arguments",
    [
        {"answer": None}, {"gold": 5}, {"type": "integer"},
        {"limit_s": 0}, {"limit_s": -1}, {"memory_bytes": 0},
        {"tolerance": -0.1}, {"tolerance": 1}, {"limit_s": float("nan")},
    ],
)  # fmt: skip
def test_misuse_is_refused(arguments):
    with pytest.raises(VerifyError):
        check(**({"answer": "1", "gold": "1"} | arguments))


@pytest.mark.parametrize(
    "answer, gold, right",
    [
        ("10 ms^{-1}", "10 m/s", True), ("10 \\frac{m}{s}", "10 m/s", True), ("five dollars", "$5", True),
        ("minus 1", "-1", True), ("CO2", "CO_2", True),
        ("OH_2", "H_2O", False), ("42 is the answer", "42", True),
        ("3.141592653589793", "\\pi", True),
        ("3.141592653589794", "\\pi", False), ("A: because of B", "A", False),
        ("A, not B", "A", False), ("\\frac{6mg}{2}", "3 m g", True),
        ("10 Nm", "10 mN", False), ("10 Nm", "10 N m", True),
        ("{1,0,2,0}", "\\{1,000, 2,000\\}", False),
        ("The final answer is 42. I hope it is correct.", "42", True),
    ],
)  # fmt: skip
def test_rules_that_are_easily_broken(answer, gold, right):
    assert check(answer, gold, limit_s=30).correct == right


def test_the_command_answers_with_its_exit_code():
    run = CliRunner().invoke
    assert run(app, ["verify", "0.5", "1/2"]).exit_code == 0
    assert "different" in run(app, ["verify", "--", "-5", "5"]).output
    assert run(app, ["verify", "--", "-5", "5"]).exit_code == 1
    assert run(app, ["verify", "5", "5", "--type", "integer"]).exit_code == 2
    assert run(app, ["verify", "A", "A", "--options", "Paris"]).exit_code == 2
    verdict = json.loads(
        run(app, ["verify", "-", "A", "--options", '["x", "y"]', "--json"], input="(A)").output
    )
    assert verdict == {"correct": True, "reason": "same_option", "type": "mc", "extracted": "(A)"}


HOSTILE = {
    "tower": "9^9^9^9^9",
    "tower with braces": "9^{9^{9^{9^{9}}}}",
    "factorials": "(((((9!)!)!)!)!)",
    "big factorial": "99999999999!",
    "many factors": "*".join(["9^9999"] * 100),
    "many roots": "+".join(f"\\sqrt{{{n}}}" for n in range(2, 80)),
    "many sines": "+".join(f"\\sin({n})" for n in range(2, 80)),
    "tall exponents": "e^{e^{e^{e^9}}}",
    "deep parentheses": "(" * 900 + "1" + ")" * 900,
    "deep braces": "\\boxed" + "{" * 50_000 + "1" + "}" * 50_000,
    "deep fractions": "\\frac{1}{" * 150 + "2" + "}" * 150,
    "unclosed braces": "\\boxed{" * 30_000,
    "long number": "7" * 200_000,
    "long sum": "1+" * 100_000 + "1",
    "long prose": "the answer is " * 15_000,
    "long box": "\\boxed{" + "x" * 200_000 + "}",
    "many answers": "<answer>" * 20_000,
    "many thoughts": "<think></think>" * 15_000,
    "spaces": " " * 200_000 + "x",
    "spaces in a box": "\\boxed{" + " " * 1_900 + "x}",
    "stars": "*" * 1_999,
    "dollars": "$" * 1_999,
    "text commands": "\\text{" * 300 + "5" + "}" * 300,
    "commas": "1," * 900,
    "minus signs": "-" * 900 + "5",
    "pluses and minuses": "\\pm" * 300 + "5",
    "words": "a " * 900,
    "or": "5 or " * 300 + "5",
    "code": "__import__('os').system('touch /tmp/owned')",
    "lambda": "(lambda: exec('raise SystemExit'))()",
    "nulls": "\x00" * 500,
    "combining": "5" + "\u0301" * 1_500,
    "right to left": "\u202e5\u202c",
    "surrogate": "\ud8005",
    "nan": "nan",
    "huge exponent": "1e999999999",
    "huge repeating": "0." + "1" * 400 + "\\overline{" + "3" * 40 + "}",
    "huge binomial": "\\binom{999999999}{99999}",
    "huge polynomial": "(x+1)^{99999}",
    "nested roots": "\\sqrt{" * 35 + "2" + "}" * 35,
    "set of many": "\\{" + ",".join(map(str, range(400))) + "\\}",
    "intervals": "\\cup".join(f"({n},{n + 1})" for n in range(100)),
    "inequality chain": "<".join("x" * 200),
    "equation chain": "=".join("x" * 200),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("gold", ["5", "x^2", "\\{1,2\\}", "(0,1)", "dog", "A"])
def test_hostile_answers_are_wrong_and_harmless(name, gold):
    verdict = check(HOSTILE[name], gold, limit_s=20)
    assert not verdict.correct
    assert verdict.reason is not Reason.TIMEOUT


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_gold_is_harmless(name):
    check("5", HOSTILE[name], limit_s=20)
    check("5", "A", options=[HOSTILE[name], "5"], limit_s=20)


def test_the_time_limit_holds_inside_our_own_arithmetic():
    terms = [f"\\sin({n}x)" for n in range(40)]
    assert check("+".join(terms), "+".join(terms[::-1]), limit_s=1e-6).reason is Reason.TIMEOUT


def test_verdicts_are_the_same_from_threads_and_from_asyncio():
    cases = [
        ("\\sqrt{12}", "2\\sqrt{3}"),
        ("\\sin 2x", "2\\sin x\\cos x"),
        ("9^9^9^9", "1"),
        ("A", "A"),
        ("1/3", "0.33"),
    ]
    expected = [check(answer, gold, limit_s=30) for answer, gold in cases]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda case: check(*case, limit_s=30), cases * 8))
    assert threaded == expected * 8

    async def grade():
        return await asyncio.gather(*(asyncio.to_thread(check, *case, limit_s=30) for case in cases))

    assert asyncio.run(grade()) == expected


def test_a_small_stack_is_enough():
    verdicts = []
    threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(
            target=lambda: verdicts.append(check(HOSTILE["deep fractions"], "5", limit_s=30))
        )
        thread.start()
        thread.join()
    finally:
        threading.stack_size(0)
    assert not verdicts[0].correct


def test_without_math_verify_a_verdict_says_so(monkeypatch):
    monkeypatch.setattr(symbolic, "is_installed", lambda: False)
    assert check("1/2", "\\int_0^1 x dx").reason is Reason.NEEDS_MATH_VERIFY
    assert check("\\int_0^1 x dx", "\\int_0^1 x dx").correct


@pytest.mark.parametrize(
    "reply, reason",
    [
        (Reply(True), Reason.EQUIVALENT), (Reply(False), Reason.DIFFERENT), (Reply(None), Reason.DIFFERENT),
        (Reply(problem="timeout"), Reason.TIMEOUT), (Reply(problem="died"), Reason.WORKER_DIED),
    ],
)  # fmt: skip
def test_what_the_worker_says_becomes_a_reason(monkeypatch, reply, reason):
    monkeypatch.setattr(symbolic, "is_installed", lambda: True)
    monkeypatch.setattr(symbolic._sandbox(), "ask", lambda *_, **__: reply)
    assert check("1/2", "\\int_0^1 x dx").reason is reason


@pytest.mark.parametrize(
    "answer", ["1 or 2", "1, 2", "\\begin{cases} 1 \\\\ 2 \\end{cases}", "x = 1", "\\pm 1"]
)
def test_math_verify_is_never_asked_about_several_answers(monkeypatch, answer):
    monkeypatch.setattr(symbolic, "equivalent", lambda *_, **__: pytest.fail("was asked"))
    assert not check(answer, "\\int_0^1 2x dx").correct


def test_an_answer_that_leaves_its_value_to_be_worked_out_is_none(monkeypatch):
    """Only a gold answer that needs a computer algebra system gets one."""
    monkeypatch.setattr(symbolic, "equivalent", lambda *_, **__: pytest.fail("was asked"))
    assert check("\\sum_{k=1}^{3} k", "6").reason is Reason.UNREADABLE
    assert check("\\int_0^1 6 dx", "6").reason is Reason.UNREADABLE


def test_math_verify_decides_what_we_cannot_read():
    pytest.importorskip("math_verify")
    symbolic.warm()
    assert check("1/2", "\\int_0^1 x dx", limit_s=60).reason is Reason.EQUIVALENT
    assert check("1/3", "\\int_0^1 x dx", limit_s=60).reason is Reason.DIFFERENT
    assert check("1", "\\prod_{k=1}^{9^{9^9}} k", limit_s=2).reason in {
        Reason.TIMEOUT,
        Reason.WORKER_DIED,
        Reason.DIFFERENT,
    }


def test_no_heavy_library_is_loaded():
    code = "import sys; from niwaki.verify.check import check; check('\\\\sqrt2', '1'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert not {"torch", "sympy", "math_verify", "transformers", "numpy"} & set(done.stdout.split())
