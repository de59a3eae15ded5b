"""Towers: encoders of one medium."""

PARTS = {
    "beats": "vidtune.models.towers.beats:BeatsTowerConfig",
    "clip": "vidtune.models.towers.clip:ClipTowerConfig",
    "clip_class": "vidtune.models.towers.clip_class:ClipClassTowerConfig",
    "clip_pooled": "vidtune.models.towers.clip_pooled:PooledClipTowerConfig",
    "stab": "vidtune.models.towers.stab:StabTowerConfig",
    "whisper": "vidtune.models.towers.whisper:WhisperTowerConfig",
}
"""Tower type -> module and name of its config class, see :class:`vidtune.models.towers.base.TowerConfig`."""
