"""Events of the synthetic video world, seen and heard: asked and scored like LongVALE; exact ground truth."""

from vidtune.evaluation.benchmarks.longvale import TEMPLATES
from vidtune.evaluation.benchmarks.omni_events import CAPTIONING, GROUNDING, SEG_CAPTIONING, OmniEvents
from vidtune.evaluation.protocol import GenerationRules

WORLD_EVENTS = OmniEvents(
    name="world_events",
    title="World-Events",
    source="vidtune.world",
    annotations="annotations.json",
    folder="eval/events",
    templates=TEMPLATES,
    tasks=(CAPTIONING, GROUNDING, SEG_CAPTIONING),
    generation=GenerationRules(),
)
