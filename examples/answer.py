"""Load a real model, go on from a prompt, talk, and ask for JSON that a program can rely on."""

import groundup as gu

lm = gu.load("smollm2-135m-instruct")
print(lm.generate("The capital of France is", max_tokens=8, temperature=0))

for piece in lm.stream([{"role": "user", "content": "Name a colour."}], max_tokens=12, temperature=0):
    print(piece, end="", flush=True)
print()

colour = {"type": "object", "properties": {"colour": {"enum": ["red", "green", "blue"]}}, "required": ["colour"]}
print(lm.chat([{"role": "user", "content": "What colour is grass?"}], max_tokens=24, temperature=0, schema=colour))
