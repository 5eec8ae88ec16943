"""The same values as torchdistill's published classes, where it is installed."""

import numpy as np
import pytest

from introspect_jax.objectives import losses
from introspect_jax.objectives.targets import smooth_labels, teacher_target

torch = pytest.importorskip("torch")
mid_level = pytest.importorskip("torchdistill.losses.mid_level")
pytestmark = pytest.mark.usefixtures("x64")
RANDOM = np.random.RandomState(0)
LOGITS, TEACHER = RANDOM.normal(size=(16, 10)) * 2, RANDOM.normal(size=(16, 10)) * 3
LABELS = RANDOM.randint(0, 10, 16)


def published(alpha, temperature, **options):
    """`KDLoss`; alpha is the weight of the cross entropy there."""
    module = mid_level.KDLoss(
        "net", "output", "net", "output", temperature, alpha, **options
    )
    outputs = [{"net": {"output": torch.tensor(z)}} for z in (LOGITS, TEACHER)]
    return float(module(*outputs, torch.tensor(LABELS)))


@pytest.mark.parametrize(
    ("alpha", "temperature"), [(0.9, 4.0), (0.5, 1.0), (0.1, 20.0)]
)
def test_distillation(alpha, temperature):
    hard = losses.cross_entropy(LOGITS, LABELS)
    target = teacher_target(TEACHER, temperature)
    soft = losses.distillation(LOGITS, LABELS, target, temperature)
    found = ((1 - alpha) * hard + alpha * soft).mean()
    np.testing.assert_allclose(found, published(1 - alpha, temperature), rtol=1e-10)


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_label_smoothing(epsilon):
    """That of the hard term of `KDLoss`, with no weight on the teacher."""
    found = losses.cross_entropy(LOGITS, smooth_labels(LABELS, 10, epsilon)).mean()
    wanted = published(1.0, 1.0, beta=0.0, label_smoothing=epsilon)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
