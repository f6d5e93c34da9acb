"""Models from the Hugging Face hub, into its usual cache; only files that hold data, never code or pickles."""

from __future__ import annotations

import re
from pathlib import Path

from groundup.core.errors import GroundupError, UsageError

# *.model is a sentencepiece vocabulary. Folders below hold the same weights for other programs (onnx, openvino, ...),
# or parts that a model's own files name: 1_Pooling/config.json comes with them.
WANTED = ["*.json", "*.txt", "*.safetensors", "*.jinja", "*.model"]
# consolidated*.safetensors, too, are the weights once more.
UNWANTED = ["onnx/*", "openvino/*", "original/*", "metal/*", "coreml/*", "consolidated*"]

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"(?!.*(?:--|\.\.)){_PART}(?:/{_PART})?")


def fetch(repo_id: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model of the hub, fetched first where the cache does not have it.

    weights  False: all but the weights is fetched
    `revision` is a branch, tag or commit; left out, the newest. HF_HUB_OFFLINE, HF_HOME, HF_TOKEN and HF_ENDPOINT work
    as everywhere. UsageError: no such model, revision or form of id, or one without safetensors. GroundupError: no
    access, or no way to the hub.
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise UsageError(f"'{repo_id[:200]}' is not a hub id: it should look like owner/name.")

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub

    at = f"'{repo_id}'" if revision is None else f"'{repo_id}' at '{revision}'"
    try:
        unwanted = UNWANTED if weights else [*UNWANTED, "*.safetensors"]
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=WANTED, ignore_patterns=unwanted)
    except hub.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repo_id}"
        raise GroundupError(
            f"{at} is gated. Ask for access on {page}, then set HF_TOKEN or run: hf auth login"
        ) from None
    except hub.DisabledRepoError:
        raise GroundupError(f"{at} was disabled by the hub. Choose another model.") from None
    except hub.RepositoryNotFoundError:
        raise UsageError(f"The hub has no model {at}, or it is private: check the id, or set HF_TOKEN.") from None
    except hub.RevisionNotFoundError:
        raise UsageError(f"The hub has no {at}: check the branch, tag or commit.") from None
    except hub.HFValidationError as error:
        raise UsageError(f"{at} is not a hub id: {_line(error)}") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        raise GroundupError(f"{at} is not complete in the hub's cache, and {why}. {_ELSEWHERE}") from None
    except hub.HfHubHTTPError as error:
        raise GroundupError(f"{at} cannot be fetched from the hub: {_line(error)}") from error
    except Exception as error:  # of whatever HTTP library the hub's client of this version uses, or of the disk
        raise GroundupError(f"{at} cannot be fetched from the hub: {type(error).__name__}: {_line(error)}") from error
    if weights and not any(Path(folder).rglob("*.safetensors")):
        raise UsageError(
            f"The hub's {at} has no safetensors. Choose a model that has; pickles (.bin, .pt) are never opened, and a "
            ".gguf file is loaded by its path when you have downloaded it."
        )
    return Path(folder)


_ELSEWHERE = "Give the path of a folder instead, or take a starter (groundup list)."


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
