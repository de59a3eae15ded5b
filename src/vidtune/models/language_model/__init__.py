"""The language model: families, layer program, packed attention, loss, quantised weights."""

_FAMILIES = "vidtune.models.language_model.families:"
PARTS = {
    **dict.fromkeys(
        (
            "llama",
            "qwen2",
            "qwen3",
            "mistral",
            "phi",
            "phi3",
            "gemma",
            "olmo",
            "olmo2",
            "smollm3",
            "starcoder2",
            "gpt2",
            "gpt_neox",
            "glm",
            "mixtral",
            "qwen2_moe",
            "bitnet",
            "seed_oss",
            "ernie4_5",
            "arcee",
            "apertus",
        ),
        f"{_FAMILIES}PLAIN",
    ),
    "cohere": f"{_FAMILIES}COHERE",
    "gemma2": f"{_FAMILIES}GEMMA2",
    "granite": f"{_FAMILIES}GRANITE",
}
"""Known families by model_type -> module and name of the record, see
:class:`vidtune.models.language_model.families.Family`."""
