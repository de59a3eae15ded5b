"""System lines of Vicuna's conversations, which several published systems took over.

Source: github.com/lm-sys/FastChat, as copied into haotian-liu/LLaVA.
"""

CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CURIOUS_HUMAN = CURIOUS_USER.replace("curious user", "curious human").replace("user's", "human's")
