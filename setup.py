"""The one part of groundup that is compiled (src/groundup/kernels); all else is in pyproject.toml.

Where it cannot be compiled groundup is installed without it, and PyTorch does its work.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/groundup/kernels/native")

setup(
    ext_modules=[
        Extension(
            "groundup.kernels._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.cpp")),
            depends=sorted(str(path) for path in [*NATIVE.glob("*.h"), *NATIVE.glob("*.inc")]),
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-Wno-psabi"],
            extra_link_args=[] if sys.platform == "darwin" else ["-pthread"],
            language="c++",
            optional=True,
        )
    ]
)
