"""What in introspective learning works: the explanation, or just smoothing?

Sources of the similarity at equal weight, temperature and similarity, against controls
that know less: 10 arms, 5 seeds. `:dose` varies what the objective leaves free, with
the cheapest explanation: weight, temperature, ramp-up, support; 3 seeds.
Cost: about 30 and 15 minutes on 2 CPU cores, continued with the same command. Without
an accelerator SmoothGrad is left out: 8 samples cost 9 times a standard step.
"""

from introspect_jax.study import Study, chain, point, sweep

WEIGHT = 0.3
INTROSPECTIVE = {
    "method.name": "introspective",
    "method.introspective.weight": WEIGHT,
}
STANDARD = point("standard", {"method.name": "standard"})
KD = point("kd", {"method.name": "kd"})


def introspective(name: str, **options):
    """An arm that differs from the others in these options of the method."""
    fields = {f"method.introspective.{field}": v for field, v in options.items()}
    return point(name, INTROSPECTIVE | fields)


def get_study(arg=None):
    if arg == "dose":
        return dose()
    if arg:
        raise ValueError(
            f"the argument of configs/studies/what_works.py is 'dose', got {arg!r}"
        )
    explanations = {
        "gradient": introspective("gradient"),
        "Grad-CAM": introspective("Grad-CAM", explanation="grad_cam"),
    }
    controls = {
        "permuted": introspective("permuted", component="permuted"),
        "weight rows": introspective("weight rows", source="weight_rows"),
        "random network": introspective("random network", source="random_network"),
        "confusion": introspective("confusion", source="confusion", temperature=1.0),
        "entropy-matched": introspective("entropy-matched", source="entropy_matched"),
        "complement entropy": point(
            "complement entropy",
            {
                "method.name": "complement_entropy",
                "method.complement_entropy.weight": WEIGHT,
            },
        ),
    }
    return Study(
        question="What works in introspective learning: the explanation, or smoothing?",
        config="configs/cifar10.py:little",
        data="CIFAR-10 (JPEG copy) at 16x16 pixels, 5,000 training images",
        about=(
            "All soft targets are softmax(projection similarity / temperature) over "
            "the other classes at the same weight; they differ in what is compared. "
            "The weight is three times the default, so that differences between "
            "sources show, whether they help or harm. `confusion` compares mean "
            "log-probabilities, at temperature 1."
        ),
        arms=chain(STANDARD, KD, *explanations.values(), *controls.values()),
        seeds=range(5),
        baseline="standard",
        controls=["kd"],
        contrasts=[
            *(("gradient", name) for name in controls),
            *(("Grad-CAM", name) for name in controls),
            ("Grad-CAM", "gradient"),
        ],
    )


def dose() -> Study:
    """The free options, one at a time."""
    grad_cam = introspective("Grad-CAM", explanation="grad_cam")
    free = chain(
        *(
            sweep(f"method.introspective.{field}", values)
            for field, values in (
                ("weight", [0.03, 0.1, 1.0]),
                ("temperature", [0.2, 1.0]),
                ("ramp_up", [0.0, 0.8]),
                ("support", ["all"]),
            )
        )
    )
    others = tuple(
        point(f"Grad-CAM, {p.name}", {**grad_cam[0].fields, **p.fields})[0]
        for p in free
    )
    return Study(
        question="How much introspection, how sharp, and from when on?",
        config="configs/cifar10.py:little",
        data="CIFAR-10 (JPEG copy) at 16x16 pixels, 5,000 training images",
        about="Each arm changes one option of `Grad-CAM` of `what_works`.",
        arms=chain(STANDARD, KD, grad_cam, others),
        seeds=range(3),
        baseline="standard",
        controls=["kd"],
    )
