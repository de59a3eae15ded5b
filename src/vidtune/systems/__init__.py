"""Published systems: one file each, and what they are made of."""

PARTS = {name: f"vidtune.systems.{name}:SYSTEM" for name in ("video_llava", "video_panda", "longvale")}
