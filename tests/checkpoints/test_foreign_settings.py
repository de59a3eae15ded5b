"""Settings that others wrote: known keys at known values are read, every other one is refused by its name."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.assembly.composition import tower_sizes
from vidtune.checkpoints.build import build_config
from vidtune.checkpoints.files.settings import OFF, KnownSettings
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.lora.adapter_settings import SETTINGS, is_target, require_targets
from vidtune.checkpoints.parts.processor_settings import require_same
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.cli.main import run
from vidtune.errors import RecipeError, UserError
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

D, RANK = 32, 2
LAYER = "model.layers.0.self_attn.q_proj"
FUTURE: tuple[Any, ...] = (True, 1, 0.5, "on", [1], {"a": 1})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A published whole model, a model of ours, a language model, a projector and a LoRA run on the last two."""
    root = tmp_path_factory.mktemp("foreign")
    model = tiny_model()
    checkpoint = Checkpoint(model, build_processor(model.config, str(Path(TOKENIZER).parent)), LoadReport("memory"))
    save_checkpoint(checkpoint, root / "official", "official")
    save_checkpoint(checkpoint, root / "native")
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", **sizes, vocab_size=560, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llm")
    shutil.copy(TOKENIZER, root / "llm/tokenizer.model")
    projector = {"model.mm_projector.weight": torch.randn(D, 768), "model.mm_projector.bias": torch.randn(D)}
    torch.save(projector, root / "projector.bin")
    others = {
        f"base_model.model.model.{kind}_mm_projector.{side}": torch.randn(*shape)
        for kind, width in (("audio", 768), ("asr", 1280))
        for side, shape in (("weight", (D, width)), ("bias", (D,)))
    }
    (root / "run").mkdir()
    factors = {f"{LAYER}.lora_A.weight": torch.randn(RANK, D), f"{LAYER}.lora_B.weight": torch.randn(D, RANK)}
    torch.save({f"base_model.model.{name}": tensor for name, tensor in factors.items()}, root / "run/adapter_model.bin")
    torch.save(others, root / "run/non_lora_trainables.bin")
    plain = LoraConfig(r=RANK, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM").to_dict()
    plain |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    (root / "run/adapter_config.json").write_text(json.dumps(plain))
    (root / "run/config.json").write_text(json.dumps({"model_type": "LongVALE-LLM"}))
    return {place.name.removesuffix(".bin"): place for place in root.iterdir()}


@pytest.fixture
def edited(places: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    """Function (place, file, changes) -> a copy of a place with changed settings."""

    def edit(name: str, file: str = "config.json", **changes: Any) -> Path:
        copy = tmp_path / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(places[name], copy)
        settings = json.loads((copy / file).read_text()) if (copy / file).is_file() else {}
        (copy / file).write_text(json.dumps(settings | changes))
        return copy

    yield edit


def below(places: dict[str, Path]) -> list[str]:
    return [str(places["llm"]), str(places["projector"])]


def refused(place: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def known_sets() -> dict[str, KnownSettings]:
    formats = {
        f"{name} {format.name}": format.settings
        for name, system in SYSTEMS.items()
        for format in system.publication.formats
        if format.settings is not None
    }
    assert len(formats) == sum(len(system.publication.formats) for system in SYSTEMS.values())
    return {"adapter": SETTINGS, **formats}


@pytest.mark.parametrize("name", known_sets())
def test_any_unknown_setting_and_any_unknown_value_is_named(name):
    known = known_sets()[name]
    for key in ("future", "mm_future", "use_future", "image_future", "vidtune_future"):
        for value in FUTURE:
            with pytest.raises(UserError, match=f"here: {key} is .*does not know this setting"):
                known.require({key: value}, "here")
        for off in OFF:
            assert known.require({key: off}, "here") == [key]
    for key, values in known.only.items():
        for value in (*FUTURE, *OFF):
            if not any(value == one and type(value) is type(one) for one in values):
                with pytest.raises(UserError, match=f"here: {key} is .*vidtune can use"):
                    known.require({key: value}, "here")
        assert known.require(dict.fromkeys([key], values[0]), "here") == []


def test_what_the_other_ignores_stays_limited_and_objects_are_objects():
    limited = KnownSettings(only={"fusion": ("late",)}, nested={"inner": KnownSettings(only={"a": (1,)})})
    both = limited | KnownSettings(ignored={"of no use": ("fus*", "inner")})
    for known in (limited, both):
        for wrong in ({"fusion": "early"}, {"inner": {"a": 2}}, {"inner": "siglip"}, {"inner": [1]}, {"inner": 1}):
            with pytest.raises(UserError, match=f"here: {next(iter(wrong))}(:|) .*vidtune can use"):
                known.require(wrong, "here")
        for off in OFF:
            assert known.require({"fusion": "late", "inner": off}, "here") == []
    assert (limited | KnownSettings(read=frozenset({"fusion", "inner"}))).require({"fusion": 1, "inner": 1}, "") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "same"), [("nearest", 0, True), ("nearest", 3, False), ("bicubic", 0, False)]
)
def test_the_way_of_resizing_is_compared_also_where_its_number_is_zero(ours, theirs, same):
    preprocessing = ImagePreprocessing(size=8).model_copy(update={"interpolation": ours})
    found = {"preprocessor_config.json": {"resample": theirs}}
    with contextlib.nullcontext() if same else pytest.raises(UserError, match=f"resample is {theirs}, but"):
        require_same(found, {"image": preprocessing}, "here")


def test_writing_a_checkpoint_leaves_its_tokenizer_alone(places, tmp_path):
    checkpoint = load_checkpoint(places["official"])
    checkpoint.processor.tokenizer.init_kwargs.pop("beginning")
    before = dict(checkpoint.processor.tokenizer.init_kwargs)
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    assert checkpoint.processor.tokenizer.init_kwargs == before
    assert "beginning" in json.loads((tmp_path / "out/tokenizer_config.json").read_text())


@pytest.mark.parametrize("changes", [{"is_encoder_decoder": True}, {"add_cross_attention": True}], ids=str)
def test_a_lone_language_model_is_known_at_known_values_only(changes, places, edited):
    said = refused(places["projector"], base=str(edited("llm", **changes)))
    assert f"llm/config.json: {next(iter(changes))} is true; vidtune can use false" in said


def test_a_near_name_is_suggested_and_long_values_are_cut():
    known = KnownSettings(read=frozenset({"mm_projector_type"}))
    with pytest.raises(UserError, match=r"mm_projector_typ is \"x+\.\.\.; .*did you mean 'mm_projector_type'"):
        known.require({"mm_projector_typ": "x" * 500}, "here")


def test_plain_adapters_of_every_initialisation_that_leaves_the_base_alone_are_merged(places, edited):
    plain = load_checkpoint(places["run"], base=below(places))
    assert plain.report.warnings == []
    wanted = plain.model.state_dict()
    for start in (True, False, "gaussian", "orthogonal", "eva"):
        place = edited("run", "adapter_config.json", init_lora_weights=start, eva_config=None, lora_dropout=0.3)
        found = load_checkpoint(place, base=below(places)).model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    scaled = load_checkpoint(edited("run", "adapter_config.json", use_rslora=True), base=below(places))
    name = f"language_model.{LAYER}.weight"
    assert not torch.equal(scaled.model.state_dict()[name], wanted[name])


@pytest.mark.parametrize(
    "changes",
    [
        *({"init_lora_weights": start} for start in ("pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga")),
        *({key: True} for key in ("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_future")),
        *({key: {"q_proj": 4}} for key in ("rank_pattern", "alpha_pattern", "loftq_config", "trainable_token_indices")),
        {"modules_to_save": ["lm_head"]},
        {"target_parameters": ["experts.gate_up_proj"]},
        {"bias": "lora_only"},
        {"peft_type": "LOHA"},
        {"layers_to_transform": [1]},
        {"target_modules": ["v_proj"]},
        {"target_modules": r".*\.v_proj"},
        {"exclude_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_adapters_that_are_more_than_plain_lora_are_refused(changes, places, edited):
    said = refused(edited("run", "adapter_config.json", **changes), base=below(places))
    assert "adapter_config.json: " in said and (next(iter(changes)) in said)


def test_factors_that_are_lost_or_of_another_kind_are_refused(places, edited):
    place = edited("run", "adapter_config.json", target_modules=["q_proj", "v_proj"])
    assert "no factors of 'model.layers.0.self_attn.v_proj', which target_modules" in refused(place, base=below(places))
    place = edited("run", "adapter_config.json")
    for dtype in (torch.int8, torch.float8_e4m3fn):
        state = torch.load(places["run"] / "adapter_model.bin", weights_only=True)
        torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, place / "adapter_model.bin")
        assert f"{LAYER}: {str(dtype)[6:]} where the model has floating-point" in refused(place, base=below(places))


def test_targets_are_those_of_peft():
    from peft.tuners.tuners_utils import check_target_module_exists

    layers = [f"model.layers.{number}.self_attn.{name}_proj" for number in (0, 1, 12) for name in "qk"]
    layers += ["model.h.1.experts.0.q_proj", "q_proj"]
    given: list[dict[str, Any]] = [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["model.layers.1.self_attn.q_proj"], "layers_to_transform": [0]},
        {"target_modules": r"model\.layers\.\d\..*q_proj", "layers_to_transform": [0]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj"], "layers_to_transform": [0, 12], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
        {"target_modules": ["q_proj"], "layers_to_transform": []},
    ]
    for settings in given:
        theirs = SimpleNamespace(target_parameters=None, **settings)
        for layer in layers:
            assert is_target(settings, layer) == bool(check_target_module_exists(theirs, layer)), (settings, layer)
    require_targets({}, layers, "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"mm_use_im_start_end": True},
        {"mm_use_im_patch_token": True},
        {"mm_patch_merge_type": "spatial_unpad"},
        {"mm_vision_select_feature": "all"},
        {"mm_hidden_size": 1024},
        {"mm_resampler_type": "qformer"},
        {"image_aspect_ratio": "anyres"},
        {"sliding_window": 512},
        {"rope_scaling": {"type": "future", "factor": 2.0}},
        {"mm_projector_type": "mlp2x_silu"},
        {"mm_future": 1},
        {"vidtune_towers": {"third": {"hidden_size": 8}}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    ],
    ids=str,
)
def test_settings_of_a_published_model_that_change_it_are_refused(changes, edited, capsys):
    place = edited("official", **changes)
    assert next(iter(changes)) in refused(place)
    assert run(["convert", str(place), str(place.parent / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "config.json" in said and "Traceback" not in said


def test_settings_of_a_published_model_that_change_nothing_are_read(places, edited):
    wanted = load_checkpoint(places["official"]).model.state_dict()
    place = edited(
        "official",
        tune_mm_mlp_adapter=True,
        mm_projector_lr=2e-5,
        temperature=0.9,
        tokenizer_padding_side="right",
        X=["Video", "Image"],
        mm_use_x_start_end=False,
        pretraining_tp=1,
        _name_or_path="lmsys/vicuna-7b-v1.5",
        image_grid_pinpoints=None,
        rope_scaling=None,
    )
    found = load_checkpoint(place)
    assert found.report.warnings == []
    assert all(torch.equal(found.model.state_dict()[name], tensor) for name, tensor in wanted.items())
    (warning,) = load_checkpoint(edited("official", mm_future=None)).report.warnings
    assert "does not know, but that are switched off: mm_future" in warning


def test_settings_of_a_language_model_and_of_a_model_of_ours_are_looked_at_too(places, edited):
    quantised = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UserError, match=r"llm/config\.json: has a quantization_config"):
        recognise(Recipe(system="longvale", language_model=str(edited("llm", quantization_config=quantised))))
    assert "has a quantization_config" in refused(edited("native", quantization_config=quantised))
    inner = json.loads((places["native"] / "config.json").read_text())["text_config"]
    text = inner | {"quantization_config": quantised}
    assert "has a quantization_config" in refused(edited("native", text_config=text))
    assert 'config.json: fusion is "late"; vidtune does not know' in refused(edited("native", fusion="late"))
    place = edited("llm", rope_scaling={"rope_type": "future"})
    assert "rope_type 'future' of the rotary positions is not known" in refused(places["projector"], base=str(place))
    loaded = load_checkpoint(places["projector"], base=str(edited("llm", use_future=True)))
    assert any("settings that a llama does not have: use_future" in warning for warning in loaded.report.warnings)


ODD_VALUES = [
    ("hidden_size", True, "hidden_size is True; expected a positive whole number"),
    ("hidden_size", [1], "hidden_size is [1]; expected a whole number"),
    ("intermediate_size", "many", "intermediate_size is 'many'; expected a whole number"),
    ("num_hidden_layers", 0, "num_hidden_layers is 0; expected a positive whole number"),
    ("max_position_embeddings", 0, "max_position_embeddings is 0; expected a positive whole number"),
    ("pad_token_id", "x", "pad_token_id is 'x'; expected a whole number or null"),
    ("pad_token_id", 10**30, f"pad_token_id is {10**30}; expected a token of the vocabulary"),
    ("eos_token_id", 1.5, "eos_token_id is 1.5; expected a whole number or a list or null"),
    ("attention_dropout", 1.5, "attention_dropout is 1.5; expected a number from 0 to 1"),
    ("hidden_act", "gelo", "hidden_act is 'gelo'; did you mean"),
    ("rope_parameters", {"rope_type": [1]}, "rope_type [1] of the rotary positions is not known"),
    ("rope_parameters", {"rope_theta": [1.0]}, "rope_theta is [1.0]; expected a positive number"),
    ("rope_parameters", {"rope_theta": None}, "rope_theta is None; expected a positive number"),
    ("rope_parameters", {"rope_theta": 10**30}, f"rope_theta is {10**30}; expected a positive number"),
    ("rms_norm_eps", float("nan"), "rms_norm_eps is NaN; expected a number"),
]


@pytest.mark.parametrize(("key", "value", "expected"), ODD_VALUES, ids=str)
def test_an_odd_value_of_a_language_model_is_named_with_its_file(key, value, expected, places, edited):
    text = json.loads((places["native"] / "config.json").read_text())["text_config"]
    place = edited("native", text_config=text | {key: value})
    said = refused(place)
    assert said.startswith(str(place)) and "config.json" in said and expected in said
    place = edited("llm", **{key: value})
    with pytest.raises(UserError) as caught:
        build_config(Recipe(system="longvale", language_model=str(place)))
    assert str(place) in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(("key", "value", "expected"), ODD_VALUES[:-1], ids=str)
def test_an_odd_value_of_a_language_model_in_a_recipe_is_named(key, value, expected):
    sizes = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    with pytest.raises(RecipeError, match=r"^language_model: ") as caught:
        build_config(
            Recipe(system="longvale", language_model=sizes | {key: value}, tokenizer=str(Path(TOKENIZER).parent))
        )
    assert expected in str(caught.value)


def test_settings_of_how_a_model_is_called_change_nothing(places, edited):
    odd = {"return_dict": False, "output_hidden_states": 1.5, "output_attentions": {"a": 1}, "id2label": 3}
    text = json.loads((places["native"] / "config.json").read_text())["text_config"]
    config = load_checkpoint(edited("native", text_config=text | odd, return_dict=False)).model.config
    for one in (config, config.text_config):
        assert one.return_dict and not one.output_hidden_states and not one.output_attentions
    with pytest.raises(RecipeError, match="a llama has no 'return_dict'"):
        build_config(
            Recipe(
                system="longvale",
                language_model={"model_type": "llama", "return_dict": False},
                tokenizer=str(Path(TOKENIZER).parent),
            )
        )


def test_a_part_that_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(RecipeError, match=r"^language_model: .*nowhere: no such file"):
        build_config(Recipe(system="longvale", language_model=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    empty = str(tmp_path / "empty")
    with pytest.raises(RecipeError, match=r"^language_model: .*empty: "):
        build_config(Recipe(system="longvale", language_model=empty, tokenizer=str(Path(TOKENIZER).parent)))
    sizes = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    with pytest.raises(RecipeError, match=r"^tokenizer: .*empty: "):
        build_config(Recipe(system="longvale", language_model=sizes, tokenizer=empty))
    with pytest.raises(RecipeError, match=r"^towers\.speech: .*empty: "):
        build_config(
            Recipe(
                system="longvale",
                language_model=sizes,
                tokenizer=str(Path(TOKENIZER).parent),
                towers={"speech": empty},
            )
        )


def test_an_odd_value_of_a_saved_processor_is_named_with_its_key(places, edited):
    streams = json.loads((places["native"] / "processor_config.json").read_text())["streams"]
    streams["video"]["max_items"] = 1.5
    assert "processor_config.json: streams.video.max_items: " in refused(
        edited("native", "processor_config.json", streams=streams)
    )
    assert "processor_config.json: streams: " in refused(edited("native", "processor_config.json", streams=5))


def test_an_added_token_of_another_type_is_named_with_its_file(places, edited):
    tokens = json.loads((places["native"] / "tokenizer.json").read_text())["added_tokens"]
    tokens[0] = {**tokens[0], "content": {"</s>": "</s>"}}
    assert "tokenizer.json: cannot be read (TypeError" in refused(
        edited("native", "tokenizer.json", added_tokens=tokens)
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_tensors_that_are_no_weights_are_refused(dtype, edited):
    for name, key in (("native", "language_model.model.norm.weight"), ("official", "model.norm.weight")):
        place = edited(name)
        state = load_file(place / "model.safetensors")
        save_file(state | {key: state[key].to(dtype)}, place / "model.safetensors", metadata={"format": "pt"})
        said = refused(place)
        assert f"norm.weight: {str(dtype)[6:]} where the model has floating-point numbers" in said


def test_a_tower_alone_of_another_kind_is_refused(places, edited):
    from vidtune.checkpoints.build import tower_of_checkpoint

    place = edited("native")
    state = load_file(place / "model.safetensors")
    key = "towers.video.embeddings.class_embedding"
    save_file(state | {key: state[key].to(torch.int8)}, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="class_embedding: int8 where"):
        tower_of_checkpoint(str(place), "video", Recipe(system="video_llava", checkpoint=str(place)))


@pytest.mark.parametrize(("names", "widths"), [(("0.", "2."), (24, D)), (("",), (1024,))], ids=["mlp2x", "linear"])
def test_a_projector_with_common_names_is_taken_only_where_its_system_is_named(names, widths, places, tmp_path, capsys):
    """A file of any LLaVA has these names; nothing in it says what it was trained for."""
    system = "video_llava" if len(names) == 2 else "longvale"
    sizes = [(f"model.mm_projector.{name}", width) for name, width in zip(names, widths, strict=True)]
    state = {f"{name}weight": torch.randn(D, width) for name, width in sizes}
    state |= {f"{name}bias": torch.randn(D) for name, _ in sizes}
    (tmp_path / "llava").mkdir()
    torch.save(state, tmp_path / "llava/mm_projector.bin")
    said = rf"could be of system {system} \(format projector\), but nothing in it says so; .*--system {system}"
    if system == "video_llava":
        said = r"claimed by the systems video_llava \(format projector\) and artemis \(format projector\); name one"
    for place in (tmp_path / "llava/mm_projector.bin", tmp_path / "llava"):
        with pytest.raises(UserError, match=said):
            recognise(place, base=[str(places["llm"])])
        assert recognise(place, system=system).system == system
        if system == "video_llava":  # what it stands on names it
            assert recognise(place, base=[str(places["official"])]).system == system
    assert run(["convert", str(tmp_path / "llava"), str(tmp_path / "out"), "--model-base", str(places["llm"])]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    settings = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    (tmp_path / "llava/config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=said):
        recognise(tmp_path / "llava", base=[str(places["llm"])])
    with pytest.raises(UserError, match=r"config\.json: mm_vision_tower is .*does not know this setting"):
        recognise(tmp_path / "llava", system=system)


def test_a_processor_beside_the_weights_that_differs_from_its_system_is_refused(places, edited):
    """As the processors of CLIP look like; none of their settings is ignored without a look."""
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    size = load_checkpoint(places["official"]).processor.preprocessing["image"].size
    same = {"image_mean": mean, "image_std": std, "size": {"shortest_edge": size}, "crop_size": size, "resample": 3}
    same |= {"do_resize": True, "do_normalize": True, "rescale_factor": 0.00392156862745098, "processor_class": "X"}
    file = "preprocessor_config.json"
    assert load_checkpoint(edited("official", file, **same)).processor.preprocessing["image"].size == size
    for changes in (
        {"image_mean": [0.5, 0.5, 0.5]},
        {"image_std": [0.5, 0.5, 0.5]},
        {"size": {"height": 448, "width": 448}},
        {"crop_size": {"height": size, "width": size + 1}},
        {"resample": 0},
        {"num_frames": 64},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"do_pad": True},
        {"future": 1},
    ):
        said = refused(edited("official", file, **same | changes))
        assert f"{file}: {next(iter(changes))} is " in said
    nested = edited("official", "processor_config.json", image_processor=same | {"image_mean": [0.5, 0.5, 0.5]})
    assert "processor_config.json: image_mean is [0.5, 0.5, 0.5], but the preprocessing" in refused(nested)


def test_settings_of_a_tower_that_change_it_are_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    whole = {"vision_config": {**sizes, "image_size": 28, "patch_size": 14, "lora_r": 0}, "model_type": "LanguageBind"}
    for changes, inside in (({"num_channels": 4}, True), ({"use_future": 1}, True), ({"fusion": "late"}, False)):
        settings = json.loads(json.dumps(whole))
        (settings["vision_config"] if inside else settings).update(changes)
        (tmp_path / "config.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match=rf"config\.json: .*{next(iter(changes))} is "):
            tower_sizes(recognise(tmp_path, system="video_llava", component="towers.image"))
    (tmp_path / "config.json").write_text(json.dumps(whole))
    found = tower_sizes(recognise(tmp_path, system="video_llava", component="towers.image"))
    assert found["hidden_size"] == 16
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper", "d_model": 8, "fusion": 1}))
    with pytest.raises(UserError, match=r"config\.json: fusion is 1"):
        tower_sizes(recognise(tmp_path, system="longvale", component="towers.speech"))


@pytest.mark.parametrize(
    ("system", "setting", "message"),
    [
        (
            "videochat_flash",
            {"mm_llm_compress": "yes"},
            'mm_llm_compress is "yes"; vidtune can use true or false or null',
        ),
        ("videochat_flash", {"mm_hidden_size": "1024"}, 'mm_hidden_size is "1024"; expected a whole number above 0'),
        ("videochat_flash", {"mm_vision_tower": 1}, "mm_vision_tower is 1; expected a text"),
        ("video_llava", {"mm_image_tower": ["a"]}, r'mm_image_tower is \["a"\]; expected a text'),
        ("artemis", {"mm_image_tower": True}, "mm_image_tower is true; expected a text"),
        ("video_llava", {"mm_projector_type": 2}, "mm_projector_type 2 is not linear, identity or mlpNx_gelu"),
    ],
)
def test_published_settings_of_another_type_are_refused(system: str, setting: dict[str, Any], message: str) -> None:
    publication = SYSTEMS[system].publication
    with pytest.raises((UserError, ValueError), match=message):
        publication.formats[0].settings.require(setting, "config.json")
        publication.named_parts(setting)
