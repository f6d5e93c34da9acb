"""The hub: what is asked of its client, and one line for everything that goes wrong there."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects

from groundup.checkpoints.hub import fetch
from groundup.core.errors import GroundupError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def http(kind: type[errors.HfHubHTTPError], says: str = "first line\nsecond line") -> errors.HfHubHTTPError:
    return kind(says, response=Mock(headers={}, status_code=418))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stands in for the hub's client."""
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "model.safetensors").touch()
    found = Mock(return_value=str(tmp_path / "abc"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    return found


def test_only_data_is_asked_for(client: Mock, tmp_path: Path) -> None:
    assert fetch("owner/name", "v1") == tmp_path / "abc"
    asked: dict[str, Any] = client.call_args.kwargs
    assert client.call_args.args == ("owner/name",) and asked.pop("revision") == "v1"
    files = ["config.json", "merges.txt", "model-00001-of-00002.safetensors", "chat_template.jinja", "tokenizer.model",
             "1_Pooling/config.json", "vocab.txt", "model.safetensors.index.json"]  # fmt: skip
    never = ["pytorch_model.bin", "modeling_x.py", "tf_model.h5", "flax_model.msgpack", "model.pt", "training_args.bin",
             "model.gguf", "x.pkl", "consolidated.safetensors", "onnx/model.onnx", "onnx/config.json", "original/params.json"]  # fmt: skip
    assert list(filter_repo_objects(files + never, **asked)) == files


@pytest.mark.parametrize(
    ("trouble", "kind", "says"),
    [
        (http(errors.GatedRepoError), GroundupError, "is gated. Ask for access on .*/owner/name, then set HF_TOKEN"),
        (http(errors.DisabledRepoError), GroundupError, "disabled by the hub"),
        (http(errors.RepositoryNotFoundError), UsageError, "no model 'owner/name', or it is private"),
        (http(errors.RevisionNotFoundError), UsageError, "check the branch, tag or commit"),
        (errors.HFValidationError("Repo id must\nbe"), UsageError, "is not a hub id: Repo id must"),
        (errors.LocalEntryNotFoundError("a\nb"), GroundupError, "not complete in the hub's cache, and http.* reached"),
        (errors.IncompleteSnapshotError("a\nb", "/x"), GroundupError, "not complete in the hub's cache"),
        (http(errors.HfHubHTTPError), GroundupError, "cannot be fetched from the hub: first line"),
        (OSError(28, "No space left on device"), GroundupError, "OSError: .*No space left"),
        (RuntimeError(), GroundupError, "RuntimeError"),
    ],
)
def test_trouble_is_one_line(
    client: Mock, trouble: Exception, kind: type[GroundupError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client.side_effect = trouble
    with pytest.raises(GroundupError, match=says) as error:
        fetch("owner/name")
    assert type(error.value) is kind and "\n" not in str(error.value) and "'owner/name'" in str(error.value)


def test_a_model_without_safetensors_says_so(client: Mock, tmp_path: Path) -> None:
    (tmp_path / "abc" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="'owner/name' has no safetensors.* pickles"):
        fetch("owner/name")


@pytest.mark.parametrize(
    "name",
    ["", "a/b/c", "../x", "a/..", "/etc", "owner/", "-a/b", "a b/c", "a/b\n", "https://x/y", "x" * 300, "a--b/c"],
)
def test_what_is_no_id_is_not_asked_for(client: Mock, name: str) -> None:
    with pytest.raises(UsageError, match="is not a hub id"):
        fetch(name)
    client.assert_not_called()


@pytest.mark.parametrize("name", ["gpt2", "openai/whisper-tiny.en", "01-ai/Yi_1.5", "a/b", "o/" + "x" * 96])
def test_ids_as_the_hub_has_them(client: Mock, name: str) -> None:
    fetch(name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, offline, with one model in it."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").touch()
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_offline_the_cache_is_enough(cache: Path) -> None:
    assert fetch("owner/name") == cache
    assert fetch("owner/name", COMMIT) == cache


def test_offline_what_is_not_there_says_so(cache: Path) -> None:
    with pytest.raises(GroundupError, match="'owner/other' is not complete .* HF_HUB_OFFLINE is set"):
        fetch("owner/other")
