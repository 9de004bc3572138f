"""A small decoder of text, as GPT-2 is built, to predict the token that comes next.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: learned
positions, normalisation ahead of each block and behind the last, GELU (Vaswani et al. 2017 for the
rest). Other than there, queries, keys and values are three layers without a bias (a key's changes
nothing), and only the last position is read out.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Causal self-attention: position i looks at positions 0..i. Keeps (n, length, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self._heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = (n, length, self._heads, width // self._heads)
        q, k, v = (
            layer(x).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class Block(nn.Module):
    """Attention and two layers with GELU, each added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x))
        out: Tensor = x + self.narrow(self.gelu(self.wide(self.norm1(x))))
        return out


class Decoder(nn.Module):
    """(n, length) tokens -> (n, vocabulary) scores of the next one.

    Tokens are whole numbers below `vocabulary`, in any dtype: data sets hold float32.
    """

    def __init__(self, length: int, vocabulary: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        # As in GPT-2: small enough that every token is about as likely as another at first.
        for table in (self.token, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        # One row of positions for each example: per-example gradients know an Embedding by it.
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        x = self.token(tokens.long()) + self.position(places)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x)[:, -1])
        return out
