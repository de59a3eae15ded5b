"""Where named weights lie: a local folder, or a snapshot of a hub repository."""

from pathlib import Path

from vidtune.errors import UserError


def locate(name_or_path: str, weights: bool = True) -> Path:
    """The local path of a file or folder, or of the downloaded snapshot of hub repository ``org/name``.

    Args:
        weights: False downloads configs and tokenizers alone.

    Raises:
        UserError: no such path, and no such repository (or the hub cannot be reached and holds no copy here).
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        raise UserError(f"{name_or_path}: no such file or folder")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.model", "*.txt", *(["*.safetensors", "*.bin"] if weights else [])]
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=patterns))
    except Exception as error:  # the hub's errors share no base class, and none is ours to tell apart
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name_or_path}: no such folder here, and not from the hub ({reason}); download it and give its path"
        ) from None
