"""While the tests run, every call of the package is checked: by type, and by the names of its arrays' sizes."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation

from groundup.core.files import size
from groundup.nn.norms import RMSNorm
from groundup.training.objective import _surprise


def test_a_wrong_type_is_seen():
    with pytest.raises(BeartypeCallHintParamViolation):
        size("many")


def test_a_wrong_number_of_sizes_is_seen():
    with pytest.raises(BeartypeCallHintParamViolation):
        RMSNorm(4, eps=1e-6)(torch.zeros(2, 3, 4), None)


def test_sizes_of_one_name_are_held_against_each_other():
    scores, wanted, shares = torch.zeros(2, 5), torch.zeros(2, dtype=torch.long), torch.ones(2)
    _surprise(scores, wanted, 0.0, shares, torch.zeros(2, 5))
    with pytest.raises(BeartypeCallHintParamViolation):
        _surprise(scores, wanted[:1], 0.0, shares, torch.zeros(2, 5))
