"""The order of a stage, known before any pixel is decoded: lengths, packs, optimizer steps."""
