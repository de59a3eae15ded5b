"""Layer program: dropping tokens and adding levels between decoder layers, alike in every way of running the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from layer_programs import ADD, COMPACT, DROP, GUIDED_COMPACT, PROGRAMS, LevelsConfig, model_with
from three_axes import three_axis_language_model
from tiny_models import packed, random_example, tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.language_model.call_plan import MediaTokens, plan_call
from vidtune.models.language_model.guided_drop import targets_of
from vidtune.models.language_model.layer_call import install
from vidtune.models.language_model.layer_program import GuidedRule, LayerProgram, uniform
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Teaching
from vidtune.registry import CONNECTORS, DROP_RULES


@pytest.fixture(autouse=True)
def levels():
    CONNECTORS.register("levels", LevelsConfig)
    yield
    CONNECTORS.unregister("levels")


def examples(model):
    kinds = ("video", "image", "", "video,image")
    return [random_example(model, kind, seed) for seed, kind in enumerate(kinds)]


def positions(decoder, hidden, left, steps):
    at = torch.arange(len(left))[None] if any(step.get("compact") for step in steps) else left[None]
    return decoder.rotary_emb(hidden, position_ids=at)


def attention(layer, hidden, embeddings) -> torch.Tensor:
    """Mean over heads of the attention of the last token in a layer, (tokens,)."""
    module, states = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (
        part(states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for part in (module.q_proj, module.k_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *embeddings)
    key = key.repeat_interleave(module.num_key_value_groups, 1)
    return (query[0, :, -1:] @ key[0].transpose(1, 2) / module.head_dim**0.5).softmax(-1).mean((0, 1))


def reference(model: VideoLM, example) -> torch.Tensor:
    """Logits of one example by a plain loop over the layers, for the tokens that are left at the end."""
    decoder, batch = model.language_model.get_decoder(), packed([example])
    hidden, media = model.read(batch.input_ids, batch.media)
    places = [torch.from_numpy(item.places) for item in media]
    left, items, steps = torch.arange(batch.num_tokens), list(places), model.config.layer_program
    for number, layer in enumerate(decoder.layers):
        states, before = hidden, left
        for step in steps:
            for index, item in enumerate(media):
                if item.stream == step.get("add") and number in step["after"]:
                    level = item.levels[step["after"].index(number)][torch.isin(places[index], items[index])]
                    hidden = hidden.index_add(1, torch.isin(left, items[index]).nonzero()[:, 0], level[None])
                if item.stream in step.get("drop", ()) and number == step["after"]:
                    count = max(1, int(len(item.places) * step["keep"]))
                    if step.get("rule") == "attention":
                        weights = attention(layer, states, positions(decoder, states, before, steps))
                        chosen = weights[torch.isin(before, items[index])].topk(count).indices.sort().values
                    else:
                        chosen = torch.linspace(0, len(items[index]) - 1, count, dtype=torch.long)
                    kept = items[index][chosen]
                    stays = ~torch.isin(left, items[index]) | torch.isin(left, kept)
                    hidden, left, items[index] = hidden[:, stays], left[stays], kept
        hidden = layer(hidden, position_embeddings=positions(decoder, hidden, left, steps))
    return model.language_model.lm_head(decoder.norm(hidden))[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_equals_a_plain_loop_over_the_layers(name):
    model = model_with(PROGRAMS[name])
    with torch.no_grad():
        for example in examples(model):
            batch = packed([example])
            output = model(batch.input_ids, media=batch.media, cu_seqlens=batch.cu_seqlens, use_cache=False)
            torch.testing.assert_close(output.logits[0], reference(model, example), atol=1e-5, rtol=0)


def loss_and_gradients(model, packs):
    model.zero_grad(set_to_none=True)
    loss = sum(model.loss_sum(packed(pack)) for pack in packs)
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen2", marks=pytest.mark.whole)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_packed_equals_one_by_one_and_checkpointing_changes_nothing(name, family):
    model = model_with(PROGRAMS[name], family).train()
    found = examples(model)
    loss, gradients = loss_and_gradients(model, [[example] for example in found])
    plain = sum(
        model(batch.input_ids, labels=batch.labels, media=batch.media).loss * batch.num_supervised
        for batch in (packed([example]) for example in found)
    )
    torch.testing.assert_close(loss, plain, atol=1e-4, rtol=1e-5)
    for checkpointing in (False, True):
        if checkpointing:
            model.language_model.gradient_checkpointing_enable()
        together = loss_and_gradients(model, [found])
        torch.testing.assert_close(together[0], loss, atol=1e-4, rtol=1e-5)
        assert together[1].keys() == gradients.keys()
        for key, gradient in gradients.items():
            named = f"{key}, checkpointing {checkpointing}: "
            torch.testing.assert_close(together[1][key], gradient, atol=1e-5, rtol=1e-4, msg=named.__add__)


def test_positions_of_three_axes_are_kept_by_the_tokens_that_stay():
    for program in (DROP, COMPACT):
        model = model_with(program)
        model.language_model = three_axis_language_model(model.config.text_config)
        decoder = model.language_model.model
        install(model.program, decoder.layers, decoder)
        found, single = examples(model), []
        for example in found:
            batch = packed([example])
            positions = torch.randint(50, (3, 1, batch.num_tokens), generator=torch.Generator().manual_seed(0))
            single.append(replace(batch, position_ids=positions))
        whole = replace(packed(found), position_ids=torch.cat([batch.position_ids for batch in single], dim=2))
        if program is COMPACT:
            with pytest.raises(ValueError, match="compact lowers positions of one axis"):
                model.loss_sum(whole)
            return
        with torch.no_grad():
            torch.testing.assert_close(model.loss_sum(whole), sum(model.loss_sum(batch) for batch in single))


def test_positions_of_three_axes_on_a_language_model_of_one_are_named():
    model = tiny_model()
    batch = packed([random_example(model, "video", 0)])
    batch = replace(batch, position_ids=batch.position_ids.expand(3, 1, -1))
    for run in (
        lambda: model.loss_sum(batch),
        lambda: model(batch.input_ids, media=batch.media, position_ids=batch.position_ids),
    ):
        with pytest.raises(UserError, match=r"language model of type 'llama' with positions of 3 axes"):
            run()


def test_operations_are_counted_by_the_tokens_of_every_layer():
    """torch counts no CPU attention, so that what it counts grows with the number of tokens alone."""
    counted = {}
    for name, program in (("plain", []), ("drop", DROP)):
        model = model_with(program)
        batch = packed(examples(model))
        embeds = model.embed(batch.input_ids, batch.media)
        inputs = model.plan(batch).inputs(model.language_model.model, batch.position_ids)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.language_model.model(inputs_embeds=embeds, position_ids=batch.position_ids, use_cache=False, **inputs)
        counted[name] = counter.get_total_flops()
    stages = model.plan(batch).stages
    share = model.program.mean_over_layers([len(stage.kept) for stage in stages]) / batch.num_tokens
    assert share < 0.9 and counted["drop"] == pytest.approx(share * counted["plain"])


def test_no_program_leaves_no_hook_and_no_trace_in_a_saved_config():
    model = tiny_model()
    assert not any(layer._forward_pre_hooks for layer in model.language_model.model.layers)
    assert "layer_program" not in model.config.to_dict()
    batch = packed(examples(model))
    plan = model.plan(batch)
    assert plan.inputs(model.language_model.model, batch.position_ids) == {}
    assert plan.places_before(batch.supervised + 1, batch.labels.device).tolist() == batch.supervised.tolist()


def test_hooks_change_no_call_without_media():
    model, plain = model_with(DROP), model_with([])
    plain.load_state_dict(model.state_dict())
    batch = packed([random_example(model, "", 0)])
    with torch.no_grad():
        assert torch.equal(model.loss_sum(batch), plain.loss_sum(batch))


def test_a_program_is_saved_and_loaded(tmp_path):
    model = model_with(COMPACT)
    model.save_pretrained(tmp_path)
    again = VideoLM.from_pretrained(tmp_path).eval()
    assert again.config.layer_program == COMPACT
    batch = packed(examples(model))
    with torch.no_grad():
        assert torch.equal(again.loss_sum(batch), model.loss_sum(batch))


def test_uniform_dropping_takes_the_published_indices():
    assert uniform(10, 4).tolist() == [0, 3, 6, 9]
    assert uniform(7, 1).tolist() == [0]
    program = LayerProgram.parse(DROP, ["video", "image"], 5)
    plan = plan_call(program, [3, 12], [MediaTokens("video", np.arange(4, 12))])
    assert [stage.counts for stage in plan.stages] == [[3, 12], [3, 8], [3, 6]]
    # 4 of 8 tokens, then 2 of these 4: shares are of the whole item.
    assert plan.stages[1].kept.tolist() == [0, 1, 2, 3, 4, 6, 8, 11, 12, 13, 14]
    assert plan.stages[2].kept.tolist() == [0, 1, 2, 3, 4, 11, 12, 13, 14]
    assert program.mean_over_layers([15, 11, 9]) == (15 + 2 * 11 + 2 * 9) / 5


def test_compact_positions_go_on_from_what_earlier_calls_left():
    program = LayerProgram.parse(COMPACT[:1], ["video"], 5)
    plan = plan_call(program, [6, 3], [MediaTokens("video", np.arange(1, 5))], [[0, 0], [0, 7]])
    assert plan.stages[1].kept.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert plan.stages[1].shift.tolist() == [0, 0, 2, 2, 7, 7, 7]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"after": 1, "drop": ["vidio"], "keep": 0.5}, r"layer_program\[0\]: drop or add must name streams of image"),
        ({"after": 1, "drop": [["video"]], "keep": 0.5}, r"layer_program\[0\]: drop or add must name streams of image"),
        ({"after": 1, "drop": ["video"], "keep": 0.5, "rule": ["x"]}, r"layer_program\[0\]: unknown drop rule"),
        ({"after": 5, "drop": "video", "keep": 0.5}, "after is 5; layers count from 1 to 4"),
        ({"after": 2, "drop": "video", "keep": 1.5}, "keep is 1.5; expected a share above 0"),
        ({"after": 2, "drop": "video", "keep": 0.5, "rule": "randm"}, "unknown drop rule 'randm'; known: uniform"),
        ({"after": 2, "add": "video", "keep": 1}, "unknown key 'keep'"),
        ({"add": "video"}, r"after is None; layers count"),
    ],
)
def test_a_step_that_cannot_be_read_is_named(step, message):
    with pytest.raises(ValueError, match=message):
        model_with([step])


def test_a_config_with_a_wrong_step_is_refused_when_it_is_made():
    values = tiny_model().config.to_dict()
    with pytest.raises(ValueError, match=r"layer_program\[0\]: after is 9; layers count from 1 to"):
        VideoLMConfig(**{**values, "layer_program": [{"after": 9, "drop": ["video"], "keep": 0.5}]})


def test_levels_that_a_connector_does_not_return_are_named():
    model = tiny_model(num_hidden_layers=5)
    config = VideoLMConfig(**{**model.config.to_dict(), "layer_program": ADD})
    batch = packed([random_example(model, "video", 0)])
    with pytest.raises(UserError, match=r"connector type 'mlp' returns shape .*; layer_program adds 2 levels"):
        VideoLM(config).loss_sum(batch)
    plan = plan_call(LayerProgram.parse(ADD, ["video"], 5), [4], [MediaTokens("video", np.arange(1, 3))])
    with pytest.raises(UserError, match=r"stream 'video': its connector returns 0 levels .* adds 2"):
        plan.inputs(model.language_model.model, torch.arange(4)[None])


@pytest.mark.parametrize("adds", [[], [{"after": [1], "add": "video"}], [{"after": [1, 2, 3], "add": "video"}]])
def test_levels_that_no_step_adds_are_named(adds):
    model = model_with(ADD)
    config = VideoLMConfig(**{**model.config.to_dict(), "layer_program": adds})
    number = sum(len(step["after"]) for step in adds)
    with pytest.raises(UserError, match=rf"connector type 'levels' returns shape .* adds {number} levels"):
        VideoLM(config).loss_sum(packed([random_example(model, "video", 0)]))


@pytest.mark.parametrize(
    "steps",
    [
        [{"after": 1, "drop": "video", "keep": True}],
        [{"after": True, "drop": "video", "keep": 0.5}],
        [{"after": 1, "drop": "video", "keep": 0.5, "compact": "false"}],
        [{"after": 1, "add": "video"}, {"after": 2, "add": "video"}],
    ],
)
def test_steps_of_wrong_kinds_are_refused(steps):
    with pytest.raises(ValueError, match=r"layer_program\[[01]\]: (keep|after|compact|a second add)"):
        LayerProgram.parse(steps, ["video"], 5)


@pytest.mark.parametrize(
    "rule",
    [
        lambda tokens, kept: np.arange(kept + 1),
        lambda tokens, kept: np.arange(kept)[::-1],
        lambda tokens, kept: np.zeros(kept, int),
        lambda tokens, kept: np.arange(kept) - 1,
        lambda tokens, kept: np.arange(kept) + tokens,
        lambda tokens, kept: np.arange(kept) + 0.5,
        lambda tokens, kept: np.arange(tokens) < kept,
        lambda tokens, kept: None,
        lambda tokens, kept: 1 // 0,
    ],
)
def test_drop_rules_that_choose_no_tokens_are_named(rule):
    DROP_RULES.register("wrong", rule)
    try:
        program = LayerProgram.parse([{"after": 1, "drop": "video", "keep": 0.5, "rule": "wrong"}], ["video"], 5)
        with pytest.raises(UserError, match="drop rule 'wrong'"):
            plan_call(program, [12], [MediaTokens("video", np.arange(2, 10))])
    finally:
        DROP_RULES.unregister("wrong")


def test_hidden_states_behind_a_drop_are_not_aligned():
    model = model_with(DROP)
    sizes = {"input_size": 32, "output_size": 32, "num_heads": 2}
    with pytest.raises(
        UserError, match=r"distillation.video: hidden states of layer 3 .* tokens of the stream after layer 1"
    ):
        model.add_alignments({"video": {**sizes, "layers": (1, 3)}})


def test_alignment_finds_the_tokens_of_its_stream_behind_a_drop_of_another():
    model = model_with(DROP[:1])
    model.add_alignments({"image": {"input_size": 32, "output_size": 8, "layers": (0, 3), "num_heads": 2}})
    found = [random_example(model, "video,image", seed) for seed in (0, 1)]
    features = torch.randn(1, 4, 8)

    def aligned(pack):
        batch = packed(pack)
        taught = [replace(item, teacher=Teaching(features, done=True)) for item in batch.media["image"]]
        return model.loss_terms(replace(batch, media={**batch.media, "image": taught}))[1]["image"]

    with torch.no_grad():
        (together, frames), *alone = aligned(found), *(aligned([example]) for example in found)
        torch.testing.assert_close(together, sum(loss for loss, _ in alone))
        states = reference_states(model, found[0])
        expected = model.alignments["image"](torch.stack([states[layer][0, -10:-6] for layer in (0, 3)]))
    cosine = torch.nn.functional.cosine_similarity(expected, features[0], dim=-1)
    assert frames == 2
    torch.testing.assert_close(alone[0][0], 1 - cosine.mean())


def reference_states(model, example):
    """Hidden states of one example after each layer, by the hooks that transformers brings."""
    batch = packed([example])
    embeds, media = model.read(batch.input_ids, batch.media)
    inputs = model.plan(batch, media).inputs(model.language_model.model, batch.position_ids)
    decoder = model.language_model.model
    return decoder(
        inputs_embeds=embeds, position_ids=batch.position_ids, output_hidden_states=True, **inputs
    ).hidden_states


def test_attention_chooses_nothing_behind_a_cache():
    model = model_with(GUIDED_COMPACT)
    batch = packed([random_example(model, "video", 0)])
    with torch.no_grad():
        cache = model(batch.input_ids[:, :2], use_cache=True).past_key_values
        with pytest.raises(UserError, match="media behind tokens of a cache are not chosen by attention"):
            model(batch.input_ids[:, 2:], media=batch.media, past_key_values=cache, use_cache=True)


def test_in_training_the_tokens_before_supervised_spans_choose():
    assert targets_of(np.array([3, 4, 5, 9, 11])).tolist() == [4, 10, 12]
    model = model_with(GUIDED_COMPACT).train()
    example, arrays = random_example(model, "video", 0)
    silent = replace(example, labels=np.full(len(example.labels), -100))
    batch = packed([(example, arrays), (silent, arrays)])
    (given, _), (left, other) = (model.plan(batch).counts[stage] for stage in (0, 2))
    tokens = example.media[0].num_tokens
    assert given - left == tokens - int(0.4 * tokens)
    assert given - other == tokens - int(0.75 * tokens)  # only what a rule without attention drops
    assert model.eval().plan(batch).counts[2] == [left, left]


@pytest.mark.parametrize(
    "rule", [lambda weights, kept: weights, lambda weights, kept: None, lambda weights, kept: 1 // 0]
)
def test_rules_by_attention_that_choose_no_tokens_are_named(rule):
    DROP_RULES.register("wrong", GuidedRule(rule))
    try:
        model = model_with([{"after": 1, "drop": ["video"], "keep": 0.5, "rule": "wrong"}])
        with pytest.raises(UserError, match="drop rule 'wrong'"):
            model.loss_sum(packed([random_example(model, "video", 0)]))
    finally:
        DROP_RULES.unregister("wrong")
