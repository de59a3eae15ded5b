"""Stacks of published parts: what may stand on what, what wins, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TOKENIZER, tiny_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.parts.claims import find_format
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.towers.absent import AbsentTower
from vidtune.models.towers.base import tower_config
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Item
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER
from vidtune.training.inspection.dry_run import starting_config

D, RANK, ALPHA = 32, 2, 6
LAYER = "model.layers.0.self_attn.q_proj"
WIDTHS = {"mm_projector": 768, "audio_mm_projector": 768, "asr_mm_projector": 1280}
OURS = {"mm_projector": "visual", "audio_mm_projector": "audio", "asr_mm_projector": "speech"}


def text_config():
    sizes = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoConfig.for_model("llama", **sizes, vocab_size=560, max_position_embeddings=512)


def connector(name: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (D, WIDTHS[name]), "bias": (D,)}
    return {f"model.{name}.{kind}": torch.randn(shape, generator=generator) for kind, shape in shapes.items()}


def write_run(folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    factors = {side: torch.randn(shape, generator=generator) for side, shape in (("A", (RANK, D)), ("B", (D, RANK)))}
    folder.mkdir()
    adapter = {f"base_model.model.{LAYER}.lora_{side}.weight": tensor for side, tensor in factors.items()}
    torch.save(adapter, folder / "adapter_model.bin")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    others = connector("audio_mm_projector", seed) | connector("asr_mm_projector", seed + 1)
    torch.save(
        {"base_model.model." + name: tensor for name, tensor in others.items()}, folder / "non_lora_trainables.bin"
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "LongVALE-LLM"}))
    return folder


def update(folder: Path) -> Tensor:
    state = torch.load(folder / "adapter_model.bin", weights_only=True)
    down, up = (state[f"base_model.model.{LAYER}.lora_{side}.weight"] for side in "AB")
    return ALPHA / RANK * (up @ down)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stack")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(text_config()).save_pretrained(root / "llm")
    shutil.copy(TOKENIZER, root / "llm/tokenizer.model")
    torch.save(connector("mm_projector", 5), root / "projector.bin")
    runs = {name: write_run(root / name, seed) for name, seed in (("lower", 10), ("upper", 20))}
    (root / "nothing").mkdir()
    return {"llm": root / "llm", "nothing": root / "nothing", "projector": root / "projector.bin", **runs}


def load(parts: dict[str, Path], *names: str, **options) -> Checkpoint:
    *below, top = names
    return load_checkpoint(parts[top], base=[str(parts[name]) for name in below], **options)


def weight(model: VideoLM) -> Tensor:
    return model.language_model.get_parameter(f"{LAYER}.weight").detach()


def test_adapters_add_up_and_the_upper_connectors_hold(parts):
    plain = load(parts, "llm", "projector").model
    loaded = load(parts, "llm", "projector", "lower", "upper")
    wanted = weight(plain) + update(parts["lower"]) + update(parts["upper"])
    torch.testing.assert_close(weight(loaded.model), wanted, atol=1e-5, rtol=0)
    stored = {
        **connector("mm_projector", 5),
        **connector("audio_mm_projector", 20),
        **connector("asr_mm_projector", 21),
    }
    for theirs, ours in OURS.items():
        assert torch.equal(loaded.model.connectors[ours][0].weight, stored[f"model.{theirs}.weight"])
    assert loaded.report.warnings == [] and loaded.report.loaded == 6


def test_sums_are_rounded_after_every_run_in_the_dtype_of_the_base(parts):
    start = weight(load(parts, "llm", "projector").model).half()
    wanted = (start.float() + update(parts["lower"])).half()
    wanted = (wanted.float() + update(parts["upper"])).half()
    loaded = load(parts, "llm", "projector", "lower", "upper", dtype=torch.float16)
    assert torch.equal(weight(loaded.model), wanted)


def test_base_in_half_precision_stays_so_under_connectors_in_full(parts, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(parts["llm"], dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    shutil.copy(TOKENIZER, tmp_path / "half/tokenizer.model")
    below = [str(tmp_path / "half"), str(parts["projector"])]
    assert load_checkpoint(parts["lower"], base=below).model.dtype == torch.float16


def test_projector_alone_draws_the_other_connectors_and_says_so(parts):
    loaded = load(parts, "llm", "projector")
    assert {name.rsplit(".", 2)[0] for name in loaded.report.drawn} == {"connectors.audio", "connectors.speech"}
    assert "connectors.audio, connectors.speech started from random weights" in loaded.report.warnings[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("upper",), "name its language model with --model-base"),
        (("llm", "upper"), "connectors.visual is in none of what was named; put the file that holds it before it"),
        (("projector", "upper"), "projector.bin: holds no language model, which has to be the first"),
        (("lower", "upper"), "lower: holds no language model, which has to be the first"),
        (("nothing", "projector", "upper"), "nothing: holds no language model"),
        (("llm", "llm", "upper"), "llm: not a checkpoint of system longvale"),
    ],
    ids=str,
)
def test_stacks_that_cannot_stand_are_refused(names, message, parts):
    with pytest.raises(UserError, match=message):
        load(parts, *names)


def test_whole_model_can_be_the_bottom_and_nothing_else(parts, tmp_path):
    save_checkpoint(load(parts, "llm", "projector", "lower"), tmp_path / "whole")
    places = {**parts, "whole": tmp_path / "whole"}
    short, long = (load(places, *names).model for names in (("whole", "upper"), ("llm", "projector", "lower", "upper")))
    theirs = long.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in short.state_dict().items())
    with pytest.raises(UserError, match="is a whole model; expected a LoRA run or a file of connectors"):
        load(places, "llm", "whole", "upper")
    with pytest.raises(UserError, match="is a whole model; leave out --model-base"):
        load(places, "llm", "projector", "whole")


def test_bottom_of_another_system_is_refused(parts, tmp_path):
    other = tiny_model()
    processor = build_processor(other.config, parts["llm"])
    save_checkpoint(Checkpoint(other, processor, LoadReport("memory")), tmp_path / "other")
    with pytest.raises(UserError, match=r"is of system longvale, but .*other of video_llava"):
        load_checkpoint(parts["upper"], base=str(tmp_path / "other"))


def test_adapter_that_does_not_fit_the_base_is_refused(parts, tmp_path):
    wrong = shutil.copytree(parts["upper"], tmp_path / "wrong")
    adapter = torch.load(wrong / "adapter_model.bin", weights_only=True)
    torch.save(
        {name.replace("layers.0", "layers.7"): tensor for name, tensor in adapter.items()}, wrong / "adapter_model.bin"
    )
    with pytest.raises(UserError, match=r"base model has no weight 'model\.layers\.7\.self_attn\.q_proj\.weight'"):
        load_checkpoint(wrong, base=[str(parts["llm"]), str(parts["projector"])])


def test_half_a_connector_is_refused(parts, tmp_path):
    wrong = shutil.copytree(parts["upper"], tmp_path / "wrong")
    others = torch.load(wrong / "non_lora_trainables.bin", weights_only=True)
    del others["base_model.model.model.asr_mm_projector.bias"]
    torch.save(others, wrong / "non_lora_trainables.bin")
    below = [str(parts["llm"]), str(parts["projector"])]
    with pytest.raises(
        UserError, match=r"1 keys missing as connectors checkpoint, first 'connectors\.speech\.0\.bias'"
    ):
        load_checkpoint(wrong, base=below)
    more = {**others, "base_model.model.model.asr_mm_projector.gain": torch.ones(1)}
    torch.save(more, wrong / "non_lora_trainables.bin")
    with pytest.raises(UserError, match="wrong: not a checkpoint of a known system"):
        load_checkpoint(wrong, base=below)


def test_file_of_three_connectors_is_not_mixed_up(parts, tmp_path):
    """As the published trainer leaves it, whose loader takes whatever contains the word."""
    together = {name: tensor for number, part in enumerate(WIDTHS) for name, tensor in connector(part, number).items()}
    torch.save(together, tmp_path / "mm_projector.bin")
    loaded = load_checkpoint(tmp_path / "mm_projector.bin", base=str(parts["llm"]))
    for theirs, ours in OURS.items():
        assert torch.equal(loaded.model.connectors[ours][0].weight, together[f"model.{theirs}.weight"])
    named = {"visual": str(tmp_path / "mm_projector.bin")}
    model = build_model(Recipe(system="longvale", language_model=str(parts["llm"]), connectors=named))
    assert torch.equal(model.connectors["visual"][0].weight, together["model.mm_projector.weight"])
    assert not torch.equal(model.connectors["audio"][0].weight, together["model.audio_mm_projector.weight"])


def test_linear_projector_is_not_taken_for_one_of_two_layers():
    config: dict = {}
    one = {"model.mm_projector.weight": (4096, 768), "model.mm_projector.bias": (4096,)}
    assert find_format(config, one, Path("x"))[0] == "longvale"
    two = {f"model.mm_projector.{layer}.{kind}": (4,) for layer in (0, 2) for kind in ("weight", "bias")}
    assert find_format({"mm_video_tower": "x"}, two, Path("x"))[0] == "video_llava"
    linear = {"model_type": "llava", "mm_video_tower": "x", "mm_projector_type": "linear"}
    assert find_format(linear, one, Path("x"))[0] == "video_llava"


def test_recipe_starts_from_a_stack(parts):
    recipe = Recipe(
        system="longvale",
        language_model=str(parts["llm"]),
        connectors={"visual": str(parts["projector"])},
        lora_runs=(str(parts["lower"]), str(parts["upper"])),
    )
    ours, theirs = build_model(recipe), load(parts, "llm", "projector", "lower", "upper").model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())
    with pytest.raises(UserError, match="not a checkpoint of system longvale"):
        build_model(recipe.model_copy(update={"lora_runs": (str(parts["llm"]),)}))


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory) -> Path:
    """A whole model, written from the language model and its connectors."""
    folder = tmp_path_factory.mktemp("whole") / "ours"
    save_checkpoint(load(parts, "llm", "projector"), folder)
    return folder


@pytest.mark.parametrize("spec", ["weights", "sizes"])
@pytest.mark.parametrize("name", ["language_model", "towers.vision", "connectors.visual"])
def test_parts_beside_a_whole_checkpoint_are_refused(parts, whole, name, spec, tmp_path):
    """They would be ignored: a whole model has its own."""
    group, _, part = name.partition(".")
    places = {"language_model": parts["llm"], "towers": parts["llm"], "connectors": parts["projector"]}
    value = str(places[group]) if spec == "weights" else {"hidden_size": 16}
    recipe = Recipe(system="longvale", checkpoint=str(whole), **{group: {part: value} if part else value})
    said = rf"checkpoint: {re.escape(str(whole))}: is a whole model, which would not take {name}; remove {name}"
    with pytest.raises(UserError, match=said):
        recognise(recipe)
    stage = {"name": "s", "train": {"connectors": 1e-3}, "data": [{"annotations": "a.json"}], "global_batch_size": 1}
    with pytest.raises(UserError, match=said):
        starting_config(Recipe(**recipe.model_dump(exclude_defaults=True), stages=(stage,)), 0)
    # A bundle of an earlier version, whose recipe has them, opens as it was trained: without them.
    (tmp_path / "bundle.json").write_text(
        json.dumps({"base": {"parts": recipe.model_dump(mode="json")}, "adapters": {}})
    )
    shutil.copy(whole / "config.json", tmp_path)
    assert recognise(tmp_path).children[0].kind == "native"


def test_parts_beside_a_checkpoint_that_needs_them_are_taken_or_refused(parts):
    """What connectors and a LoRA run stand on: the language model first, then every tower, then the connectors."""
    sizes = {"hidden_size": 768, "width": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm, projector = str(parts["llm"]), str(parts["projector"])
    named = {"connectors": {"visual": projector}, "language_model": llm}
    made = build_model(Recipe(system="longvale", checkpoint=str(parts["lower"]), **named)).state_dict()
    wanted = load(parts, "llm", "projector", "lower").model.state_dict()
    assert all(torch.equal(made[key], tensor) for key, tensor in wanted.items())
    alone = build_model(Recipe(system="longvale", checkpoint=projector, language_model=llm)).state_dict()
    assert torch.equal(alone["connectors.visual.0.weight"], wanted["connectors.visual.0.weight"])
    for name, given in (
        ("towers.vision", {"towers": {"vision": sizes}}),
        ("connectors.audio", {"connectors": {"audio": {"depth": 1}}}),
        ("language_model", {"language_model": {"model_type": "llama"}}),
    ):
        with pytest.raises(UserError, match=rf"is no whole model \(connectors\).*a file or folder for {name}"):
            recognise(Recipe(system="longvale", checkpoint=projector, **{"language_model": llm, **given}))
    nowhere = Recipe(system="longvale", checkpoint=projector, language_model=llm, towers={"vision": "/no/where"})
    with pytest.raises(UserError, match="/no/where"):
        recognise(nowhere)


def test_absent_towers_have_no_weights_and_tell_what_to_do(parts):
    model = load(parts, "llm", "projector").model
    assert all(isinstance(tower, AbsentTower) for tower in model.towers.values())
    assert not any(name.startswith("towers.") for name in [*model.state_dict(), *model.components()])
    with pytest.raises(UserError, match=r"audio \(published as BEATs_iter3_plus_AS20K\.pt\).*--tower audio=PLACE"):
        model.encode("audio", torch.zeros(1, 1, 512, 128))
    said = model.missing_towers(["video", "image", "speech"])
    assert said.count("--tower vision=PLACE") == 1 and "--tower speech=PLACE" in said and "audio" not in said
    assert model.missing_towers([]) is None


def test_connectors_train_without_towers_whatever_a_batch_holds(parts):
    model = load(parts, "llm", "projector").model.requires_grad_(True)
    ids = torch.tensor([[1, *[model.config.placeholder_ids["audio"]] * 3, 7, 8]])
    labels = torch.tensor([[-100] * 4 + [7, 8]])
    media = {"audio": [Item(torch.randn(3, 768), 3, encoded=True)]}
    model.loss_sum(Batch(ids, torch.arange(6)[None], labels, [0, 6], ["a"], media)).backward()
    seen = {name: float(part[0].weight.grad.abs().sum()) for name, part in model.connectors.items()}
    assert seen["audio"] > 0 and seen["speech"] == seen["visual"] == 0


def test_towers_named_in_a_recipe_are_there_and_the_others_absent(parts):
    sizes = {"hidden_size": 768, "width": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    recipe = Recipe(system="longvale", language_model=str(parts["llm"]), towers={"vision": {**sizes, "image_size": 28}})
    model = build_model(recipe)
    assert set(model.config.absent_towers) == {"audio", "speech"}
    assert "towers.vision" in model.components()


def test_tower_of_another_width_is_refused(parts, tmp_path):
    model = load(parts, "llm", "projector").model
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    spec = {"type": "whisper", **ENCODER_TOWER.read_sizes({"model_type": "whisper", **sizes}, {})}
    tower = tower_config(spec).build()
    save_file(
        {name: tensor.contiguous() for name, tensor in tower.state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper", **sizes}))
    with pytest.raises(UserError, match="gives features of width 16 where the model takes 1280"):
        load(parts, "llm", "projector", towers={"speech": str(tmp_path)})
    assert "speech" in model.config.absent_towers


def test_formats_are_listed_for_conversion():
    formats = {form.name for form in SYSTEMS["longvale"].publication.formats if form.write_config or form.partial}
    assert formats == {"official", "official_lora", "projector"}
