"""Small Hugging Face folders with random weights, each with the processor and tokenizer that its library writes."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "red", "circle", "blue", "parcel", "on", "doorstep", "dog", "barks", "the"]


def folder(kind: str, path: Path) -> Path:
    """A folder of a family, such as ``clip``."""
    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    MAKERS[kind](path)
    return path


def words(path: Path, *, pad="[PAD]", end="[SEP]", **said) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = {word: WORDS.index(word) for word in ("[CLS]", end)}
    tokenizer.post_processor = processors.TemplateProcessing(single=f"[CLS] $A {end}", special_tokens=list(ids.items()))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token="[UNK]", **said)
    fast.save_pretrained(path)


def _two(kind, path, picture, **more):
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 16, **more.pop("text", {})}
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**SMALL, "image_size": 32, "patch_size": 8}, text_config=text, **more.pop("both", {})
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(path)
    getattr(transformers, f"{kind}ImageProcessorPil")(**picture).save_pretrained(path)


def clip(path):
    text = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3}
    picture = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    _two("CLIP", path, picture, text=text, both={"projection_dim": 24})
    words(path, pad="[SEP]")


def siglip(path):
    _two("Siglip", path, {"size": {"height": 32, "width": 32}}, text={"projection_size": 32, "pad_token_id": 0})
    words(path)


def clap(path):
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 32, "pad_token_id": 0}
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "depths": [1, 1], "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8, "window_size": 4, "hidden_size": 16, "num_classes": 4,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    transformers.ClapModel(config).save_pretrained(path)
    transformers.ClapFeatureExtractor(
        feature_size=16, hop_length=480, max_length_s=2, frequency_min=50, frequency_max=14000, truncation="rand_trunc"
    ).save_pretrained(path)
    words(path)


def whisper(path):
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=80, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(path)
    transformers.WhisperFeatureExtractor().save_pretrained(path)


def bert(path):
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, pad_token_id=0, **SMALL)
    transformers.BertModel(config).save_pretrained(path)
    words(path)


def sentences(path):
    """As sentence-transformers packs it, with a linear layer behind the pooling."""
    from safetensors.torch import save_file

    bert(path)
    kinds = {"": "models.Transformer", "1_Pooling": "models.Pooling", "2_Dense": "models.Dense", "3_Normalize": "models.Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": at, "type": f"sentence_transformers.{kind}"} for n, (at, kind) in enumerate(kinds.items())
    ]
    for at in ("1_Pooling", "2_Dense"):
        (path / at).mkdir()
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    dense = {"in_features": 32, "out_features": 12, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    (path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": torch.randn(12, 32), "linear.bias": torch.randn(12)}, path / "2_Dense" / "model.safetensors")
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))


def mpnet(path):
    config = transformers.MPNetConfig(
        vocab_size=len(WORDS), max_position_embeddings=34, pad_token_id=1, bos_token_id=2, eos_token_id=3, **SMALL
    )
    transformers.MPNetModel(config).save_pretrained(path)
    words(path, pad="[UNK]")


def roberta(path):
    config = transformers.RobertaConfig(
        vocab_size=len(WORDS), max_position_embeddings=34, pad_token_id=1, bos_token_id=2, eos_token_id=3, **SMALL
    )
    transformers.RobertaModel(config).save_pretrained(path)
    words(path, pad="[UNK]")


def vit(path):
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)).save_pretrained(path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)


def dinov2(path):
    config = transformers.Dinov2Config(image_size=28, patch_size=7, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2)
    transformers.Dinov2Model(config).save_pretrained(path)
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 36}, crop_size={"height": 28, "width": 28}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(path)


def convnext(path):
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    transformers.ConvNextModel(config).save_pretrained(path)
    transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(path)


def swin(path):
    config = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    transformers.SwinModel(config).save_pretrained(path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3).save_pretrained(path)


CONVOLUTIONS = {"conv_dim": [16, 16, 16], "conv_stride": [5, 4, 4], "conv_kernel": [10, 8, 4], "num_conv_pos_embeddings": 8,
                "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 3}  # fmt: skip


def wav2vec2(path):
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(vocab_size=8, **SMALL, **CONVOLUTIONS)).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(path)


def hubert(path):
    transformers.HubertModel(transformers.HubertConfig(vocab_size=8, **SMALL, **CONVOLUTIONS)).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(path)


def spectrogram(path):
    config = transformers.ASTConfig(max_length=256, num_mel_bins=64, patch_size=16, time_stride=16, frequency_stride=16, **SMALL)
    transformers.ASTModel(config).save_pretrained(path)
    transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=256).save_pretrained(path)


MAKERS = {
    "clip": clip, "siglip": siglip, "clap": clap, "whisper": whisper, "bert": bert, "sentences": sentences, "mpnet": mpnet,
    "roberta": roberta, "vit": vit, "dinov2": dinov2, "convnext": convnext, "swin": swin, "wav2vec2": wav2vec2, "hubert": hubert,
    "spectrogram": spectrogram,
}  # fmt: skip
