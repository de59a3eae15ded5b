"""Media to the tensors that towers take: frame sampling rules, transforms, sound."""

_SQUARE, _ASPECT = f"{__name__}.resize_to_square", f"{__name__}.resize_keeping_aspect"

PARTS = {
    "image": f"{_SQUARE}:ImagePreprocessing",
    "video": f"{_SQUARE}:VideoPreprocessing",
    "any_pixel_image": f"{_ASPECT}:AnyPixelImagePreprocessing",
    "any_pixel_video": f"{_ASPECT}:AnyPixelVideoPreprocessing",
    "image_tiles": f"{__name__}.tiles:TilesPreprocessing",
    "regions": f"{__name__}.regions:RegionPreprocessing",
    "fbank": f"{__name__}.sound:FbankPreprocessing",
    "log_mel": f"{__name__}.sound:LogMelPreprocessing",
}
