"""A newsroom's desk: teach a small model to file news items as JSON, and see what it was worth.

    python examples/newsroom.py [--minutes 5] [--out runs/newsroom]

Takes a starter model and BBC news items (for research use), scores the untouched model, tunes it with LoRA, scores it
again, with and without a JSON schema, beside two baselines for the desk; keeps the adapter and draws two pictures.
"""

import argparse
import json
from pathlib import Path

import groundup as gu
from groundup.cli.progress import Progress
from groundup.core import plots
from groundup.data import encode, news, rows
from groundup.evaluation import baselines
from groundup.evaluation.metrics import accuracy
from groundup.evaluation.report import Report, compare

METRICS = ["json", "field:desk", "rouge-l:headline"]
LENGTH = 64  # tokens an answer; the longest reference has fewer


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--out", type=Path, default=Path("runs/newsroom"))
    given = options.parse_args()
    out = free(given.out)

    print("== the model and the rows")
    lm = gu.load("smollm2-135m-instruct", dtype="auto")
    print(*lm.notes, sep="\n")
    print(news.make(out))
    test = rows.read(out / "test.jsonl")

    def score(model: gu.Model, name: str, schema: dict | None = None) -> Report:
        with Progress("answer") as progress:
            return gu.evaluate(model, test.rows, metrics=METRICS, name=name, schema=schema, max_tokens=LENGTH,
                               on_progress=progress.update)  # fmt: skip

    print("\n== the untouched model")
    reports = [score(lm, "untouched"), score(lm, "untouched + schema", news.SCHEMA)]

    print(f"\n== tuning for {given.minutes:g} minutes")
    tuned = gu.adapt(lm, gu.LoRA(rank=16, alpha=32, targets="all"))
    with Progress("step") as progress:
        run = gu.finetune(tuned, out / "train.jsonl", out=out / "lora", minutes=given.minutes,
                          on_progress=progress.update, say=progress.say)  # fmt: skip
    print(f"{run.rows} rows in {run.seconds:.0f} s; validation loss {run.best_loss:.3f} at step {run.best_step} (best), "
          f"{run.last_loss:.3f} at step {run.steps} (last)")  # fmt: skip

    print("\n== the tuned model")
    tuned = gu.load("smollm2-135m-instruct", dtype="auto", adapter=run.out)
    print(tuned.notes[-1])
    reports += [score(tuned, "tuned"), score(tuned, "tuned + schema", news.SCHEMA)]

    table = compare([*reports, *honest(rows.read(out / "train.jsonl"), test)])
    print("\n" + table.text())
    (out / "scores.txt").write_text(table.text() + "\n")
    table.png(out / "scores.png")
    desks = next(c for c in reports[2].confusions if c.of == "desk")
    plots.confusion(
        desks.labels, desks.counts, out / "desks.png", title="Desk: what it was (lines), what the tuned model said"
    )

    item = encode.prompt_of(test.rows[0])
    print(f"\n== one item\n{item[-1]['content'].split(chr(10))[-1]}")
    print(
        f"\nwithout the adapter: {lm.chat(item, max_tokens=LENGTH)!r}\nwith the adapter:    {tuned.chat(item, max_tokens=LENGTH)!r}"
    )
    print(
        f"\nadapter   {run.best}  (PEFT's layout)\npictures  {run.out / 'loss.png'}  {out / 'desks.png'}  {out / 'scores.png'}"
    )
    print(f"talk on   .venv/bin/groundup chat {run.out}")


def honest(train: rows.Dataset, test: rows.Dataset) -> list[Report]:
    """What the desk costs without a language model: the commonest desk, and word counts with logistic regression."""
    asked = [[str(encode.prompt_of(r)[-1]["content"]) for r in part.rows] for part in (train, test)]
    desks = [[json.loads(encode.reference_of(r))["desk"] for r in part.rows] for part in (train, test)]
    guesses = {
        "majority desk": baselines.majority(desks[0], len(test)),
        "TF-IDF + logistic": baselines.tfidf(asked[0], desks[0], asked[1]),
    }
    return [Report(name, (accuracy(said, desks[1], "right desk"),)) for name, said in guesses.items()]


def free(path: Path) -> Path:
    """The first of path, path-2, path-3 ... that does not exist: no run is overwritten."""
    number = 2
    found = path
    while found.exists():
        found = path.with_name(f"{path.name}-{number}")
        number += 1
    return found


if __name__ == "__main__":
    main()
