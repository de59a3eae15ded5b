"""Several threads use one model at the same time: each of them gets what it would get alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_language_models import byte_tokenizer, sharpen
from tiny_models import packed, random_example, tiny_model

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request

REQUESTS = [Request(f"q{number}", (), f"{'What? ' * number}Who is it?") for number in range(4)]
ROUNDS = 6


@pytest.fixture(params=["llama", pytest.param("qwen2", marks=pytest.mark.whole)])
def parts(request):
    model = tiny_model(request.param)
    sharpen(model)
    return model, build_processor(model.config, byte_tokenizer())


@pytest.fixture(autouse=True)
def threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def answer_all(parts, requests, share_prefix):
    settings = GenerationSettings(max_new_tokens=6)
    with AnswerEngine(*parts, settings, prompt="llava_v1", workers=0, share_prefix=share_prefix) as engine:
        return {answer.id: answer.token_ids for answer in engine.answer(requests)}


@pytest.mark.parametrize("ways", [(True, True), (True, False)], ids=["both_share_a_prefix", "one_answers_alone"])
def test_two_threads_answer_with_one_model(parts, ways):
    given = (REQUESTS[:2], REQUESTS[2:])
    expected = [answer_all(parts, requests, way) for requests, way in zip(given, ways, strict=True)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            found = pool.map(answer_all, [parts] * 2, given, ways)
            assert list(found) == expected


def test_one_thread_trains_while_another_answers(parts):
    model, _ = parts
    batch = packed([random_example(model, kind, seed) for seed, kind in enumerate(("video", "", "image"))])

    def train() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        loss = model.loss_sum(batch)
        loss.backward()
        return loss.detach(), model.get_input_embeddings().weight.grad.clone()

    loss, gradient = train()
    answers = answer_all(parts, REQUESTS, True)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            training, answering = pool.submit(train), pool.submit(answer_all, parts, REQUESTS, True)
            assert answering.result() == answers
            assert torch.equal(training.result()[0], loss) and torch.equal(training.result()[1], gradient)
