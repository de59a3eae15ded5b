import torch
from torch.nn import functional

from torchvision.transforms import InterpolationMode  # noqa: F401


def grayscale_to_rgb(image):
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def resize(image, size, interpolation=None, antialias=True):
    planes = image.reshape(1, -1, *image.shape[-2:]).float()
    found = functional.interpolate(planes, size=tuple(size), mode="bicubic", antialias=antialias)
    found = found.reshape(*image.shape[:-2], *size)
    return found.round().clamp(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else found


def crop(image, top, left, height, width):
    return image[..., top : top + height, left : left + width]


def pad(image, padding, fill=0, padding_mode="constant"):
    return functional.pad(image, padding, value=fill)


def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (mean, std))
    return (image - mean) / std
