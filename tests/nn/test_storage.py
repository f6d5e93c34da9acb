"""A dense storage multiplies as PyTorch's linear does, however few the tokens and odd the sizes."""

import pytest
import torch
import torch.nn.functional as F

from groundup.nn.storage import FEW, Dense


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tokens", [0, 1, 2, 7, FEW, FEW + 1])
@pytest.mark.parametrize(("out", "width"), [(42, 17), (41, 17), (6, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_linear(threads, tokens, out, width, bias):
    draw = torch.Generator().manual_seed(out * tokens)
    x, values = torch.randn(tokens, width, generator=draw), torch.randn(out, width, generator=draw)
    b = torch.randn(out, generator=draw) if bias else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            ours = Dense(values).matmul(x, b)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(ours, F.linear(x, values, b))
    assert ours.is_contiguous()
