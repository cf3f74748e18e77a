"""PyTorch's side of `panscreen bench nets`: the same networks, for bench_pytorch.py.

The published pair is MONAI's (its merging is the fixed one; the cost is the same). The small pair is written out here.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTHS = (16, 32, 64, 128)


def norm(channels):
    return nn.GroupNorm(4, channels)


class Block(nn.Module):
    """Two 3x3x3 convolutions with norms, and a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x):
        y = self.norm2(self.conv2(F.leaky_relu(self.norm1(self.conv1(x)), 0.01, inplace=True)))
        return F.leaky_relu(y + (self.shortcut(x) if self.shortcut else x), 0.01, inplace=True)


class Stem(nn.Sequential):
    def __init__(self, inputs, outputs, stride):
        super().__init__(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs), nn.LeakyReLU(0.01, inplace=True))


class ResNet10(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Stem(1, 16, 2)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip((16,) + WIDTHS, WIDTHS))))
        self.fc = nn.Linear(WIDTHS[-1], 2)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).amax((2, 3, 4)))


class ResidualUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Stem(1, 16, 2)
        self.down = nn.ModuleList(Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip((16,) + WIDTHS, WIDTHS)))
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in zip(WIDTHS, WIDTHS[1:]))
        self.convs = nn.ModuleList(Stem(2 * a, a, 1) for a in WIDTHS[:-1])
        self.expand, self.head = nn.ConvTranspose3d(16, 16, 2, 2), nn.Conv3d(16, 2, 1)

    def forward(self, x):
        x, skips = self.stem(x), []
        for down in self.down:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up, conv, skip in reversed(list(zip(self.up, self.convs, skips))):
            x = conv(torch.cat([up(x), skip], 1))
        return self.head(self.expand(x))


def glance():
    from monai.networks.nets import resnet18

    return resnet18(spatial_dims=3, n_input_channels=1, num_classes=2, shortcut_type="A", conv1_t_size=7, conv1_t_stride=1)


def focus(checkpointing=False):
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels=1, out_channels=2, feature_size=48, use_v2=True, use_checkpoint=checkpointing)


def dice_ce(logits, lesion):
    p, y = logits.softmax(1), F.one_hot(lesion, 2).movedim(-1, 1).float()
    axes = (2, 3, 4)
    dice = 1 - (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5)
    return dice.mean() + F.cross_entropy(logits, lesion)


def training(glance, focus, shape):
    """A step that learns one batch: both networks, Dice + CE and CE, backward, both optimisers."""
    x = torch.rand(shape)
    lesion = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    lesion[::2, 20:30, 20:30, 10:20] = 1
    target = (torch.arange(shape[0]) % 2 == 0).long()
    optimizers = [torch.optim.AdamW(net.parameters(), 3e-4) for net in (glance, focus)]

    def step():
        loss = dice_ce(focus(x), lesion) + 0.1 * F.cross_entropy(glance(x), target)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def inference(net, shape):
    net.eval()
    x = torch.rand(shape)

    def run():
        with torch.no_grad():
            net(x)

    return run


def work(name):
    """What to run for a row of `panscreen bench nets`."""
    if name.startswith("glance resnet18"):
        return inference(glance(), (1, 1, 96, 96, 64))
    if name.startswith("focus swin_unetr48"):
        return inference(focus(), (1, 1, 96, 96, 64))
    if name.startswith("published pair"):
        return training(glance(), focus("checkpointing" in name), (1, 1, 96, 96, 64))
    if name.startswith("small pair"):
        return training(ResNet10(), ResidualUNet(), (16, 1, 64, 64, 32))
    return None
