"""Towers: encoders of one medium."""

PARTS = {
    "beats": "vidtune.models.towers.beats:BeatsTowerConfig",
    "clip": "vidtune.models.towers.clip:ClipTowerConfig",
    "clip_class": "vidtune.models.towers.clip_class:ClipClassTowerConfig",
    "clip_pooled": "vidtune.models.towers.clip_pooled:PooledClipTowerConfig",
    "internvideo2": "vidtune.models.towers.internvideo2:InternVideo2TowerConfig",
    "stab": "vidtune.models.towers.stab:StabTowerConfig",
    "umt": "vidtune.models.towers.umt:UmtTowerConfig",
    "whisper": "vidtune.models.towers.whisper:WhisperTowerConfig",
}
"""Tower type -> module and name of its config class, see :class:`vidtune.models.towers.base.TowerConfig`."""
