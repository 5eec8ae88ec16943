"""Born-Again Networks: generations of one network, each taught by the one before."""

from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.methods.terms import mixed, teacher_constant, teacher_logits
from introspect_jax.objectives.losses import cross_entropy
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "generations of one network, each taught by the outputs of the one before"
COST = "1.33x FLOPs of standard, with a teacher of its kind"
SOURCE = "Furlanello et al., Born-Again Neural Networks, ICML 2018 (arXiv 1805.04770)"
TEACHER = "same network"


def default_config() -> ConfigDict:
    """`CE(p of the generation before, p)`, at temperature 1 and without labels, and:

    * `generations`: how many are born again; this run is the last of them. If no
      teacher is given, those before are trained first, each in a folder of its own:
      generation 0 by standard training with the seed `method.teacher_seed`, generation
      g by this method with the seed `method.teacher_seed + g`.
    * `labels`: whether the cross entropy with the labels is added (BAN+L).

    The gradient is that of `kd` with alpha = 1 and T = 1; the value differs by the
    entropy of the teacher's outputs. The fields `method.teacher_examples` and
    `method.teacher_steps` apply to every generation before the last.
    """
    return ConfigDict({"generations": 1, "labels": False})


def check(config: ConfigDict) -> None:
    """Raises a UserError if the number of generations is out of range."""
    # Each generation is a run within the run of the next.
    check_range("method.ban.", config, generations=(1, 100, "[]"))


def taught_by(method: ConfigDict, taught: ConfigDict) -> tuple[ConfigDict, int]:
    """Returns `config.method` and seed of the generation before, see
    `methods.taught_by`.

    Raises:
      UserError: a teacher is given, but more than one generation is to be trained.
    """
    before = method.ban.generations - 1
    if before and method.teacher:
        raise UserError(
            f"method.teacher is {method.teacher!r}, but method.ban.generations is "
            f"{before + 1}, which trains its own teachers: for one generation more "
            "than that run set --config.method.ban.generations=1"
        )
    if before:
        taught.name = "ban"
        taught.ban = ConfigDict(method.ban.to_dict() | {"generations": before})
        taught.teacher_seed = method.teacher_seed
    return taught, method.teacher_seed + before


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: the number of generations is out of range.
    """
    check(config)
    hard = 1.0 if config.labels else 0.0

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        target = teacher_target(teacher_logits(context, batch), 1.0)
        labelled = (labels != 0).any(-1, keepdims=True)
        distance = cross_entropy(logits, target.probs * labelled)
        return mixed(logits, labels, target, hard=hard, soft=1.0, distance=distance)

    return one_network(context, objective, constants=teacher_constant)
