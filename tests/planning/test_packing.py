from dataclasses import replace

import numpy as np
import pytest
import torch

from vidtune.data.sample import MediaRef
from vidtune.processing.batch import IGNORED, Example, MediaSlot, Teaching, pack, stacked


def example(id: str, length: int, *streams: str, num_tokens: int = 1) -> Example:
    slots = tuple(MediaSlot(MediaRef(stream, f"{id}{k}"), num_tokens) for k, stream in enumerate(streams))
    ids = np.arange(length, dtype=np.int64)
    return Example(id, ids, ids.copy(), slots)


def test_examples_stand_one_after_the_other_with_positions_of_their_own() -> None:
    batch = pack([example("a", 3), example("b", 2)], [[], []])
    assert batch.input_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.cu_seqlens == [0, 3, 5]
    assert batch.ids == ["a", "b"]
    assert batch.input_ids.dtype == batch.labels.dtype == torch.long


def test_the_first_label_of_every_example_is_masked_so_that_shifting_stays_inside() -> None:
    batch = pack([example("a", 3), example("b", 2)], [[], []])
    assert batch.labels.tolist() == [[IGNORED, 1, 2, IGNORED, 1]]
    assert batch.num_supervised == example("a", 3).num_supervised + example("b", 2).num_supervised == 3


def test_media_of_a_stream_stand_in_the_order_of_their_tokens() -> None:
    examples = [example("a", 4, "image", "video", num_tokens=2), example("b", 4, "image", num_tokens=3)]
    arrays = [[np.full(2, 1.0), np.full(5, 2.0)], [np.full(2, 3.0)]]
    batch = pack(examples, arrays)
    assert [item.values.tolist() for item in batch.media["image"]] == [[1.0, 1.0], [3.0, 3.0]]
    assert [item.num_tokens for item in batch.media["image"]] == [2, 3]
    assert [item.name for item in batch.media["image"]] == ["a: a0", "b: b0"]
    assert len(batch.media["video"]) == 1


def test_values_are_stacked_if_their_shapes_are_equal() -> None:
    assert stacked([torch.zeros(2), torch.ones(2)]).tolist() == [[0, 0], [1, 1]]  # type: ignore[union-attr]
    assert [len(value) for value in stacked([torch.zeros(2), torch.ones(3)])] == [2, 3]


def test_moving_changes_the_type_of_media_only() -> None:
    slot = MediaSlot(MediaRef("image", "a", extras=(("boxes", ((1.0, 2.0),)),)), 2)
    given = slot.item(np.zeros(2, np.float32), "a", teacher=Teaching(torch.zeros(3)))
    batch = pack([example("a", 2, "image")], [[given]]).to("cpu", torch.bfloat16)
    [item] = batch.media["image"]
    assert item.values.dtype == item.teacher.values.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert item.extras["boxes"].dtype == torch.float32
    assert batch.labels.dtype == torch.long


def test_packing_leaves_the_examples_alone() -> None:
    one = example("a", 3)
    pack([one], [[]])
    assert one.labels.tolist() == [0, 1, 2]


def test_a_missing_array_names_the_sample() -> None:
    with pytest.raises(ValueError, match="sample a: 1 media but 0 arrays"):
        pack([example("a", 2, "image")], [[]])


def test_an_item_has_everything_that_belongs_to_it() -> None:
    ref = MediaRef("video", "/clip.mp4", extras=(("boxes", ((0.0, 1.0), (2.0, 3.0))), ("second", 4.5)))
    slot = MediaSlot(ref, 3, measured=5)
    item = slot.item(np.zeros((5, 2), np.float32), "file:7", key="k", encoded=True)
    assert (item.num_tokens, item.measured, item.encoded, item.key, item.teacher) == (3, 5, True, "k", None)
    assert item.name == "file:7: /clip.mp4"
    assert {name: extra.tolist() for name, extra in item.extras.items()} == {"boxes": [[0, 1], [2, 3]], "second": 4.5}
    doubled = item.map(lambda tensor: tensor + 1)
    assert doubled.extras["second"] == 5.5 and doubled.values.sum() == 10
    assert len(doubled.tensors()) == 3 and doubled.map_values(torch.zeros_like).extras["second"] == 5.5


def test_places_and_supervised_tokens_are_known_on_the_cpu() -> None:
    def owned(id: str, owners: list[int], *streams: str) -> Example:
        plain = example(id, len(owners), *streams)
        return replace(plain, owners=np.array(owners))

    examples = [owned("a", [-1, 0, 0, -1, 1, -1, 0], "video", "image"), owned("b", [0, -1], "video"), owned("c", [-1])]
    batch = pack(examples, [[np.zeros(1), np.zeros(1)], [np.zeros(1)], []])
    assert {stream: [place.tolist() for place in places] for stream, places in batch.places.items()} == {
        "video": [[1, 2, 6], [7]],
        "image": [[4]],
    }
    assert batch.supervised.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert batch.num_supervised == sum(one.num_supervised for one in examples)
    assert pack([example("a", 2, "image")], [[np.zeros(1)]]).places is None
