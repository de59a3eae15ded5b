"""Our LongVALE-LLM against tensors of the official code, behind the towers; every size is read from the fixture.

Towers and what they take are compared in tests/models and tests/media, texts in tests/processing, scores in
tests/evaluation.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.lora.adapter_files import adapter_config, official_name, read_adapter
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.write import save_checkpoint
from vidtune.data.conversations import read_conversations
from vidtune.data.sample import MediaRef, Sample
from vidtune.evaluation.benchmarks.longvale import TEMPLATES
from vidtune.evaluation.metrics.grounding import score_grounding
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Example, pack
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.known import captions, with_roles
from vidtune.processing.times import time_rule
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe.files import load_recipe
from vidtune.recipe.types import LoRA
from vidtune.registry import SYSTEMS
from vidtune.systems.parts.vicuna import CURIOUS_USER
from vidtune.training.setup.parameters import prepare_components, select_components

FOLDER = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parent / "fixtures")) / "longvale"
SYSTEM = SYSTEMS["longvale"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
STREAMS = {"video": "visual", "audio": "audio", "speech": "speech"}
OF_SAMPLE = ({"video": 0, "audio": 0, "speech": 0}, {"video": 1, "audio": 1}, {"video": 2, "speech": 1}, {"video": 3})
"""Which stored features each sample of the batch has, by stream."""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no longvale fixtures in this folder")


def read(name: str):
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture")
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def results(config) -> dict:
    return config["results"]


@pytest.fixture(scope="module")
def inputs() -> dict:
    return read("inputs.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


@pytest.fixture(scope="module")
def weights() -> dict:
    return read("weights.safetensors")


def below(weights: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def official_config(config: dict) -> dict:
    """As the official trainer writes it, with what its own constants would say at this size."""
    towers = {"vidtune_towers": {"vision": {"num_frames": config["n_img"]}}}
    return {"model_type": "LongVALE-LLM", **config["llm"], "vocab_size": config["vocab_size"], **towers}


@pytest.fixture(scope="module")
def places(config, weights, tmp_path_factory) -> dict[str, Path]:
    """What is published, as files: the whole model, the language model, the projector, two LoRA runs."""
    root = tmp_path_factory.mktemp("longvale")
    places = {name: root / name for name in ("whole", "llm", "half", "s2", "s3")}
    llm = below(weights, "llm.")
    language_model = {name: tensor for name, tensor in llm.items() if "mm_projector" not in name}
    tokenizer = load_tokenizer(FOLDER, legacy=False)
    for name, state in (
        ("whole", llm),
        ("llm", language_model),
        ("half", {name: tensor.half() for name, tensor in language_model.items()}),
    ):
        places[name].mkdir()
        torch.save(state, places[name] / "pytorch_model.bin")
        text = {**official_config(config), "model_type": "LongVALE-LLM" if name == "whole" else "llama"}
        (places[name] / "config.json").write_text(json.dumps(text))
        tokenizer.save_pretrained(places[name])
    places["projector"] = root / "vtimellm_stage1_mm_projector.bin"
    torch.save({name: llm[name] for name in llm if name.startswith("model.mm_projector.")}, places["projector"])
    for name in ("s2", "s3"):
        places[name].mkdir()
        torch.save(below(weights, f"{name}.adapter_model/"), places[name] / "adapter_model.bin")
        torch.save(below(weights, f"{name}.non_lora_trainables/"), places[name] / "non_lora_trainables.bin")
        (places[name] / "adapter_config.json").write_text(json.dumps(config["results"]["adapter_config"]))
        (places[name] / "config.json").write_text(json.dumps(official_config(config)))
    return places


@pytest.fixture(scope="module")
def checkpoint(places) -> Checkpoint:
    return load_checkpoint(places["whole"])


@pytest.fixture(scope="module")
def model(checkpoint) -> VideoLM:
    return checkpoint.model


@pytest.fixture(scope="module")
def features(inputs, tmp_path_factory) -> list[MediaRef]:
    """The media of the batch's samples: files of features, as published."""
    root = tmp_path_factory.mktemp("features")
    refs = []
    for number, numbers in enumerate(OF_SAMPLE):
        found = []
        for stream, place in numbers.items():
            path = root / f"{stream}-{number}.npy"
            np.save(path, inputs[f"feat.{STREAMS[stream]}.{place}"].numpy())
            found.append((stream, str(path)))
        refs.append(MediaRef("video", "", tuple(found)))
    return refs


