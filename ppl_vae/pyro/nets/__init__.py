"""Nets in torch; `ppl_vae.numpyro.nets` has the same names and attributes in Flax NNX."""

from ppl_vae.pyro.nets.conv import ConvDecoder, ConvEncoder, MapDecoder, halved
from ppl_vae.pyro.nets.gaussian import GaussianHead
from ppl_vae.pyro.nets.mlp import MLP
from ppl_vae.pyro.nets.pixel_cnn import PixelCNNNet
from ppl_vae.pyro.nets.transformer import TransformerNet

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "GaussianHead",
    "MapDecoder",
    "PixelCNNNet",
    "TransformerNet",
    "causal_net",
    "decoder",
    "encoder",
    "halved",
]

from collections.abc import Sequence

from torch import nn

from ppl_vae.architecture import Architecture
from ppl_vae.errors import UsageError, nearest


def encoder(x_shape: Sequence[int], widths: Sequence[int], architecture: Architecture) -> nn.Module:
    """Net from images (n, c, h, w) to features (n, `out_features`)."""
    if architecture.net == "conv":
        return ConvEncoder(x_shape, widths, architecture.activation, architecture.batch_norm)
    num_inputs = x_shape[0] * x_shape[1] * x_shape[2]
    return MLP(num_inputs, widths, architecture.activation, architecture.batch_norm)


def decoder(
    num_inputs: int,
    x_shape: Sequence[int],
    widths: Sequence[int],
    architecture: Architecture,
    num_outputs: int,
) -> nn.Module:
    """Net from a latent (n, `num_inputs`) to likelihood parameters (n, num_outputs, h, w)."""
    from ppl_vae.pyro.nets.mlp import MLPDecoder

    kind = ConvDecoder if architecture.net == "conv" else MLPDecoder
    return kind(
        num_inputs,
        x_shape,
        tuple(reversed(widths)),
        num_outputs,
        architecture.activation,
        architecture.batch_norm,
    )


def causal_net(
    kind: str,
    x_shape: Sequence[int],
    num_outputs: int,
    channels: int,
    layers: int,
    kernel_size: int,
    num_features: int = 0,
) -> nn.Module:
    """Net from maps to the parameters of every pixel given those before it, in raster order.

    Args:
        kind: "pixel_cnn", whose kernels have `kernel_size`, or "transformer".
    """
    if kind == "transformer":
        return TransformerNet(x_shape, num_outputs, channels, layers, num_features)
    if kind != "pixel_cnn":
        raise UsageError(f"net: unknown {kind!r}: {nearest(kind, ('pixel_cnn', 'transformer'))}")
    return PixelCNNNet(x_shape, num_outputs, channels, layers, kernel_size, num_features)
