"""Published systems, one file each: their prompts, their parts, the names in their checkpoints."""

PARTS = {
    name: f"vidtune.systems.{name}:SYSTEM"
    for name in ("video_llava", "video_panda", "longvale", "artemis", "videochat_flash")
}
