"""From a pile of tweets to rows that are worth training on: look, clean, divide, prove, and see how hard it will be."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import groundup as gu
from groundup.data.filters import by_score
from groundup.data.scores import scorer
from groundup.evaluation.baselines import difficulty

out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
few = out / "tweets.jsonl"
print(gu.data.mix({"tweets": 1}, few, rows=3000, seed=1).text())  # or a file of yours

print("\n== what is there")
print(gu.data.stats(few).text())

print("\n== without repeated rows, and without shouting")
print(gu.data.dedupe(few, out / "distinct.jsonl", near=0.8).text(most=3))
print(by_score(out / "distinct.jsonl", out / "clean.jsonl", scorer=scorer("letters"), best=0.9).text(examples=3))

print("\n== divided, and nothing of the test part in the training part")
print(gu.data.divide_file(out / "clean.jsonl", out / "parts", validation=0.1, test=300).text())
print(gu.data.decontaminate(out / "parts", out / "parts", out / "train.jsonl").text(most=3))

print("\n== what a model has to beat")
print(difficulty(list(gu.data.Stream(out / "train.jsonl").good())).text())

print("\n== the same task without training: four examples in the prompt")
test, train = gu.data.read(out / "parts", part="test"), gu.data.read(out / "train.jsonl")
for turn in gu.data.shots(test.rows[:1], train.rows, 4, instruction="How does this tweet feel?")[0]["prompt"]:
    print(f"{turn['role']:9}  {turn['content'][:70]!r}")
