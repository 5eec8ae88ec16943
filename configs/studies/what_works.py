"""What in introspective learning works: the explanation, or just smoothing?

Sources of the similarity at one weight and temperature, against controls with less
information: 10 arms, 5 seeds, about 30 minutes on 2 CPU cores, continued with the same
command. `:forms` varies the options of the objective: 14 forms beside standard training
and `kd`, 3 seeds, about 25 minutes. `:doses` gives the sources and controls three
weights, because a source that smooths too much at one weight may be right at another:
20 arms, 3 seeds, about 15 minutes after the first two. `:confirm` asks the main
question again, at the default weight and with seeds that no choice was made with: 7
arms, 23 seeds (enough for half a point by the spread of the first study), about 75
minutes. Without an accelerator SmoothGrad is left out: 8 samples cost 9 times a
standard step.
"""

from configs.studies._arms import (
    KD,
    LITTLE,
    LITTLE_DATA,
    STANDARD,
    TEACHER,
    introspective,
)
from studies import Study, chain, point

WEIGHT = 0.3
DOSES = (0.03, 0.1, 0.3)


def get_study(arg=None):
    studies = {None: sources, "forms": forms, "doses": doses, "confirm": confirm}
    if arg not in studies:
        raise ValueError(
            "the argument of configs/studies/what_works.py is 'forms', 'doses' or "
            f"'confirm', got {arg!r}"
        )
    return studies[arg]()


def explanations(weight: float):
    """The two explanations that are compared with the controls."""
    return chain(
        introspective("gradient", weight=weight),
        introspective("Grad-CAM", explanation="grad_cam", weight=weight),
    )


def smoothing(weight: float):
    """The controls that a soft target with more information must beat."""
    return chain(
        introspective("weight rows", source="weight_rows", weight=weight),
        introspective("smoothed labels", source="smoothed_labels", weight=weight),
        introspective("permuted", component="permuted", weight=weight),
        point(
            "complement entropy",
            {
                "method.name": "complement_entropy",
                "method.complement_entropy.weight": weight,
            },
        ),
    )


def sources() -> Study:
    """What is compared with what."""
    controls = chain(
        smoothing(WEIGHT),
        introspective("random network", source="random_network", weight=WEIGHT),
        introspective("confusion", source="confusion", temperature=1.0, weight=WEIGHT),
    )
    return Study(
        question="What works in introspective learning: the explanation, or smoothing?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "Soft targets of one weight from different sources. They are "
            "softmax(projection similarity / temperature) over the other classes, with "
            "three exceptions: `confusion` compares mean log-probabilities at a "
            "temperature of one, `complement entropy` is uniform over the other "
            "classes, and `smoothed labels` smooths the label. Targets of one "
            "temperature differ in entropy, so the arms compare strengths of smoothing "
            "too. The "
            "weight is three times the default, so that differences between sources "
            f"show, whether they help or harm. {TEACHER}"
        ),
        arms=chain(STANDARD, KD, explanations(WEIGHT), controls),
        seeds=range(5),
        baseline="standard",
        controls=["kd"],
        contrasts=[
            *(("gradient", control.name) for control in controls),
            *(("Grad-CAM", control.name) for control in controls),
            ("Grad-CAM", "gradient"),
        ],
    )


def forms() -> Study:
    """One change at a time, most of them to Grad-CAM, whose targets agree best."""

    def grad_cam(name: str, **options):
        return introspective(name, explanation="grad_cam", **options)

    return Study(
        question="Which form of introspective learning is best?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "`gradient` is the default of the config, and `gradient, average of the "
            "network` changes one option of it. Every other arm changes one option of "
            "`Grad-CAM`, which otherwise has the defaults of the config. Left out are "
            "forms that agree with a teacher's responses to single examples no better "
            "than gradients do (absolute values, log-probabilities, pooled or centred "
            f"gradients: `results/agreement`). {TEACHER}"
        ),
        arms=chain(
            STANDARD,
            KD,
            introspective("gradient"),
            introspective("gradient, average of the network", explained_decay=0.99),
            grad_cam("Grad-CAM"),
            grad_cam("weight 0.03", weight=0.03),
            grad_cam("weight 0.3", weight=0.3),
            grad_cam("weight 1", weight=1.0),
            grad_cam("temperature 0.2", temperature=0.2),
            grad_cam("temperature 1", temperature=1.0),
            grad_cam("all classes", support="all"),
            grad_cam("cosine", similarity="cosine"),
            grad_cam("ramp-up 0.6", ramp_up=0.6),
            grad_cam("ramp-down 0.5", ramp_down=0.5),
            grad_cam("average of the network", explained_decay=0.99),
            grad_cam("class mean removed", remove_class_mean=True),
        ),
        seeds=range(3),
        baseline="standard",
        controls=["kd"],
    )


def doses() -> Study:
    """Sources and controls at the same three weights."""

    def at(weight: float):
        arms = chain(explanations(weight), smoothing(weight))
        return chain(*(point(f"{arm.name} {weight:g}", arm.fields) for arm in arms))

    def contrasts(weight: float):
        controls = [arm.name for arm in smoothing(weight)]
        return [
            (f"{arm.name} {weight:g}", f"{control} {weight:g}")
            for arm in explanations(weight)
            for control in controls
        ]

    return Study(
        question="Does the explanation do more than smoothing, at any weight?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "Each source of the soft target at three weights; the number after its "
            "name is the weight, and 0.1 is the default. All else is as in "
            f"`what_works`. {TEACHER}"
        ),
        arms=chain(STANDARD, KD, *(at(weight) for weight in DOSES)),
        seeds=range(3),
        baseline="standard",
        controls=["kd"],
        contrasts=[pair for weight in DOSES for pair in contrasts(weight)],
    )


def confirm() -> Study:
    """The main question again, at the default weight and with new seeds."""
    controls = smoothing(0.1)[:3]
    tested = explanations(0.1)
    return Study(
        question="Is it the explanation, or smoothing? With seeds enough for half a "
        "point",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "The default weight, 0.1, and seeds that no choice was made with. All else "
            f"is as in `what_works`. {TEACHER}"
        ),
        arms=chain(STANDARD, KD, tested, controls),
        seeds=range(20, 43),
        baseline="standard",
        controls=["kd"],
        contrasts=[(arm.name, control.name) for arm in tested for control in controls],
    )
