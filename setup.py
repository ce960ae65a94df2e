"""Builds the native code for CPUs; everything else stands in pyproject.toml."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/glassformer/kernels")
FLAGS = ["-O3", "-g0", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wextra"]


class BuildSideBySide(build_ext):
    """Compiles the units at the same time: each holds all kernels of one instruction set."""

    def build_extensions(self) -> None:
        """As before, but for how sources are compiled."""
        compile_in_turn = self.compiler.compile

        def compile_together(sources: list[str], output_dir: str = ".", **options: Any) -> list[str]:
            self.mkpath(os.path.join(output_dir, KERNELS))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_in_turn([source], output_dir, **options), sources)
            return [name for names in objects for name in names]

        self.compiler.compile = compile_together
        super().build_extensions()

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None of a Python module: the library is opened by ctypes."""
        return []


native = Extension(
    "glassformer.kernels._native",
    sources=sorted(str(path) for path in KERNELS.glob("*.cpp")),
    depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in KERNELS.glob(pattern)),
    language="c++",
    extra_compile_args=[] if sys.platform == "win32" else [*FLAGS, "-pthread"],
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
    optional=True,  # without a compiler the package installs, and runs through PyTorch
    py_limited_api=True,  # nothing of Python's is used
)
setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildSideBySide},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
