"""Methods side by side on rows with labels: their scores, and what they must beat."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from test_classify import SIZES, TRAIN, tagged, texts

import groundup as gu
from groundup.core.errors import UsageError
from groundup.data.labelled import labelled
from groundup.inputs.train import train_tokenizer
from groundup.training.pretrain import scratch

QUICK: dict[str, Any] = {"steps": 60, "learning_rate": 1e-2, "batch": 16, "precision": "float32", "seeds": 1}
UNEVEN = [row for row in TRAIN if row["label"] == "up"] + [row for row in TRAIN if row["label"] == "down"][:20]
TEST = texts(40, seed=1)[:30] + [row for row in texts(40, seed=2) if row["label"] == "up"][:10]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([row["text"] for row in TRAIN], "wordpiece", vocabulary=280, specials="masked")
    return gu.save(scratch("bert", SIZES["bert"], tokenizer).using(None), tmp_path_factory.mktemp("base") / "bert")


def test_labels_are_scored_as_evaluate_does_and_beside_the_commonest(base: Path, here: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = gu.compare(base, UNEVEN, methods="lora;freeze:layers=0", out=out, test=TEST, validation=TEST, **QUICK)
    constant, lora, head = found.trials
    assert (found.score, list(lora.others)) == ("accuracy", ["macro-F1"])
    wanted = [row["label"] for row in TEST]
    assert Counter(row["label"] for row in UNEVEN).most_common(1)[0][0] == "up"
    assert constant.name == "always the commonest"
    assert constant.scores == (pytest.approx(wanted.count("up") / len(wanted)),)
    f1 = sklearn.metrics.f1_score(wanted, ["up"] * len(wanted), average="macro", zero_division=0.0)
    assert constant.others["macro-F1"] == (pytest.approx(f1),)
    report = gu.evaluate(gu.load(out / "lora" / "seed-0"), TEST)
    assert lora.scores == (report.score("accuracy").value,) and lora.scores[0] > 0.8 > constant.scores[0]
    assert lora.others["macro-F1"] == (report.score("macro-F1").value,)
    assert head.trained == 2 * 32 + 2 + 32 * 32 + 32  # the head with its pooler, and no block
    assert "macro-F1" in found.cells()[0] and "accuracy of " in found.recommendation()

    # the model that has learned these labels is asked itself
    kept = gu.save(gu.merge(gu.load(out / "lora" / "seed-0")), tmp_path / "kept")
    again = gu.compare(kept, UNEVEN, methods="lora", out=tmp_path / "two", test=TEST, **{**QUICK, "steps": 1})
    assert (again.trials[0].name, again.trials[0].scores) == ("untouched", lora.scores)


@pytest.mark.parametrize("kind", ["single", "multi", "regression", "tags"])
def test_without_a_test_it_is_the_loss_of_a_constant(kind: str, base: Path, here: Any, tmp_path: Path) -> None:
    made = {
        "single": (UNEVEN, TEST),
        "multi": ([{**r, "label": [r["label"], "word"]} for r in UNEVEN], [{**r, "label": [r["label"]]} for r in TEST]),
        "regression": (
            [{**r, "label": float(len(r["text"]))} for r in UNEVEN],
            [{**r, "label": float(len(r["text"]))} for r in TEST],
        ),
        "tags": (tagged(UNEVEN), tagged(TEST)),
    }
    train, valid = made[kind]
    how = {**QUICK, "steps": 1}
    found = gu.compare(base, train, methods="bitfit", out=tmp_path / "out", validation=valid, **how).untouched
    if kind == "regression":
        mean = np.mean([row["label"] for row in train])
        assert found.name == "always the mean"
        assert found.scores[0] == pytest.approx(np.mean([(row["label"] - mean) ** 2 for row in valid]))
        return
    flat = [t for row in train for t in (row["tags"] if kind == "tags" else [row["label"]])]
    asked = [t for row in valid for t in (row["tags"] if kind == "tags" else [row["label"]])]
    if kind == "multi":
        up, seen = np.mean(["up" in one for one in flat]), np.mean(["up" in one for one in asked])
        cross = -(seen * math.log(up) + (1 - seen) * math.log(1 - up))
        # up, down and "word", which every training row has and no validation row
        assert found.scores[0] == pytest.approx((2 * cross - math.log(1e-6)) / 3)
        return
    assert found.scores[0] == pytest.approx(-np.mean([math.log(flat.count(t) / len(flat)) for t in asked]))
    assert found.name == "always the commonest"


def test_a_label_of_one_row_is_learned_from(base: Path, here: Any, tmp_path: Path) -> None:
    rows = [{"text": f"{'abc'[i % 3]} good {i}", "label": f"only {i}" if i % 2 else "often"} for i in range(40)]
    gu.compare(base, rows, methods="bitfit", out=tmp_path / "out", **{**QUICK, "steps": 1})
    parts = {
        name: [row["label"] for row in labelled(tmp_path / "out" / "data" / f"{name}.jsonl").rows]
        for name in ("train", "validation")
    }
    assert set(parts["validation"]) == {"often"} and len(parts["train"]) + len(parts["validation"]) == 40


def test_another_field_and_what_is_refused(base: Path, here: Any, tmp_path: Path) -> None:
    renamed = [{"text": row["text"], "mood": row["label"]} for row in UNEVEN]
    how = {**QUICK, "steps": 1}
    found = gu.compare(base, renamed, methods="bitfit", out=tmp_path / "out", test=renamed[:9], label="mood", **how)
    assert found.score == "accuracy" and len(found.trials[1].scores) == 1
    with pytest.raises(UsageError, match="another aim"):
        gu.compare(base, renamed, methods="bitfit", out=tmp_path / "out", test=renamed[:9], label="text", **how)
    with pytest.raises(UsageError, match="own metrics"):
        gu.compare(base, TRAIN, methods="lora", out=tmp_path / "no", test=TEST, metrics=["exact-match"], **how)
    other = [{"text": "a", "label": "sideways"}]
    with pytest.raises(UsageError, match="row 1|line 1: the label is 'sideways', and the head's single labels are"):
        gu.compare(base, TRAIN, methods="lora", out=tmp_path / "no", test=other, **how)
    assert not (tmp_path / "no").exists()
    told = gu.compare(base, TRAIN, methods="bitfit", out=tmp_path / "words", label="none", **how)  # the text instead
    assert told.untouched.name == "untouched"
