"""Counted before training = what torch counts while real tensors run."""

import pytest
import torch
from tiny_stages import FULL, batch_of, composed, prepared, trained_parts
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidtune.models.config import VideoLMConfig
from vidtune.processing.batch import Batch
from vidtune.recipe.types import Train
from vidtune.training.estimates.flops import StepFlops, _named_peak, peak_flops

# torch's counter leaves out the product that is added in place, which the loss uses for the head's gradient.
ADDED_IN_PLACE = {torch.ops.aten.addmm_: lambda total, a, b, *rest, **named: 2 * a[0] * a[1] * b[1]}


def counted(config: VideoLMConfig, trained: dict[str, Train], batch: Batch) -> int:
    """What torch counts during a real forward and backward pass."""
    model = prepared(config, trained, torch.float32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ADDED_IN_PLACE) as counter:
        model.loss_sum(batch).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        pytest.param("llama", ["connectors", "language_model"], marks=pytest.mark.whole),
        pytest.param("llama", ["connectors"], marks=pytest.mark.whole),
        ("llama", ["connectors", "lora"]),
        pytest.param("qwen2", ["lora"], marks=pytest.mark.whole),
        ("qwen2", ["towers.video", "connectors", "language_model"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_flops_are_those_of_a_real_step(kind, trained):
    config = composed(kind)
    how = trained_parts(config, trained)
    items, lengths = {"image": 1, "video": 2}, [60, 17, 33]
    batch = batch_of(config, lengths, items, supervised=9)
    estimate = StepFlops.of_stage(config, how).of(sum(lengths), sum(n**2 for n in lengths), items, 9)
    assert estimate == pytest.approx(counted(config, how, batch), rel=1e-9)


def test_layers_of_a_seven_billion_model_cost_six_flops_per_weight_and_token():
    config = composed(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    flops = StepFlops.of_stage(config, {"language_model": FULL})
    layers = 4 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert flops.of(1, 0, {}, 0) == pytest.approx(6 * layers, rel=1e-3)
    assert flops.of(0, 1, {}, 0) == pytest.approx(12 * 4 * 4096)
    assert flops.of(0, 0, {}, 1) == 6 * 4096 * 32000


def test_a_model_that_needs_values_to_run_is_not_counted():
    config = composed("mixtral", num_local_experts=4)
    assert StepFlops.of_stage(config, {"language_model": FULL}) is None


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA A10G", None),
        ("Some accelerator", None),
    ],
)
def test_peak_of_known_devices_alone(name, tera):
    assert _named_peak(name, "bfloat16") == (None if tera is None else pytest.approx(tera * 1e12))


def test_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
