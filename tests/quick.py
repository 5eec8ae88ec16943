"""Programs of tests are compiled in a third of the time, where JAX can.

In jaxlib 0.10, fused operations are compiled by emitters that are slow whatever the
level of optimisation; those of before give the same results.
"""

import jax

_OPTION = "xla_cpu_use_fusion_emitters"


def _options() -> dict[str, bool]:
    """What the compiler is told; nothing where it knows no such option."""
    options = {_OPTION: False}
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except Exception:  # each version has its own
        return {}
    return options


OPTIONS = _options()
# For `XLA_FLAGS` of other processes, which end at once at a flag that they do not know.
FLAGS = f"--{_OPTION}=false" if OPTIONS else ""


def install() -> None:
    """Where most optimisations are disabled, these are too."""
    try:
        from jax._src import compiler

        given = compiler.get_compile_options
    except (ImportError, AttributeError):
        return  # tests are slower

    def get_compile_options(*arguments, env_options_overrides=None, **more):
        if jax.config.read("jax_disable_most_optimizations"):
            env_options_overrides = OPTIONS | (env_options_overrides or {})
        more["env_options_overrides"] = env_options_overrides
        return given(*arguments, **more)

    compiler.get_compile_options = get_compile_options
