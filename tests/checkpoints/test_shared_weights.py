"""Weights that a damaged file puts into one place are named when they are written."""

import pytest
from tiny_checkpoint import write_checkpoint

from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError


def test_weights_in_one_place_that_are_not_tied_are_named(tmp_path):
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "model"))
    layer = checkpoint.model.towers["video"].encoder.layers[0].temporal_attn
    layer.k_proj.weight = layer.out_proj.weight
    with pytest.raises(UserError, match=r"in one place, which this model keeps apart: .*k_proj\.weight.*damaged"):
        save_checkpoint(checkpoint, tmp_path / "out", "vidtune")
    assert not (tmp_path / "out").exists()
