"""The demo, on few scenes in every run, and whole in `make test-full`."""

import json

import pytest

from edgemm.verbs._demo import scenes
from edgemm.verbs.demo import demo


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The demo on 320 scenes, one pass: (folder, what it left)."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "COUNTS", {"train": 320, "val": 40, "test": 80})
        return folder, demo(folder, epochs=1)


def test_the_demo_leaves_scenes_a_model_a_bundle_and_its_page(small):
    folder, done = small
    assert (folder / "scenes" / "manifest.csv").is_file()
    assert done.card == folder / "porch" / "model.yaml"
    assert done.page == folder / "bundle" / "report.html"
    assert done.page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_demos_report_holds_accuracy_latency_and_size_of_every_form(small):
    report = small[1].report
    for name in ("accuracy", "latency_p50_ms", "size_mib"):
        assert {"original", "float", "default", "bundle"} == {m.subject for m in report.find(name)}
    assert [verdict.name for verdict in report.budgets] == ["accuracy_drop_points"]
    assert "a model that only sees is right 45% of the time at best, one that only hears 60%" in str(small[1])
    json.dumps(small[1].to_dict())


def test_the_demos_bundle_passes_verify(small):
    import edgemm

    assert edgemm.verify(small[1].bundle).ok


def test_scenes_of_another_edgemm_are_made_anew(tmp_path, monkeypatch):
    from edgemm.verbs.demo import _make_scenes

    monkeypatch.setattr(scenes, "COUNTS", {"train": 2, "val": 1, "test": 1})
    _make_scenes(tmp_path / "scenes")
    (tmp_path / "scenes" / "manifest.csv").write_text("mine")
    _make_scenes(tmp_path / "scenes")
    assert (tmp_path / "scenes" / "manifest.csv").read_text() == "mine", "the same edgemm leaves them"
    (tmp_path / "scenes" / ".made_by").write_text("another")
    _make_scenes(tmp_path / "scenes")
    assert (tmp_path / "scenes" / "manifest.csv").read_text().startswith("split,")


@pytest.mark.slow
def test_the_whole_demo_needs_both_senses(tmp_path):
    import edgemm

    done = demo(tmp_path / "demo")
    (fused,) = done.report.find("accuracy", subject="bundle")
    assert fused.value >= 0.9
    assert done.report.missed == []
    for kept, other in (("image", "audio"), ("audio", "image")):
        card = scenes.CARD.replace("models:image-audio-gated", "models:image-only").splitlines(keepends=True)
        path = tmp_path / f"{kept}.yaml"
        path.write_text("".join(line for line in card if not line.strip().startswith((f"{other}:", "fusion:"))))
        alone = edgemm.train(path, data=done.data, output=tmp_path / kept, epochs=8, batch_size=32, learning_rate=3e-3)
        found = alone.metrics["test"]["event"]
        assert found["low"] <= scenes.ceiling(kept), "no model can be better than the ceiling"
        assert found["accuracy"] < fused.low
