"""What an evaluation found: scores with their intervals, every answer, the confusion of labels; as JSON, text, picture.

`compare` sets several reports side by side in one table, the first of them as the one to beat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.core import plots
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_write
from groundup.evaluation.metrics import Score, difference, is_label, measure, parse_object, suitable

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "groundup report 1"
OTHER = "(other)"


@dataclass(frozen=True)
class Confusion:
    """How labels were taken for one another: `counts[i][j]` rows of label i were answered with label j.

    The last column, one more than there are labels, counts the answers that are none of them.
    """

    of: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @staticmethod
    def count(of: str, predictions: Sequence[str | None], references: Sequence[str]) -> Confusion:
        """Count one label a row; None is an answer without a label."""
        labels = tuple(sorted(set(references)))
        counts = [[0] * (len(labels) + 1) for _ in labels]
        for ours, theirs in zip(predictions, references, strict=True):
            column = labels.index(ours) if ours in labels else len(labels)
            counts[labels.index(theirs)][column] += 1
        return Confusion(of, labels, tuple(tuple(row) for row in counts))


@dataclass(frozen=True)
class Report:
    """One model over one set of rows.

    name         what the table calls it ("untouched", "tuned")
    scores       in the order in which they are shown
    rows         one a row of data, in its order: prompt, reference, prediction (and what the caller adds)
    confusions   for each label among the fields
    facts        what was measured on what: model, data, seed, seconds ...
    """

    name: str
    scores: tuple[Score, ...]
    rows: tuple[dict[str, Any], ...] = ()
    confusions: tuple[Confusion, ...] = ()
    facts: dict[str, str | int | float] = field(default_factory=dict)

    @staticmethod
    def of(
        name: str,
        predictions: Sequence[str],
        references: Sequence[str],
        *,
        prompts: Sequence[object] | None = None,
        metrics: Sequence[str] | None = None,
        schema: dict[str, Any] | None = None,
        extra: Sequence[Score] = (),
        facts: Mapping[str, str | int | float] | None = None,
    ) -> Report:
        """Score these answers. Without `metrics` (names of `metrics.measure`), those that suit the references are used;
        `extra` scores (a perplexity, measured elsewhere) come after them."""
        wanted = list(metrics) if metrics is not None else suitable(references)
        scores = [measure(metric, predictions, references, schema=schema) for metric in wanted]
        rows: list[dict[str, Any]] = [
            {"reference": theirs, "prediction": ours} for ours, theirs in zip(predictions, references, strict=True)
        ]
        if prompts is not None:
            rows = [{"prompt": prompt} | row for prompt, row in zip(prompts, rows, strict=True)]
        confusions = [
            confusion
            for metric in wanted
            if metric.startswith("field:")
            and (confusion := _confusion(metric.removeprefix("field:"), predictions, references))
        ]
        return Report(name, (*scores, *extra), tuple(rows), tuple(confusions), dict(facts or {}))

    def score(self, name: str) -> Score:
        """The score of this name; UsageError names those that there are."""
        for score in self.scores:
            if score.name == name:
                return score
        names = ", ".join(score.name for score in self.scores)
        raise UsageError(f"the report {self.name!r} has no score {name!r}; it has {names}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `to_json` writes it."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self, path: str | Path) -> None:
        """Write everything, so that `from_json` gives back an equal report."""
        atomic_write(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def from_json(path: str | Path) -> Report:
        """Read what `to_json` wrote. GroundupError for a file that is no such report."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("it says another format")
            scores = tuple(Score(**score | {"values": tuple(score["values"])}) for score in found.pop("scores"))
            confusions = tuple(
                Confusion(each["of"], tuple(each["labels"]), tuple(tuple(row) for row in each["counts"]))
                for each in found.pop("confusions")
            )
            return Report(scores=scores, rows=tuple(found.pop("rows")), confusions=confusions, **found)
        except OSError as error:
            raise GroundupError(f"cannot read the report {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GroundupError(f"{path} is no report of groundup: {error}") from error

    def table(self) -> Table:
        """The scores as a rich table."""
        return compare([self]).table()

    def text(self) -> str:
        """The scores as plain text, one a line."""
        return compare([self]).text()

    def png(self, path: str | Path) -> None:
        """Draw the scores between 0 and 1 as bars with their intervals."""
        compare([self]).png(path)


def _confusion(of: str, predictions: Sequence[str], references: Sequence[str]) -> Confusion | None:
    """The confusion of the field `of`, where it is a label."""
    wanted = [(parse_object(text) or {}).get(of) for text in references]
    texts = [value for value in wanted if isinstance(value, str)]
    if len(texts) < len(wanted) or not is_label(texts):
        return None
    found = [(parse_object(text) or {}).get(of) for text in predictions]
    return Confusion.count(of, [value if isinstance(value, str) else None for value in found], texts)


@dataclass(frozen=True)
class Comparison:
    """Several reports side by side: one line a report, one column a score, and what was gained over the first."""

    reports: tuple[Report, ...]

    @property
    def names(self) -> list[str]:
        """The names of all scores, each once, in the order in which the reports have them."""
        return list(dict.fromkeys(score.name for report in self.reports for score in report.scores))

    def cells(self) -> list[list[str]]:
        """The table as text: a header, then a line a report. A score that a report does not have is a dash."""
        lines = [["", *self.names, "rows"]]
        for report in self.reports:
            found = {score.name: score for score in report.scores}
            shown = [str(found[name]) if name in found else "-" for name in self.names]
            lines.append([report.name, *shown, str(max((score.n for score in report.scores), default=0))])
        return lines

    @property
    def ends(self) -> tuple[Report, Report]:
        """The first report, and the last one over the same rows (a baseline for one label has no such rows)."""
        first = self.reports[0]
        asked = [row.get("reference") for row in first.rows]
        return first, [report for report in self.reports if [row.get("reference") for row in report.rows] == asked][-1]

    def gains(self) -> dict[str, Score]:
        """For each score that both `ends` have: the paired difference, the last against the first."""
        first, last = self.ends
        before = {score.name: score for score in first.scores if score.values}
        return {
            after.name: difference(before[after.name], after)
            for after in last.scores
            if last is not first and after.name in before and len(before[after.name].values) == len(after.values)
        }

    def notes(self) -> list[str]:
        """A line for each gain, and what the brackets mean."""
        first, last = self.ends
        lines = [
            f"{name}, {last.name} against {first.name}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            for name, gain in self.gains().items()
        ]
        return [*lines, "[low, high]: 95 % intervals"]

    def table(self) -> Table:
        """The comparison as a rich table."""
        from rich.table import Table
        from rich.text import Text

        header, *lines = self.cells()
        table = Table(box=None, header_style="bold", caption=Text("\n".join(self.notes())), caption_justify="left")
        for column, name in enumerate(header):
            table.add_column(Text(name), justify="left" if column == 0 else "right", no_wrap=column == 0)
        for line in lines:
            # an interval is one word, so that a narrow terminal breaks the line before it and not inside
            table.add_row(*(Text(cell.replace(", ", ",") if at else cell) for at, cell in enumerate(line)))
        return table

    def text(self) -> str:
        """The comparison as plain text, columns aligned."""
        lines = self.cells()
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        shown = [
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
                ]
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*shown, *self.notes()])

    def png(self, path: str | Path, title: str = "Scores with 95 % intervals") -> None:
        """Draw the scores that lie between 0 and 1 as groups of bars, one group a score, one bar a report."""
        names = [
            name
            for name in self.names
            if all(
                score.high <= 1 and score.low >= 0
                for each in self.reports
                for score in each.scores
                if score.name == name
            )
        ]
        if not names:
            raise UsageError("there is no score between 0 and 1 to draw")
        series: dict[str, list[tuple[float, float, float] | None]] = {}
        for report in self.reports:
            found = {score.name: (score.value, score.low, score.high) for score in report.scores}
            series[report.name] = [found.get(name) for name in names]
        plots.bars(names, series, path, title=title)


def compare(reports: Sequence[Report]) -> Comparison:
    """Several reports in one table, in this order; the last over the same rows is set against the first."""
    if not reports:
        raise UsageError("there are no reports to compare")
    return Comparison(tuple(reports))
