"""A runtime's own exception, turned into one error that names op and node and says what to do."""

from __future__ import annotations

import re
from pathlib import Path

from edgemm.errors import TargetError

NODE = re.compile(
    r"<Node\((?P<op>\w+)\): (?P<node>[^>]+)>"  # OpenVINO's ONNX reader
    r"|[Nn]ode[_ ]name:? ?'?(?P<node2>[^\s']+)'?"  # ONNX Runtime's kernels
    r"|Node \((?P<node3>[^)]+)\) Op \((?P<op3>\w+)\)"  # ONNX Runtime's shape inference
)
ADVICE = {
    "No suitable implementations": "the processor has no kernel for it in this precision: choose precision f32, or quantize with this "
    "target's numerics (a Q/DQ graph made for another runtime is often the cause).",
    "rank has to be known": "the graph branches on a value known only at run time: give that input a constant 'value' in the card.",
    "opset": "export with an opset this runtime knows (edgemm export --opset).",
}


def explain(err: Exception, target: str, path: Path, doing: str) -> TargetError:
    """``err`` of runtime ``target`` while it was to ``open``, ``compile`` or ``run`` the model ``path``."""
    text = " ".join(str(err).split())
    place = NODE.search(text)
    named = {key.rstrip("23"): value for key, value in place.groupdict().items() if value} if place else {}
    where = f" at node '{named['node']}'" if named.get("node") else ""
    where += f" ({named['op']})" if named.get("op") else ""
    verb = {"run": "failed while running", "open": "refuses", "compile": "refuses"}[doing]
    fix = next((advice for words, advice in ADVICE.items() if words in text), "check the model in ONNX Runtime; leave that branch in fp32.")
    return TargetError(f"{target} {verb} '{path.name}'{where}.", why=text[:600], fix=fix)
