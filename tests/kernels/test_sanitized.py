"""The library under AddressSanitizer and UndefinedBehaviorSanitizer: the tests of its kernels, with each access watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.kernels.library import FOLDER

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys
from pathlib import Path
from groundup.kernels import library
library.FOLDER = Path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-n", "0", *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ and its sanitizers")
def test_every_access_is_inside(tmp_path):
    sources = sorted(str(path) for path in (FOLDER / "native").glob("*.cpp"))
    flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-pthread", "-Wno-psabi", "-fno-omit-frame-pointer",
             "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]  # fmt: skip
    subprocess.run(["g++", *flags, *sources, "-o", str(tmp_path / "_native.so")], check=True)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    how = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    chosen = [str(TESTS / "kernels/test_products.py"), str(TESTS / "matrix/test_plan.py")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *chosen, "-k", "not forced"],
        cwd=TESTS.parent, env=os.environ | how, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "AddressSanitizer" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ and its sanitizers")
def test_the_sanitizer_sees_an_access_outside(tmp_path):
    """The negative control: the same way of watching, and one access too far."""
    (tmp_path / "far.cpp").write_text(
        'extern "C" int far(int n) { int* a = new int[4]{}; int b = a[n]; delete[] a; return b; }'
    )
    library, source = str(tmp_path / "far.so"), str(tmp_path / "far.cpp")
    subprocess.run(["g++", "-fsanitize=address", "-shared", "-fPIC", source, "-o", library], check=True)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    program = f"import ctypes; ctypes.CDLL({library!r}).far(4)"
    how = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | how, capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
