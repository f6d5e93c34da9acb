"""Rows of arithmetic from a generator of our own, in the form of Goat (T. Liu and B. K. H. Low, "Goat: Fine-tuned LLaMA
Outperforms GPT-4 on Arithmetic Tasks", 2023), every step of every answer checked with Python's integers.

What a network learns by heart is answered at once: sums, differences, and one-digit factors and divisors. What it does
not is taken apart:

    397 * 4429 = 4429 * (300 + 90 + 7) = 4429 * 300 + 4429 * 90 + 4429 * 7 = 1328700 + 398610 + 31003
      = 1727310 + 31003 = 1758313
    8914 / 64:  8914 - 64 * 100 = 8914 - 6400 = 2514
                2514 - 64 * 30 = 2514 - 1920 = 594
                594 - 64 * 9 = 594 - 576 = 18
                Therefore, 8914 / 64 = 139 R 18
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from groundup.core.errors import GroundupError, UsageError
from groundup.data.kinds import Row

TASKS = ("add", "subtract", "multiply", "divide")
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
DIGITS = 16  # of a summand; products have at most 12 and quotients at most 7, as in Goat
PRODUCT, QUOTIENT = 12, 7


@dataclass(frozen=True)
class Problem:
    """A question ("12 + 30"), what is written down on the way to the answer, and the answer alone ("42")."""

    task: str
    question: str
    output: str
    answer: str

    def row(self, *, chain: bool = True) -> Row:
        """As prompt and completion; without `chain` the answer alone."""
        return {"prompt": self.question, "completion": self.output if chain else self.answer}


def generate(
    rows: int, *, tasks: Sequence[str] = TASKS, digits: int = DIGITS, seed: int = 0, distinct: bool = True
) -> Iterator[Problem]:
    """So many problems, the tasks in turn; the numbers of digits are drawn evenly, so that short numbers are not rare.

    `digits` bounds every number; `distinct` gives no question twice. Each problem went through `verify`.
    Raises UsageError for an unknown task, and where there are not so many questions of so few digits.
    """
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise UsageError(f"There is no task '{unknown[0]}'. Choose from {', '.join(TASKS)}.")
    if rows < 1 or not 1 <= digits <= 64 or not tasks:
        raise UsageError(f"{rows} rows of up to {digits} digits cannot be made. Give 1 row or more, 1 to 64 digits.")
    random, seen = Random(seed), set[str]()
    for number in range(rows):
        task = tasks[number % len(tasks)]
        for _ in range(1000):
            problem = solve(task, *_numbers(task, digits, random))
            if not distinct or problem.question not in seen:
                break
        else:
            raise UsageError(f"There are no {rows} different questions of {digits} digits: {number} were found.")
        seen.add(problem.question)
        verify(problem)
        yield problem


def solve(task: str, first: int, second: int) -> Problem:
    """The problem "first sign second" with its steps. UsageError for a division by nothing or a number below 0."""
    if first < 0 or second < 0 or (task == "divide" and not second):
        raise UsageError(f"{first} {SIGNS[task]} {second} is not among these problems: numbers of 0 or more, no x / 0.")
    question = f"{first} {SIGNS[task]} {second}"
    if task == "add":
        return Problem(task, question, f"{question} = {first + second}", str(first + second))
    if task == "subtract":
        return Problem(task, question, f"{question} = {first - second}", str(first - second))
    if task == "multiply":
        return Problem(task, question, _product(question, first, second), str(first * second))
    quotient, rest = divmod(first, second)
    answer = f"{quotient} R {rest}" if rest else str(quotient)
    return Problem(task, question, _quotient(question, first, second, answer), answer)


def _product(question: str, first: int, second: int) -> str:
    long, short = max(first, second), min(first, second)
    parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(short))) if digit != "0"][::-1]
    if len(parts) < 2:  # one digit, whatever zeros follow: known by heart
        return f"{question} = {first * second}"
    steps = [question, f"{long} * ({' + '.join(map(str, parts))})", " + ".join(f"{long} * {part}" for part in parts)]
    products = [long * part for part in parts]
    while len(products) > 1:
        steps.append(" + ".join(map(str, products)))
        products = [products[0] + products[1], *products[2:]]
    return " = ".join([*steps, str(products[0])])


def _quotient(question: str, first: int, second: int, answer: str) -> str:
    quotient = first // second
    if second < 10 or quotient == 0:
        return f"{question} = {answer}"
    lines, left = list[str](), first
    for place in range(len(str(quotient)) - 1, -1, -1):
        times = quotient // 10**place % 10 * 10**place
        if times:
            product = second * times
            lines.append(f"{left} - {second} * {times} = {left} - {product} = {left - product}")
            left -= product
    return "\n".join([*lines, f"Therefore, {question} = {answer}"])


# --- proof ------------------------------------------------------------------------------------------------------------

_NUMBERS = re.compile(r"(\d+) ([-+*/]) (\d+)")
_TOKEN = re.compile(r"\d+|[-+*()]")


def verify(problem: Problem) -> None:
    """Raises GroundupError unless every step is true, the steps belong together, and the answer is the right one."""
    found = _NUMBERS.fullmatch(problem.question)
    if found is None or found[2] != SIGNS.get(problem.task):
        raise GroundupError(f"'{problem.question}' is no question of the task '{problem.task}'.")
    first, second = int(found[1]), int(found[3])
    last = f"{problem.question} = {problem.answer}"
    if problem.task == "divide":
        quotient, rest = divmod(first, second)
        _claim(problem.answer == (f"{quotient} R {rest}" if rest else str(quotient)), problem, "the answer")
        *steps, end = problem.output.split("\n")
        _claim(end == (f"Therefore, {last}" if steps else last), problem, "the last line")
        left, total = first, 0
        for step in steps:
            begin = re.match(rf"{left} - {second} \* (\d+) = ", step)
            _claim(begin is not None and _equal(step), problem, step)
            total += int(begin[1]) if begin else 0
            left = int(step.rsplit(" = ", 1)[1])
        _claim(not steps or (total, left) == (quotient, rest), problem, "the sum of its steps")
        return
    right = {"add": first + second, "subtract": first - second, "multiply": first * second}[problem.task]
    _claim(problem.answer == str(right), problem, "the answer")
    _claim(problem.output.startswith(f"{problem.question} = "), problem, "how it begins")
    _claim(problem.output.endswith(f" = {right}") and _equal(problem.output), problem, "a step")


def _claim(true: bool, problem: Problem, what: str) -> None:
    if not true:
        raise GroundupError(f"The problem {problem.question} is wrong in {what}.")


def _equal(chain: str) -> bool:
    values = {_value(side) for side in chain.split(" = ")}
    return len(values) == 1 and None not in values


def _value(text: str) -> int | None:
    """The value of whole numbers, + - * and brackets; None for anything else."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        return None
    if len(tokens) == 2 and tokens[0] == "-":
        return -int(tokens[1]) if tokens[1].isdigit() else None
    try:
        value = _sum(tokens)
    except (IndexError, ValueError):
        return None
    return None if tokens else value


