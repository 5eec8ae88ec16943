"""Arms that several studies share."""

from studies import chain, point

LITTLE = "configs/cifar10.py:little"
LITTLE_DATA = "CIFAR-10 (JPEG copy) at 16x16 pixels, 5,000 training images"
# No study has a teacher of the students' own images, so none tells what data give.
TEACHER = (
    "The teacher of `kd`, a WRN-10-2, is trained on 45,000 images, 9 times as many as "
    "its students, and for four times as many steps."
)
STANDARD = point("standard", {"method.name": "standard"})
KD = point("kd", {"method.name": "kd"})


def introspective(name: str, **options):
    """The method with these options, the defaults otherwise."""
    fields = {f"method.introspective.{field}": v for field, v in options.items()}
    return point(name, {"method.name": "introspective"} | fields)


# The defaults of their methods, for settings in which nothing is tuned.
UNTUNED = chain(
    STANDARD,
    KD,
    point("label smoothing", {"method.name": "label_smoothing"}),
    point("complement entropy", {"method.name": "complement_entropy"}),
    introspective("gradient"),
    introspective("Grad-CAM", explanation="grad_cam"),
    introspective("weight rows", source="weight_rows"),
)
AGAINST_WEIGHT_ROWS = (("gradient", "weight rows"), ("Grad-CAM", "weight rows"))

# They mix the examples of a batch and go with standard training, as others count them
# among the methods.
MIXED = chain(
    point("mixup", {"method.name": "standard", "data.augment.mixup": 1.0}),
    point("CutMix", {"method.name": "standard", "data.augment.cutmix": 1.0}),
)


def entropy_matched(arms, entropy="network"):
    """The arms of introspective learning with soft targets of one wanted entropy."""
    field = "method.introspective.target_entropy"
    return chain(
        *(point(f"{arm.name}, matched", arm.fields | {field: entropy}) for arm in arms)
    )
