"""Folders of open_clip and timm: their vectors are what is computed here, once more, from these libraries' own weights."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.contracts.modality import of
from edgemm.errors import CardError, CheckpointError
from edgemm.workshop.models.checkpoint.loading import load_model
from tests import towers

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def norm(x, weights, name, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def attention(x, packed, bias, heads, mask=None):
    """Queries, keys and values packed in one product, as both libraries have them; before the last projection."""
    n, t, width = x.shape
    q, k, v = F.linear(x, packed, bias).reshape(n, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).reshape(n, t, width)


def timm_vit(x, w, heads=3):
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for number in range(2):
        at = f"blocks.{number}"
        seen = attention(norm(x, w, f"{at}.norm1"), w[f"{at}.attn.qkv.weight"], w[f"{at}.attn.qkv.bias"], heads)
        x = x + linear(seen, w, f"{at}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, w, f"{at}.norm2"), w, f"{at}.mlp.fc1")), w, f"{at}.mlp.fc2")
    return norm(x, w, "norm")[:, 0]


def vit_weights(width=192, size=32, patch=8):
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, (size // patch) ** 2 + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(2):
        at = f"blocks.{number}"
        for name, (out, into) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (64, width),
            "mlp.fc2": (width, 64),
        }.items():
            shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{at}.{name}.weight": (width,), f"{at}.{name}.bias": (width,)}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,), "head.weight": (10, width), "head.bias": (10,)}


def batch_norm(x, w, name):
    return F.batch_norm(x, *(w[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")))


def timm_resnet(x, w, depths):
    inner = 3 if "layer1.0.conv3.weight" in w else 2
    x = F.max_pool2d(F.relu(batch_norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), w, "bn1")), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at, stride, y = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1, x
            for number in range(1, inner + 1):
                kernel = w[f"{at}.conv{number}.weight"].shape[-1]
                strided = stride if number == (2 if inner == 3 else 1) else 1
                y = batch_norm(F.conv2d(y, w[f"{at}.conv{number}.weight"], stride=strided, padding=kernel // 2), w, f"{at}.bn{number}")
                y = F.relu(y) if number < inner else y
            if f"{at}.downsample.0.weight" in w:
                x = batch_norm(F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride), w, f"{at}.downsample.1")
            x = F.relu(x + y)
    return x.mean((2, 3))


def resnet_weights(depths, *, bottleneck):
    shapes, before = {}, 8

    def convolution(name, norm_name, out, into, kernel):
        shapes[f"{name}.weight"] = (out, into, kernel, kernel)
        shapes.update({f"{norm_name}.{kind}": (out,) for kind in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{norm_name}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", 8, 3, 7)
    for stage, depth in enumerate(depths, 1):
        width = 8 * 2 ** (stage - 1)
        out = 4 * width if bottleneck else width
        for block in range(depth):
            at = f"layer{stage}.{block}"
            sizes = [(width, before, 1), (width, width, 3), (out, width, 1)] if bottleneck else [(width, before, 3), (width, width, 3)]
            for number, size in enumerate(sizes, 1):
                convolution(f"{at}.conv{number}", f"{at}.bn{number}", *size)
            if block == 0 and (before != out or stage > 1):
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", out, before, 1)
            before = out
    return shapes | {"fc.weight": (10, before), "fc.bias": (10,)}


def timm_convnext(x, w, depths):
    def channels_last(x, name):
        return norm(x.permute(0, 2, 3, 1), w, name).permute(0, 3, 1, 2)

    x = channels_last(F.conv2d(x, w["stem.0.weight"], w["stem.0.bias"], stride=4), "stem.1")
    for stage, depth in enumerate(depths):
        at = f"stages.{stage}"
        if stage:
            x = F.conv2d(channels_last(x, f"{at}.downsample.0"), w[f"{at}.downsample.1.weight"], w[f"{at}.downsample.1.bias"], stride=2)
        for block in range(depth):
            own, wide = f"{at}.blocks.{block}", x.shape[1]
            y = F.conv2d(x, w[f"{own}.conv_dw.weight"], w[f"{own}.conv_dw.bias"], padding=3, groups=wide).permute(0, 2, 3, 1)
            y = linear(F.gelu(linear(norm(y, w, f"{own}.norm"), w, f"{own}.mlp.fc1")), w, f"{own}.mlp.fc2") * w[f"{own}.gamma"]
            x = x + y.permute(0, 3, 1, 2)
    return norm(x.mean((2, 3)), w, "head.norm")


def convnext_weights(depths):
    sizes = [8, 16, 24, 32]
    shapes = {"stem.0.weight": (8, 3, 4, 4), "stem.0.bias": (8,), "stem.1.weight": (8,), "stem.1.bias": (8,)}
    for stage, (depth, wide) in enumerate(zip(depths, sizes, strict=True)):
        at = f"stages.{stage}"
        if stage:
            before = sizes[stage - 1]
            shapes |= {f"{at}.downsample.0.weight": (before,), f"{at}.downsample.0.bias": (before,)}
            shapes |= {f"{at}.downsample.1.weight": (wide, before, 2, 2), f"{at}.downsample.1.bias": (wide,)}
        for block in range(depth):
            own = f"{at}.blocks.{block}"
            shapes |= {f"{own}.gamma": (wide,), f"{own}.conv_dw.weight": (wide, 1, 7, 7), f"{own}.conv_dw.bias": (wide,)}
            shapes |= {f"{own}.norm.weight": (wide,), f"{own}.norm.bias": (wide,)}
            shapes |= {f"{own}.mlp.fc1.weight": (4 * wide, wide), f"{own}.mlp.fc1.bias": (4 * wide,)}
            shapes |= {f"{own}.mlp.fc2.weight": (wide, 4 * wide), f"{own}.mlp.fc2.bias": (wide,)}
    return shapes | {"head.norm.weight": (32,), "head.norm.bias": (32,), "head.fc.weight": (10, 32), "head.fc.bias": (10,)}


def drawn(shapes):
    """Seeded weights; variances are positive."""
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=rng) + 0.5
        else:
            scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
            weights[name] = torch.randn(shape, generator=rng) * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return weights


DEPTHS = [1, 2, 1, 1]
TIMM = {
    "vit_tiny_patch8_32": (vit_weights(), timm_vit, 32),
    "resnet18": (resnet_weights(DEPTHS, bottleneck=False), lambda x, w: timm_resnet(x, w, DEPTHS), 64),
    "resnet50": (resnet_weights(DEPTHS, bottleneck=True), lambda x, w: timm_resnet(x, w, DEPTHS), 64),
    "convnext_tiny": (convnext_weights(DEPTHS), lambda x, w: timm_convnext(x, w, DEPTHS), 64),
}


def timm_folder(path, name, *, shapes=None, size=None, pretrained=None, **config):
    shapes_, _, own_size = TIMM.get(name, ({"x": (1,)}, None, 32))
    path.mkdir()
    save_file(drawn(shapes or shapes_), path / "model.safetensors")
    said = {"input_size": [3, size or own_size, size or own_size], "mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 0.9}
    said |= {"crop_mode": "center"} | (pretrained or {})
    (path / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 10, "pretrained_cfg": said, **config}))
    return path


def open_clip(pixels, ids, w, heads=(2, 2), *, quick, below=""):
    def tower(x, at, heads, mask=None):
        for number in range(2):
            own = f"{at}transformer.resblocks.{number}"
            seen = attention(norm(x, w, f"{own}.ln_1", 1e-5), w[f"{own}.attn.in_proj_weight"], w[f"{own}.attn.in_proj_bias"], heads, mask)
            x = x + linear(seen, w, f"{own}.attn.out_proj")
            y = linear(norm(x, w, f"{own}.ln_2", 1e-5), w, f"{own}.mlp.c_fc")
            x = x + linear(y * torch.sigmoid(1.702 * y) if quick else F.gelu(y), w, f"{own}.mlp.c_proj")
        return x

    x = F.conv2d(pixels, w["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.positional_embedding"]
    x = tower(norm(x, w, "visual.ln_pre", 1e-5), "visual.", heads[0])
    picture = norm(x[:, 0], w, "visual.ln_post", 1e-5) @ w["visual.proj"]
    t = w[f"{below}token_embedding.weight"][ids] + w[f"{below}positional_embedding"]
    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
    t = norm(tower(t, below, heads[1], mask), w, f"{below}ln_final", 1e-5)
    return picture, t[torch.arange(len(t)), ids.argmax(1)] @ w[f"{below}text_projection"]


def open_clip_weights(below=""):
    shapes = {
        "logit_scale": (),
        "visual.class_embedding": (128,),
        "visual.conv1.weight": (128, 3, 8, 8),
        "visual.positional_embedding": (17, 128),
    }
    shapes |= {"visual.proj": (128, 24), f"{below}text_projection": (32, 24)}
    shapes |= {f"{below}token_embedding.weight": (len(towers.WORDS), 32), f"{below}positional_embedding": (16, 32)}
    for name, wide in (("visual.ln_pre", 128), ("visual.ln_post", 128), (f"{below}ln_final", 32)):
        shapes |= {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}
    for at, wide in (("visual.", 128), (below, 32)):
        for own in (f"{at}transformer.resblocks.{number}" for number in range(2)):
            shapes |= {f"{own}.attn.in_proj_weight": (3 * wide, wide), f"{own}.attn.in_proj_bias": (3 * wide,)}
            for name, size in (("attn.out_proj", (wide, wide)), ("mlp.c_fc", (4 * wide, wide)), ("mlp.c_proj", (wide, 4 * wide))):
                shapes |= {f"{own}.{name}.weight": size, f"{own}.{name}.bias": size[:1]}
            for name in ("ln_1", "ln_2"):
                shapes |= {f"{own}.{name}.weight": (wide,), f"{own}.{name}.bias": (wide,)}
    return shapes


def open_clip_folder(path, *, below="", vision=None, weights=None, **more):
    path.mkdir()
    towers.words(path, pad="[SEP]")
    save_file(weights or drawn(open_clip_weights(below)), path / "open_clip_model.safetensors")
    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8, **(vision or {})}
    text = {"context_length": 16, "vocab_size": len(towers.WORDS), "width": 32, "heads": 2, "layers": 2}
    said = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": said}))
    return path


def scaled(pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def drafted(folder, tmp_path):
    return cards.load(edgemm.init(str(folder), output=tmp_path / "model.yaml"))


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_folder_gives_the_vector_that_its_classifier_would_read(name, tmp_path):
    folder = timm_folder(tmp_path / name, name)
    card = drafted(folder, tmp_path)
    size = TIMM[name][2]
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    with torch.no_grad():
        ours = load_model(card)({"image": torch.from_numpy(pixels)})["image_vector"]
        theirs = TIMM[name][1](scaled(pixels), load_file(folder / "model.safetensors"))
    torch.testing.assert_close(ours, F.normalize(theirs, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("quick", "below"), [(False, ""), (True, ""), (False, "text.")])
def test_an_open_clip_folder_has_both_its_towers(quick, below, tmp_path):
    folder = open_clip_folder(tmp_path / "clip", below=below, **({"quick_gelu": True} if quick else {}))
    card = drafted(folder, tmp_path)
    part = of(card.inputs["text"], folder=card.folder)
    ids = torch.from_numpy(np.stack([part.decode(text, tmp_path) for text in ("a photo of the red circle", "dog barks")]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with torch.no_grad():
        ours = load_model(card)({"image": torch.from_numpy(pixels), "text": ids})
        picture, text = open_clip(scaled(pixels), ids, load_file(folder / "open_clip_model.safetensors"), quick=quick, below=below)
    torch.testing.assert_close(ours["image_vector"], F.normalize(picture, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["text_vector"], F.normalize(text, dim=-1), atol=1e-5, rtol=0)


def test_words_are_asked_of_an_open_clip_folder_too(tmp_path):
    folder = open_clip_folder(tmp_path / "clip")
    (tmp_path / "words.yaml").write_text("dog: [a dog barks]\nparcel: [parcel on the doorstep]\n")
    card = cards.load(edgemm.init(str(folder), words=tmp_path / "words.yaml", output=tmp_path / "model.yaml"))
    w = load_file(folder / "open_clip_model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    part = of(cards.load(edgemm.init(str(folder), output=tmp_path / "both.yaml")).inputs["text"], folder=tmp_path)
    ids = torch.from_numpy(np.stack([part.decode(text, tmp_path) for text in ("a dog barks", "parcel on the doorstep")]))
    with torch.no_grad():
        ours = load_model(card)({"image": torch.from_numpy(pixels)})["word"]
        picture, text = (F.normalize(one, dim=-1) for one in open_clip(scaled(pixels), ids, w, quick=False))
    torch.testing.assert_close(ours, picture @ text.T * w["logit_scale"].exp(), atol=1e-4, rtol=0)


def test_pictures_are_brought_to_size_as_timm_does(tmp_path):
    from PIL import Image

    card = drafted(timm_folder(tmp_path / "vit", "vit_tiny_patch8_32", pretrained={"crop_pct": 0.8}), tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 126, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    ours = of(card.inputs["image"], folder=tmp_path).decode("one.png", tmp_path)
    edge = math.floor(32 / 0.8)
    wide = int(edge * 126 / 90)
    resized = Image.fromarray(pixels).resize((wide, edge), Image.Resampling.BICUBIC)
    left, top = (wide - 32) // 2, (edge - 32) // 2
    np.testing.assert_array_equal(ours, np.asarray(resized)[top : top + 32, left : left + 32])


def test_a_timm_folder_is_a_branch_of_a_fused_model(tmp_path):
    timm_folder(tmp_path / "resnet", "resnet18")
    (tmp_path / "model.yaml").write_text(
        "factory: models:easyvqa\n"
        "kwargs: {encoders: {image: {hf: resnet, freeze: true, width: 16}}}\n"
        "inputs: {image: {modality: image, height: 64, width: 64}, text: {modality: text, length: 8, vocab: 50}}\n"
        "outputs: {answer: {task: classification, labels: [a, b]}}\n"
    )
    model = load_model(cards.load(tmp_path / "model.yaml"))
    trained = {name for name, weights in model.module.named_parameters() if weights.requires_grad}
    assert not any("backbone" in name for name in trained)
    assert isinstance(model.module.encoders["image"].project, nn.Linear)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("efficientnet_b0", {}, "'efficientnet_b0' is none of vit_"),
        ("resnet18", {"model_args": {"block_args": {}}}, r"built otherwise than usual \(block_args\)"),
        ("vit_tiny_patch8_32", {"model_args": {"global_pool": "avg"}}, "its vector is pooled by 'avg'"),
        ("resnet18", {"pretrained": {"crop_mode": "border"}}, "pictures are cropped by 'border'"),
    ],
)
def test_a_timm_model_without_an_equal_says_why_and_how_else(name, change, words, tmp_path):
    folder = timm_folder(tmp_path / "folder", name, **change)
    with pytest.raises(CardError, match=words) as caught:
        drafted(folder, tmp_path)
    assert "edgemm init mine:build" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"vision": {"timm_model_name": "vit_base"}}, "its configuration says vision_cfg.timm_model_name"),
        ({"custom_text": True}, "its configuration says custom_text"),
        ({"vision": {"layers": [3, 4, 6, 3]}}, "nothing of layers"),
    ],
)
def test_an_open_clip_model_that_is_no_plain_clip_says_why(more, words, tmp_path):
    folder = open_clip_folder(tmp_path / "clip", **more)
    with pytest.raises(CardError, match=words) as caught:
        drafted(folder, tmp_path)
    assert "open_clip.create_model" in str(caught.value)


def test_surplus_and_missing_weights_are_named(tmp_path):
    shapes = vit_weights() | {"blocks.0.ls1.gamma": (192,)}
    del shapes["norm.bias"]
    folder = timm_folder(tmp_path / "vit", "vit_tiny_patch8_32", shapes=shapes)
    with pytest.raises(CheckpointError, match=r"missing: norm.bias; with no place in the model: blocks.0.ls1.gamma"):
        drafted(folder, tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    shapes = vit_weights() | {"blocks.1.mlp.fc1.weight": (32, 192)}
    folder = timm_folder(tmp_path / "vit", "vit_tiny_patch8_32", shapes=shapes)
    with pytest.raises(CheckpointError, match=r"the model in '.*vit' cannot be read"):
        drafted(folder, tmp_path)


def test_a_pickle_of_weights_is_not_read(tmp_path):
    folder = open_clip_folder(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot read the weights") as caught:
        drafted(folder, tmp_path)
    assert "a pickle" in str(caught.value)
