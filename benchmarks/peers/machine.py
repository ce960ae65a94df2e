"""The machine that is measured: what it is, and how fast two threads read its memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
import subprocess
import threading
import time
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".bench"
SOURCE = """
#include <stdint.h>
uint64_t sum(const uint64_t *x, uint64_t n) {
    uint64_t a[32] = {0}, s = 0;
    for (uint64_t i = 0; i + 32 <= n; i += 32)
        for (int j = 0; j < 32; j++) a[j] += x[i + j];
    for (int j = 0; j < 32; j++) s += a[j];
    return s;
}
"""


def lines() -> list[str]:
    """What the processor and the memory are, a line each."""
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", said)
    flags = re.search(r"flags\s*: (.*)", said)
    wide = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flags and flag in flags[1]
    ]
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / part).read_text().strip() for part in ("level", "type", "size"))
        caches.append(f"L{level} {kind.lower()} {size}")
    memory = Path("/proc/meminfo").read_text().split()[1] if Path("/proc/meminfo").exists() else "0"
    return [
        f"Processor: {name[1] if name else platform.processor()}, {len(re.findall(r'^processor', said, re.M))} cores, "
        f"{', '.join(wide)}",
        f"Caches: {', '.join(caches)}",
        f"Memory: {int(memory) / 2**20:.0f} GB",
        f"System: {platform.system()} {platform.release()}, Python {platform.python_version()}",
    ]


def versions(names: list[str]) -> str:
    """The versions of some packages."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} –")
    return ", ".join(found)


def bandwidth(threads: int, size: int = 1 << 30, rounds: int = 12) -> float:
    """Bytes a second that so many threads read from memory: a plain sum over 1 GB, the best of some rounds."""
    library = FOLDER / "read.so"
    if not library.exists():
        source = library.with_suffix(".c")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
    read = ctypes.CDLL(str(library)).sum
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_uint64], ctypes.c_uint64
    memory = (ctypes.c_uint8 * size)()
    ctypes.memset(memory, 1, size)
    share = size // threads // 8
    speeds = []
    for _ in range(rounds):
        team = [
            threading.Thread(target=read, args=(ctypes.addressof(memory) + 8 * share * thread, share))
            for thread in range(threads)
        ]
        begin = time.perf_counter()
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        speeds.append(8 * share * threads / (time.perf_counter() - begin))
    return max(speeds)
