"""Settings of small models, for architectures whose defaults cannot be shrunk by the names of their sizes."""

from __future__ import annotations

from typing import Any

_LLAMA: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_LLAMA, "num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
_PICTURES = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
_BYTES = {"vocab_size": 260, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64}
_LOCAL = {**_BYTES, "hidden_size_global": 128}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MUSIC: dict[str, Any] = {
    "decoder": {
        "vocab_size": 96, "hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_codebooks": 1, "pad_token_id": 0, "bos_token_id": 1,
    },
    "text_encoder": {"model_type": "t5"},
    "audio_encoder": {"model_type": "encodec"},
}  # fmt: skip
_NOTE: dict[str, Any] = {
    **_LLAMA, **_EXPERTS, **_LATENT, "num_key_value_heads": 4, "n_routed_experts": 4,
    "shared_experts_intermediate_size": 32, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 2, "head_dim": 32,
    "layer_types": ["indexed_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"],
    "sliding_window": 13, "per_layer_config": {},
}  # fmt: skip
_QWEN_4: dict[str, Any] = {
    **_GROUPED, **_EXPERTS, "head_dim": 16, "num_experts": 4, "shared_expert_intermediate_size": 32,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"], "hc_count": 2, "hc_lowrank": 8,
    "ple_layer_ids": [1], "ple_embed_dim": 16, "heads_per_ngram": 2, "ngram_vocab_size_base": 100,
    "split_ngram_parts": 2, "make_ngram_vocab_size_divisible_by": 8,
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "blt": {
        "vocab_size": 260, "encoder_hash_byte_group_vocab": 100, "cross_attn_k": 2,
        "patcher_config": {**_BYTES, "num_hidden_layers": 2},
        "encoder_config": {**_LOCAL, "num_hidden_layers": 1},
        "decoder_config": {**_LOCAL, "num_hidden_layers": 2},
        "global_config": {
            "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        },
    },
    "cohere_compass_text": {
        **_GROUPED, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 13,
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "dbrx": {
        "d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 96,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {
        **_GROUPED, **_EXPERTS, "head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "dots3_note": {
        "text_config": _NOTE, "vision_config": {"adapter_out_dim": 64}, "audio_config": {"adapter_out_dim": 64},
    },
    "dots3_note_text": _NOTE,
    "emu3": {"text_config": _GROUPED},
    "gemma4_assistant": {
        "text_config": {
            **_GROUPED, "head_dim": 16, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
        },
    },
    "git": {**_LLAMA, "vision_config": _PICTURES},
    "longcat_flash": {
        **_LATENT, "vocab_size": 96, "hidden_size": 64, "num_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "ffn_hidden_size": 64, "head_dim": 16, "qk_head_dim": 32, "moe_topk": 2,
        "n_routed_experts": 4, "zero_expert_num": 2, "expert_ffn_hidden_size": 32,
    },
    "marian": {
        "vocab_size": 96, "decoder_vocab_size": 96, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "decoder_start_token_id": 1,
        "is_decoder": True,
    },
    "mllama": {"text_config": {**_GROUPED, "cross_attention_layers": [1]}},
    "musicgen": _MUSIC,
    "musicgen_melody": _MUSIC,
    "phi4_multimodal": {
        **_GROUPED, "vision_config": {**_PICTURES, "crop_size": 32},
        "audio_config": {"hidden_size": 32, "intermediate_size": 32, "num_blocks": 1, "num_attention_heads": 2},
    },
    "prophetnet": {
        "vocab_size": 96, "hidden_size": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_encoder_layers": 2,
        "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
        "is_decoder": True, "add_cross_attention": False, "is_encoder_decoder": False,
    },
    "qwen4_exp": {"text_config": _QWEN_4},
    "qwen4_exp_text": _QWEN_4,
    "reformer": {
        "vocab_size": 96, "hidden_size": 64, "attention_head_size": 16, "num_attention_heads": 4,
        "feed_forward_size": 64, "axial_pos_embds": False, "is_decoder": True, "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 16, "max_position_embeddings": 128,
    },
    "xlstm": {
        "vocab_size": 96, "hidden_size": 64, "embedding_dim": 64, "num_hidden_layers": 2, "num_blocks": 2,
        "num_heads": 4, "chunk_size": 16,
    },
    "xmod": {**_LLAMA, "is_decoder": True, "default_language": "en_XX"},
    "zamba2": {
        **_LLAMA, "layers_block_type": ["linear_attention", "hybrid"], "hybrid_layer_ids": [1],
        "num_key_value_heads": 4, "mamba_d_state": 16, "mamba_headdim": 16, "n_mamba_heads": 8, "chunk_size": 8,
        "attention_hidden_size": 128, "attention_head_dim": 32, "kv_channels": 16, "num_query_groups": 4,
        "adapter_rank": 8,
    },
}  # fmt: skip
