from dataclasses import replace

import numpy as np

from vidtune.data.sample import MediaRef
from vidtune.extending import register_rule
from vidtune.generation.grouping import Prompt, common_length, group_by_media
from vidtune.generation.settings import Answer
from vidtune.processing.batch import Example, MediaSlot
from vidtune.processing.positions import Positions, sequential
from vidtune.registry import POSITION_RULES

A, B = MediaRef("video", "/a.mp4"), MediaRef("video", "/b.mp4")


def prompt(id, *media, ids=(1, 2, 3), media_end=0):
    slots = tuple(MediaSlot(ref, 1) for ref in media)
    array = np.array(ids, dtype=np.int64)
    return Prompt(Example(id, array, np.full_like(array, -100), slots), media_end, 1)


def shape(groups):
    return [
        ([answer.id for answer in group.refused] or [prompt.example.id for prompt in group.prompts]) for group in groups
    ]


def test_same_media_go_together_in_order_of_first_appearance():
    refused = Answer("refused", "", (), "error", "why")
    prompts = [prompt("a1", A), prompt("b1", B), refused, prompt("ab", A, B), prompt("a2", A), prompt("text")]
    assert shape(group_by_media(prompts, 10)) == [["a1", "a2"], ["b1"], ["refused"], ["ab"], ["text"]]
    assert shape(group_by_media(prompts, 10, share=False)) == [["a1"], ["b1"], ["refused"], ["ab"], ["a2"], ["text"]]


def test_only_a_window_of_an_endless_source_is_read():
    read = []

    def source():
        while True:
            read.append(prompt(str(len(read)), A))
            yield read[-1]

    groups = group_by_media(source(), 3)
    assert len(next(groups).prompts) == 3 and len(read) == 3


def test_prompts_that_come_sorted_are_grouped_without_a_window():
    read = []

    def source():
        for number, media in enumerate("aaabbba"):
            read.append(prompt(str(number), A if media == "a" else B))
            yield read[-1]

    groups = group_by_media(source(), None)
    assert shape([next(groups)]) == [["0", "1", "2"]] and len(read) == 4
    assert shape(groups) == [["3", "4", "5"], ["6"]]


def test_prompts_that_are_equal_up_to_the_media_share_a_prefix():
    prompts = [
        prompt("x", A, ids=(1, 9, 5), media_end=2),
        prompt("y", A, ids=(2, 9, 5), media_end=2),
        prompt("z", A, ids=(1, 9, 6), media_end=2),
    ]
    [group] = group_by_media(prompts, 10)
    assert [[item.example.id for item in part] for part in group.by_prefix()] == [["x", "z"], ["y"]]


def test_prompts_with_a_text_of_their_own_before_the_media_share_what_is_common():
    [group] = group_by_media([prompt(id, A, ids=(1, int(id), 5, 6), media_end=3) for id in "234"], 10)
    assert [[item.example.id for item in part] for part in group.by_prefix()] == [["2", "3", "4"]]


def test_common_beginning_leaves_every_question_a_token():
    prompts = [prompt("", ids=ids) for ids in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 9])]
    assert common_length(prompts) == 3
    assert common_length(prompts[:1]) == 3
    assert common_length([prompt("", ids=[1, 2]), prompt("", ids=[3, 2])]) == 0


def test_a_common_beginning_has_equal_positions_too():
    register_rule("positions.from_the_end", lambda spans: Positions(sequential(spans).values[:, ::-1], 0))
    prompts = [prompt("", ids=ids) for ids in ([1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 3, 4, 5])]
    backwards = [replace(p, example=replace(p.example, position_rule="from_the_end")) for p in prompts]
    try:
        assert common_length(backwards[:2]) == 3
        assert common_length(backwards) == 0
    finally:
        POSITION_RULES.unregister("from_the_end")
