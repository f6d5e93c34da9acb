"""What a run will take, told before it begins: against the run itself, and against closed forms."""

import json
from dataclasses import replace

import pytest
import torch
from test_methods import TEXTS
from test_methods import model as small_model

import groundup as gu
from groundup import models
from groundup.checkpoints.outline import outline
from groundup.cli.main import main
from groundup.core import machine
from groundup.core.costs import Rates, hours, training_operations
from groundup.core.errors import UsageError
from groundup.core.files import bytes_of, size
from groundup.core.live import Live
from groundup.inputs.tokenizer import Encoded
from groundup.model import Model
from groundup.nn.stack import EncoderDecoder
from groundup.nn.surgery import shared, without_numbers
from groundup.peft.methods import METHODS
from groundup.quantization.kinds import parse
from groundup.training import finetune
from groundup.training.estimate import Job, _filled, _trainer
from groundup.training.forecast import cache_bytes, needed
from groundup.training.objective import CAUSAL
from groundup.training.seq2seq import Pair, seq2seq
from groundup.training.settings import Settings

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 300,
}
CONFIGS = {
    "llama": {**SMALL, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300},
    "mixtral": {**SMALL, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2},
    "t5": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 96,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "vocab_size": 300,
    },
}


@pytest.fixture
def config(tmp_path):
    """A folder that holds a family's config.json and nothing else."""

    def write(family, **changes):
        public = (
            getattr(models, family).Config.from_public({"model_type": family, **CONFIGS[family], **changes}).to_public()
        )
        folder = tmp_path / family
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": family, **public}))
        return folder

    return write


def job(folder, method, *, kind=None, length=24, **settings):
    found = outline(folder)
    settings = Settings(**{"batch": 4, "precision": "float32", "learning_rate": 1e-3, "steps": 1, **settings})
    two = isinstance(found.network, EncoderDecoder)
    ids = [3 + 7 * i % 290 for i in range(length)]
    row = Pair(ids, [True] * length, length // 2) if two else Encoded(ids, [True] * length)
    model = Model(found.network, found.family, found.config, None, found.origin)
    return Job(model, method, kind, settings, seq2seq(0) if two else CAUSAL, [row] * settings.batch)


def both(asked):
    """What is forecast without numbers, and what the same update holds that is really computed."""
    network = _filled(shared(asked.model.network))
    empty = replace(asked, model=replace(asked.model, network=without_numbers(asked.model.network, {})[0]))
    real = replace(asked, model=replace(asked.model, network=network))
    return needed(*_trainer(empty, numbers=False)), needed(*_trainer(real, numbers=True))


def alike(told, found):
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(told, name) == pytest.approx(getattr(found, name), rel=1e-3, abs=2100), (
            name
        )  # a table, made once
    assert told.activations == pytest.approx(found.activations, rel=0.02)
    assert told.peak == pytest.approx(found.peak, rel=0.02)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_update_without_numbers_holds_what_a_real_one_holds(config, family, method):
    alike(*both(job(config(family), METHODS[method]())))


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("lora", "full")])
def test_every_method_is_forecast(config, method):
    alike(*both(job(config("gpt2" if method == "bitfit" else "llama"), METHODS[method]())))


@pytest.mark.parametrize("more", [
    {"optimizer": "adafactor"}, {"optimizer": "sgd"}, {"optimizer": "lomo"}, {"checkpointing": True}, {"accumulate": 2},
    {"average": 3}, {"precision": "bfloat16"},
])  # fmt: skip
def test_every_setting_is_forecast(config, more):
    alike(*both(job(config("llama"), gu.Full(), **more)))


@pytest.mark.parametrize("kind", ["nf4", "int8", "q4_0"])
def test_a_base_in_few_bits_is_forecast(config, kind):
    told, found = both(job(config("llama"), gu.LoRA(), kind=parse(kind)))
    alike(told, found)
    assert told.weights < both(job(config("llama"), gu.LoRA()))[0].weights


def test_closed_forms(config):
    numbers = sum(p.numel() for p in outline(config("llama")).network.parameters())
    told, _ = both(job(config("llama"), gu.Full()))
    assert told.weights == told.gradients == 4 * numbers
    assert told.optimizer == pytest.approx(8 * numbers, rel=1e-3)
    assert both(job(config("llama"), gu.Full(), optimizer="lomo"))[0].optimizer == 0
    lora = job(config("llama"), gu.LoRA(rank=2, targets="attn.q"))
    assert both(lora)[0].gradients == 4 * 3 * 2 * (64 + 64)  # three blocks, B and A


def test_checkpointing_and_a_smaller_batch_hold_less(config):
    whole = both(job(config("llama"), gu.LoRA(), length=200))[0]
    assert (
        both(job(config("llama"), gu.LoRA(), length=200, checkpointing=True))[0].activations < 0.7 * whole.activations
    )
    assert both(job(config("llama"), gu.LoRA(), length=200, batch=2))[0].activations < 0.7 * whole.activations


def test_cache_of_a_token():
    """2 · layers · key heads · width · bytes: 0.78 MiB a token of a Llama of 13 billion numbers in 16 bits."""
    from groundup.models import llama

    public = {"model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
              "num_key_value_heads": 40, "intermediate_size": 13824, "vocab_size": 32000}  # fmt: skip
    with torch.device("meta"):
        network = llama.build(llama.Config.from_public(public))
    assert cache_bytes(without_numbers(network.half(), {})[0]) == 2 * 40 * 5120 * 2 == round(0.78125 * 2**20)


