import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgemm.contracts.deployment import Deployment
from edgemm.contracts.plain_values import plain, read


@dataclass(frozen=True)
class Part:
    name: str
    share: float = 0.0
    limit: float | None = None


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    named: dict[str, Part] = field(default_factory=dict)
    best: Part | None = None
    size: float | dict[str, float] = 0.0


def test_what_was_made_plain_is_read_back_as_it_was_through_json():
    whole = Whole((Part("a", 0.5), Part("b", 1.0, 2.0)), {"c": Part("c")}, Part("a"), {"before": 2.0})
    assert read(Whole, json.loads(json.dumps(plain(whole)))) == whole
    assert read(list[Whole], [plain(whole)]) == [whole]
    deployment = Deployment("openvino", Path("a/model.onnx"), {"device": "CPU"}, {"threads": 1})
    assert read(Deployment, json.loads(json.dumps(plain(deployment)))) == deployment


def test_what_is_not_finite_is_null_and_then_not_a_number_where_a_number_must_be():
    (kept,) = json.loads(json.dumps(plain([Part("a", math.inf, math.nan)]), allow_nan=False))
    assert kept == {"name": "a", "share": None, "limit": None}
    assert math.isnan(read(Part, kept).share)
    assert read(Part, kept).limit is None


def test_fields_of_another_version_are_left_out_and_a_missing_one_is_told():
    assert read(Part, {"name": "a", "of_old": 1}) == Part("a")
    with pytest.raises(TypeError, match="name"):
        read(Part, {"share": 1.0})
    with pytest.raises(AttributeError):
        read(Part, [1, 2])
