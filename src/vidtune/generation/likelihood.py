"""Given answers: how likely the model holds each of them, and what it would say in their place; without generating.

The answers of a batch of questions continue one shared prefix: each question is read once, then copied for each of its
answers, whose tokens follow one column at a time. A column of logits is what one forward pass over whole answers gives.

Legend: n prompts, R pairs of a prompt and one of its answers, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vidtune.generation.decoding import PromptBatch, TokenChooser
from vidtune.generation.settings import GenerationSettings

Tokens = Sequence[int]


@torch.inference_mode()
def option_likelihoods(prompts: PromptBatch, options: Sequence[Sequence[Tokens]]) -> list[list[float]]:
    """Mean log-likelihood per token of every option of n prompts; NaN where the model computes no numbers.

    Args:
        prompts: prompts with open answers that can be copied by `PromptBatch.keep`.
        options: for each prompt the token ids of its options, none empty.
    """
    pairs = [(prompt, list(tokens)) for prompt, own in enumerate(options) for tokens in own]
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for active, logits, tokens in _columns(prompts, pairs):
        sums[active] += _log_likelihoods(logits, tokens)
    means = iter((sums / torch.tensor([len(tokens) for _, tokens in pairs])).tolist())
    return [[next(means) for _ in own] for own in options]


def likelihoods_alone(begin: Callable[[], PromptBatch], options: Sequence[Tokens]) -> list[float]:
    """`option_likelihoods` of one prompt, which is read again for each option."""
    return [option_likelihoods(begin(), [[tokens]])[0][0] for tokens in options]


def predicted_tokens(prompts: PromptBatch, answers: Sequence[Tokens]) -> list[list[int] | None]:
    """The most likely token in the place of every token of a given answer, behind the given ones before it.

    Args:
        prompts: prompts with open answers.
        answers: token ids of the answer of each prompt, none empty.

    Returns:
        For each prompt as many tokens as its answer has; None where the model computes no numbers.
    """
    found: list[list[int | None]] = [[] for _ in answers]
    chooser = TokenChooser(GenerationSettings())
    for active, logits, _ in _columns(prompts, list(enumerate(answers))):
        for row, token in zip(active, chooser.choose(logits, ()), strict=True):
            found[row].append(token)
    return [None if None in tokens else [token for token in tokens if token is not None] for tokens in found]


@torch.inference_mode()
def _columns(
    prompts: PromptBatch, pairs: Sequence[tuple[int, Tokens]]
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Continue prompts by given answers.

    Yields:
        The pairs that have a token in this column, the logits before it, (pairs, V), and these tokens.
    """
    logits = prompts.start()
    copies = [prompt for prompt, _ in pairs]
    if copies != list(range(len(logits))):
        prompts.keep(copies)
        logits = logits[copies]
    active, column = list(range(len(pairs))), 0
    while True:
        tokens = [pairs[row][1][column] for row in active]
        yield active, logits, tokens
        column += 1
        going = [place for place, row in enumerate(active) if len(pairs[row][1]) > column]
        if not going:
            return
        if len(going) < len(active):
            prompts.keep(going)
        active = [active[place] for place in going]
        logits = prompts.step([tokens[place] for place in going])


def _log_likelihoods(logits: Tensor, tokens: Tokens) -> Tensor:
    """Logarithm of the probability of one token each. Shape: (R, V) -> (R,) float64, on the CPU"""
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    return logits.float().log_softmax(-1).gather(-1, ids)[:, 0].double().cpu()
