"""Who said it: the shares of inputs in events."""

import json
import threading

import numpy as np
import pytest

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.model import open_model
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.shares import Sharing
from edgemm.errors import RunError
from tests.box.serving.conftest import LABELS

SUBSETS = [("image",), ("audio",), ("image", "audio")]


@pytest.fixture
def told(bundle, clip, tmp_path):
    """The events of a recording, with shares or without."""

    def run(**settings):
        (tmp_path / "run.yaml").write_text(json.dumps(settings))
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        edgemm.run(bundle, config=tmp_path / "run.yaml", source=[f"image,audio={clip}"], jsonl=file, fast=True, quiet=True)
        return [line for line in map(json.loads, file.read_text().splitlines()) if line["type"] == "event"]

    return run


def test_an_event_says_how_much_each_input_added_to_its_score(told, bundle):
    events = told(shares=True, decisions={"event": {"quiet": ["quiet"]}})
    assert [event["label"] for event in events] == ["visitor", "intruder"]
    logits = open_bundle(bundle).golden().outputs["onnxruntime"]["event"][:, 0].astype(np.float64)
    usual = dict(zip(LABELS, (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).mean(0), strict=True))
    for event in events:
        assert sum(event["shares"].values()) == pytest.approx(event["score"] - usual[event["label"]], abs=2e-3)
    visitor, intruder = (event["shares"] for event in events)
    assert visitor["image"] > visitor["audio"]
    assert intruder["audio"] > intruder["image"]


def test_nobody_is_told_shares_who_did_not_ask(told):
    assert all("shares" not in event for event in told())


def test_a_score_is_shared_as_shapley_has_it(bundle):
    opened = open_bundle(bundle)
    with open_model(opened, "onnxruntime") as model:
        sharing = Sharing(opened, model)
        assert sharing.subsets(("image", "audio")) == SUBSETS
        shares = sharing.of(dict(zip(SUBSETS, (0.6, 0.3, 0.9), strict=True)), ("image", "audio"), "nobody's", "x")
        assert shares == {"image": pytest.approx(0.6), "audio": pytest.approx(0.3)}
        assert sharing.of({("image",): 0.6}, ("image", "audio"), "nobody's", "x") == {}


def test_a_bundle_that_runs_as_a_whole_has_no_shares(whole_bundle):
    settings = {"shares": True, "sources": [{"stream": {"inputs": ["image", "audio"], "url": "rtsp://camera/live"}}]}
    opened = open_bundle(whole_bundle)
    with pytest.raises(RunError, match=r"there are no shares of inputs\.") as error:
        Runner(opened, parse(settings, opened.card)).run(threading.Event())
    assert "this bundle runs as a whole" in error.value.why
