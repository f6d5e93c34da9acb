"""`fill`, `embed` and `interpret`, on a tiny model with words: what they print, write, refuse, and go on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import groundup as gu
from groundup.cli import embed as embedding
from groundup.cli.main import main
from groundup.model import Model
from interpret.worded import write_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    write_bert(folder)
    return str(folder)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_fill(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", bert, "the [MASK] sat on the [MASK]", "--top", "2"]) == 0
    assert "mask 2" in capsys.readouterr().out
    assert main(["fill", bert, "the [MASK] sat", "--top", "2", "--json"]) == 0
    (mask,) = said(capsys)["masks"]
    want = gu.load(bert).fill("the [MASK] sat", top=2)
    assert [(each["token"], each["probability"]) for each in mask] == [(w, pytest.approx(p)) for w, p in want]
    assert main(["fill", bert, "the cat sat"]) == 2
    assert "write [MASK]" in capsys.readouterr().err


def test_embed_texts(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "two.jsonl"
    assert main(["embed", bert, "the cat", "a dog", "--out", str(out)]) == 0
    assert "1.000" in capsys.readouterr().out
    assert main(["embed", bert, "the cat", "a dog", "--json"]) == 0
    found = said(capsys)
    want = gu.load(bert).embed(["the cat", "a dog"])
    assert np.allclose(found["vectors"], want, atol=1e-6) and found["cosines"][0][0] == pytest.approx(1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == ["the cat", "a dog"]
    assert np.allclose([row["vector"] for row in rows], want, atol=1e-6)
    assert main(["embed", bert, "the cat", "--out", str(out)]) == 2
    assert main(["embed", bert, "the cat", "--out", str(tmp_path / "x.txt")]) == 2
    assert main(["embed", bert]) == 2
    assert main(["embed", bert, "--data", "rows.jsonl"]) == 2


def test_embed_a_file_goes_on_where_it_was_killed(
    bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"the {'cat ' * (i % 5)}sat" for i in range(23)]
    data, out = tmp_path / "rows.jsonl", tmp_path / "rows.npy"
    data.write_text("".join(json.dumps({"body": t, "other": 1}) + "\n" for t in texts))
    words = ["embed", bert, "--data", str(data), "--field", "body", "--out", str(out), "--batch", "1"]
    real, calls = Model.embed, []

    def dies(self: Model, given: Any, **how: Any) -> Any:
        calls.append(len(given))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, given, **how)

    monkeypatch.setattr(Model, "embed", dies)
    assert main(words) == 130
    assert "16 of 23 vectors kept" in capsys.readouterr().err
    part = embedding.part_of(out)
    with part.open("ab") as file:
        file.write(b"half")  # a vector that was being written
    monkeypatch.setattr(Model, "embed", real)
    assert main([*words[:-2], "--batch", "1", "--pooling", "first"]) == 2
    assert "another job" in capsys.readouterr().err
    assert main(words) == 0
    assert "16 of 23 texts are done already" in capsys.readouterr().err
    assert not part.exists()
    found = np.load(out)
    assert found.dtype == np.float32 and np.allclose(found, gu.load(bert).embed(texts), atol=1e-5)


def test_embed_names_the_row_that_has_no_text(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "the cat"}\n{"body": "the cat"}\n')
    assert main(["embed", bert, "--data", str(data), "--out", str(tmp_path / "o.npy")]) == 2
    assert "rows.jsonl line 2 has no text in 'text' but body" in capsys.readouterr().err
    data.write_text('{"text": "the cat"}\n' + json.dumps({"text": "the " * 50}) + "\n")
    assert main(["embed", bert, "--data", str(data), "--out", str(tmp_path / "o.npy")]) == 2
    assert "text 2 has 52 tokens" in capsys.readouterr().err
    assert main(["embed", bert, "--data", str(data), "--out", str(tmp_path / "p.npy"), "--truncate"]) == 0
    assert np.load(tmp_path / "p.npy").shape == (2, 30)


def test_interpret_attention(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, out = ["interpret", "attention", bert, "the cat sat"], tmp_path / "a.png"
    assert main([*words, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "[CLS]" in shown.out and "blocks.2.attn, mean of all heads" in shown.out and "wrote" in shown.err
    assert out.exists()
    assert main([*words, "--layer", "1", "--head", "4", "--json"]) == 0
    (found,) = said(capsys)["maps"]
    assert found["path"] == "blocks.1.attn" and found["keys"] == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert np.allclose(np.sum(found["weights"], axis=-1), 1, atol=1e-5) and np.shape(found["weights"]) == (1, 5, 5)
    for wrong in (["--head", "1"], ["--layer", "3"], ["--layer", "0", "--head", "5"], ["--part", "cross"]):
        assert main([*words, *wrong]) == 2
    assert main([*words, "--out", str(out)]) == 2
    assert main([*words, "--out", str(tmp_path / "a.jpg")]) == 2


def test_interpret_lens_and_words(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpret", "lens", bert, "the cat", "--out", str(tmp_path / "l.png")]) == 0
    assert "blocks.2" in capsys.readouterr().out
    assert main(["interpret", "lens", bert, "the cat", "--json", "--top", "2"]) == 0
    found = said(capsys)
    assert found["layers"] == ["embed", "blocks.0", "blocks.1", "blocks.2"]
    assert np.shape(found["words"]) == (4, 4, 2) and set(found["rank"][-1]) == {1}
    assert main(["interpret", "words", bert, "king", "--out", str(tmp_path / "w.png"), "--top", "3"]) == 0
    assert capsys.readouterr().out.startswith("king  cosine  king 1.000")
    np.save(tmp_path / "v.npy", np.ones((2, 30)))
    assert main(["interpret", "words", bert, "--vectors", str(tmp_path / "v.npy"), "--json"]) == 0
    assert len(said(capsys)["vectors"]) == 2
    np.save(tmp_path / "flat.npy", np.ones(30))
    for wrong in ([], ["king", "--vectors", "v.npy"], ["--vectors", str(tmp_path / "flat.npy")], ["--vectors", bert]):
        assert main(["interpret", "words", bert, *wrong]) != 0


def test_a_soft_prompt_in_pefts_layout(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    table = gu.load(bert).network.embed.tokens.weight.dense()
    save_file({"prompt_embeddings": table[[50, 40]].clone()}, tmp_path / "adapter_model.safetensors")
    assert main(["interpret", "words", bert, "--vectors", str(tmp_path), "--json", "--top", "1"]) == 0
    pieces = gu.load(bert).pieces([50, 40])
    assert [each["cosine"][0][0] for each in said(capsys)["vectors"]] == pieces
    save_file({"lora_A": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert main(["interpret", "words", bert, "--vectors", str(tmp_path)]) == 2
    assert "holds no soft prompt" in capsys.readouterr().err
    assert main(["interpret", "words", bert]) == 2
    assert "no soft prompt is in use" in capsys.readouterr().err


def test_interpret_embeddings(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = ["animals=cat,dog", "people=king,queen"]
    assert main(["interpret", "embeddings", bert, *groups, "--out", str(tmp_path / "e.png")]) == 0
    assert "silhouette" in capsys.readouterr().out
    assert main(["interpret", "embeddings", bert, *groups, "--json"]) == 0
    found = said(capsys)
    assert found["texts"] == ["cat", "dog", "king", "queen"] and np.shape(found["points"]) == (4, 2)
    for wrong in (["cat", "dog"], ["a="], []):
        assert main(["interpret", "embeddings", bert, *wrong]) == 2


def test_interpret_positions_and_masks(bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for of in ("sinusoidal", "rotary", "alibi", bert):
        name = tmp_path / f"{Path(of).name}.png"
        assert main(["interpret", "positions", of, "--length", "9", "--width", "6", "--out", str(name)]) == 0
        assert name.exists() and "numbers from" in capsys.readouterr().out
    assert main(["interpret", "positions", bert, "--length", "99"]) == 2
    assert main(["interpret", "positions", "sinusoidal", "--length", "2", "--width", "3", "--json"]) == 0
    assert said(capsys)["tables"][0]["values"][0] == [0, 1, 0]
    assert (
        main(["interpret", "mask", "window", "--rows", "2,3", "--window", "2", "--out", str(tmp_path / "m.png")]) == 0
    )
    assert capsys.readouterr().out == "x . . . .\nx x . . .\n. . x . .\n. . x x .\n. . . x x\n"
    assert main(["interpret", "mask", "causal", "--rows", "two"]) == 2
    assert main(["interpret", "mask", "causal", "--rows", "3000"]) == 2
