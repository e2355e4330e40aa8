"""A runtime's own exception, turned into one error that names op and node and says what to do."""

from __future__ import annotations

import re
from pathlib import Path

from edgemm.contracts import onnx_file
from edgemm.errors import TargetError

NODE = re.compile(
    r"<Node\((?P<op>\w+)\): (?P<node>[^>]+)>"  # OpenVINO's ONNX reader
    r"|\bnode: \w+::(?P<op2>\w+) (?P<node2>[^\s(]+)"  # OpenVINO's graph passes
    r"|While validating node '\w+::(?P<op3>\w+) (?P<node3>[^\s(']+)"  # OpenVINO's shape inference
    r"|Non-zero status code returned while running (?P<op4>\w+) node\. Name:'(?P<node4>[^']*)'"  # ONNX Runtime, at run time
    r"|Node ?\((?P<node5>[^)]+)\) Op ?\((?P<op5>\w+)\)"  # ONNX Runtime's shape inference
    r"|Could not find an implementation for (?P<op6>\w+)\(\d+\) node with name '(?P<node6>[^']*)'"  # ONNX Runtime's kernels
)
LISTED = re.compile(r"-- \w+-\d+ with a message: ")
CONSEQUENCE = re.compile(r"rank has to be known|input type dynamic|input data type must be static|element::Type::merge")
FOREIGN = "quantize with this target's own numerics: a Q/DQ graph made for another runtime is often the cause."
ADVICE = {
    r"No suitable implementations": f"choose precision f32 for this target, or {FOREIGN}",
    r"CALLBACK HAS THROWN|bias_ps\.rank": FOREIGN,
    r"must be static": "export the model with fixed sizes there: OpenVINO wants to know them.",
    r"rank has to be known": "the graph branches on a value known only at run time: give that input a constant 'value' in the card.",
    r"Could not find an implementation": "export with the opset this target wants (edgemm export --opset), or leave that branch in fp32.",
    r"(?i)opset (version|\d)": "export with the opset this target wants (edgemm export --opset).",
}
OTHERWISE = "see whether ONNX Runtime takes the same file; leave the branch that holds this node in fp32, or replace the operator."


def explain(err: Exception, target: str, path: Path, doing: str, *, culprit: tuple[str, str] | None = None) -> TargetError:
    """What to raise instead of ``err``.

    Args:
        doing: ``open``, ``compile`` or ``run``.
        culprit: (op, node) found by other means, used where the text names none.
    """
    text = _cause(" ".join(str(err).split()))
    match = NODE.search(text)
    named = {key.rstrip("23456"): value for key, value in match.groupdict().items() if value} if match else {}
    op, node = (named.get("op", ""), named.get("node", "")) if named else culprit or ("", "")
    node = (onnx_file.node_making(path, node) if path.suffix != ".xml" else None) or node  # OpenVINO calls a node by the tensor it makes
    where = (f" at node '{node}'" if node else "") + (f" ({op})" if op else "")
    verb = "failed while running" if doing == "run" else "refuses"
    fix = next((advice for words, advice in ADVICE.items() if re.search(words, text)), OTHERWISE)
    return TargetError(f"{target} {verb} '{path.name}'{where}.", why=_shortened(text), fix=fix)


def _cause(text: str) -> str:
    """Of OpenVINO's list of operators that it could not convert the first that is no mere consequence of another."""
    entries = LISTED.split(text.partition(" Summary:")[0])[1:]
    return next((entry for entry in entries if not CONSEQUENCE.search(entry)), text)


def _shortened(text: str) -> str:
    """Without the places in the runtime's own source, and not longer than a reader takes in."""
    text = re.sub(r"Exception from \S+?:\d+: ", "", text)
    text = re.sub(r" ?failed at \S+?:\d+:", " failed:", text)
    return text if len(text) <= 400 else text[:400].rsplit(" ", 1)[0] + " ..."
