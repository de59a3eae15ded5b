"""Sampling follows transformers' meaning of its settings and depends on the request alone."""

import pytest
import torch
from tiny_language_models import byte_tokenizer, language_model

from vidtune.generation.decoding import TokenChooser, decode_steps
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.settings import GenerationSettings
from vidtune.generation.shared_prefix import Branches, Prefix, check_language_model
from vidtune.generation.stopping import AnswerInProgress

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(-1)


def drawn_shares(count=4000, **settings):
    chooser = TokenChooser(GenerationSettings(do_sample=True, **settings))
    generators = [chooser.generator(str(i)) for i in range(count)]
    tokens = torch.tensor(chooser.choose(LOGITS.expand(count, 4), generators))
    return tokens.bincount(minlength=4) / count


def test_draws_follow_the_probabilities():
    torch.testing.assert_close(drawn_shares(), LOGITS.exp(), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn_shares(temperature=0.5), (2 * LOGITS).softmax(-1), atol=0.03, rtol=0)


def test_top_k_and_top_p_cut_the_tail():
    torch.testing.assert_close(drawn_shares(top_k=2)[:2], LOGITS[:2].softmax(-1), atol=0.03, rtol=0)
    assert drawn_shares(top_k=2)[2:].sum() == 0
    assert drawn_shares(top_p=0.6)[0] == 1
    assert drawn_shares(top_p=0.7)[2:].sum() == 0


def test_temperature_zero_is_greedy():
    settings = GenerationSettings(do_sample=True, temperature=0.0)
    assert TokenChooser(settings).choose(LOGITS[None], []) == [0]


@pytest.fixture(scope="module")
def sample():
    """Samples answers of up to 10 tokens to questions by id; returns their tokens by id."""
    model = language_model("qwen2_grouped")
    check_language_model(model)
    embed = model.get_input_embeddings()
    prefix = Prefix(model, PromptTokens.of([torch.randn(9, 32, generator=torch.Generator().manual_seed(1))]))

    def sample(questions, seed=42, eos_ids=()):
        chooser = TokenChooser(GenerationSettings(do_sample=True, temperature=2.0, top_p=0.95, seed=seed))
        answers = [AnswerInProgress(id, byte_tokenizer(), eos_ids, (), 10) for id in questions]
        tokens = PromptTokens.of([embed(torch.tensor(ids)).detach() for ids in questions.values()], begin=9)
        for _ in decode_steps(Branches(prefix, tokens), answers, chooser):
            pass
        return {answer.id: answer.token_ids for answer in answers}

    return sample


@pytest.mark.parametrize("other_seed", [42, 43])
def test_sampled_answer_depends_on_seed_and_request_not_on_the_batch(sample, other_seed):
    batch = sample({"a": [1, 2], "b": [3], "same question": [3]})
    assert batch["b"] != batch["same question"]
    assert (sample({"b": [3]}, other_seed)["b"] == batch["b"]) == (other_seed == 42)


def test_sampled_answer_does_not_change_when_another_one_ends(sample):
    questions = {"a": [1, 2], "b": [3]}
    free = sample(questions)
    eos = next(token for token in free["a"] if token not in free["b"])
    ended = sample(questions, eos_ids={eos})
    assert len(ended["a"]) < 10
    assert ended["b"] == free["b"]
