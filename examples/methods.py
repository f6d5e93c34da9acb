"""One frozen base, three tasks: adapters of different kinds on one set of weights, each row of a batch with its own."""

import groundup as gu
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling

lm = gu.load("smollm2-135m-instruct")
kinds = {
    "lora": gu.LoRA(rank=4, targets="all"),
    "ia3": gu.IA3(),
    "prompt": gu.Prompt(length=8, init="text", text="Answer in one word."),
    "prefix": gu.PrefixTuning(length=4),
}
many = lm
for name, method in kinds.items():
    many = gu.adapt(many, method, name=name)
    print(f"{name:8}", method.described(many.network, name))

question = [{"role": "user", "content": "What is the capital of France?"}]
rows = ["lora", None, "prompt", "prefix"]
ids = [many.encode(question)] * len(rows)
mixed = answer(
    many.network,
    ids,
    sampling=Sampling(temperature=0, max_tokens=8),
    adapters=rows,
    tokenizer=many.tokenizer,
    stop_ids=many.stop_ids,
)
for name, said in zip(rows, mixed, strict=True):
    alone = many.using(name).chat(question, max_tokens=8, temperature=0)
    print(f"{name or 'base':8} {said.text!r}  the same as alone: {said.text == alone}")
