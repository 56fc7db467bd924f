"""Toys: small networks in eval mode with weights and statistics from a seed, fresh on each call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, every parameter and running statistic drawn by seed (in place)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                fan = p[0].numel() if p.dim() > 1 else 1
                p.copy_(torch.randn(p.shape, generator=g) * (1.5 / fan**0.5 if fan > 1 else 0.3))
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and name == "weight":
                    p.copy_(torch.rand(p.shape, generator=g) + 0.5)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                mean, var = module.running_mean, module.running_var
                if mean is not None and var is not None:
                    mean.copy_(torch.randn(mean.shape, generator=g) * 0.3)
                    var.copy_(torch.rand(var.shape, generator=g) + 0.5)
    return model.eval()


def images(n: int = 4, *, channels: int = 3, size: int = 8, seed: int = 1) -> Tensor:
    """Inputs [n, channels, size, size] by seed."""
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Chain(nn.Module):
    """conv-bn-relu twice, pooled, flattened (4 places per channel), linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, stride=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.head(torch.flatten(self.pool(x), 1))


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; `project` by convolution or by pad (option A)."""

    def __init__(self, width_in: int, width: int, stride: int, *, project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pads = (width - width_in) // 2
        self.stride = stride
        changes = stride != 1 or width_in != width
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
            if changes and project
            else nn.Sequential()
        )
        self.padded = changes and not project

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.padded:
            short = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pads, self.pads)
            )
        else:
            short = self.shortcut(x)
        out += short
        return functional.relu(out)


class ResNet(nn.Module):
    """CIFAR residual network (He et al. 2016): stem, stages of blocks, mean, linear."""

    def __init__(
        self, widths: tuple[int, ...], blocks: int, *, project: bool = False, classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for i, width in enumerate(widths):
            stage = []
            for j in range(blocks):
                stride = 2 if i and not j else 1
                stage.append(Block(before, width, stride, project=project))
                before = width
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.stages = len(widths)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        x = functional.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class Dense(nn.Module):
    """DenseNet-like: every convolution reads all that came before, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(10)
        self.conv3 = nn.Conv2d(10, 4, 3, padding=1)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = torch.cat([a, self.conv2(functional.relu(self.bn2(a)))], 1)
        c = torch.cat([b, self.conv3(functional.relu(self.bn3(b)))], 1)
        return self.head(c.mean((2, 3)))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn(self.depth(self.stem(x))))
        return self.head(functional.relu(self.point(x)).mean([2, 3]))


class Strange(nn.Module):
    """Holds layers that nothing here understands: a bilinear and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.mid = nn.Conv2d(6, 7, 3, padding=1)
        self.odd = nn.Bilinear(7, 7, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(functional.relu(self.conv(x) * self.gain)).mean((2, 3))
        return self.head(functional.relu(self.odd(x, x)))


class Constant(nn.Module):
    """Reshapes by a number written into its code, so that its second group cannot be narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return self.head(functional.adaptive_avg_pool2d(x, 2).view(len(x), 16))


class Noise(nn.Module):
    """Random also in eval."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=True)


class Pair(nn.Module):
    """Two named inputs of different kinds, one convolved, one multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.side = nn.Linear(4, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, *, image: Tensor, facts: Tensor) -> Tensor:
        x = functional.relu(self.conv(image)).mean((2, 3))
        return self.head(x + functional.relu(self.side(facts)))


def chain(seed: int = 0) -> nn.Module:
    return seeded(Chain(), seed)


def residual(seed: int = 0) -> nn.Module:
    """Shortcuts by 1x1 convolutions."""
    return seeded(ResNet((6, 8), 2, project=True, classes=5), seed)


def padded(seed: int = 0) -> nn.Module:
    """Shortcuts by zero padding (option A), two stages of one block."""
    return seeded(ResNet((4, 8), 1, classes=5), seed)


def resnet20(seed: int = 0) -> nn.Module:
    """The published CIFAR-10 ResNet-20 with option-A shortcuts."""
    return seeded(ResNet((16, 32, 64), 3), seed)


def dense(seed: int = 0) -> nn.Module:
    return seeded(Dense(), seed)


def separable(seed: int = 0) -> nn.Module:
    return seeded(Separable(), seed)


def strange(seed: int = 0) -> nn.Module:
    return seeded(Strange(), seed)


def constant(seed: int = 0) -> nn.Module:
    return seeded(Constant(), seed)


def noisy(seed: int = 0) -> nn.Module:
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 5))
    return seeded(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Noise(), head), seed)


def pair(seed: int = 0) -> nn.Module:
    return seeded(Pair(), seed)


def pair_inputs(n: int = 4) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    return {"image": images(n), "facts": torch.randn(n, 4, generator=g)}


# networks of one image input of which every law of structure must hold
PLAIN: tuple[Callable[[], nn.Module], ...] = (
    chain,
    residual,
    padded,
    dense,
    separable,
    strange,
    constant,
)
