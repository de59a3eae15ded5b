import numpy as np
import torch


def pil_to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
