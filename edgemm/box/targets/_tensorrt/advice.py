"""What TensorRT's messages mean, and what to do about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgemm.errors import TargetError

MEMORY = (
    "set targets.tensorrt.workspace_mib to 256, stop the desktop (sudo systemctl isolate multi-user.target), free the page cache "
    "(echo 3 | sudo tee /proc/sys/vm/drop_caches), and build nothing else meanwhile."
)
ADVICE = {
    r"NvMapMem\w* ?.*error 12|NvMapMemAllocInternalTagged": (
        "L4T 36.4.7 refuses large pieces of memory though much is free (its fix of CVE-2025-33177): update to L4T 36.5, or reboot. "
        + MEMORY
    ),
    r"(?i)out ?of ?memory|could not be allocated|Requested size was|bad_alloc|allocation failed|insufficient memory": MEMORY,
    r"no optimization profile": (
        "set targets.tensorrt.profile, such as {batch: [1, 1, 8]}: smallest, usual and largest size of each open axis."
    ),
    r"Plugin not found|no importer registered|No importer registered|getPluginCreator": (
        "TensorRT has no such operator: export with opset 18 (edgemm export --opset 18), or write that layer with operators it has."
    ),
    r"(?i)must have the same (input )?types?|same type|type mismatch|Types .* differ": (
        "a strongly typed network wants one float type there: build from the graph that edgemm quantized, without casts of your own."
    ),
    r"Non-zero zero point|shiftIsAllZeros|zero point": "quantize with this target's numerics: edgemm quantize -r tensorrt-int8.",
    r"(?i)cuda.*(driver version is insufficient|no CUDA-capable device|initialization)": (
        "run it on a machine with an NVIDIA GPU and its driver."
    ),
    r"not supported by a dedicated kernel|could not find any implementation|Could not find any implementation": (
        "leave the branch that holds this node in fp16 or fp32, or export with opset 18; a larger workspace_mib lets more kernels in."
    ),
}
OTHERWISE = "see whether ONNX Runtime takes the same file; leave the branch that holds this node in fp32, or replace the operator."
UNSAID = ("", "false")
"""What the parser says of an operator that it knows and cannot do (``Det``)."""
TACTIC = re.compile(r"Tactic Device request: (\d+) ?MB Available: (\d+) ?MB")
NODE = re.compile(
    r"Invalid Node - (?P<node>[^\s\[]+)"
    r"|ForeignNode\[(?P<node2>[^\].]+(?:\.(?!\.\.)[^\].]+)*)"  # a group of nodes, named by its first and last: a...b
    r"|Could not find any implementation for node (?P<node3>[^\s.{]+)"
)


def refused(path: Path, said: Sequence[str], *, op: str = "", node: str = "", branch: str = "", doing: str = "refuses") -> TargetError:
    """The error for what TensorRT did not take.

    Args:
        said: Its own words, the most telling first.
        doing: ``refuses`` or ``cannot build``.
    """
    text = next((entry for entry in said if entry), "it gave no reason")
    node = node or named(text)
    where = (f" at node '{node}'" if node else "") + (f" ({op})" if op else "") + (f" of branch '{branch}'" if branch else "")
    return TargetError(f"tensorrt {doing} '{path.name}'{where}.", why=shortened(text), fix=advice(" ".join(said)))


def no_operator(op: str) -> str:
    return f"no importer registered for {op or 'this operator'}: its parser has no such operator."


def advice(text: str) -> str:
    """What to do about a message."""
    return next((fix for words, fix in ADVICE.items() if re.search(words, text)), OTHERWISE)


def named(text: str) -> str:
    """The node a message names, "" where it names none."""
    match = NODE.search(text)
    return next((value for value in match.groupdict().values() if value), "") if match else ""


def skipped(said: Sequence[str]) -> str:
    """A sentence about kernels that were left out for want of memory; "" where none was. The engine is whole, but may be slower."""
    shortages = [(int(match[1]), int(match[2])) for text in said if (match := TACTIC.search(text))]
    if not shortages:
        return ""
    most, free = max(shortages)
    sentence = f"{len(shortages)} kernels were not tried: the largest wanted {most} MB, {free} MB were free."
    return f"{sentence} The engine is right, but may be slower; {MEMORY}"


def shortened(text: str) -> str:
    """Without places in TensorRT's own source, and not longer than a reader takes in."""
    text = re.sub(r"\(?In \w+ at [^\s)]+:\d+\)?|\[[\w.:/]+::\d+\]", "", " ".join(text.split())).strip()
    return text if len(text) <= 400 else text[:400].rsplit(" ", 1)[0] + " ..."
