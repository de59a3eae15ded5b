"""Likelihood of given answers: how likely the model holds each option of a question, without generating.

The options of a batch of questions continue one shared prefix: each question is read once, then copied for each of its
options, whose tokens follow one column at a time.

Legend: n prompts, R pairs of a prompt and one of its options, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vidtune.generation.decoding import PromptBatch

Tokens = Sequence[int]


@torch.inference_mode()
def option_likelihoods(prompts: PromptBatch, options: Sequence[Sequence[Tokens]]) -> list[list[float]]:
    """Mean log-likelihood per token of every option of n prompts; NaN where the model computes no numbers.

    Args:
        prompts: prompts with open answers that can be copied by `PromptBatch.keep`.
        options: for each prompt the token ids of its options, none empty.
    """
    pairs = [(prompt, list(tokens)) for prompt, own in enumerate(options) for tokens in own]
    logits = prompts.start()
    copies = [prompt for prompt, _ in pairs]
    prompts.keep(copies)
    logits = logits[copies]
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    active, column = list(range(len(pairs))), 0
    while True:
        tokens = [pairs[row][1][column] for row in active]
        sums[active] += _log_likelihoods(logits, tokens)
        column += 1
        going = [place for place, row in enumerate(active) if len(pairs[row][1]) > column]
        if not going:
            break
        if len(going) < len(active):
            prompts.keep(going)
        active = [active[place] for place in going]
        logits = prompts.step([tokens[place] for place in going])
    means = iter((sums / torch.tensor([len(tokens) for _, tokens in pairs])).tolist())
    return [[next(means) for _ in own] for own in options]


def likelihoods_alone(begin: Callable[[], PromptBatch], options: Sequence[Tokens]) -> list[float]:
    """`option_likelihoods` of one prompt, which is read again for each option."""
    return [option_likelihoods(begin(), [[tokens]])[0][0] for tokens in options]


def _log_likelihoods(logits: Tensor, tokens: Tokens) -> Tensor:
    """Logarithm of the probability of one token each. Shape: (R, V) -> (R,) float64, on the CPU"""
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    return logits.float().log_softmax(-1).gather(-1, ids)[:, 0].double().cpu()
