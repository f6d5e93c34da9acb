"""Strict configs: what is read, what may be ignored, and what stops a load."""

from typing import Any, ClassVar, Literal

import pytest

from groundup.core.config import ANY, COMMON_IGNORED, FamilyConfig
from groundup.core.errors import UsageError


class Config(FamilyConfig):
    model_type: Literal["toy"] = "toy"
    width: int = 7
    eps: float = 1e-5
    act: str | None = None
    tied: bool = True
    rope: dict[str, Any] | None = None

    IGNORED: ClassVar = {"dropout": ANY, "upcast": (False, None)}
    SPELLINGS: ClassVar = {"hidden_size": "width"}
    ARCHITECTURES = ("ToyForCausalLM", "ToyModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        theta = public.pop("rope_theta", None)
        return public if theta is None else {**public, "rope": {"theta": theta}}


def test_keys_are_read_by_any_of_their_names() -> None:
    public = {
        "model_type": "toy",
        "hidden_size": 11,
        "eps": 1,
        "dropout": 0.1,
        "rope_theta": 5.0,
        "torch_dtype": "bfloat16",
    }
    c = Config.from_public(public)
    assert (c.width, c.eps, c.rope) == (11, 1, {"theta": 5.0})
    assert c.extra == {"dropout": 0.1, "dtype": "bfloat16"}
    assert "rope_theta" in public, "the caller's own dict stays as it was"


def test_two_spellings_may_agree_but_not_disagree() -> None:
    assert Config.from_public({"hidden_size": 5, "width": 5}).width == 5
    with pytest.raises(UsageError, match=r"width .* disagree: 5, 6"):
        Config.from_public({"hidden_size": 5, "width": 6})


def test_unknown_keys_are_all_named() -> None:
    with pytest.raises(UsageError, match=r"toy has no key qk_norm, sliding_window; remove"):
        Config.from_public({"sliding_window": 3, "qk_norm": True})


@pytest.mark.parametrize(("key", "value"), [("upcast", True), ("is_decoder", True), ("add_cross_attention", True)])
def test_an_ignored_key_may_not_ask_for_other_numbers(key: str, value: object) -> None:
    assert Config.from_public({key: False}).extra == {key: False}
    with pytest.raises(UsageError, match=f"{key} = {value} changes what toy computes"):
        Config.from_public({key: value})


@pytest.mark.parametrize(
    ("public", "message"),
    [
        ({"width": "7"}, "width = '7' should be a valid integer"),
        ({"width": 7.0}, "width = 7.0 should be a valid integer"),
        ({"width": 0}, "width = 0 should be at least 1"),
        ({"width": True}, "width = True should be a valid integer"),
        ({"tied": 1}, "tied = 1 should be a valid boolean"),
        ({"eps": float("nan")}, "eps = nan should be a finite number"),
        ({"model_type": "other"}, "model_type = 'other' should be 'toy'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(public: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as e:
        Config.from_public(public)
    assert str(e.value) == f"config.json: {message}"


def test_out_and_in_again() -> None:
    c = Config.from_public({"width": 5, "eos_token_id": [3, 4], "act": None, "architectures": ["ToyModel"]})
    public = c.to_public()
    assert public["architectures"] == ["ToyForCausalLM"]
    assert public["eos_token_id"] == [3, 4]
    assert public["model_type"] == "toy"
    assert Config.from_public(public) == c


def test_ignored_keys_are_no_part_of_equality() -> None:
    a, b = Config.from_public({"eos_token_id": 1}), Config.from_public({"eos_token_id": 2})
    assert a == b and hash(a) == hash(b)
    assert a != Config.from_public({"eos_token_id": 1, "width": 8})
    assert a != "toy"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().width = 3  # type: ignore[misc]


def test_common_keys_cover_what_the_reference_writes_for_every_config() -> None:
    transformers = pytest.importorskip("transformers")
    written = transformers.PretrainedConfig().to_dict()
    assert set(written) - {"model_type", "tie_word_embeddings"} <= set(COMMON_IGNORED)