@pytest.fixture(scope="module")
def samples(features) -> list[Sample]:
    cases = [case for case in read("text_cases.json")["text_cases"] if case["case"] == "sft" and not case["legacy"]]
    records = list(read_conversations(Path("sft.json"), json.dumps([case["sample"] for case in cases]).encode()))
    return [
        Sample(str(number), record.turns, (ref,), record.times)
        for number, (record, ref) in enumerate(zip(records, features, strict=True))
    ]


@pytest.fixture(scope="module")
def examples(checkpoint, samples) -> list[Example]:
    return [checkpoint.processor.example(sample, "v1") for sample in samples]


def packed(examples: list[Example]) -> Batch:
    """Read as the loader reads them: features stand in for what towers would give."""
    return pack(examples, [[torch.from_numpy(np.load(slot.ref.path)) for slot in e.media] for e in examples])


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(actual.float(), wanted.float(), atol=atol, rtol=0)


def rows_of(batch: Batch, values: torch.Tensor) -> list[torch.Tensor]:
    """A pack's values, example by example."""
    return [values[start:stop] for start, stop in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)]


def logits(model: VideoLM, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(batch.input_ids, position_ids=batch.position_ids, cu_seqlens=batch.cu_seqlens, media=batch.media)
    return rows_of(batch, output.logits[0])


def loss(model: VideoLM, batch: Batch) -> torch.Tensor:
    return model.loss_sum(batch) / batch.num_supervised


def test_prompts_companions_and_times_are_the_published_ones():
    v1 = with_roles("v1", CURIOUS_USER, cut=Cut(r"From \d+ to \d+,", rejoined=True))
    plain = captions("plain", ("video", "image"), after_tag="\n")
    assert SYSTEM.dialect.prompts == {"v1": v1, "plain": plain}
    assert SYSTEM.dialect.companions == {"video": ("audio", "speech")}
    assert SYSTEM.dialect.times == "percent"


def test_published_model_is_read_without_its_towers(checkpoint, weights):
    report = checkpoint.report
    assert report.format == "official" and report.missing == report.unexpected == report.drawn == []
    assert report.ignored == sum("inv_freq" in name for name in weights)
    assert checkpoint.model.config.absent_towers == ["vision", "audio", "speech"]
    assert not any(name.startswith("towers.") for name in checkpoint.model.state_dict())


@pytest.mark.parametrize("stream", STREAMS)
def test_connectors_agree(stream, model, inputs, expected):
    name = STREAMS[stream]
    with torch.no_grad():
        close(model.connect(stream, inputs[f"feat.{name}.0"]), expected[f"proj.{name}.0"], 1e-5)


def test_a_samples_embeddings_and_labels_equal_the_spliced_ones(model, examples, expected):
    batch = packed(examples)
    with torch.no_grad():
        embeds = rows_of(batch, model.embed(batch.input_ids, batch.media)[0])
    labels = rows_of(batch, batch.labels[0])
    for row, (embed, label) in enumerate(zip(embeds, labels, strict=True)):
        mask = expected["splice.attention_mask"][row].bool()
        close(embed, expected["splice.inputs_embeds"][row][mask], 1e-5)
        assert torch.equal(label, expected["splice.labels"][row][mask])


def test_a_limit_behind_the_expansion_cuts_where_the_original_does(checkpoint, samples, expected):
    """The original can cut and pad on the left; no published script asks for it. Where the padding stands does not
    matter here, nor do positions: both begin with the first token."""
    mask = expected["splice_left_trunc.attention_mask"].bool()
    limit = mask.shape[1]
    cut = [checkpoint.processor.example(sample, "v1", max_expanded_length=limit) for sample in samples]
    batch = packed(cut)
    with torch.no_grad():
        embeds = rows_of(batch, checkpoint.model.embed(batch.input_ids, batch.media)[0])
    assert any(example.truncated for example in cut)
    for row, (embed, labels) in enumerate(zip(embeds, rows_of(batch, batch.labels[0]), strict=True)):
        kept = mask[row]
        close(embed.sum(dim=-1), expected["splice_left_trunc.inputs_embeds_rowsum"][row][kept], 1e-4)
        assert torch.equal(labels, expected["splice_left_trunc.labels"][row][kept])
        assert expected["splice_left_trunc.position_ids"][row][kept].tolist() == list(range(len(embed)))


def test_a_text_only_row_is_text_alone(model, config, inputs, expected):
    first, second = inputs["textonly.input_ids"]
    wanted = expected["textonly.inputs_embeds"]
    with torch.no_grad():
        close(model.embed(first[None])[0], wanted[0, : len(first)], 1e-5)
        assert not wanted[0, len(first) :].any()
        text = second[second >= 0]
        place = int((second < 0).nonzero())
        blocks = [model.connect(stream, inputs[f"feat.{STREAMS[stream]}.1"]) for stream in ("video", "audio")]
        embeds = model.embed(text[None])[0]
        close(torch.cat([embeds[:place], *blocks, embeds[place:]]), wanted[1], 1e-5)


def test_loss_and_logits_agree(model, examples, expected):
    batch = packed(examples)
    found = logits(model, batch)
    with torch.no_grad():
        close(loss(model, batch), expected["llm.loss"][0], 1e-5)
    close(found[0][::2], expected["llm.logits_sample0_stride2"][: len(found[0][::2])], 1e-4)
    check_strided(found, expected["llm.logits_all_stride9"])


def check_strided(found: list[torch.Tensor], wanted: torch.Tensor) -> None:
    """Every ninth position of every sample, those of the padding left out."""
    for row, values in enumerate(found):
        strided = values[::9]
        close(strided, wanted[row, : len(strided)], 1e-4)


def test_one_by_one_equals_packed(model, examples):
    together = logits(model, packed(examples))
    for example, values in zip(examples, together, strict=True):
        close(logits(model, packed([example]))[0], values, 1e-5)


def relative(actual: torch.Tensor, wanted: float, rtol: float = 1e-4) -> None:
    assert float(actual) == pytest.approx(wanted, rel=rtol)


def norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


def test_gradients_agree(model, examples, expected, results):
    batch = packed(examples)
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    loss(model, batch).backward()
    keys = FORMATS["official"].keys
    gradients = {keys.to_theirs(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name in ("audio_mm_projector", "asr_mm_projector"):
        wanted = expected[f"grad.{name}.bias"]
        torch.testing.assert_close(gradients[f"model.{name}.bias"], wanted, rtol=1e-4, atol=1e-6)
    for component, wanted in results["grad_norms_full_finetune"].items():
        prefixes = (f"model.{component}.", f"{component}.")
        relative(norm([value for key, value in gradients.items() if key.startswith(prefixes)]), wanted)
    model.zero_grad(set_to_none=True)


def grounding(results: dict) -> dict:
    return next(case for case in results["inference_prompts"] if case["task"] == "grounding")


def test_greedy_generation_agrees(checkpoint, features, inputs, expected, results):
    model, processor = checkpoint.model, checkpoint.processor
    example = processor.question_example(grounding(results)["query"], features[:1], "v1")
    batch = packed([example])
    prompt = inputs["gen.input_ids"][0]
    new = expected["gen.greedy_output_ids"].shape[1] - len(prompt)
    output = model.generate(
        batch.input_ids,
        attention_mask=torch.ones_like(batch.input_ids),
        media=batch.media,
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    text = [token for token in batch.input_ids[0].tolist() if token < model.config.text_config.vocab_size]
    assert text == [token for token in prompt.tolist() if token >= 0]
    assert output.sequences[0, -new:].tolist() == expected["gen.greedy_output_ids"][0, -new:].tolist()
    close(output.logits[0], expected["gen.first_step_logits"], 1e-4)


@pytest.mark.parametrize("task", ["captioning", "grounding", "seg_captioning"])
def test_question_prompts_agree_around_the_media(task, checkpoint, features, results):
    """Tokens of video, sound and speech stand in one block, in this order, where the original has one placeholder."""
    case = next(case for case in results["inference_prompts"] if case["task"] == task)
    example = checkpoint.processor.question_example(case["query"], features[:1], "v1")
    ids = checkpoint.processor.placeholder_ids
    block = [ids[stream] for stream in STREAMS for _ in range(slot_tokens(example)[stream])]
    place = case["input_ids"].index(-200)
    assert example.input_ids.tolist() == [*case["input_ids"][:place], *block, *case["input_ids"][place + 1 :]]


def slot_tokens(example: Example) -> dict[str, int]:
    return {slot.stream: slot.num_tokens for slot in example.media}


def test_half_precision_agrees(places, features, expected, results):
    half = load_checkpoint(places["whole"], dtype=torch.float16)
    batch = packed([half.processor.question_example(grounding(results)["query"], features[:1], "v1")])
    with torch.no_grad():
        embeds = half.model.embed(batch.input_ids, batch.media)
    assert embeds.dtype == torch.float16
    close(embeds, expected["fp16_eval_path.inputs_embeds"], 5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("without", [(), ("audio",), ("speech",), ("audio", "speech"), ("video", "speech")], ids=str)
def test_any_subset_of_streams_and_any_precision_runs_where_the_original_raises(
    without, dtype, places, features, results
):
    assert results["audio_None_asr_list"].startswith("raises")
    assert results["stacked_audio_in_bf16_model"].startswith("raises")
    loaded = load_checkpoint(places["whole"], dtype=dtype)
    example = loaded.processor.without(without).question_example("<video>\nWhat?", features[:1], "v1")
    assert set(slot_tokens(example)) == set(STREAMS) - set(without)
    (values,) = logits(loaded.model, packed([example]))
    assert values.isfinite().all() and len(values) == len(example)


@pytest.mark.parametrize(
    ("name", "stack", "top"), [("stage2", ("llm", "projector"), "s2"), ("stage3", ("llm", "projector", "s2"), "s3")]
)
def test_stacked_lora_runs_agree(name, stack, top, places, examples, expected):
    loaded = load_checkpoint(places[top], base=[str(places[layer]) for layer in stack])
    assert loaded.report.format == "official_lora" and loaded.report.drawn == []
    weight = loaded.model.language_model.model.layers[0].self_attn.q_proj.weight
    close(weight, expected[f"lora.after_{name}_merge.q_proj0"], 1e-5)
    batch = packed(examples)
    with torch.no_grad():
        close(loss(loaded.model, batch), expected[f"lora.after_{name}_merge.loss"][0], 1e-5)
    check_strided(logits(loaded.model, batch), expected[f"lora.after_{name}_merge.logits_all_stride9"])


def test_runs_merged_into_half_precision_are_rounded_one_by_one(places, expected, results):
    """The published loader adds to float16 weights in place; its connectors stay float32 until the end."""
    base = [str(places[layer]) for layer in ("half", "projector", "s2")]
    loaded = load_checkpoint(places["s3"], base=base)
    assert results["builder_dtype"] == "torch.float16" and loaded.model.dtype == torch.float16
    weight = loaded.model.language_model.model.layers[0].self_attn.q_proj.weight.detach()
    wanted = expected["lora.builder_fp16.q_proj0"]
    spacing = torch.finfo(torch.float16).eps * wanted.float().abs().max()
    assert float((weight.float() - wanted.float()).abs().max()) <= float(spacing)
    exact = expected["lora.after_stage3_merge.q_proj0"]
    assert 0 < float((weight.float() - exact).abs().max()) <= results["builder_fp16_vs_fp32_max_weight_diff"] * 2


def test_whole_official_model_is_written_back_unchanged(checkpoint, weights, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    written = load_file(tmp_path / "out/model.safetensors")
    stored = {name: tensor for name, tensor in below(weights, "llm.").items() if "inv_freq" not in name}
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], stored[name]) for name in stored)
    again = load_checkpoint(tmp_path / "out")
    assert again.model.config.towers == checkpoint.model.config.towers
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "LongVALE-LLM"


def test_published_run_is_written_back_unchanged(places, tmp_path):
    loaded = load_checkpoint(places["s3"], base=[str(places[name]) for name in ("llm", "projector", "s2")])
    save_checkpoint(loaded, tmp_path / "out", "official_lora")
    for file in ("adapter_model.bin", "non_lora_trainables.bin"):
        stored, written = (torch.load(folder / file, weights_only=True) for folder in (places["s3"], tmp_path / "out"))
        assert stored.keys() == written.keys()
        assert [name for name in stored if not torch.equal(stored[name], written[name])] == []
    save_checkpoint(loaded, tmp_path / "projector", "projector")
    written = torch.load(tmp_path / "projector/mm_projector.bin", weights_only=True)
    stored = torch.load(places["projector"], weights_only=True)
    assert written.keys() == stored.keys() and all(torch.equal(written[name], stored[name]) for name in stored)


def stage_model(places, results, stage: str) -> VideoLM:
    """What the recipe's stage trains, at the fixture's size, named and frozen as training does it."""
    recipe = load_recipe("longvale", expand=False)
    (found,) = [found for found in recipe.stages if found.name == stage]
    below_it = {"boundary_perception": ("projector",), "instruction_tuning": ("projector", "s2")}[stage]
    stack = [str(places[name]) for name in ("llm", *below_it)]
    model = load_checkpoint(stack[-1], base=stack[:-1]).model
    trained = select_components(list(model.components()), found.train, stage)
    settings = trained["language_model"].lora
    assert (settings.rank, settings.alpha, settings.dropout) == (64, 128, results["adapter_config"]["lora_dropout"])
    small = LoRA(rank=results["adapter_config"]["r"], alpha=results["adapter_config"]["lora_alpha"])
    add_adapters(model.language_model, small, seed=0, where=stage)
    prepare_components(model, trained, torch.float32)
    return model


@pytest.mark.parametrize("stage", ["boundary_perception", "instruction_tuning"])
def test_recipe_trains_what_the_original_trains(stage, places, results):
    model = stage_model(places, results, stage)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    others = [name for name in names if ".lora_" not in name]
    number = {"boundary_perception": 2, "instruction_tuning": 3}[stage]
    keys = FORMATS["official"].keys
    official = {"base_model.model." + str(keys.to_theirs(name)) for name in others}
    assert official == set(results[f"stage{number}_trainable_non_lora"])
    adapted = {"base_model.model." + str(keys.to_theirs(name)) for name in names if ".lora_" in name}
    listed = [name for name in results["stage2_trainable"] if ".lora_" in name]
    assert set(listed) <= adapted
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapted}
    assert layers == set(results["lora_target_modules"])
    assert len(adapted) == 2 * len(layers) * model.config.text_config.num_hidden_layers


def test_unmerged_stage_gives_the_official_loss_and_gradients(places, examples, results):
    model = stage_model(places, results, "instruction_tuning")
    run = recognise(places["s3"], system="longvale", layer=True)
    connectors = {official_name(name): tensor for name, tensor in run.weights.items()}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in rename(connectors, run.format.keys, LoadReport("run")).items():
            parameters[name].copy_(tensor)
        for name, (down, up) in read_adapter(run.files).factors.items():
            ours = run.format.keys.to_ours(name + ".").removesuffix(".")
            parameters[f"{ours}.lora_A.default.weight"].copy_(down)
            parameters[f"{ours}.lora_B.default.weight"].copy_(up)
    value = loss(model, packed(examples))
    value.backward()
    relative(value.detach(), results["stage3_loss_unmerged_eval"], 1e-5)
    for what, wanted in results["stage3_grad_norms"].items():
        part = {"audio_mm_projector": "connectors.audio.", "asr_mm_projector": "connectors.speech."}.get(what, what)
        grads = [p.grad for name, p in parameters.items() if p.requires_grad and part in name]
        relative(norm(grads), wanted)


def test_adapter_config_is_the_official_one(places, results):
    model = stage_model(places, results, "boundary_perception")
    wanted = results["adapter_config"]
    settings = LoRA(rank=wanted["r"], alpha=wanted["lora_alpha"], dropout=wanted["lora_dropout"])
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapter_config(settings, layers, "", "CAUSAL_LM") == wanted
    assert read_adapter(CheckpointFiles(places["s2"])).config == wanted


def test_frames_and_pixels_of_the_system_are_the_official_ones(config, inputs, expected):
    """From a whole clip, and from a picture: which frames, resized without antialiasing, cut and normalised."""
    size = config["clip"]["input_resolution"]
    sizes = {"hidden_size": 768, "image_size": size, "patch_size": config["clip"]["patch_size"]}
    steps = SYSTEM.architecture.preprocessing(
        SYSTEM.architecture.build_config(AutoConfig.for_model("llama"), {"vision": sizes}, {})
    )
    clip = steps["video"].apply(inputs["clip.video_u8"].numpy())
    wanted = expected["clip.video.pixels_frames_0_33_50_99_stride16"]
    close(clip.transpose(0, 1)[[0, 33, 50, 99]][..., ::16, ::16], wanted, 1e-5)
    frame = inputs["clip.frame_half_u8"].repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    close(steps["image"].apply(frame)[None, :, ::3, ::3], expected["clip.frame.pixels_stride3"], 1e-5)
    total = len(inputs["clip.video_u8"])
    assert frame_indices("linspace", total, 100) == expected["clip.video.sampled_indices"].tolist()


def test_frame_choice_agrees_at_every_length_and_cut(results):
    """The published script never passes a cut: a clip is a file of its own, whose frames are these."""
    assert len(results["frame_sampling_N100"]) > 5
    for case in results["frame_sampling_N100"]:
        first, last = 0, case["total_frames"] - 1
        if case["split"]:
            first, last = int(case["fps"] * case["split"][0]), min(int(case["fps"] * case["split"][1]), last)
        found = [first + index for index in frame_indices("linspace", last - first + 1, len(case["indices"]))]
        assert found == case["indices"]


def test_intersections_of_answers_agree(results):
    for case in results["iou_cases"]:
        scores = score_grounding({"a": case["answer"]}, {"a": tuple(case["gt"])})
        assert scores.metrics["mIoU"].value == pytest.approx(case["iou"], abs=1e-12), case


def test_benchmark_asks_in_the_published_words(results):
    questions = results["eval_questions"]
    assert questions.keys() == TEMPLATES.keys()
    fields = {"<start>": "{start}", "<end>": "{end}", "{}": "{question}"}
    for task, (published,) in questions.items():
        for theirs, ours in fields.items():
            published = published.replace(theirs, ours)
        assert TEMPLATES[task].removeprefix("{media}").strip() == published


def test_a_moment_is_written_as_published_and_read_back(results):
    rule = time_rule(SYSTEM.dialect.times)
    for case in results["timestamp_conversion"]:
        assert rule.write(case["seconds"], case["duration"]) == case["text"]
        inside = min(case["seconds"], case["duration"])
        assert abs(rule.read(case["text"], case["duration"]) - inside) <= 0.0101 * case["duration"]


def full_size_config():
    text = AutoConfig.for_model(
        "llama", vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32,
    )  # fmt: skip
    return SYSTEM.architecture.build_config(text, {}, {})


def shapes_of(state: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def listed(keys: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in keys.items()}


def test_full_size_model_has_the_published_keys_and_shapes():
    keys = FORMATS["official"].keys
    with torch.device("meta"):
        state = VideoLM(full_size_config()).state_dict()
    wanted = {name: shape for name, shape in listed(read("full_keys.json")).items() if not keys.is_ignored(name)}
    assert {keys.to_theirs(name): shape for name, shape in shapes_of(state).items()} == wanted


def test_full_size_run_and_projector_have_the_published_keys_and_shapes():
    parts = {name.split(" ")[0]: listed(keys) for name, keys in read("full_keys_parts.json").items()}
    recipe = load_recipe("longvale", expand=False)
    keys = FORMATS["official"].keys
    with torch.device("meta"):
        model = VideoLM(full_size_config())
        trained = select_components(list(model.components()), recipe.stages[0].train, "s")
        add_adapters(model.language_model, trained["language_model"].lora, seed=0, where="s")
    prepare_components(model, trained, torch.float32)
    ours = {
        "base_model.model." + str(keys.to_theirs(name.replace(".default", ""))): tuple(value.shape)
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    assert {name: shape for name, shape in ours.items() if ".lora_" in name} == parts["adapter_model.bin"]
    assert {name: shape for name, shape in ours.items() if ".lora_" not in name} == parts["non_lora_trainables.bin"]
    visual = {name: tuple(value.shape) for name, value in model.named_parameters() if "connectors.visual" in name}
    projector = {FORMATS["projector"].keys.to_theirs(name): shape for name, shape in visual.items()}
    assert projector == parts["vtimellm_stage1_mm_projector.bin"]
