"""Reading 1.3: encoders, decoders and encoder-decoders are one code with three masks.

Every token is changed in turn, and what moves by it is drawn: nothing here knows the masks but the networks themselves.
"""

import torch
from m1_parts import options, tell

import groundup as gu
from groundup.core import plots
from groundup.models import bert, gpt2, t5
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from groundup.training.start import begin

N, WORDS = 6, 50

given = options(__file__, __doc__)
built = {
    "BERT": bert.Config(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64),
    "GPT-2": gpt2.Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4),
    "T5": t5.Config(vocab_size=WORDS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
}  # fmt: skip
networks = {name: gu.build(config).network for name, config in built.items()}
for network in networks.values():
    begin(network, seed=0)
ids = torch.randint(WORDS, (N,))


@torch.inference_mode()
def scores(name: str, read: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Logits [N, V] after each token of `read`; T5's after each of `said`."""
    network = networks[name]
    if name != "T5":
        return network(read, Step.of([N], Fresh()))
    memory = network.encode(read, Step.of([N], Fresh()))
    return network(said, Step.of([N], Fresh(), memory=memory))


def moved(name: str, *, answer: bool = False) -> list[list[float]]:
    """1 where place i (line) moves when token j (column) is another one."""
    base, columns = scores(name, ids, ids), []
    for j in range(N):
        other = ids.clone()
        other[j] = (ids[j] + 1) % WORDS
        after = scores(name, ids, other) if answer else scores(name, other, ids)
        columns.append((after - base).abs().amax(1) > 1e-6)
    return torch.stack(columns, 1).float().tolist()


seen = {
    "encoder (BERT)": moved("BERT"),
    "decoder (GPT-2)": moved("GPT-2"),
    "T5: what it reads": moved("T5"),
    "T5: what it says": moved("T5", answer=True),
}
plots.squares([list(seen.values())], given.out / "masks.png", lines=[""], columns=[""] * 4, captions=[list(seen)],
              title="Which outputs (down) move with which token (across)")  # fmt: skip
triangle = torch.ones(N, N).tril().tolist()
kinds = {
    name: "all see all" if sum(map(sum, m)) == N * N else "the past alone" if m == triangle else "?"
    for name, m in seen.items()
}
tell(given.out, ("", "who moves"), list(kinds.items()), {"seen": seen, "kinds": kinds})
