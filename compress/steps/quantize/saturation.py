"""Where 8-bit weights do not fit the kernels of a processor."""

from __future__ import annotations

import platform

__all__ = ["pairs_saturate", "seven_bits"]


def seven_bits(reduce_range: str, *, signed: bool = True) -> bool:
    """Return whether weights are kept to 7 bits: as the config says, or ``auto`` as this machine needs.

    On x86 without VNNI, products of unsigned activations and signed weights are summed in pairs in 16 bits
    and saturate: 255 * 127 * 2 > 32767. With 7-bit weights they fit. Unsigned weights take another kernel.
    """
    if reduce_range != "auto":
        return reduce_range == "true"
    return signed and pairs_saturate()


def pairs_saturate() -> bool:
    """Return whether this machine's signed 8-bit kernel sums pairs of products in 16 bits."""
    if platform.machine().lower() not in {"x86_64", "amd64", "i686"}:
        return False
    from compress.machine import has_vnni

    return not has_vnni()
