"""The answer engine on real files: equal to answering alone, each video's work done once, failures kept apart."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import MediaError, UserError
from vidtune.generation import engine as engine_module
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.grouping import common_length, group_by_media
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.generation.stopping import eos_ids
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SETTINGS = GenerationSettings(max_new_tokens=8)


def answer_in_letters(model):
    """Take all but printable ASCII and the end token out of the running: their logits are 0, below the highest."""
    head = model.get_output_embeddings().weight.data
    readable = torch.zeros(len(head), dtype=torch.bool)
    readable[32:127] = readable[257] = True
    head[~readable] = 0


def build(name):
    torch.manual_seed(0)
    system = SYSTEMS["video_llava"]
    model = VideoLM(
        system.architecture.build_config(CONFIGS[name], {"image": TOWER, "video": {**TOWER, "num_frames": 2}}, {})
    )
    sharpen(model)
    answer_in_letters(model)
    return model.eval(), build_processor(model.config, byte_tokenizer())


@pytest.fixture(scope="module", params=CONFIGS)
def parts(request):
    return build(request.param)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two clips and a picture, each of its own colours."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 32
            for _ in range(5):
                block = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(np.kron(block, np.ones((8, 8, 1), np.uint8)))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / "c.png")
    return folder


@pytest.fixture
def a(files):
    return MediaRef("video", str(files / "a.mp4"))


@pytest.fixture
def b(files):
    return MediaRef("video", str(files / "b.mp4"))


@pytest.fixture
def c(files):
    return MediaRef("image", str(files / "c.png"))


def start(parts, settings=SETTINGS, **options):
    options = {"prompt": "llava_v1", "workers": 0, **options}
    return AnswerEngine(*parts, settings, **options)


def answers(parts, requests, settings=SETTINGS, **options):
    with start(parts, settings, **options) as engine:
        return {answer.id: answer for answer in engine.answer(requests)}, engine.stats


def mixed_requests(a, b, c):
    return [
        Request("a-short", (a,), "Who?"),
        Request("a-long", (a,), "What does the person in the video do at the very end, and why?"),
        Request("image", (c,), "What is it?"),
        Request("text", (), "Say something."),
        Request("b", (b,), "Who?"),
        Request("both", (c, a), "Is the thing <image> seen in <video>?"),
        Request("a-later", (a,), "Whose is it?"),
        Request("text-too", (), "Say something else."),
        Request("a-turns", (a,), "And now?", (Turn("user", "Who?"), Turn("assistant", "A man."))),
    ]


def test_grey_levels_are_normalised_before_the_model_sees_them(llama, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    (tmp_path / "clip").mkdir()
    for name in ("whole.png", "clip/0.png", "clip/1.png"):
        Image.fromarray(picture).save(tmp_path / name)
    refs = (MediaRef("image", str(tmp_path / "whole.png")), MediaRef("video", str(tmp_path / "clip")))
    model, processor = llama
    grey = processor.with_preprocessing({"image": {"pixels": "uint8"}, "video": {"pixels": "uint8"}})
    embeds = []
    for chosen in (processor, grey):
        with start((model, chosen), workers=1) as engine:
            prompt = engine._prepare(Request("q", refs, "Which?"))
            [group] = engine._loaded(group_by_media([prompt], 1))
            assert {found.array.dtype for found in group.loaded} == {np.dtype(chosen.preprocessing["image"].pixels)}
            embeds.append(engine._encode(group).tokens([prompt]).embeds)
    assert torch.equal(*embeds)


def test_shared_prefix_equals_answering_alone(parts, a, b, c):
    requests = mixed_requests(a, b, c)
    shared, stats = answers(parts, requests)
    plain, plain_stats = answers(parts, requests, share_prefix=False)
    assert shared == plain
    assert list(shared) == ["a-short", "a-long", "a-later", "a-turns", "image", "text", "text-too", "b", "both"]
    assert len({answer.token_ids for answer in shared.values()}) >= 7
    assert (stats.media_loaded, stats.encodings, stats.prefills, stats.questions) == (5, 5, 5, 9)
    assert (plain_stats.media_loaded, plain_stats.encodings, plain_stats.prefills) == (8, 8, 9)


def test_answers_equal_transformers_generate(parts, a, c):
    model, processor = parts
    request = Request("both", (c, a), "Is <image> in <video>?")
    given = processor(request.question, images=[c.path], videos=[a.path], prompt="llava_v1")
    embeds = model.embed(given["input_ids"], given["media"])
    ids = model.language_model.generate(
        inputs_embeds=embeds, attention_mask=given["attention_mask"], max_new_tokens=8, do_sample=False,
        eos_token_id=257, pad_token_id=0,
    )  # fmt: skip
    assert answers(parts, [request])[0]["both"].token_ids == tuple(ids[0].tolist())


def test_twenty_questions_decode_encode_and_prefill_once(llama, a):
    model, _ = llama
    calls = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in (("tower", model.towers["video"]), ("connector", model.connectors["visual"]))
    ]
    found, stats = answers(llama, [Request(str(i), (a,), f"Question {i}?") for i in range(20)])
    for hook in hooks:
        hook.remove()
    assert calls == ["tower", "connector"]
    assert (stats.media_loaded, stats.prefills, stats.questions) == (1, 1, 20)
    assert stats.new_tokens == sum(len(answer.token_ids) for answer in found.values())


def test_small_batches_give_the_same_answers(llama, a, monkeypatch):
    requests = [Request(str(i), (a,), f"{'What? ' * i}Why?") for i in range(5)]
    whole, _ = answers(llama, requests)
    assert answers(llama, requests, max_batch_questions=2)[0] == whole
    sizes = []
    steps = engine_module.decode_steps
    monkeypatch.setattr(engine_module, "device_memory", lambda device: 1)
    monkeypatch.setattr(engine_module, "decode_steps", lambda *args: sizes.append(len(args[1])) or steps(*args))
    assert answers(llama, requests)[0] == whole
    assert sizes == [1] * 5
    monkeypatch.undo()
    monkeypatch.setattr(engine_module, "MAX_QUESTION_TOKENS", 1)
    assert answers(llama, requests)[0] == whole


QUESTIONS_FIRST = ["Who is in <video>?", "What is shown <video>", "Why?\n<video>", "Why, and where?\n<video>"]


def test_questions_before_the_media_take_one_encoding_and_one_prefill(parts, a):
    requests = [Request(question, (a,), question) for question in QUESTIONS_FIRST]
    shared, stats = answers(parts, requests)
    plain, plain_stats = answers(parts, requests, share_prefix=False)
    assert shared == plain
    assert len({answer.token_ids for answer in shared.values()}) == 4
    assert (stats.media_loaded, stats.encodings, stats.prefills) == (1, 1, 1)
    assert (plain_stats.media_loaded, plain_stats.encodings, plain_stats.prefills) == (4, 4, 4)


def test_media_before_and_after_questions_are_encoded_once(parts, a, b):
    questions = ["<video><video>\nWho?", "<video> Is it <video>?", "<video><video>\nWhy?", "<video> Who?\n<video>"]
    requests = [Request(question, (a, b), question) for question in questions]
    turns = (Turn("user", "<video> Look: and <video>"), Turn("assistant", "I see."))
    requests.append(Request("turns", (a, b), "And now?", turns))
    shared, stats = answers(parts, requests, max_batch_questions=2)
    assert shared == answers(parts, requests, share_prefix=False)[0]
    assert len({answer.token_ids for answer in shared.values()}) >= 4
    assert (stats.media_loaded, stats.encodings, stats.prefills) == (2, 2, 2)


def test_media_after_questions_count_in_the_size_of_a_batch(llama, a, monkeypatch):
    requests = [Request(question, (a,), question) for question in QUESTIONS_FIRST]
    whole, _ = answers(llama, requests)
    sizes = []
    steps = engine_module.decode_steps
    monkeypatch.setattr(
        engine_module, "decode_steps", lambda prompts, *rest: sizes.append(len(rest[0])) or steps(prompts, *rest)
    )
    with start(llama) as engine:
        prompts = [engine._prepare(request) for request in requests]
    longest = max(len(prompt.ids) for prompt in prompts) - common_length(prompts)
    monkeypatch.setattr(engine_module, "MAX_QUESTION_TOKENS", 2 * longest)
    assert answers(llama, requests)[0] == whole
    assert sizes == [2, 2]


def test_unreadable_media_fail_their_requests_only(llama, a, files, tmp_path):
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes((files / "b.mp4").read_bytes()[:300])
    missing = MediaRef("video", str(tmp_path / "missing.mp4"))
    requests = [
        Request("bad", (MediaRef("video", str(truncated)),), "Who?"),
        Request("good", (a,), "Who?"),
        Request("half", (missing, a), "Who?"),
        Request("bad-too", (MediaRef("video", str(truncated)),), "Why?"),
    ]
    found, stats = answers(llama, requests)
    assert [id for id, answer in found.items() if answer.finish_reason == "error"] == ["bad", "bad-too", "half"]
    assert str(truncated) in found["bad"].error
    assert str(truncated) in found["bad-too"].error
    assert "missing.mp4" in found["half"].error
    assert found["good"] == answers(llama, [requests[1]])[0]["good"]
    assert (stats.questions, stats.media_loaded) == (1, 2)


def test_a_file_that_never_delivers_ends_by_time_out(llama, a, tmp_path):
    os.mkfifo(tmp_path / "hanging.mp4")
    hanging = MediaRef("video", str(tmp_path / "hanging.mp4"))
    found, _ = answers(
        llama, [Request("hanging", (hanging,), "Who?"), Request("good", (a,), "Who?")], workers=1, media_timeout=3.0
    )
    assert "hanging.mp4" in found["hanging"].error
    assert found["good"].error is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [("  ", "empty"), ("<image> Who?", "image"), ("long " * 120, r"7\d\d tokens.*context 512")],
)
def test_impossible_requests_are_told_why(llama, a, question, reason):
    found, stats = answers(llama, [Request("bad", (a,), question), Request("good", (a,), "Who?")])
    assert found["good"].error is None
    assert re.search(reason, found["bad"].error)
    assert found["bad"].token_ids == ()
    assert stats.media_loaded == 1


def test_a_format_that_leaves_nothing_after_the_media_is_refused(llama, c):
    found, _ = answers(llama, [Request("caption", (c,), "<image>")], prompt="plain")
    assert "leaves nothing after the media" in found["caption"].error


def test_the_context_limits_the_answer(llama, a):
    free = start(llama, replace(SETTINGS, max_new_tokens=1000))
    question = "Who? " * 60
    prompt_length = len(llama[1].question_example(question, [a], "llava_v1"))
    [answer] = free.answer([Request("q", (a,), question)])
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 512 - prompt_length)


def test_stop_texts_end_answers(llama, a, b):
    requests = [Request("a", (a,), "Who?"), Request("b", (b,), "Why?")]
    free, _ = answers(llama, requests)
    text = free["a"].text
    stopped, _ = answers(llama, requests, replace(SETTINGS, stop=(text[3:5],)))
    assert stopped["a"].finish_reason == "stop"
    assert stopped["a"].text == text[: text.index(text[3:5])].strip()


def test_end_tokens_of_checkpoint_and_tokenizer_both_count(llama, a, monkeypatch):
    model, processor = llama
    free = answers(llama, [Request("a", (a,), "Who?")])[0]["a"].token_ids
    assert eos_ids(model.generation_config, processor.tokenizer) >= {257}
    end = next(i for i in range(1, len(free)) if free[i] not in free[:i])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [free[end], 299])
    ended = answers(llama, [Request("a", (a,), "Who?")])[0]["a"]
    assert (ended.finish_reason, ended.token_ids) == ("eos", free[: end + 1])


def test_a_stop_text_that_is_a_special_token_ends_answers(a):
    model, processor = build("llama")
    free = answers((model, processor), [Request("a", (a,), "Who?")])[0]["a"].token_ids
    end = next(i for i in range(1, len(free)) if free[i] not in free[:i])
    stop = processor.tokenizer.decode([free[end]])
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [stop]})
    assert processor.tokenizer.convert_tokens_to_ids(stop) == free[end]
    ended = answers((model, processor), [Request("a", (a,), "Who?")], replace(SETTINGS, stop=(stop,)))[0]["a"]
    assert (ended.finish_reason, ended.token_ids) == ("eos", free[: end + 1])


def test_the_special_token_that_ends_learned_answers_ends_answers(a, monkeypatch):
    model, processor = build("llama")
    free = answers((model, processor), [Request("a", (a,), "Who?")])[0]["a"].token_ids
    end = next(i for i in range(1, len(free)) if free[i] not in free[:i])
    turn_end = processor.tokenizer.decode([free[end]])
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [turn_end]})
    written = processor.prompt_format("llava_v1")
    learned = replace(written, assistant=replace(written.assistant, end=f"{turn_end}\n"), stop=())
    monkeypatch.setattr(processor, "prompt_format", lambda name: learned)
    ended = answers((model, processor), [Request("a", (a,), "Who?")])[0]["a"]
    assert (ended.finish_reason, ended.token_ids) == ("eos", free[: end + 1])


def test_sampling_does_not_depend_on_what_else_is_asked(llama, a, b):
    settings = replace(SETTINGS, do_sample=True, temperature=1.5, top_p=0.9)
    requests = [Request("x", (a,), "Who?"), Request("y", (a,), "Who is that?"), Request("z", (b,), "Who?")]
    together, _ = answers(llama, requests, settings)
    assert answers(llama, [requests[1]], settings)[0]["y"] == together["y"]
    assert answers(llama, requests, settings, share_prefix=False)[0] == together
    assert answers(llama, requests, replace(settings, seed=1))[0]["y"] != together["y"]


def test_streamed_pieces_are_the_answer(llama, a):
    request = Request("a", (a,), "Who?")
    engine = start(llama)
    pieces = list(engine.stream(request))
    assert "".join(pieces) == answers(llama, [request])[0]["a"].text
    assert len(pieces) > 2
    with pytest.raises(UserError, match="empty"):
        list(engine.stream(Request("e", (a,), "")))
    with pytest.raises(MediaError, match="nowhere"):
        list(engine.stream(Request("e", (MediaRef("video", "/nowhere.mp4"),), "Who?")))


def test_no_piece_of_a_stream_holds_a_stop_text_or_its_beginning(llama, a):
    free = answers(llama, [Request("a", (a,), "Who?")])[0]["a"].text
    settings = replace(SETTINGS, stop=(free[3:5],))
    engine = start(llama, settings)
    stream, pieces = engine.stream(Request("a", (a,), "Who?")), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            answer = end.value
            break
        assert free[3] not in pieces[-1] or free[3] in free[:3]
    assert answer == answers(llama, [Request("a", (a,), "Who?")], settings)[0]["a"]
    assert answer.finish_reason == "stop" and "".join(pieces) == answer.text == free[: free.index(free[3:5])].strip()


def test_requests_are_read_as_they_are_needed(llama, a, files, tmp_path):
    copies = [shutil.copy(files / "a.mp4", tmp_path / f"{i}.mp4") for i in range(6)]
    read = []

    def source():
        for path in copies:
            read.append(path)
            yield Request(str(path), (MediaRef("video", str(path)),), "Who?")

    with start(llama, window=1) as engine:
        next(engine.answer(source()))
    assert len(read) < 6


def test_an_unknown_prompt_format_is_refused(llama):
    with pytest.raises(UserError, match="nonsense"):
        start(llama, prompt="nonsense")


REAL = Path(os.environ.get("VIDTUNE_MEDIA", Path(__file__).parents[3] / "shared" / "media"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no folder of real media; name one in VIDTUNE_MEDIA")
def test_real_media_are_answered_as_alone(llama):
    streams = {".mp4": "video", ".jpg": "image"}
    files = [path for path in sorted(REAL.iterdir()) if path.suffix in streams]
    requests = [
        Request(f"{path.name}-{number}", (MediaRef(streams[path.suffix], str(path)),), question)
        for path in files
        for number, question in enumerate(("What happens?", "Who is there, and where?"))
    ]
    shared, stats = answers(llama, requests)
    alone, _ = answers(llama, requests[::2], share_prefix=False)
    assert len(shared) == len(requests) > 0
    assert stats.media_loaded == stats.prefills == len(files)
    assert all(shared[id_].error is None and shared[id_].token_ids == answer.token_ids for id_, answer in alone.items())


def test_every_question_chooses_by_attention_what_it_keeps_of_the_media(llama, a, b, c):
    steps = [{"after": 1, "drop": ["video", "image"], "keep": 0.3, "rule": "attention", "compact": True}]
    requests = mixed_requests(a, b, c)
    with start(llama, layer_program=steps, max_batch_questions=3) as engine:
        together = {answer.id: answer for answer in engine.answer(requests)}
    alone, _ = answers(llama, requests, share_prefix=False, layer_program=steps)
    assert together == alone
    plain, _ = answers(llama, requests)
    assert plain == answers(llama, requests, layer_program=[])[0]
    same = {name for name in plain if plain[name] == together[name]}
    assert {"text", "text-too"} <= same and len(same) < len(plain) - 1
    assert llama[0].config.layer_program == [] and not llama[0].program
