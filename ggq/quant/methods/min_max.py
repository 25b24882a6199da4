"""Min-max: the codes of a group span its range from a float minimum on."""

from __future__ import annotations

from ggq.format.scheme import Scheme
from ggq.quant.methods.zero_point import ZeroPoint


class MinMax(ZeroPoint):
    """Asymmetric rounding to nearest: code 0 is the smallest weight of the group (0 if all are above), the last code
    the largest (0 if all are below). It is zero-point with a minimum that need not be a whole number of steps.

    With levels = 2**bits - 1, the step s is (high - low) / levels and the minimum m is -low, both rounded as the scheme
    stores them. Where both are plain f16 and not subnormal, for each weight w, decoded as d:

        |w - d| <= s * (1/2 + levels * 2**-11) * (1 + 2**-14) + m * 2**-11

    Zero decodes to within half a step of zero and not, as under zero-points, to zero.

    Source: spec/schemes.md, S8.
    """

    name = "min-max"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: uniform codes with minimums."""
        return scheme.kind == "uniform" and scheme.zero == "minimum" and not scheme.transform
