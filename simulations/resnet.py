"""Residual networks with group normalisation.

Batch normalisation suits a federation badly: its running statistics are of one device's data,
they leak it, and their mean over devices is not a statistic of anything. Hsieh et al. 2020 ("The
Non-IID Data Quagmire of Decentralized Machine Learning") recommend group normalisation (Wu & He
2018) for unevenly split data.
"""

from torch import Tensor, nn

GROUP = 8  # channels that are normalised together; divides every width below
WIDTHS = (16, 32, 64)


class Residual(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2016).

    Keeps (n, inputs, h, w) as (n, outputs, ceil(h / stride), ceil(w / stride)). Where the shape
    changes, the way around is a strided 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm0 = nn.GroupNorm(outputs // GROUP, outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1 = nn.GroupNorm(outputs // GROUP, outputs)
        same = stride == 1 and inputs == outputs
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm0(self.conv0(x)))
        out: Tensor = self.relu(self.norm1(self.conv1(y)) + self.around(x))
        return out


def resnet(channels: int, classes: int, blocks: int) -> nn.Sequential:
    """6 * blocks + 2 layers deep: three stages of `blocks` blocks, 16, 32 and 64 wide."""
    first = [
        nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False),
        nn.GroupNorm(WIDTHS[0] // GROUP, WIDTHS[0]),
        nn.ReLU(),
    ]
    body: list[nn.Module] = []
    inputs = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(blocks):
            body.append(Residual(inputs, width, stride=2 if stage and not block else 1))
            inputs = width
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*first, *body, *last)
