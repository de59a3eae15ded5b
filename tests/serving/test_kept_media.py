"""What is kept of media between requests stays within its memory, and nothing but time depends on it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from served_world import asking, served
from synthetic_clips import write_clip

import vidtune
from vidtune.generation.kept import Conversations, Kept, Said

DROPS = {
    "by place": [{"after": 1, "drop": ["video"], "keep": 0.5, "compact": True}],
    "by attention": [{"after": 1, "drop": ["video"], "keep": 0.5, "rule": "attention", "compact": True}],
}


def test_the_least_recently_used_value_goes_first():
    kept = Kept(10)
    kept.put("a", 1, 4)
    kept.put("b", 2, 4)
    assert kept.get("a") == 1
    kept.put("c", 3, 4)
    assert (kept.get("b"), kept.get("a"), kept.get("c"), kept.used) == (None, 1, 3, 8)
    kept.put("too large", 4, 11)
    assert (kept.get("too large"), kept.get("a"), kept.used) == (None, 1, 8)  # nothing went for it


def said(*ids):
    layers = {0: (torch.zeros(1, len(ids), 2), torch.zeros(1, len(ids), 2))}
    return Said(np.array([ids, range(len(ids))]), layers)  # 16 bytes a token


def test_of_what_was_said_the_longest_beginning_is_found_and_the_least_recent_goes():
    kept = Conversations(most=160, number=2)
    kept.put("video", said(1, 2, 3))
    kept.put("video", said(1, 2, 3, 4))  # in the place of its beginning
    kept.put("video", said(1, 2))  # is there
    assert (len(kept), kept.used) == (1, 64)
    assert kept.find("other video", said(1, 2, 3, 4, 5).tokens) is None
    assert kept.find("video", said(7, 1).tokens) is None
    assert kept.find("video", said(1, 2, 3, 9, 5).tokens).tokens[0].tolist() == [1, 2, 3]
    assert len(kept.find("video", said(1, 2).tokens)) == 1  # a token is left to read
    kept.put("video", said(5, 6))
    assert len(kept.find("video", said(1, 2, 3, 4, 5).tokens)) == 4
    kept.put("picture", said(8))
    assert kept.find("video", said(5, 6, 7).tokens) is None  # the least recent of three
    kept.put("video", said(*range(20, 31)))  # too large
    assert (len(kept), kept.used) == (2, 80)
    kept.put("video", said(*range(20, 29)))
    assert (len(kept), kept.used) == (2, 160)
    assert kept.find("video", said(1, 2, 3, 4, 5).tokens) is None


def answers(server, asked):
    with server.client() as client, ThreadPoolExecutor(8) as pool:

        def one(pair):
            messages = asking(pair[1], pair[0])
            return client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, n=2)

        found = list(pool.map(one, asked))
    assert all(reply.choices[0].message.content == reply.choices[1].message.content for reply in found)
    return [reply.choices[0].message.content for reply in found]


def expected(model, folder, asked):
    found = {}
    for name in dict.fromkeys(name for name, _ in asked):
        texts = [text for one, text in asked if one == name]
        replies = model.answer(texts, video=folder / name, max_new_tokens=8)
        found |= {(name, text): str(reply) for text, reply in zip(texts, replies, strict=True)}
    return [found[pair] for pair in asked]


def test_memory_is_bounded_and_answers_do_not_depend_on_it(model, folder):
    for number in range(4):
        write_clip(folder / f"{number}.mp4", num_frames=4, size=(32 + 16 * number, 48))
    turns = [[(f"{number}.mp4", f"What, {turn}?") for number in range(4)] for turn in range(3)]
    asked = [pair for turn in turns for pair in turn]
    with served({"tiny": model}, folder, max_kept=250_000, max_running=6) as server:
        # A turn begins when the last one is answered: what did not fit then has to be read again, whatever the order.
        found = [reply for turn in turns for reply in answers(server, turn)]
        engine = server.models[0].engine
        assert 0 < engine.prefixes.used <= engine.prefixes.most
        assert len(engine.prefixes) < 4 < engine.stats.prefills  # some were read again
    assert found == expected(model, folder, asked)


@pytest.mark.parametrize(
    "steps", [pytest.param(DROPS["by place"], marks=pytest.mark.whole), DROPS["by attention"]], ids=DROPS
)
def test_answers_of_a_model_that_drops_tokens_are_its_own(checkpoint, folder, steps):
    model = vidtune.load(checkpoint, device="cpu", dtype="float32", layer_program=steps)
    asked = [(name, text) for text in ("What moves?", "Say what is seen, and why.") for name in ("a.mp4", "b.mp4")]
    with served({"tiny": model}, folder) as server:
        assert answers(server, asked) == expected(model, folder, asked)
        assert server.models[0].engine.stats.prefills == 2
