"""ONE: branches of one network that learn from their gated ensemble."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    by_name,
    forward,
    predict_named,
)
from introspect_jax.models import init_variables
from introspect_jax.models.classifier import batch_norm
from introspect_jax.models.protocol import STAGED, check_offers, stage_shapes
from introspect_jax.objectives.ensembles import ensemble_loss, gated_ensemble
from introspect_jax.options import check_range

SUMMARY = "branches of one network that learn from their gated ensemble"
COST = "1.59x FLOPs of standard, with three branches"
SOURCE = (
    "Lan, Zhu and Gong, Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS "
    "2018 (arXiv 1806.04606)"
)


def default_config() -> ConfigDict:
    """`sum_i CE_i + CE_e + r(t) T^2 sum_i KL(p_e,T || p_i,T)` over `branches` M.

    The branches share all stages of the network but the last, of which each has one of
    its own, with its classifier. Their ensemble has the logits `z_e = sum_i g_i z_i`;
    the gate g is a linear layer of the shared maps, averaged over space, then
    BatchNorm, ReLU and softmax. It is constant in the divergence. The network itself is
    the first branch, which is evaluated and deployed; ensemble and gate serve training.

    `r = exp(-5 (1 - t)^2)`, where t grows from 0 to 1 in the first `ramp_up` of the
    run; with `ramp_up` 0 it is 1. The released code has 80 of 300 epochs and changes r
    after each; here it changes after each step.

    Defaults are those of the released code. An NNX network cannot make its last stage
    alone: each branch then also carries a copy of the others, which is not used.
    """
    return ConfigDict({"branches": 3, "temperature": 3.0, "ramp_up": 80 / 300})


class Gate(nn.Module):
    """Maps `[batch, h, w, d]` to weights `[batch, branches]` that sum to 1."""

    branches: int

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        wide = jnp.promote_types(maps.dtype, jnp.float32)
        features = jnp.mean(maps, axis=(1, 2), dtype=wide)
        # The normalisation would cancel a bias.
        scores = nn.Dense(self.branches, use_bias=False, dtype=None, name="gate")(
            features
        )
        return nn.softmax(nn.relu(batch_norm(train, None, "norm")(scores)))


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: An option out of range, or a network that is not in stages.
    """
    check(config)
    for part in STAGED:
        check_offers(context.model, part, "method.name=one")
    *_, shared, _ = stage_shapes(context.model, context.image_shape, "method.name=one")
    branches = [f"branch{i}" for i in range(1, config.branches)]
    gate = Gate(config.branches)
    ramp_steps = config.ramp_up * context.total_steps

    def init(key):
        # The network has the values that it would have alone.
        made = {"network": init_variables(context.model, context.image_shape, key)}
        for i, name in enumerate(branches, 1):
            made[name] = init_variables(
                context.model, shared, jax.random.fold_in(key, i), "last_stage"
            )
        made["gate"] = init_variables(gate, shared, jax.random.fold_in(key, 0))
        return by_name(made)

    def loss(params, model_state, method_state, batch, step, key):
        labels, state = batch["label"], dict(model_state)

        def run(name, inputs, key, model=context.model, method=None):
            result, state[name] = forward(
                model, params[name], state[name], inputs, key, method
            )
            return result

        maps = run("network", batch["image"], key, method="trunk")
        # One after the other, as the peers of `dml`.
        outputs = [run("network", maps, key, method="last_stage")]
        for i, name in enumerate(branches, 1):
            own = jax.random.fold_in(key, i)
            outputs.append(run(name, maps, own, method="last_stage"))
        logits = jnp.stack(outputs)
        gates = run("gate", maps, key, model=gate)
        weight = ramp(step, ramp_steps)
        losses, terms = ensemble_loss(
            logits, gates, labels, weight=weight, temperature=config.temperature
        )
        together = jnp.argmax(gated_ensemble(logits, gates), axis=-1)
        value, metrics = averaged(
            logits[0],
            labels,
            losses,
            {
                **terms,
                "ensemble_accuracy": together == jnp.argmax(labels, axis=-1),
                "weight": weight,
                "loss_weights": 1.0 + config.branches * (1.0 + weight),
            },
        )
        return value, (state, method_state, metrics)

    return Method(init, loss, predict_named("network"), context.model)


def ramp(step: jax.Array | int, ramp_steps: float) -> jax.Array:
    """`exp(-5 (1 - step / ramp_steps)^2)`, and 1 from `ramp_steps` on."""
    done = jnp.clip(step / max(1.0, ramp_steps), max=1.0) if ramp_steps else 1.0
    return jnp.exp(-5.0 * (1.0 - done) ** 2)


def check(config: ConfigDict) -> None:
    """Raises a UserError for options out of range."""
    check_range(
        "method.one.",
        config,
        branches=(1, 100, "[]"),  # each is a last stage more in the program
        temperature=(0, float("inf"), "()"),
        ramp_up=(0, 1, "[]"),
    )
