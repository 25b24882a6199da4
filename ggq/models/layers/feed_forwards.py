"""Feed-forwards, with and without experts, as parts of a model (`ggq.models.parts`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.models.field import Flag, Integer, Number, Part, Word
from ggq.models.layers.attentions import Norm
from ggq.tape.ops.activations import CLAMPED, WITHOUT_GATE
from ggq.tape.ops.route import MOST_EXPERTS, MOST_GROUPS, SCORES

MEANINGS = (
    "`silu`: x / (1 + exp(-x)); `gelu_tanh`: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); "
    "`gelu`: x (1 + erf(x / sqrt(2))) / 2; `relu`: max(x, 0); `relu2`: max(x, 0)^2"
)
ACTIVATION = Word(WITHOUT_GATE, MEANINGS)
XIELU = "xielu"
"""The activation whose form is learned."""


@dataclass(frozen=True)
class Mlp:
    """A feed-forward of two or three matrices."""

    kind: ClassVar[str] = "mlp"
    role: ClassVar[str] = "mlp"
    width: Annotated[int, Integer(1, 1 << 22, "numbers between the matrices")]
    activation: Annotated[
        str,
        Word(
            (*WITHOUT_GATE, XIELU),
            f"{MEANINGS}; `xielu`: rise x^2 + beta x for x above 0, else fall (e^x - 1 - x) + beta x, with "
            "rise = softplus(alpha_p) and fall = beta + softplus(alpha_n)",
        ),
    ]
    gated: Annotated[bool, Flag("true: down(activation(gate(x)) * up(x)); false: down(activation(up(x)))")]
    bias: Annotated[bool, Flag("all of its matrices have biases")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        return f"{XIELU} has no gate" if self.activation == XIELU and self.gated else None


@dataclass(frozen=True)
class NormedMlp(Mlp):
    """A feed-forward with a norm of what its last matrix meets."""

    kind: ClassVar[str] = "normed_mlp"
    inner_norm: Annotated[Norm, Part("norm before the last matrix")]


@dataclass(frozen=True)
class SparseMlp(Mlp):
    """A feed-forward whose gates lose all that is not far above their mean: what is below becomes 0."""

    kind: ClassVar[str] = "sparse_mlp"
    deviations: Annotated[
        float,
        Number(
            -100.0,
            100.0,
            "gates become max(gate - mean - deviations * standard deviation, 0) before the activation, both of the row",
        ),
    ]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        return super().problem() if self.gated else "gates that are made sparse, and no gates"


@dataclass(frozen=True)
class Router:
    """Which experts a token goes through, and how much of each it takes: their scores."""

    score: Annotated[
        str, Word(SCORES, "what logits become; `softmax`: one over all experts; `sigmoid`: the sigmoid of each")
    ]
    bias: Annotated[bool, Flag("the router's matrix has a bias")]
    correction: Annotated[bool, Flag("to choose, each expert's number is added to its score")]
    groups: Annotated[int, Integer(1, MOST_GROUPS, "groups of consecutive experts, of equal size; divides `count`")]
    chosen_groups: Annotated[int, Integer(1, MOST_GROUPS, "groups from which experts are chosen; at most `groups`")]
    best: Annotated[int, Integer(1, 2, "groups are chosen by the sum of so many of their best")]
    least: Annotated[float, Number(0.0, 1.0, "added to the sum of chosen scores that they are divided by", zero=True)]
    factors: Annotated[bool, Flag("shares are multiplied with a number of each expert")]


PLAIN = Router("softmax", False, False, 1, 1, 1, 0.0, False)
"""A softmax of logits without a bias."""


@dataclass(frozen=True)
class Experts:
    """Feed-forwards, down(activation(gate(x)) * up(x)), of which a router chooses a few for each token."""

    kind: ClassVar[str] = "experts"
    role: ClassVar[str] = "experts"
    count: Annotated[int, Integer(1, MOST_EXPERTS, "experts")]
    chosen: Annotated[int, Integer(1, MOST_EXPERTS, "experts of a token; at most `count`")]
    width: Annotated[int, Integer(1, 1 << 22, "numbers between the matrices of an expert")]
    activation: Annotated[
        str,
        Word(
            (*WITHOUT_GATE, CLAMPED),
            f"{MEANINGS}; `clamped_swiglu`: with g = min(gate(x), 7) and u = up(x) held within -7 and 7, "
            "(u + 1) g / (1 + exp(-1.702 g))",
        ),
    ]
    gated: Annotated[bool, Flag("false: down(activation(up(x)))")]
    bias: Annotated[bool, Flag("all matrices of the experts have biases")]
    router: Annotated[Router, Part("what chooses")]
    renormalised: Annotated[bool, Flag("shares are divided by the sum of those of the chosen experts")]
    scale: Annotated[float, Number(0.0, 1e6, "shares are multiplied with it")]
    shared_width: Annotated[
        int, Integer(0, 1 << 22, "numbers between the matrices of an expert that all tokens go through; 0: none")
    ]
    shared_gate: Annotated[bool, Flag("its share is the sigmoid of a product with one row; false: 1")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.chosen > self.count:
            return f"a token cannot go through {self.chosen} of {self.count} experts"
        if self.shared_gate and not self.shared_width:
            return "a gate of a shared expert, and no shared expert"
        if self.shared_gate and (self.bias or not self.gated):
            return "a shared expert with a gate is gated and without biases as all others are"
        if self.activation == CLAMPED and not self.gated:
            return f"{CLAMPED} needs gates"
        size, odd = divmod(self.count, self.router.groups)
        if odd or self.router.best > size:
            return f"{self.count} experts are not {self.router.groups} groups of {self.router.best} or more"
        if not self.router.chosen_groups <= self.router.groups or self.chosen > size * self.router.chosen_groups:
            return f"{self.chosen} experts cannot be chosen from {self.router.chosen_groups} groups of {size}"
        return None


@dataclass(frozen=True)
class MixedExperts(Experts):
    """Experts beside a feed-forward without: mlp_post_norm(mlp(x)) + experts_post_norm(experts(experts_norm(row))), x
    being the row behind the layer's norm of the feed-forward's input."""

    kind: ClassVar[str] = "mixed_experts"
    role: ClassVar[str] = "mixed"
    mlp: Annotated[Mlp, Part("the feed-forward without experts")]
    mlp_post_norm: Annotated[Norm, Part("norm of its result")]
    experts_norm: Annotated[Norm, Part("norm of what experts meet")]
    experts_post_norm: Annotated[Norm, Part("norm of their sum")]
    router_norm: Annotated[Norm, Part("norm of what the router meets")]
