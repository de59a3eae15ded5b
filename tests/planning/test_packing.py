import numpy as np
import pytest
import torch

from vidtune.data.sample import MediaRef
from vidtune.processing.batch import IGNORED, Example, LoadedItem, MediaSlot, StreamBatch, pack


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
    assert batch.media["image"].values.tolist() == [[1.0, 1.0], [3.0, 3.0]]  # type: ignore[union-attr]
    assert batch.media["image"].num_tokens == [2, 3]
    assert len(batch.media["video"]) == 1


def test_media_of_different_shape_stay_a_list() -> None:
    batch = pack([example("a", 4, "image", "image")], [[np.zeros(2), np.zeros(3)]])
    assert [tuple(value.shape) for value in batch.media["image"].values] == [(2,), (3,)]
    moved = batch.to("cpu", torch.bfloat16).media["image"].values
    assert {value.dtype for value in moved} == {torch.bfloat16}


def test_moving_changes_the_type_of_media_only() -> None:
    batch = pack([example("a", 2, "image")], [[np.zeros(2, np.float32)]]).to("cpu", torch.bfloat16)
    assert batch.media["image"].values.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert batch.labels.dtype == torch.long


def test_packing_leaves_the_examples_alone() -> None:
    one = example("a", 3)
    pack([one], [[]])
    assert one.labels.tolist() == [0, 1, 2]


def test_a_missing_array_names_the_sample() -> None:
    with pytest.raises(ValueError, match="sample a: 1 media but 0 arrays"):
        pack([example("a", 2, "image")], [[]])


def test_selected_items_keep_all_that_belongs_to_them():
    def item(number: int) -> LoadedItem:
        own, seen = np.full((2, 3), number, np.float32), np.full(4, 10 + number, np.float32)
        return LoadedItem(own, number == 1, f"key {number}", seen, number == 2, f"teacher's {number}")

    loaded = StreamBatch.of([item(number) for number in range(3)], [2, 1, 2])
    chosen = loaded.select([2, 1])
    assert [float(value[0, 0]) for value in chosen.values] == [2, 1]
    assert [float(value[0]) for value in chosen.teacher_values] == [12, 11]
    assert (chosen.num_tokens, chosen.encoded, chosen.taught) == ([2, 1], [False, True], [True, False])
    assert (chosen.keys, chosen.teacher_keys) == (["key 2", "key 1"], ["teacher's 2", "teacher's 1"])
    plain = StreamBatch.of([LoadedItem(np.zeros(2))], [1])
    assert (plain.encoded, plain.keys, plain.taught, plain.teacher_keys, plain.teacher_values) == (None,) * 5
