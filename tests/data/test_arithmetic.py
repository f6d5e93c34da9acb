"""Arithmetic: what is generated is true by Python's integers, and the proof sees what is false."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from groundup.core.errors import GroundupError, UsageError
from groundup.data.arithmetic import PRODUCT, QUOTIENT, TASKS, Problem, generate, solve, verify

GOAT = "397 * 4429 = 4429 * (300 + 90 + 7) = 4429 * 300 + 4429 * 90 + 4429 * 7 = 1328700 + 398610 + 31003 = 1727310 + 31003 = 1758313"
LONG = """8914 - 64 * 100 = 8914 - 6400 = 2514
2514 - 64 * 30 = 2514 - 1920 = 594
594 - 64 * 9 = 594 - 576 = 18
Therefore, 8914 / 64 = 139 R 18"""


def test_the_form_is_goat_s() -> None:
    assert solve("multiply", 397, 4429).output == GOAT
    assert solve("divide", 8914, 64) == Problem("divide", "8914 / 64", LONG, "139 R 18")
    assert solve("divide", 8914, 7).output == "8914 / 7 = 1273 R 3"
    assert solve("multiply", 8914, 70).output == "8914 * 70 = 623980"
    assert solve("add", 1463456, 2107).output == "1463456 + 2107 = 1465563"
    assert solve("subtract", 3, 8).answer == "-5" and solve("divide", 3, 8).answer == "0 R 3"


def test_every_step_is_true_by_python_itself() -> None:
    checked = Counter[str]()
    for problem in generate(1200, seed=4):
        first, sign, second = problem.question.split()
        a, b = int(first), int(second)
        right: int | str = {"+": a + b, "-": a - b, "*": a * b}.get(sign, 0)
        if sign == "/":
            right = f"{a // b} R {a % b}" if a % b else a // b
        assert problem.answer == str(right)
        assert len(first) <= 16 and len(second) <= 16
        for line in problem.output.split("\n"):
            if "/" in line:
                assert line.endswith(f"{problem.question} = {problem.answer}")
                continue
            sides = [eval(side, {"__builtins__": {}}) for side in line.split(" = ")]  # the oracle: Python's own
            assert len(set(sides)) == 1, line
            checked[problem.task] += len(sides) - 1
        if sign == "*":
            assert len(str(a * b)) <= PRODUCT and problem.output.endswith(f"= {a * b}")
        if sign == "/":
            assert len(str(a // b)) <= QUOTIENT
            taken = sum(int(times) for times in re.findall(r"\* (\d+) = \d+ - \d+ = \d+$", problem.output, re.M))
            assert taken in (0, a // b)
    assert checked["multiply"] > 900 and checked["divide"] > 400


def test_short_and_long_numbers_are_as_common() -> None:
    lengths = Counter(len(problem.question.split()[0]) for problem in generate(3200, tasks=["add"], seed=1))
    assert set(lengths) == set(range(1, 17)) and min(lengths.values()) > 100  # 200 each but for those drawn twice


def test_same_seed_same_rows_no_question_twice() -> None:
    one, again, other = (list(generate(400, digits=3, seed=seed)) for seed in (0, 0, 1))
    assert one == again != other and len({problem.question for problem in one}) == 400
    assert [problem.task for problem in one[:4]] == list(TASKS)
    with pytest.raises(UsageError, match="There are no 200 different questions of 1 digits"):
        list(generate(200, tasks=["add"], digits=1))
    assert len(list(generate(200, tasks=["add"], digits=1, distinct=False))) == 200


def test_rows() -> None:
    problem = solve("multiply", 12, 34)
    assert problem.row() == {"prompt": "12 * 34", "completion": problem.output}
    assert problem.row(chain=False) == {"prompt": "12 * 34", "completion": "408"}


@pytest.mark.parametrize(
    ("task", "question", "output", "answer", "says"),
    [
        ("add", "1 + 2", "1 + 2 = 4", "4", "the answer"),
        ("add", "1 + 2", "1 + 2 = 4", "3", "a step"),
        ("add", "1 + 2", "2 + 1 = 3", "3", "how it begins"),
        ("multiply", "397 * 4429", GOAT.replace("398610", "398611"), "1758313", "a step"),
        ("multiply", "12 * 34", "12 * 34 = 34 * (10 + 2) = x = 408", "408", "a step"),
        ("multiply", "12 * 34", "12 * 34 = 34 * (10 + 2 = 408", "408", "a step"),
        ("divide", "8914 / 64", LONG.replace("594 - 64 * 9", "594 - 64 * 8"), "139 R 18", "594 - 64 * 8"),
        ("divide", "8914 / 64", LONG.replace("2514 - 64 * 30 = 2514 - 1920 = 594\n", ""), "139 R 18", "594"),
        (
            "divide",
            "8914 / 64",
            LONG.replace("\n594 - 64 * 9 = 594 - 576 = 18", ""),
            "139 R 18",
            "the sum of its steps",
        ),
        ("divide", "8914 / 64", LONG.replace("Therefore, ", ""), "139 R 18", "the last line"),
        ("divide", "8914 / 64", LONG, "139 R 17", "the answer"),
    ],
)
def test_what_is_false_is_seen(task: str, question: str, output: str, answer: str, says: str) -> None:
    with pytest.raises(GroundupError, match="wrong in " + re.escape(says)):
        verify(Problem(task, question, output, answer))
    with pytest.raises(GroundupError, match="no question of the task"):
        verify(Problem(task, question.replace(" ", ""), output, answer))


def test_what_cannot_be_asked() -> None:
    for task, first, second in (("divide", 4, 0), ("add", -1, 3)):
        with pytest.raises(UsageError, match="not among these problems"):
            solve(task, first, second)
    with pytest.raises(UsageError, match="no task 'power'"):
        next(generate(1, tasks=["power"]))
    with pytest.raises(UsageError, match="cannot be made"):
        next(generate(0))
