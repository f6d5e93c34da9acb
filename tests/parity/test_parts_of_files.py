"""A BERT file may hold the blocks alone, a head, a pooler: what it lacks is taken off, and named when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from groundup import models
from groundup.checkpoints.load import load
from groundup.checkpoints.save import write
from groundup.core.errors import UsageError
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from parity.oracles import bert, redraw


def reference(kind: str, folder: Path) -> nn.Module:
    case = bert("headless", 33, 2, 3, 27)
    model = getattr(transformers, kind)(transformers.BertConfig(**case.config)).eval()
    redraw(model)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_file_without_a_head_gives_states_and_pools_them(tmp_path: Path) -> None:
    oracle = reference("BertModel", tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", ours.network, ours.family, ours.config)
    rows = [torch.tensor([5, 9, 11, 3, 7]), torch.tensor([8]), torch.tensor([2, 96, 4])]
    types = [torch.tensor([0, 0, 1, 2, 1]), torch.tensor([1]), torch.tensor([2, 0, 0])]
    step = Step.of([len(r) for r in rows], Fresh(), types=torch.cat(types))
    want = [oracle(input_ids=r[None], token_type_ids=t[None]) for r, t in zip(rows, types, strict=True)]
    for network in (ours.network, load(tmp_path / "again").network):
        states = network.run(torch.cat(rows), step)
        torch.testing.assert_close(states, torch.cat([w.last_hidden_state[0] for w in want]), rtol=0, atol=1e-5)
        pooled = network.pool(states, step)
        torch.testing.assert_close(pooled, torch.cat([w.pooler_output for w in want]), rtol=0, atol=1e-5)
        with pytest.raises(UsageError, match="no head"):
            network(torch.cat(rows), step)


def test_a_masked_word_file_has_no_pooler(tmp_path: Path) -> None:
    reference("BertForMaskedLM", tmp_path)
    network = load(tmp_path).network
    assert network.pooler is None and network.head is not None


def test_a_pretraining_file_has_both(tmp_path: Path) -> None:
    reference("BertForPreTraining", tmp_path)
    network = load(tmp_path).network
    assert network.pooler is not None and network.head is not None


# --------------------------------------------------------------------------------------------- T5's two facts, in files


def t5_says(**public: Any) -> tuple[bool, bool]:
    config = models.t5.Config.from_public({"model_type": "t5", "is_encoder_decoder": True} | public)
    again = models.t5.Config.from_public(config.to_public())
    assert again == config
    return config.tie_word_embeddings, config.scales_output


def test_scale_and_tie_are_two_facts() -> None:
    assert t5_says() == (True, True)
    assert t5_says(tie_word_embeddings=False) == (False, False)
    assert t5_says(tie_word_embeddings=True, scale_decoder_outputs=False) == (True, False)
    assert t5_says(tie_word_embeddings=False, scale_decoder_outputs=True) == (False, True)


@pytest.mark.parametrize(("key", "value"), [("is_gated_act", True), ("dense_act_fn", "silu")])
def test_an_activation_that_contradicts_itself_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=key):
        t5_says(feed_forward_proj="relu", **{key: value})
