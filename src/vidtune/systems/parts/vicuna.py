"""System lines of Vicuna's conversations, and names of its weights, which several published systems use.

Source: github.com/lm-sys/FastChat, as copied into haotian-liu/LLaVA.
"""

CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CURIOUS_HUMAN = CURIOUS_USER.replace("curious user", "curious human").replace("user's", "human's")

LANGUAGE_MODEL_KEYS = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
)
"""Pairs of prefixes: names in a whole published checkpoint, our names."""
LANGUAGE_MODEL_ENDS = ("model.embed_tokens.", "lm_head.")
"""Prefixes by which a whole checkpoint is known to hold a language model; one that ties both may hold either."""
