"""Our token merging against the official code, round by round; every size is read from the fixture."""

import pytest
import torch
from torch.testing import assert_close
from videochat_flash_fixture import read

from vidtune.models.connectors.base import connector_config
from vidtune.models.connectors.merging import averages, merge, one_round, pairs, schedule

PROJECTOR = "model.mm_projector."
KINDS = {"umt": "weights.safetensors", "iv2": "weights_internvideo2.safetensors"}
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
TOKENS = 64


def rounds_of(values: torch.Tensor, heads: int, numbers: list[int]):
    """The indices of each round, and the tokens after the last one."""
    found, sizes = [], None
    for number in numbers:
        found.append(pairs(values, heads, number))
        into = one_round(*found[-1], values.shape[1])
        values, sizes = averages(values, into, values.shape[1] - number, sizes)
    return found, values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("medium", ["video", "image"])
def test_rounds_of_merging_and_embeddings(kind, medium, config, inputs, expected):
    features = expected[f"{kind}.tower.{medium}"]
    sizes, numbers = config["dims"][kind], config["notes"][f"{kind}.tome.{medium}.r_list"]
    heads, group = sizes["heads"], features.shape[1]
    assert schedule(group, TOKENS) == numbers
    for values, over in ((features, heads), (features.unflatten(2, (heads, -1)).mean(2), 1)):
        for number, (alone, merging, partners) in enumerate(rounds_of(values, over, numbers)[0]):
            where = f"{kind}.tome.{medium}.round{number}"
            assert torch.equal(alone, expected[f"{where}.unm_idx"].long()), where
            assert torch.equal(merging, expected[f"{where}.src_idx"].long()), where
            assert torch.equal(partners, expected[f"{where}.dst_idx"].long()), where
    state = read(KINDS[kind])
    mlp = {name.removeprefix(PROJECTOR): tensor for name, tensor in state.items() if name.startswith(PROJECTOR)}
    output, width = mlp["mlp.0.weight"].shape
    spec = {"input_size": width, "output_size": output, "group_tokens": group, "tokens": TOKENS, "heads": heads}
    built = connector_config({"type": "token_merging", **spec})
    connector = built.build()
    connector.load_state_dict(mlp)
    merged = torch.stack(built.condense(list(features), [{} for _ in features]))
    if f"{kind}.tome.{medium}.merged" in expected:
        assert_close(merged, expected[f"{kind}.tome.{medium}.merged"], **CLOSE)
    assert_close(connector(merged), expected[f"{kind}.projector.{medium}"], **CLOSE)


def test_merging_of_every_published_number_of_tokens(config, inputs, expected):
    cases = [name.split(".")[1] for name in inputs if name.startswith("tome.")]
    assert cases
    for case in cases:
        tokens, heads = inputs[f"tome.{case}.x"], config["notes"][f"tome.{case}.heads"]
        numbers = schedule(tokens.shape[1], TOKENS)
        assert numbers == config["notes"][f"tome.{case}.r_list"], case
        (first, *_), merged = rounds_of(tokens, heads, numbers)
        assert torch.equal(first[1], expected[f"tome.{case}.src_idx0"].long()), case
        assert torch.equal(first[2], expected[f"tome.{case}.dst_idx0"].long()), case
        for found in (merged, merge([tokens], TOKENS, heads)):
            assert_close(found, expected[f"tome.{case}.y"], atol=1e-5, rtol=1e-5)
