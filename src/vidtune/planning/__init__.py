"""The order of a stage, known before any pixel is decoded: lengths, packs, optimizer steps."""

PARTS = {name: f"{__name__}.order:{name.upper()}" for name in ("shuffled", "modality_grouped", "sequential")}
"""Order rules of this package, as :data:`vidtune.registry.ORDER_RULES` finds them."""
