"""What only a GPU can show: every family and method computes, trains and answers there as on the processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import ENCODERS, FAMILIES, TWO_HALVES, logits
from test_laws import ADAPTERS, CASES

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling
from groundup.inputs.tokenizer import Encoded
from groundup.nn.stack import EncoderDecoder
from groundup.training import state
from groundup.training.loop import Place, Trainer
from groundup.training.objective import CAUSAL
from groundup.training.settings import Settings

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),  # the backward pass has a thread of its own
]
DECODERS = sorted(set(FAMILIES) - ENCODERS - TWO_HALVES)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.device.type == "cuda"
    assert (ours.cpu() - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


def both(folders: Any, family: str, case: str | None) -> list[gu.Model]:
    """The same model on the processor and on the GPU, with the same adapter far from its start."""
    made = []
    for device in ("cpu", "cuda"):
        model = gu.load(folders(family), device=device)
        if case is not None:
            try:
                model = gu.adapt(model, CASES[case], name="mine")
            except UsageError as error:
                pytest.skip(str(error))
            generator = torch.Generator().manual_seed(7)
            for parameter in CASES[case].trained(model.network, "mine").values():
                with torch.no_grad():
                    parameter.add_((torch.randn(parameter.shape, generator=generator) * 0.3).to(device))
        made.append(model)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", [None, *ADAPTERS])
def test_logits_are_the_processors(folders, family, case):
    ours, there = both(folders, family, case)
    close(logits(there), logits(ours))
    if family not in ENCODERS:
        close(logits(there, kept=True), logits(ours))


@pytest.mark.parametrize("family", DECODERS)
def test_rows_of_one_batch_use_adapters_of_different_kinds(folders, family):
    found = []
    for device in ("cpu", "cuda"):
        model = gu.load(folders(family), device=device)
        for kind in ("lora", "prompt", "prefix", "llama-adapter"):
            model = gu.adapt(model, CASES[kind], name=kind)
        found.append(logits(model, ["lora", None, "prompt", "llama-adapter"], kept=True))
    close(found[1], found[0])


@pytest.mark.parametrize("family", [*DECODERS, *sorted(TWO_HALVES)])
@pytest.mark.parametrize(
    "how", [Sampling(9, temperature=0), Sampling(9, temperature=0, beams=3), Sampling(9, seed=3)], ids=str
)
def test_answers_are_the_processors(folders, family, how):
    prompts = [[5, 9, 33], [7], [12, 80, 4, 4, 61, 9]]
    said = []
    for device in ("cpu", "cuda"):
        network = gu.load(folders(family), device=device).network
        start = 0 if isinstance(network, EncoderDecoder) else None
        said.append([a.ids for a in answer(network, prompts, sampling=how, batch=2, decoder_start=start)])
    assert said[0] == said[1]


def rows(count: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    return [
        Encoded(torch.randint(3, 97, (4 + i % 7,), generator=generator).tolist(), [False, False] + [True] * (2 + i % 7))
        for i in range(count)
    ]


def trainer(model: gu.Model, **how: Any) -> Trainer:
    own = model.method.trained(model.network, "mine")
    for parameter in own.values():
        parameter.requires_grad_()
    settings = Settings(**{"steps": 4, "batch": 4, "learning_rate": 1e-2, **how})
    return Trainer(
        model.network, own, rows(16), [], settings, out=Path(), adapter="mine", keep=lambda path: None,
        objective=CAUSAL, device=model.device,
    )  # fmt: skip


def losses(run: Trainer, steps: int) -> list[float]:
    groups = run.groups(Place(0, 0))
    return [run.update(next(groups)[0], 1e-2) for _ in range(steps)]


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("how", [{}, {"optimizer": "lomo"}, {"checkpointing": True}], ids=str)
def test_training_goes_the_same_way(folders, case, how):
    found = []
    for device in ("cpu", "cuda"):
        model = gu.adapt(gu.load(folders("llama"), device=device), CASES[case], name="mine") if case != "bitfit" else (
            gu.adapt(gu.load(folders("gpt2"), device=device), CASES[case], name="mine")
        )  # fmt: skip
        found.append(losses(trainer(model, **how), 4))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][0] != found[0][-1]


def test_dropout_goes_on_to_the_bit_after_a_stop(folders):
    model = gu.adapt(gu.load(folders("llama"), device="cuda"), gu.LoRA(rank=3, dropout=0.5, targets="all"), name="mine")
    run = trainer(model)
    losses(run, 2)
    kept = {name: value.clone() for name, value in state.capture(run.trained, run.optimizer).items()}
    once = losses(run, 2)
    state.restore(kept, run.trained, run.optimizer)
    assert losses(run, 2) == once


def test_the_verbs_take_a_device(tmp_path, capsys):
    data = tmp_path / "texts.txt"
    data.write_text("\n\n".join(f"line {i} of a text that says so" for i in range(60)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"family: llama\nmodel: {{num_hidden_layers: 1, num_attention_heads: 2, hidden_size: 16, intermediate_size: 24,"
        f" num_key_value_heads: 1, max_position_embeddings: 64}}\ntokenizer: {{kind: bpe, vocabulary: 280}}\n"
        f"data: {data}\nsteps: 5\nbatch: 4\nlearning_rate: 1e-2\nprecision: float32\n"
    )
    run, tuned = str(tmp_path / "run"), str(tmp_path / "tuned")
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps({"prompt": f"line {i}", "completion": " of a text"}) for i in range(20)))
    for words in (
        ["pretrain", str(recipe), "--out", run],
        ["finetune", run, "--data", str(lines), "--out", tuned, "--steps", "3", "--precision", "bfloat16"],
        ["generate", tuned, "line 3", "--max-tokens", "4"],
        ["evaluate", tuned, "--data", str(lines), "--metrics", "perplexity"],
        ["compare", run, "--data", str(lines), "--methods", "lora;prompt", "--seeds", "1", "--steps", "2", "--out",
         str(tmp_path / "compared")],
    ):  # fmt: skip
        assert main([*words, "--device", "cuda"]) == 0, capsys.readouterr().err
