"""Our Artemis against tensors and tokens of the official code; every size is read from the fixture."""

import pickle

import pytest
import torch
from artemis_fixture import FOLDER, close, read, region_sizes, tower_sizes
from PIL import Image

from vidtune.media.feature_file import read_features
from vidtune.media.preprocessing.box_choice import chosen_boxes
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.models.connectors.clustering import k_means, representatives, start_points
from vidtune.models.connectors.region import RegionConnector, RegionConnectorConfig
from vidtune.models.towers.clip_pooled import PooledClipTower, PooledClipTowerConfig, pooled

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no artemis fixtures in this folder")


def weights_below(prefix: str) -> dict[str, torch.Tensor]:
    """Weights of the original below a prefix, which is cut off."""
    found = read("weights.safetensors")
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return read("inputs.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


# Parts: the tower, its averaged clips, and the region module.


def of_samples(rows: torch.Tensor, config: dict) -> torch.Tensor:
    """Rows of boxes by sample, that of the key box first. Shape: (B * N, *) -> (B, N, *)"""
    return rows.unflatten(0, (-1, 1 + config["num_trackbox"]))


def load_region(config: dict, **changes) -> RegionConnector:
    connector = RegionConnectorConfig(**{**region_sizes(config), **changes}).build().eval()
    connector.load_state_dict(weights_below("model.spi_model."))
    return connector


@pytest.fixture(scope="module")
def tower(config) -> PooledClipTower:
    built = PooledClipTowerConfig(**tower_sizes(config)).build().eval()
    built.load_state_dict(weights_below("model.image_tower.vision_tower.vision_model."))
    return built


@pytest.fixture(scope="module")
def region(config) -> RegionConnector:
    return load_region(config)


@pytest.fixture(scope="module")
def states(config, inputs, tower) -> torch.Tensor:
    """Tapped states of the frames of all boxes: (18, K, G, G, C)."""
    with torch.no_grad():
        tapped = tower(inputs["A.box_images"], config["region"]["level_hidden_state_indices"])
    side = config["region"]["base_grid"]
    return tapped.unflatten(2, (side, side))


def test_hidden_states_of_frames(config, inputs, expected, tower):
    frames, layer = inputs["st.frames_pixel_values"], config["mm_vision_select_layer"]
    with torch.no_grad():
        wanted = list(tower.hidden_states(frames))[layer]
        close(wanted, expected[f"clip.hidden_states_minus{-layer}"])
        features = tower(frames)
    close(features, expected["st.frame_features_f16"], atol=1e-2)


def test_averaged_clips(config, inputs, expected, tower):
    features = expected["st.frame_features_f16"]
    rows = config["num_temporal_tokens"]
    half = pooled(features[None], rows)[0]
    assert half.dtype == torch.float16
    close(half, expected["st.pooled_f16"], atol=1e-2)
    clip = inputs["st.frames_pixel_values"].transpose(0, 1)
    assert tower.config.num_tokens(tuple(clip.shape)) == len(expected["st.pooled_f32"])
    with torch.no_grad():
        close(tower(clip[None])[0], expected["st.pooled_f32"])
    for name in [name for name in expected if name.startswith("st_long.pooled_num_temporal_")]:
        rows = int(name.rpartition("_")[2])
        close(pooled(inputs["st_long.features"][None], rows)[0], expected[name], atol=1e-6)


def test_tapped_levels(config, states, expected):
    for level in range(config["region"]["num_levels"]):
        close(states[:1, level].flatten(1, 2), expected[f"A.mlvl_hidden.level{level}"])


@pytest.fixture(scope="module")
def maps(region, states) -> list[torch.Tensor]:
    with torch.no_grad():
        return region.mlvl_fuse(states)


def test_fused_maps(config, maps, expected):
    for level, found in enumerate(maps):
        assert found.shape[-1] == config["region"]["level_sizes"][level]
        close(found.mean((2, 3)), expected[f"A.fused_map.level{level}.mean"])
        close(found.std((2, 3), correction=0), expected[f"A.fused_map.level{level}.std"])
    for level in [level for level in range(len(maps)) if f"A.fused_map.level{level}" in expected]:
        wanted = expected[f"A.fused_map.level{level}"]
        close(maps[level][: len(wanted)], wanted)
    close(maps[0][0, :, ::16, ::16], expected["A.fused_map.level0_image0_sub16"])


def test_crops_and_tokens_of_boxes(region, maps, inputs, expected):
    boxes, module = inputs["A.bboxes"], region.roi_align
    with torch.no_grad():
        crops = module.crops(maps, boxes)
        for level, found in enumerate(crops):
            wanted = expected[f"A.roi_align.level{level}"]
            close(found[: len(wanted)], wanted)
        fused = torch.relu(sum(conv(crop[:1]) for conv, crop in zip(module.pconvs, crops, strict=True)))
        close(fused.flatten(1), expected["A.roi_fused_flat"])
        close(module.pos_embedd(boxes), expected["A.roi_pos_embed"])
        close(module(crops, boxes), expected["A.region_tokens_all"])


def test_tokens_in_the_precision_of_the_original(config, states, expected):
    some, half = slice(3), load_region(config, half=True)
    wanted = expected["A.region_tokens_all_fp16_run"][some].float()
    with torch.no_grad():
        tokens = half.box_tokens(states[some], expected["A.bboxes_half_as_original"][some].float())
    close(tokens, wanted, atol=0.1)
    assert not torch.equal(tokens, expected["A.region_tokens_all"][some])  # the roundings are there


def test_clusters_of_tracked_boxes(config, expected):
    sizes, selected = config["kmeans"], expected["A.kmeans.selected_track_index"]
    for sample, tokens in enumerate(of_samples(expected["A.region_tokens_all"], config)):
        starts = start_points(config["num_trackbox"], sizes["n_clusters"], sizes["num_init"], sizes["seed"])
        assert torch.equal(starts, expected[f"A.kmeans.{sample}.init_idx"])
        labels, centres, inertia = k_means(tokens[None, 1:], starts, sizes["max_iter"])
        assert torch.equal(labels[0], expected[f"A.kmeans.{sample}.labels"])
        close(centres[0], expected[f"A.kmeans.{sample}.centers"])
        torch.testing.assert_close(inertia, expected[f"A.kmeans.{sample}.inertia"], rtol=1e-5, atol=0)
        assert torch.equal(representatives(labels, sizes["n_clusters"])[0], selected[sample])
    assert len(selected) == sample + 1


def test_fewer_clusters_than_wanted(config, inputs, expected):
    points, starts = inputs["kmeans_dup.x"], expected["kmeans_dup.init_idx"]
    labels, _, inertia = k_means(points[None], starts, config["kmeans"]["max_iter"])
    assert torch.equal(labels[0], expected["kmeans_dup.labels"])
    torch.testing.assert_close(inertia, expected["kmeans_dup.inertia"], atol=1e-6, rtol=1e-5)
    assert torch.equal(representatives(labels, starts.shape[1])[0], expected["kmeans_dup.selected"])


def test_tokens_that_stand_in_the_prompt(config, region, states, inputs, expected):
    features = of_samples(states.flatten(2, 3), config)  # (samples, boxes, K, P, C)
    boxes = of_samples(inputs["A.bboxes"], config)
    items = [
        (frames.transpose(0, 1).flatten(1, 2), {"boxes": given})
        for sample, place in zip(features, boxes, strict=True)
        for frames, given in ((sample[:1], place[:1]), (sample[1:], place[1:]))
    ]
    with torch.no_grad():
        tokens = region([block for block, _ in items], [more for _, more in items])
    close(torch.cat(tokens), expected["A.region_tokens_selected"].flatten(0, 1))


# Data: frames, boxes, feature files.


def test_frames_of_a_clip(inputs, expected):
    args = (inputs | expected)["seq_frames.args"].tolist()
    assert args
    for row, (frames, wanted) in enumerate(args):
        assert frame_indices("segment_middles", frames, wanted) == expected[f"seq_frames.{row}"].tolist()


def test_boxes_of_a_long_track(inputs, expected):
    valid = (inputs | expected)["bench_avg.valid_frames"]
    for name in [name for name in expected if name.startswith("bench_avg.selected_")]:
        wanted = expected[name]
        assert torch.equal(valid[chosen_boxes(len(valid), len(wanted))], wanted)


def test_boxes_as_fractions_of_the_frame(inputs, tmp_path):
    boxes = inputs["A.boxes_px"]
    Image.new("RGB", tuple(inputs["A.image_wh"].tolist())).save(tmp_path / "frame.png")
    steps = RegionPreprocessing(size=8, num_boxes=len(boxes), blind=True)
    _, found = steps.load_item(str(tmp_path / "frame.png"), {"boxes": boxes.numpy().astype("float32")})
    assert torch.equal(torch.from_numpy(found["boxes"]), inputs["A.bboxes"])


def test_features_as_they_were_pickled(expected, tmp_path):
    wanted = expected["st.pooled_f16"].numpy()
    (tmp_path / "clip.pkl").write_bytes(pickle.dumps(wanted))
    found = read_features(str(tmp_path / "clip.pkl"))
    assert found.dtype == wanted.dtype and (found == wanted).all()
