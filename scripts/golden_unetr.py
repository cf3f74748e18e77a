#!/usr/bin/env python3
"""Write tests/golden/unetr.json: the state dict's names and shapes of MONAI's UNETR, and its logits with weights by the fill rule of
policies/src/nets/golden.rs. Usage: golden_unetr.py > tests/golden/unetr.json (needs torch and monai 1.5.1)."""
import json
import math

import monai
import numpy as np
import torch
from monai.networks.nets import UNETR

MASK = (1 << 64) - 1


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    return h


def fill(name, count, off, scale):
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(fnv1a64(name)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (off + scale * (2.0 * u - 1.0)).astype(np.float32)


def rule(name, shape):
    if len(shape) == 1:
        off, scale = (1.0, 0.1) if name.endswith("weight") else (0.0, 0.1)
    else:
        off, scale = 0.0, math.sqrt(3.0 / math.prod(shape[1:]))
    return torch.from_numpy(fill(f"unetr.{name}", math.prod(shape), off, scale)).reshape(shape)


torch.set_num_threads(1)
size = (32, 32, 16)
net = UNETR(2, 3, size, feature_size=2, hidden_size=12, mlp_dim=24, num_heads=2).eval()
state = {name: rule(name, tuple(t.shape)) for name, t in net.state_dict().items()}
net.load_state_dict(state)
x = torch.from_numpy(fill("unetr.x", 2 * math.prod(size), 0.5, 0.5)).reshape(1, 2, *size)
with torch.no_grad():
    y = net(x)
flat = y.flatten().double()
index = [int(i) for i in np.linspace(0, flat.numel() - 1, 97).round()]
entry = {
    "monai": monai.__version__,
    "input": {"fill": "unetr.x", "off": 0.5, "scale": 0.5, "shape": list(x.shape)},
    "keys": [[name, list(t.shape)] for name, t in state.items()],
    "output": {
        "shape": list(y.shape),
        "min": flat.min().item(),
        "max": flat.max().item(),
        "abs_sum": flat.abs().sum().item(),
        "index": index,
        "value": [flat[i].item() for i in index],
    },
}
rows = ",\n".join("    " + json.dumps(row) for row in entry.pop("keys"))
text = json.dumps(entry)
print(text[:-1] + ',\n  "keys": [\n' + rows + "\n  ]}")
