"""Fixture of Artemis: its files, and the sizes of the region module that its config names."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

COPY = Path(__file__).parents[1] / "parity/fixtures"
FOLDER = Path(os.environ.get("VIDTUNE_PARITY", COPY)) / "artemis"


def read(name: str) -> Any:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture")
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 2e-4) -> None:
    torch.testing.assert_close(actual.float(), wanted.float(), atol=atol, rtol=1e-4)


def tower_sizes(config: dict) -> dict[str, Any]:
    return {
        **config["clip"],
        "feature_layer": config["mm_vision_select_layer"],
        "pooled_frames": config["num_temporal_tokens"],
    }


def region_sizes(config: dict) -> dict[str, Any]:
    region, k_means = config["region"], config["kmeans"]
    return {
        "hidden_size": region["channels"],
        "output_size": region["region_token_dim"],
        "num_levels": region["num_levels"],
        "grid": region["base_grid"],
        "rounds": region["num_fuse_convs"],
        "groups": region["group_norm_groups"],
        "roi_size": region["roi_output_size"],
        "sampling_ratio": region["sampling_ratio"],
        "image_size": region["roi_canvas"],
        "inner_size": region["flatten_out"],
        "position_size": region["pos_embed_hidden"],
        "iterations": k_means["max_iter"],
        "restarts": k_means["num_init"],
        "cluster_seed": k_means["seed"],
        "clusters": k_means["n_clusters"],
    }