def test_live_sees_what_is_freed_and_what_is_shared():
    with Live() as live:
        a = torch.zeros(1000)
        b = a[:10].view(2, 5)
        assert live.now == 4000
        del a
        assert live.now == 4000
        c = b + 1
        assert live.now == 4040
        del b
        assert live.now == 40 and live.peak == 4040
        del c
    assert live.now == 0


def test_arithmetic_of_others():
    """BLOOM's training: 433,196 kWh at 57 g are 24.7 t (arXiv 2211.02001); MosaicML's 30 billion numbers on 610 billion
    tokens: about 450,000 dollars."""
    assert Rates(watts=433_196e3, grams_per_kwh=57).bill(3600).carbon == pytest.approx(24.7e6, rel=1e-3)
    gpu_hours = hours(training_operations(30e9, 610e9), 312e12, 0.44)
    assert gpu_hours * 2 == pytest.approx(450_000, rel=0.06)
    with pytest.raises(UsageError, match="watts"):
        Rates(watts=-1)


def test_sizes_are_read_back():
    assert [bytes_of(s) for s in ("8GB", "8 gib", "1.5k", "12")] == [8 * 10**9, 8 * 2**30, 1500, 12]
    assert bytes_of(size(145e6)) == 145e6
    with pytest.raises(UsageError, match="write it as"):
        bytes_of("much")


def test_nothing_of_the_models_size_is_there(config):
    """Fifty-five billion numbers."""
    folder = config("llama", hidden_size=16384, num_hidden_layers=16, num_attention_heads=128, num_key_value_heads=8,
                    intermediate_size=53248, vocab_size=128256)  # fmt: skip
    found = gu.estimate(folder, gu.LoRA(), batch=1, length=64, precision="float32", timed=False, memory=24 * 10**9)
    assert found.memory.weights > 2e11 and not found.fits and found.smaller is None


def test_what_is_said_fits(config, capsys):
    folder = config("llama")
    words = [
        "estimate",
        str(folder),
        "--batch",
        "64",
        "--length",
        "512",
        "--precision",
        "float32",
        "--memory-only",
        "--json",
    ]
    assert main(words) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["fits"] and whole["smaller"] is None
    room = whole["peak"] - whole["memory"]["activations"] // 3
    assert main([*words, "--memory", str(room)]) == 0
    tight = json.loads(capsys.readouterr().out)
    assert not tight["fits"] and "--batch 32 --accumulate 2" in tight["smaller"]
    again = ["--batch", "32", "--accumulate", "2"]
    assert main([words[0], words[1], *again, *words[4:], "--memory", str(room)]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]


def test_time_and_its_bill(config, capsys):
    folder = config("t5")
    words = ["estimate", str(folder), "--batch", "2", "--length", "8", "--precision", "float32", "--steps", "50"]
    assert main([*words, "--watts", "100", "--grams-per-kwh", "57", "--price-per-hour", "2"]) == 0
    said = capsys.readouterr().out
    for each in ("weights", "peak", "an update", "the run", "g of CO2", "of money"):
        assert each in said


def test_refused(config, capsys):
    folder = config("llama")
    assert main(["estimate", str(folder), "--method", "full", "--store", "nf4"]) == 2
    assert "cannot learn" in capsys.readouterr().err
    assert main(["estimate", str(folder), "--memory", "much"]) == 2
    assert "write it as 8GB" in capsys.readouterr().err
    with pytest.raises(UsageError, match="make no run"):
        gu.estimate(folder, length=0)
    with pytest.raises(UsageError, match="no such setting"):
        gu.estimate(folder, lenght=8)


def test_a_run_says_its_memory_and_learns_the_same(tmp_path, monkeypatch):
    """A forecast draws no random number and leaves nothing behind: with it and without it the weights are the same bits."""
    runs = {}
    for name, least in (("without", 1 << 26), ("with", 0)):
        monkeypatch.setattr(finetune, "WORTH_A_FORECAST", least)
        tuned = gu.adapt(small_model(), gu.LoRA(dropout=0.1))
        runs[name] = gu.finetune(tuned, TEXTS, out=tmp_path / name, steps=4, batch=8, precision="float32")
    assert runs["without"].expected_memory is None and runs["with"].expected_memory > 10**8
    files = [(run.best / "adapter_model.safetensors").read_bytes() for run in runs.values()]
    assert files[0] == files[1]
    assert json.loads((tmp_path / "with" / "done.json").read_text())["expected_memory"] == runs["with"].expected_memory


def test_a_run_that_does_not_fit_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "WORTH_A_FORECAST", 0)
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    told = []
    tuned = gu.adapt(small_model(), gu.LoRA())
    run = gu.finetune(tuned, TEXTS, out=tmp_path / "run", steps=4, precision="float32", dry_run=True, say=told.append)
    assert run.expected_memory and any("1.0 kB left" in line and "groundup estimate" in line for line in told), told


LABELLED = [{"text": row["text"], "label": "ab"[i % 2]} for i, row in enumerate(TEXTS)]
CHOICES = [{"prompt": row["text"], "choices": ["a", "b c"], "answer": i % 2} for i, row in enumerate(TEXTS)]


@pytest.mark.parametrize("rows", [LABELLED, CHOICES], ids=["labels", "choices"])
def test_every_loss_is_forecast(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "WORTH_A_FORECAST", 0)
    tuned = gu.adapt(small_model(), gu.LoRA())
    assert gu.finetune(tuned, rows, out=tmp_path / "run", steps=2, precision="float32", dry_run=True).expected_memory
