"""Questions over one copy of a prefix give the tokens of answering each prompt from scratch."""

import numpy as np
import pytest
import torch
from tiny_language_models import CONFIGS, byte_tokenizer, language_model
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, Qwen2Config

from vidtune.errors import UserError
from vidtune.generation import prefix_attention, shared_prefix
from vidtune.generation.decoding import SinglePrompt, TokenChooser, decode_steps
from vidtune.generation.kept import Said
from vidtune.generation.prefix_attention import attend_with_total
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.settings import GenerationSettings
from vidtune.generation.shared_prefix import Branches, Prefix, check_language_model
from vidtune.generation.stopping import AnswerInProgress
from vidtune.models.language_model.attention import PACKED_ATTENTION

QUESTIONS = [[1, 2, 3], [5], [4, 4, 4, 9, 3, 2, 8], [7, 7], [1, 2, 3]]
NEW_TOKENS = 12


def answers_in_progress(count, eos_ids=()):
    tokenizer = byte_tokenizer()
    return [AnswerInProgress(f"q{i}", tokenizer, eos_ids, (), NEW_TOKENS) for i in range(count)]


def run(prompts, answers):
    for _ in decode_steps(prompts, answers, TokenChooser(GenerationSettings())):
        pass
    return [answer.token_ids for answer in answers]


def alone(model, prefix, question, **kwargs):
    whole = PromptTokens.of([torch.cat([prefix, embeds(model, question)])])
    return run(SinglePrompt(model, whole), answers_in_progress(1, **kwargs))[0]


def branches(prefix, questions=QUESTIONS):
    rows = [embeds(prefix.language_model, question) for question in questions]
    return Branches(prefix, PromptTokens.of(rows, begin=prefix.length))


def embeds(model, ids):
    return model.get_input_embeddings()(torch.tensor(ids)).detach()


def prefix_of(model, tokens):
    return Prefix(model, PromptTokens.of([tokens]))


@pytest.fixture(params=CONFIGS)
def model(request):
    model = language_model(request.param)
    check_language_model(model)
    return model


@pytest.mark.parametrize("prefix_length", [0, 1, 37])
def test_shared_prefix_equals_plain(model, prefix_length):
    prefix = torch.randn(prefix_length, 32)
    shared = run(branches(prefix_of(model, prefix)), answers_in_progress(len(QUESTIONS)))
    assert shared == [alone(model, prefix, question) for question in QUESTIONS]
    assert len({tuple(tokens) for tokens in shared}) == 4


@pytest.mark.parametrize("prefix_length", [0, 3])
def test_long_questions_repeat_a_short_prefix(model, prefix_length, monkeypatch):
    prefix = torch.randn(prefix_length, 32)
    merged = branches(prefix_of(model, prefix)).start()
    calls = []
    repeating = Branches._attend_repeating
    monkeypatch.setattr(shared_prefix, "LONG_QUESTION", 5)
    monkeypatch.setattr(Branches, "_attend_repeating", lambda *args: calls.append(args[1]) or repeating(*args))
    torch.testing.assert_close(branches(prefix_of(model, prefix)).start(), merged, rtol=0, atol=2e-5)
    shared = run(branches(prefix_of(model, prefix)), answers_in_progress(len(QUESTIONS)))
    assert shared == [alone(model, prefix, question) for question in QUESTIONS]
    assert calls == [0, 1, 0, 1]


