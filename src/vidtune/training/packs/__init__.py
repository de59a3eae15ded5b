"""From the plan to packs on the device: loading, decoding, transfer, and the counts of each step."""
