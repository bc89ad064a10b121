"""Convolutions on the chip's arrays: images become the vectors that drive them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossbar_sim.layers import CrossbarProduct, book_bias


class CrossbarConv2d(nn.Module):
    """A two-dimensional convolution on arrays: every window of the image is one input vector (im2col).

    y[o, p] = sum_i W[o, i] x[i, p] with i over (channel, kernel row, kernel column), the array's word lines, and p
    over the output positions. Each of the `groups` has its own array. Stride, padding, padding mode and dilation
    as in nn.Conv2d. A convolution of B images with P output positions drives B P vectors per array; the image counts
    as the sample, the output position as the position in it.

    Args:
        products: one per group, each [channels out / groups, channels in / groups * kernel].
        like: the layer whose geometry is taken over.
    """

    def __init__(self, products: list[CrossbarProduct], like: nn.Conv2d) -> None:
        super().__init__()
        self.products = nn.ModuleList(products)
        self.bias = like.bias
        # models ask a layer for the type of its weight
        self.register_buffer("weight", like.weight.new_empty(0), persistent=False)
        self.in_channels, self.out_channels, self.groups = like.in_channels, like.out_channels, like.groups
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, like.padding_mode
        # left, right, top, bottom: "same" may need one more on one side
        self.border: list[int] = list(like._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, H, W] or [C, H, W] -> [B, C out, H out, W out] or without B."""
        if x.dim() == 3:
            single: Tensor = self.forward(x[None])[0]
            return single
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = nn.functional.pad(x, self.border, mode=mode)
        columns = nn.functional.unfold(
            padded, self.kernel_size, dilation=self.dilation, stride=self.stride
        ).transpose(1, 2)
        parts = columns.chunk(self.groups, -1)  # channels are the slowest of an unfolded vector's indices
        products = [product for product in self.products if isinstance(product, CrossbarProduct)]
        results = [product(part) for product, part in zip(products, parts, strict=True)]
        out = results[0] if self.groups == 1 else torch.cat(results, -1)
        if self.bias is not None:
            out = out + self.bias
            book_bias(products[0].array.site, self.bias, out)
        return out.transpose(1, 2).reshape(len(x), self.out_channels, *self._positions(padded))

    def _positions(self, padded: Tensor) -> tuple[int, int]:
        """Output rows and columns."""
        height, width = (
            (size - reach * (kernel - 1) - 1) // step + 1
            for size, kernel, reach, step in zip(
                padded.shape[-2:], self.kernel_size, self.dilation, self.stride, strict=True
            )
        )
        return height, width

    def extra_repr(self) -> str:
        """The geometry for print(model)."""
        return (
            f"{self.in_channels} -> {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )
