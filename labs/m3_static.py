"""Lab 3.3: static int8 of a small MLP, by ranges that were observed, and by ranges that nobody observed.

784-128-10 on scikit-learn's digits, blown up to 28x28, learned by SGD at .01. PyTorch's recipe is prepare, calibrate, convert; the
lab leaves calibration out, so its ranges are those of an observer that saw nothing. Here the ranges come from a `Ranges` observer
and the codes from `StaticInt8`; PyTorch's own recipe runs beside it, with the same observers, and both give int8 for int8.
"""

import io
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from m1_parts import options, tell
from m2_parts import verdict
from torch import Tensor, nn

from groundup.core import plots
from groundup.quantization.listen import Ranges
from groundup.quantization.static import Static, StaticInt8

given = options(__file__, __doc__)
epochs = 3 if given.quick else 60


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures [N, 784] normalised as MNIST's are in the course, and their digits: a fifth is held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).flatten(1)
    x, y = (large - 0.1307) / 0.3081, torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    return x[train], y[train], x[test], y[test]


def learned(x: Tensor, y: Tensor) -> nn.Sequential:
    """Linear, ReLU, Linear by SGD at .01, 64 pictures a step."""
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[at]), y[at]).backward()
            optimizer.step()
    return net.eval()


def ours(net: nn.Sequential, seen: Tensor | None) -> list[Static]:
    """Both linears in static int8 by the ranges of these pictures; None: of nothing."""
    first, second = Ranges(), Ranges()
    if seen is None:
        # PyTorch's observer that saw nothing gives a scale of 1 and a zero point of 0: codes 0 .. 255 are the numbers 0 .. 255
        for each in (first, second):
            each.inputs = each.outputs = (0.0, 255.0)
    else:
        with torch.no_grad():
            before = net[0](seen)
            first.see(seen, before)
            second.see(before.relu(), net[2](before.relu()))
        second.inputs = first.outputs  # a ReLU of codes keeps their grid
    return [
        StaticInt8().calibrated(layer.weight.detach(), r) for layer, r in zip(net[::2], (first, second), strict=True)
    ]


def answer(net: nn.Sequential, layers: Sequence[Static], x: Tensor) -> Tensor:
    with torch.no_grad():
        return layers[1].matmul(layers[0].matmul(x, net[0].bias).relu(), net[2].bias)


def torchs(net: nn.Sequential, seen: Tensor | None) -> nn.Module:
    """PyTorch's prepare, calibrate (or not) and convert, with observers of least and largest numbers."""
    from torch.ao import quantization as ao

    torch.backends.quantized.engine = "onednn"
    made = ao.QuantWrapper(nn.Sequential(*[type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else nn.ReLU()
                                           for m in net])).eval()  # fmt: skip
    made.module.load_state_dict(net.state_dict())
    made.qconfig = ao.QConfig(
        activation=ao.MinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine),
        weight=ao.PerChannelMinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
        ),
    )
    prepared = ao.prepare(made)
    if seen is not None:
        prepared(seen)
    return ao.convert(prepared)


def size(held: dict[str, object]) -> int:
    """Bytes of a PyTorch file of this."""
    file = io.BytesIO()
    torch.save(held, file)
    return len(file.getvalue())


x, y, tx, ty = digits()
net = learned(x, y)
with torch.no_grad():
    plain = net(tx)
layers, blind = ours(net, x), ours(net, None)
logits = {"float32": plain, "int8, calibrated": answer(net, layers, tx), "int8, not calibrated": answer(net, blind, tx)}
right = {name: float((each.argmax(1) == ty).float().mean()) for name, each in logits.items()}

off = {name: float((each - plain).square().mean() / plain.var()) for name, each in logits.items()}

bytes_of = {"float32": size(dict(net.state_dict()))}
held = {f"{at}.{n}": t for at, layer in enumerate(layers) for n, t in layer.held.items()}
bytes_of["int8"] = size(held | {f"{at}.bias": net[2 * at].bias.detach() for at in (0, 1)})
share = bytes_of["int8"] / bytes_of["float32"]

claims = {
    "int8 takes 26.7 % of the size or less": share <= 0.267,
    "calibrated, accuracy falls by less than a point": right["float32"] - right["int8, calibrated"] < 0.01,
    "without calibration it falls by more than a point": right["float32"] - right["int8, not calibrated"] > 0.01,
    "and the logits are off 100 times as much": off["int8, not calibrated"] > 100 * off["int8, calibrated"],
}
facts: dict[str, object] = {"accuracy": right, "logits off": off, "bytes": bytes_of, "share": share, "test": len(ty)}
if "onednn" in torch.backends.quantized.supported_engines:
    steps = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # torch.ao.quantization is deprecated, and observers warn where they saw nothing
        for name, mine, seen in (("calibrated", layers, x), ("not calibrated", blind, None)):
            theirs = torchs(net, seen)
            steps[name] = ((theirs(tx) - answer(net, mine, tx)) / mine[1].outputs[0]).abs()
            right[f"torch's int8, {name}"] = float((theirs(tx).argmax(1) == ty).float().mean())
        whole = torchs(net, x)
        codes = (whole.module[0].weight().int_repr() == layers[0].codes).float().mean()
        bytes_of["torch's int8"] = size(whole.state_dict())
    apart = {name: (float(s.max()), float((s > 0.5).float().mean())) for name, s in steps.items()}
    facts |= {"steps apart": apart, "equal codes of the first matrix": float(codes)}
    claims["calibrated outputs are torch's, int8 for int8, but for a step in 1 of 100"] = (
        apart["calibrated"][0] < 1.01 and apart["calibrated"][1] < 0.01
    )
    claims["so are those without calibration"] = apart["not calibrated"][0] < 1.01
    claims["torch's own file is 26.7 % of the size, within half a point"] = (
        abs(bytes_of["torch's int8"] / bytes_of["float32"] - 0.267) < 0.005
    )
else:
    print("torch's quantized products have no engine here: what follows is ours alone")

plots.bars(["right digit"], {name: [(v, v, v)] for name, v in right.items()}, given.out / "static.png",
           title=f"Static int8 of a 784-128-10 MLP, {len(ty)} digits")  # fmt: skip
files = {name: bytes_of.get(name.split(",")[0], 0) for name in right}
tell(given.out, (f"{len(y)} digits to learn, {len(ty)} to test", "right", "logits off", "bytes"),
     [(name, f"{v:.4f}", f"{off[name]:.1e}" if name in off else "-", f"{files[name]:,}") for name, v in right.items()],
     facts | {"claims": claims})  # fmt: skip
print(f"int8 is {share:.1%} of float32 (the lab: 109,402 of 409,406, 26.7 %)")
if "steps apart" in facts:
    print(f"steps of int8 apart from torch's (most, share above half a step): {facts['steps apart']}")
verdict(claims)
