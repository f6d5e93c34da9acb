"""From `groundup generate` typed to the first token, with a warm cache; and `import groundup`."""

from __future__ import annotations

import subprocess
import sys
import time

from side_by_side import compare


def first_token() -> dict[str, float]:
    program = "import sys; from groundup.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "generate", "smollm2-135m-instruct", "Once upon a time"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--max-tokens", "8", "--temperature", "0"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read(1)
    seconds = time.perf_counter() - start
    assert said, "nothing was said"
    process.communicate()
    return {"first token, seconds": seconds}


def importing() -> dict[str, float]:
    code = "import time; t = time.perf_counter(); import groundup; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"import, seconds": float(done.stdout)}


if __name__ == "__main__":
    compare({"groundup generate": first_token, "import groundup": importing}, rounds=5, title=str(__doc__))
