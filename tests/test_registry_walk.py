"""One walk over everything that is registered: every system, recipe and benchmark stands up to the same checks."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoConfig

from vidtune.data.sample import Turn
from vidtune.recipe.files import load_recipe
from vidtune.recipe.shipped import list_recipes
from vidtune.recipe.values import component_matches
from vidtune.registry import BENCHMARKS, SYSTEMS
from vidtune.training.setup.parameters import component_names

TURNS = (Turn("user", "What is shown?"), Turn("assistant", "A cat."))


@pytest.fixture(params=SYSTEMS.names())
def system(request):
    return SYSTEMS[request.param]


@pytest.fixture(params=list_recipes())
def recipe(request):
    return load_recipe(request.param, expand=False)


@pytest.fixture(params=[benchmark.name for benchmark in BENCHMARKS.values()])
def benchmark(request):
    return BENCHMARKS[request.param]


def small_config(system):
    text = AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return system.architecture.build_config(text, {}, {})


def test_system_says_where_it_was_published(system):
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", system.paper)
    assert system.repository.startswith("https://github.com/")
    assert system.title


def test_system_prompts_render_question_and_answer(system):
    assert {system.dialect.training_prompt, system.dialect.answering_prompt} <= set(system.dialect.prompts)
    for name, prompt in system.dialect.prompts.items():
        assert prompt.name == name
        if prompt.only_streams is not None:
            continue
        text = "".join(piece.text for piece in prompt.render(TURNS))
        assert "What is shown?" in text and "A cat." in text
        supervised = "".join(piece.text for piece in prompt.render(TURNS) if piece.supervised)
        assert "A cat." in supervised and "What is shown?" not in supervised
        opened = "".join(piece.text for piece in prompt.render(TURNS[:1], open_answer=True))
        assert "What is shown?" in opened and "A cat." not in opened


def test_system_config_survives_saving_and_fits_its_preprocessing(system, tmp_path):
    config = small_config(system)
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.placeholder_ids == config.placeholder_ids
    preprocessing = system.architecture.preprocessing(config)
    assert set(preprocessing) == set(config.streams) == set(config.placeholder_ids)
    for stream, steps in preprocessing.items():
        assert config.num_tokens(stream, steps.output_shape()) > 0
        assert system.architecture.placeholders(config, stream) >= 1
    assert all(placeholder >= config.text_config.vocab_size for placeholder in config.placeholder_ids.values())


def test_system_formats_have_distinct_names_and_reversible_keys(system):
    names = [form.name for form in system.publication.formats]
    assert len(set(names)) == len(names) and "vidtune" not in names


def test_recipe_fits_its_system(recipe):
    system = SYSTEMS[recipe.system]
    config = small_config(system)
    components = [
        *(f"towers.{name}" for name in config.towers),
        *(f"connectors.{name}" for name in config.connectors),
        *(f"alignments.{name}" for name in recipe.distillation),
        "language_model",
    ]
    assert set(recipe.towers) <= set(config.towers)
    assert set(recipe.connectors) <= set(config.connectors)
    assert set(recipe.distillation) <= set(config.streams)
    assert recipe.stages
    for stage in recipe.stages:
        assert stage.prompt is None or stage.prompt in system.dialect.prompts
        assert set(stage.media) <= set(config.streams)
        known = {*components, *component_names(config, stage)}
        for glob in stage.train:
            assert any(component_matches(glob, component) for component in known), glob
        preprocessing = system.architecture.preprocessing(config)
        for stream, changes in stage.media.items():
            preprocessing[stream].model_validate({**preprocessing[stream].model_dump(), **changes})


def test_recipe_benchmarks_are_registered(recipe):
    assert recipe.benchmarks
    for entry in recipe.benchmarks:
        # Retrieval is over pairs of one's own, which no registered set holds.
        assert entry.name.endswith(".jsonl") or BENCHMARKS[entry.name].name == entry.name


TOKENIZER = Path(__file__).parent / "parity" / "fixtures" / "video_llava"


def test_recipe_that_needs_no_weights_builds_its_model(recipe):
    parts = [recipe.language_model, *recipe.towers.values(), *recipe.connectors.values()]
    if recipe.checkpoint or any(isinstance(part, str) for part in parts):
        pytest.skip("starts from published weights")
    from vidtune.checkpoints.build import build_model

    # A teacher is no part of the model.
    model = build_model(recipe.model_copy(update={"tokenizer": str(TOKENIZER), "distillation": {}}))
    assert sum(parameter.numel() for parameter in model.parameters()) < 50_000_000


def test_system_rules_of_a_benchmark_change_rules_that_exist(benchmark):
    for name, changes in benchmark.system_rules.items():
        system = SYSTEMS[name]
        protocol = benchmark.protocol(prompt_format=system.dialect.answering_prompt)
        changed = protocol.with_overrides(changes, f"system {system.name}")
        assert changed.prompt_format in system.dialect.prompts


def test_benchmark_protocol_hash_is_stable_and_tells_rules_apart(benchmark):
    protocol = benchmark.protocol(prompt_format="v1", stop=("</s>",))
    again = type(protocol).model_validate(json.loads(protocol.model_dump_json()))
    assert again.hash == protocol.hash
    assert re.fullmatch(r"[0-9a-f]{12}", protocol.hash)
    assert benchmark.protocol(prompt_format="v1", stop=("</s>",), blind=True).hash != protocol.hash
    assert benchmark.protocol(prompt_format="v0", stop=("</s>",)).hash != protocol.hash


def test_benchmark_protocol_hashes_differ_between_benchmarks():
    hashes = [benchmark.protocol(prompt_format="v1").hash for benchmark in BENCHMARKS.values()]
    assert len(set(hashes)) == len(hashes)


def test_benchmark_names_the_file_it_misses(benchmark, tmp_path: Path):
    from vidtune.errors import UserError

    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        benchmark.load(tmp_path)
