"""Alignment by words: the loss against sums made by hand."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from vidtune.models.text_alignment import caption_words
from vidtune.models.text_alignment.caption_words import SCALE, word_log_odds, word_loss


def test_log_odds_count_the_examples_that_have_a_token() -> None:
    found = word_log_odds([[3, 3, 1], [1], [], [2, 1]], 5)
    share = torch.tensor([0.5, 3.5, 1.5, 1.5, 0.5]) / 5
    torch.testing.assert_close(found, torch.log(share / (1 - share)))


def test_loss_equals_a_loop_over_examples_and_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    media = [torch.randn(number, 6, generator=generator) for number in (3, 1, 4)]
    table, log_odds = torch.randn(7, 6, generator=generator), torch.randn(5, generator=generator)
    told = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.float32)
    expected = 0.0
    for example, words in zip(media, told, strict=True):
        for token in range(5):
            each = [math.exp(float(row @ table[token]) * SCALE / math.sqrt(6)) for row in example]
            logit = torch.tensor(math.log(sum(each) / len(each)) + float(log_odds[token]))
            expected -= float(logsigmoid(logit if words[token] else -logit))
    assert float(word_loss(media, told.split(1), table, log_odds)) == pytest.approx(expected, rel=1e-5)


def test_one_embedding_that_tells_a_word_is_enough() -> None:
    table, log_odds, told = torch.eye(2), torch.zeros(2), torch.tensor([[1.0, 0.0]])
    silent = torch.zeros(4, 2)
    telling = silent.clone()
    telling[2, 0] = 9.0
    assert word_loss([telling], [told], table, log_odds) < 0.75 * word_loss([silent], [told], table, log_odds)


def test_each_embedding_alone_is_the_mean_of_the_losses_of_single_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    media = [torch.randn(number, 6, generator=generator) for number in (3, 1, 4)]
    table, log_odds = torch.randn(7, 6, generator=generator), torch.randn(5, generator=generator)
    told = (torch.rand(3, 5, generator=generator) < 0.4).float()
    expected = sum(
        float(word_loss([row[None]], [words[None]], table, log_odds)) / len(example)
        for example, words in zip(media, told, strict=True)
        for row in example
    )
    assert float(word_loss(media, told.split(1), table, log_odds, "align_each")) == pytest.approx(expected, rel=1e-5)


def test_each_sentence_has_the_embedding_that_tells_it_best_and_each_embedding_its_sentence_or_none() -> None:
    generator = torch.Generator().manual_seed(3)
    media = [torch.randn(number, 6, generator=generator) for number in (3, 1, 4)]
    table, log_odds = torch.randn(7, 6, generator=generator), torch.randn(5, generator=generator)
    told = [(torch.rand(number, 5, generator=generator) < 0.4).float() for number in (2, 0, 3)]
    expected = 0.0
    for example, texts in zip(media, told, strict=True):
        pairs = [
            [float(word_loss([row[None]], [words[None]], table, log_odds)) for words in [*texts, torch.zeros(5)]]
            for row in example
        ]
        for row in pairs:
            expected += soft_minimum(row) / len(pairs)
        for number in range(len(texts)):
            expected += soft_minimum([row[number] for row in pairs]) / len(texts)
    assert float(word_loss(media, told, table, log_odds, "align_sentences")) == pytest.approx(expected, rel=1e-5)


def soft_minimum(losses: list[float]) -> float:
    return -math.log(sum(math.exp(-loss) for loss in losses) / len(losses))


def test_two_sentences_told_apart_cost_less_than_all_words_in_every_embedding() -> None:
    table, log_odds = 9 * torch.eye(4), torch.zeros(4)
    told = [torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])]
    apart = torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]])
    mixed = torch.ones(2, 4)
    assert word_loss([apart], told, table, log_odds, "align_sentences") < 3
    assert word_loss([mixed], told, table, log_odds, "align_sentences") > 20


@pytest.mark.parametrize("objective", ["align", "align_each", "align_sentences"])
def test_a_vocabulary_in_parts_gives_the_same_loss_and_gradient(monkeypatch, objective: str):
    generator = torch.Generator().manual_seed(1)
    table, log_odds = torch.randn(11, 6, generator=generator), torch.randn(10, generator=generator)
    told = (torch.rand(2, 10, generator=generator) < 0.3).float()
    found = []
    for at_once in (8192, 4):
        monkeypatch.setattr(caption_words, "TOKENS_AT_ONCE", at_once)
        media = [torch.arange(18.0).view(3, 6).sin().requires_grad_(), torch.ones(1, 6).requires_grad_()]
        loss = word_loss(media, told.split(1), table, log_odds, objective)
        loss.backward()
        found.append((loss.detach(), *(part.grad for part in media)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