def test_plain_equals_transformers_generate(model):
    prefix = torch.randn(37, 32)
    whole = torch.cat([prefix, embeds(model, QUESTIONS[2])])[None]
    ids = model.generate(
        inputs_embeds=whole,
        attention_mask=torch.ones(whole.shape[:2], dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert ids[0].tolist() == alone(model, prefix, QUESTIONS[2])


def test_answers_that_end_early_leave_the_rest_unchanged(model):
    prefix = torch.randn(37, 32)
    free = [alone(model, prefix, question) for question in QUESTIONS]
    eos = {free[0][2], free[2][5]}
    shared = run(branches(prefix_of(model, prefix)), answers_in_progress(len(QUESTIONS), eos))
    assert shared == [alone(model, prefix, question, eos_ids=eos) for question in QUESTIONS]
    assert len({len(tokens) for tokens in shared}) > 2


def test_several_batches_use_the_same_prefix(model):
    prefix = prefix_of(model, torch.randn(37, 32))
    whole = run(branches(prefix), answers_in_progress(len(QUESTIONS)))
    parts = [run(branches(prefix, [question]), answers_in_progress(1))[0] for question in QUESTIONS]
    assert parts == whole


def test_logits_agree_to_rounding(model):
    prefix, question = torch.randn(37, 32), QUESTIONS[2]
    branched = branches(prefix_of(model, prefix), [[9], question]).start()[1]
    with torch.inference_mode():
        whole = torch.cat([prefix, embeds(model, question)])[None]
        torch.testing.assert_close(branched, model(inputs_embeds=whole).logits[0, -1], rtol=0, atol=2e-5)


def test_the_model_keeps_its_own_attention(model):
    before = model.config._attn_implementation
    run(branches(prefix_of(model, torch.randn(5, 32)), [[1]]), answers_in_progress(1))
    assert model.config._attn_implementation == before


def test_sliced_queries_give_the_same_attention(monkeypatch):
    query, key, value = torch.randn(2, 3, 11, 8), torch.randn(2, 3, 17, 8), torch.randn(2, 3, 17, 8)
    hidden = torch.ones(2, 1, 11, 17, dtype=torch.bool).triu(4)
    whole = attend_with_total(query, key, value, 0.3, hidden)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, ~hidden, scale=0.3)
    torch.testing.assert_close(whole[0], expected)
    monkeypatch.setattr(prefix_attention, "SCORE_BYTES", 4 * 2 * 3 * 17 * 2)
    for sliced, single in zip(attend_with_total(query, key, value, 0.3, hidden), whole, strict=True):
        torch.testing.assert_close(sliced, single)


def test_bfloat16_stays_close_to_plain(model):
    model = model.to(torch.bfloat16)
    prefix = torch.randn(37, 32, dtype=torch.bfloat16)
    logits = branches(prefix_of(model, prefix)).start()
    with torch.inference_mode():
        whole = torch.cat([prefix, embeds(model, QUESTIONS[0])])[None]
        plain = model(inputs_embeds=whole).logits[0, -1]
    assert (logits[0] - plain).abs().max() < 0.05 * plain.abs().max()


SMALL = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=0), "sliding_attention"),
        (Gemma2Config(**SMALL, head_dim=4, layer_types=["full_attention"]), "attn_logit_softcapping"),
        (BloomConfig(hidden_size=8, n_head=2, n_layer=1, vocab_size=9), "attention of its own"),
    ],
)
def test_language_models_that_cannot_share_a_prefix_are_refused(config, reason):
    with pytest.raises(UserError, match=f"{reason}.*share_prefix=False"):
        check_language_model(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_ATTENTION))


@pytest.mark.parametrize("long", [256, 2])
def test_what_was_said_is_not_read_again(model, long, monkeypatch):
    monkeypatch.setattr(shared_prefix, "LONG_QUESTION", long)
    prefix = torch.randn(9, 32)
    shared = prefix_of(model, prefix)
    first = branches(shared, QUESTIONS[:3])
    answers = run_keeping(first, answers_in_progress(3))
    layers, heard = first.own(2), [*QUESTIONS[2], *answers[2][:-1]]
    said = Said(np.array([heard, range(len(heard))]), layers)
    assert {keys.shape[1] for keys, _ in layers.values()} == {len(heard)}

    further, other = [heard[-1], 6, 2], [8, 1]
    for length in (len(heard), 4):
        rows = [embeds(model, [*heard[length:], *further]), embeds(model, other)]
        positions = PromptTokens.of(rows[:1], begin=9 + length), PromptTokens.of(rows[1:], begin=9)
        batch = Branches([shared, shared], PromptTokens.together(positions), [said.first(length), None])
        found = run(batch, answers_in_progress(2))
        assert found == [alone(model, prefix, [*heard, *further]), alone(model, prefix, other)]
    longer = shared.extended(PromptTokens.of([embeds(model, further)], begin=9 + len(heard)), said)
    assert longer.length == 9 + len(heard) + 3
    whole = torch.cat([prefix, embeds(model, [*heard, *further])])
    assert run(branches(longer, [[4]]), answers_in_progress(1)) == [alone(model, whole, [4])]


def run_keeping(prompts, answers):
    """As `run`, but finished questions stay in the batch."""
    logits = prompts.start()
    for _ in range(NEW_TOKENS):
        tokens = logits.argmax(-1).tolist()
        for answer, token in zip(answers, tokens, strict=True):
            answer.push(token)
        if len(answers[0].token_ids) < NEW_TOKENS:
            logits = prompts.step(tokens)
    return [answer.token_ids for answer in answers]
