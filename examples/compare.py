"""Which method of tuning to take: three of them, two seeds each, on fifty sayings; goes on where it was stopped."""

import groundup as gu
from groundup.data.rows import Stream

sayings = [{"text": item.record["text"]} for item in Stream("fortunes").good() if item.record["topic"] == "wisdom"][:50]
found = gu.compare(
    "smollm2-135m-instruct",
    sayings,
    methods=["lora:rank=4", gu.IA3(), "prompt:length=4"],
    seeds=2,
    steps=12,
    out="runs/compared",
    on_progress=lambda done, total, more="": print(f"\rrun {done}/{total} {more:60.60}", end="", flush=True),
)
print(f"\n{found.text()}")
