"""A small study on the digits that scikit-learn ships: does the machinery work?

3 methods, 3 seeds, and label smoothing tuned over two strengths; a few minutes on
2 CPU cores. The network does not overfit here, so it cannot tell methods apart.
"""

from studies import Study, chain, point, sweep


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/digits.py takes no argument, got {arg!r}")
    return Study(
        question="Does the machinery of studies work?",
        config="configs/digits.py",
        fields={"total_steps": 300, "eval_steps": 100, "checkpoint_steps": 50},
        arms=chain(
            point("standard", {"method.name": "standard"}),
            point("label smoothing", {"method.name": "label_smoothing"}),
            point("introspective", {"method.name": "introspective"}),
        ),
        seeds=range(3),
        baseline="standard",
        controls=["label smoothing"],
        trials={
            "label smoothing": sweep("method.label_smoothing.epsilon", [0.05, 0.1])
        },
        tuning_seeds=[100],
    )
