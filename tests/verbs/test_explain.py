"""`edgemm explain`: who said what of a row, and what in it."""

import json

import numpy as np
import pytest

import edgemm
from edgemm.cli import main
from edgemm.errors import DataError, EdgemmError
from edgemm.verbs.explain import explain
from tests.box.serving.conftest import *  # noqa: F403  # the told-by-hand bundle
from tests.box.serving.conftest import RATE_HZ

TORCH = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.see, self.answer = nn.Embedding(20, 4), nn.Conv2d(3, 4, 3, 2), nn.Linear(8, 3)
        for weight in self.parameters():
            weight.data = torch.sin(torch.arange(weight.numel(), dtype=torch.float32)).reshape(weight.shape)

    def forward(self, image, text):
        return self.answer(torch.tanh(torch.cat([self.see(image).mean((2, 3)), self.words(text).sum(1)], 1)))


build = Words
"""
CARD = """
factory: words:build
inputs:
  image: {modality: image, height: 16, width: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
  text: {modality: text, length: 6, tokenizer: tokenizer.json}
outputs:
  event: {task: classification, labels: [a, b, c]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Line 2: a light in the upper left and a noise in the first half; line 3: nothing."""
    folder = tmp_path_factory.mktemp("rows")
    picture, sound = np.full((2, 32, 32, 3), 60, np.uint8), np.zeros((2, RATE_HZ // 2), np.float32)
    picture[0, :12, :12] = 255
    sound[0, : RATE_HZ // 8] = np.random.default_rng(0).normal(0, 0.3, RATE_HZ // 8)
    for row in range(2):
        np.save(folder / f"picture{row}.npy", picture[row])
    import soundfile

    for row in range(2):
        soundfile.write(folder / f"sound{row}.wav", sound[row], RATE_HZ, subtype="FLOAT")
    rows = [f"test,picture{row}.npy,sound{row}.wav,{label}" for row, label in enumerate(["intruder", "quiet"])]
    (folder / "manifest.csv").write_text("\n".join(["split,image,audio,event", *rows]) + "\n")
    return folder


def test_a_row_is_explained_by_its_inputs_and_their_pieces(bundle, data, tmp_path):
    explanation = explain(bundle, data=data, row=[2], output=tmp_path / "page.html", label="intruder")
    (row,) = explanation.rows
    (head,) = row.heads
    assert (row.number, row.truth, head.label) == (2, {"event": "intruder"}, "intruder")
    assert explanation.forms == ("float", "compressed, onnxruntime")
    assert head.agreement == pytest.approx(1)
    for said in head.said.values():
        assert sum(said.shares.values()) == pytest.approx(said.value - said.usual)
        assert said.shares["audio"] > said.shares["image"]
    picture, sound = (heat.maps["float"] for heat in head.heats)
    assert max(np.unravel_index(picture.argmax(), picture.shape)) <= 6
    assert picture[:4, :4].mean() > 4 * abs(picture[8:, 8:].mean())
    assert sound[:, :4].sum() > 5 * abs(sound[:, 10:].sum())
    assert explanation.calls["float"] == 3 + 225 + 9 * 19
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "Spearman" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_command_tells_rows_shares_and_how_many_samples_were_answered(bundle, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explain", str(bundle), "-d", str(data), "--row", "3", "--row", "2", "-o", str(tmp_path / "page.html")])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "row 3 (test), event: quiet, true quiet" in said
    assert said.index("row 3") < said.index("row 2")
    assert "samples answered: float 798, compressed, onnxruntime 798" in said
    with pytest.raises(SystemExit):
        main(["explain", str(bundle), "-d", str(data), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["rows"][0]["row"] == 2
    assert np.shape(plain["rows"][0]["heads"][0]["inputs"]["image"]["maps"]["float"]) == (16, 16)


@pytest.mark.parametrize("width", [1280, 400])
def test_its_page_shows_shares_and_maps_in_a_browser(bundle, data, chromium, tmp_path, width):
    explanation = explain(bundle, data=data, row=[2, 3], output=tmp_path / "page.html", label="intruder")
    chromium.show(tmp_path / "page.html", width)
    assert chromium.complaints() == []
    asked = [url for url in chromium.requests() if not url.startswith("data:image/png")]
    assert asked == [(tmp_path / "page.html").as_uri()], "something is fetched from elsewhere"
    assert chromium.ask("document.documentElement.scrollWidth") == width
    titles = chromium.ask("[...document.querySelectorAll('section h2')].filter(e => e.offsetHeight).map(e => e.innerText)")
    assert [title for title in titles if title.startswith("Row")] == ["Row 2 (test)", "Row 3 (test)"]
    shown = chromium.ask(
        "[...document.querySelectorAll('section table')].map(e => [...e.rows].map(r => [...r.cells].map(c => c.innerText)))"
    )
    assert len(shown) == 2
    for row, (head, *forms) in zip(explanation.rows, shown, strict=True):
        assert [name.lower() for name in head[-2:]] == ["image, points", "audio, points"]
        for line, (form, said) in zip(forms, row.heads[0].said.items(), strict=True):
            assert line[0] == form
            figures = [float(cell.replace("\u2212", "-")) for cell in line[-2:]]
            assert figures == pytest.approx([100 * said.shares["image"], 100 * said.shares["audio"]], abs=0.51)
    sizes = chromium.ask(
        "[...document.querySelectorAll('.maps img, .maps image')].map(e => [e.getBoundingClientRect().width, e.naturalWidth])"
    )
    assert len(sizes) == 12  # two rows, two inputs: as it is, and what each form says
    assert all(wide > 40 for wide, _ in sizes)
    picture = chromium.picture().astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    assert ((red > green + 60) & (red > blue + 60)).sum() > 500, "no piece that speaks for the answer"


def test_a_bundle_without_parts_is_explained_without_shares(whole_bundle, data):
    explanation = explain(whole_bundle, data=data, row=[2])
    assert all(said.shares == {} for said in explanation.rows[0].heads[0].said.values())
    assert any("there are no shares" in note for note in explanation.notes)


def test_what_cannot_be_explained_is_told(bundle, data):
    with pytest.raises(DataError, match=r"there is no row 17"):
        explain(bundle, data=data, row=[17])
    with pytest.raises(DataError, match=r"--row 'first' is no row"):
        explain(bundle, data=data, row=["first"])
    with pytest.raises(EdgemmError, match=r"no output has a label 'burglar'"):
        explain(bundle, data=data, row=[2], label="burglar")


def test_a_torch_model_shows_integrated_gradients_beside_its_pieces(tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    (tmp_path / "words.py").write_text(TORCH)
    (tmp_path / "model.yaml").write_text(CARD)
    (tmp_path / "tokenizer.json").write_text(build_vocabulary(["who is there now"], 20))
    rng = np.random.default_rng(0)
    for row in range(6):
        np.save(tmp_path / f"{row}.npy", rng.integers(0, 256, (16, 16, 3), np.uint8))
    rows = [f"{'train' if row < 3 else 'test'},{row}.npy,who is there,a" for row in range(6)]
    (tmp_path / "manifest.csv").write_text("\n".join(["split,image,text,event", *rows]) + "\n")
    explanation = edgemm.explain(tmp_path / "model.yaml", data=tmp_path, row=[5])
    (head,) = explanation.rows[0].heads
    words = next(heat for heat in head.heats if heat.input == "text")
    assert set(words.maps) == {"float", "integrated gradients"}
    assert words.maps["integrated gradients"].shape == (1, 3)
    assert all(np.abs(heat.maps["integrated gradients"]).max() > 0 for heat in head.heats)
    assert not any("read them with care" in note for note in explanation.notes)
    assert set(head.said["float"].shares) == {"image", "text"}
