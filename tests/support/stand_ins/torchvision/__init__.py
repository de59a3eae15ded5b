"""Stands in for torchvision in processes that read videos by processors of transformers: its few functions that they
use. torchvision itself cannot be imported beside a torch for CPUs.
"""

__version__ = "0.99.0"