def _sum(tokens: list[str]) -> int:
    value = _term(tokens)
    while tokens and tokens[0] in "+-":
        sign = tokens.pop(0)
        value += _term(tokens) if sign == "+" else -_term(tokens)
    return value


def _term(tokens: list[str]) -> int:
    value = _factor(tokens)
    while tokens and tokens[0] == "*":
        tokens.pop(0)
        value *= _factor(tokens)
    return value


def _factor(tokens: list[str]) -> int:
    token = tokens.pop(0)
    if token != "(":
        return int(token)
    value = _sum(tokens)
    if tokens.pop(0) != ")":
        raise ValueError("a bracket is open")
    return value


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(task: str, digits: int, random: Random) -> tuple[int, int]:
    if task in ("add", "subtract"):
        return _number(random, digits), _number(random, digits)
    if task == "multiply":
        most = min(PRODUCT, 2 * digits)
        long = random.randint(1, min(digits, most - 1))
        first, second = _exact(random, long), _exact(random, random.randint(1, min(digits, most - long)))
        return (first, second) if random.random() < 0.5 else (second, first)
    quotient = _number(random, min(QUOTIENT, digits))
    room = max(1, digits - len(str(quotient)))
    divisor = max(1, _number(random, min(room, PRODUCT - len(str(quotient)))))
    rest = random.randrange(divisor) if random.random() < 0.5 else 0
    return quotient * divisor + rest, divisor


def _number(random: Random, digits: int) -> int:
    """Of 1 to so many digits, each length as likely."""
    return _exact(random, random.randint(1, digits))


def _exact(random: Random, digits: int) -> int:
    return random.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
