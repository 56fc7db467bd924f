"""Processor: its name, and the instructions that decide which kernels a runtime takes."""

from __future__ import annotations

import platform
from pathlib import Path

# of x86 as Linux names them, then of Arm
INSTRUCTIONS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_CPUINFO = Path("/proc/cpuinfo")


def device() -> str:
    """The processor's name."""
    return _named("model name") or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Those of `INSTRUCTIONS` that the processor has; none where the system does not say."""
    have = set((_named("flags") or _named("Features")).split())
    return tuple(x for x in INSTRUCTIONS if x in have)


def _named(key: str) -> str:
    """The first value of a key in /proc/cpuinfo, "" where there is none."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    found = [x.partition(":")[2].strip() for x in lines if x.partition(":")[0].strip() == key]
    return found[0] if found else ""
