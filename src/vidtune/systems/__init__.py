"""Published systems, one file each, and the towers and language models that several of them use."""

PARTS = {name: f"vidtune.systems.{name}:SYSTEM" for name in ("video_llava", "video_panda", "longvale")}
