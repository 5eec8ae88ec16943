"""Reference values of the objectives, written from their formulas.

Nothing here uses the package: plain float64 arithmetic, one example at a time, so
that a mistake in the package cannot also be one in its reference. NumPy only draws
the inputs.

    python tests/objectives/golden.py

rewrites `golden.json`, which holds `{"inputs": inputs(), "values": values()}`.
`golden.values()` returns the dictionary of values: a loss is a list of N numbers, a
target a list of N rows of K numbers. Before writing, the values are checked against
identities that hold between them.

Notation: N examples, K classes, z logits, p_T(z) = softmax(z / T), p = p_1(z), y the
label or its one-hot row, H the entropy in nats, CE(q, p) = -sum_k q_k log p_k,
KL(q || p) = sum_k q_k log(q_k / p_k) with 0 log 0 = 0, and others(p) the
distribution p restricted to the classes other than y and renormalised.
"""

import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

EXAMPLES = 6
CLASSES = 7

Row = list[float]


def inputs() -> dict:
    """What the objectives are computed from; the order of the draws is part of it."""
    random = np.random.RandomState(0)
    shape = (EXAMPLES, CLASSES)
    logits = (random.normal(size=shape) * 2).tolist()
    teacher_logits = (random.normal(size=shape) * 3).tolist()
    other_logits = (random.normal(size=shape) * 2).tolist()
    similarities = random.uniform(-1, 1, shape).tolist()
    past = [softmax(row) for row in (random.normal(size=shape) * 2).tolist()]
    # An example that was never seen has no past prediction.
    past[2] = [0.0] * CLASSES
    labels = [0, 3, 6, 3, 1, 2]
    soft_labels = []
    for label in labels:
        soft_label = [0.0] * CLASSES
        soft_label[label] = 0.7
        soft_label[(label + 1) % CLASSES] = 0.3
        soft_labels.append(soft_label)
    normal = random.normal(size=(CLASSES, CLASSES)).tolist()
    class_means = [softmax(row) for row in normal]
    return {
        "logits": logits,
        "teacher_logits": teacher_logits,
        "other_logits": other_logits,
        "similarities": similarities,
        "past": past,
        "labels": labels,
        "soft_labels": soft_labels,
        "class_means": class_means,
    }


def softmax(z: Row, temperature: float = 1.0) -> Row:
    """p_T(z)_k = exp(z_k / T) / sum_j exp(z_j / T)."""
    largest = max(z)
    exps = [math.exp((value - largest) / temperature) for value in z]
    total = math.fsum(exps)
    return [value / total for value in exps]


def cross_entropy(q: Row, p: Row) -> float:
    """CE(q, p) = -sum_k q_k log p_k."""
    return -math.fsum(a * math.log(b) for a, b in zip(q, p, strict=True) if a > 0)


def entropy(p: Row) -> float:
    """H(p) = -sum_k p_k log p_k, in nats (Shannon 1948)."""
    return -math.fsum(a * math.log(a) for a in p if a > 0)


def kl(q: Row, p: Row) -> float:
    """KL(q || p) = sum_k q_k log(q_k / p_k) (Kullback and Leibler 1951)."""
    return math.fsum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0)


def one_hot(y: int) -> Row:
    """1 at y, 0 elsewhere."""
    return [1.0 if k == y else 0.0 for k in range(CLASSES)]


def others(p: Row, y: int) -> Row:
    """others(p): p_k / sum_{j != y} p_j for k != y, and 0 at y."""
    total = math.fsum(p[k] for k in range(CLASSES) if k != y)
    return [0.0 if k == y else p[k] / total for k in range(CLASSES)]


def uniform_others(y: int) -> Row:
    """1 / (K - 1) for k != y, and 0 at y."""
    return [0.0 if k == y else 1 / (CLASSES - 1) for k in range(CLASSES)]


def mixture(a: float, p: Row, b: float, q: Row) -> Row:
    """a p + b q."""
    return [a * p[k] + b * q[k] for k in range(CLASSES)]


def label_smoothing_uniform(y: int, e: float) -> Row:
    """(1 - e) y + e / K (Szegedy et al. 2016)."""
    return [(1 - e) * a + e / CLASSES for a in one_hot(y)]


def label_smoothing_others(y: int, e: float) -> Row:
    """(1 - e) y + e / (K - 1) (1 - y): label smoothing that spares the label."""
    return [(1 - e) * a + e / (CLASSES - 1) * (1 - a) for a in one_hot(y)]


def confidence_penalty(y: int, z: Row) -> float:
    """CE(y, p) - 0.1 H(p) (Pereyra et al. 2017)."""
    p = softmax(z)
    return cross_entropy(one_hot(y), p) - 0.1 * entropy(p)


def complement_entropy(y: int, z: Row) -> float:
    """H(others(p)) (Chen et al. 2019, Complement Objective Training; no 1 / K)."""
    return entropy(others(softmax(z), y))


def complement_uniform(y: int, z: Row) -> float:
    """KL(u || others(p)), u uniform on the classes other than y."""
    return kl(uniform_others(y), others(softmax(z), y))


def similarity_others(y: int, similarities: Row) -> Row:
    """Softmax over k != y of s_k / 0.5, and 0 at y: the introspective target."""
    exps = [math.exp(s / 0.5) for s in similarities]
    total = math.fsum(exps[k] for k in range(CLASSES) if k != y)
    return [0.0 if k == y else exps[k] / total for k in range(CLASSES)]


def similarity_all(similarities: Row) -> Row:
    """Softmax over every k of s_k / 0.5."""
    return softmax(similarities, 0.5)


def introspective_others(y: int, z: Row, similarities: Row) -> float:
    """CE(y, p) + 0.3 T^2 KL(q || others(p_T)), T = 2, q = similarity_others."""
    q = similarity_others(y, similarities)
    divergence = kl(q, others(softmax(z, 2.0), y))
    return cross_entropy(one_hot(y), softmax(z)) + 0.3 * 2**2 * divergence


def introspective_all(y: int, z: Row, similarities: Row) -> float:
    """0.7 CE(y, p) + 0.3 T^2 CE(q, p_T), T = 2, q = similarity_all."""
    soft = cross_entropy(similarity_all(similarities), softmax(z, 2.0))
    return 0.7 * cross_entropy(one_hot(y), softmax(z)) + 0.3 * 2**2 * soft


def distillation(y: int, z: Row, teacher: Row) -> float:
    """0.1 CE(y, p) + 0.9 T^2 KL(p_T(teacher) || p_T), T = 4 (Hinton et al. 2015)."""
    divergence = kl(softmax(teacher, 4.0), softmax(z, 4.0))
    return 0.1 * cross_entropy(one_hot(y), softmax(z)) + 0.9 * 4**2 * divergence


def component_ground_truth(y: int, t: Row) -> Row:
    """t_y at y and (1 - t_y) / (K - 1) elsewhere: the teacher's confidence alone."""
    rest = (1 - t[y]) / (CLASSES - 1)
    return [t[y] if k == y else rest for k in range(CLASSES)]


def distillation_term(q: Row, z: Row) -> float:
    """T^2 KL(q || p_T), T = 4 (Hinton et al. 2015)."""
    return 4**2 * kl(q, softmax(z, 4.0))


def distillation_term_others(y: int, q: Row, z: Row) -> float:
    """T^2 KL(q || others(p_T)), T = 4, for a q that is 0 at y."""
    return 4**2 * kl(q, others(softmax(z, 4.0), y))


def cwtm_weights(teacher_logits: list[Row]) -> Row:
    """N max_k t_s / sum_u max_k t_u, t = p_1(teacher) (Furlanello et al. 2018)."""
    confidences = [max(softmax(teacher)) for teacher in teacher_logits]
    total = math.fsum(confidences)
    return [EXAMPLES * confidence / total for confidence in confidences]


def tckd(y: int, z: Row, teacher: Row) -> float:
    """KL((t_y, 1 - t_y) || (s_y, 1 - s_y)), T = 4 (Zhao et al. 2022)."""
    t, s = softmax(teacher, 4.0)[y], softmax(z, 4.0)[y]
    return kl([t, 1 - t], [s, 1 - s])


def nckd(y: int, z: Row, teacher: Row) -> float:
    """KL(others(t) || others(s)), T = 4 (Zhao et al. 2022)."""
    return kl(others(softmax(teacher, 4.0), y), others(softmax(z, 4.0), y))


def decoupled(y: int, z: Row, teacher: Row) -> float:
    """CE(y, p) + T^2 (TCKD + 8 NCKD), T = 4 (Zhao et al. 2022)."""
    divergence = tckd(y, z, teacher) + 8.0 * nckd(y, z, teacher)
    return cross_entropy(one_hot(y), softmax(z)) + 4**2 * divergence


def mutual_learning(y: int, peers: list[Row], i: int) -> float:
    """CE(y, p_i) + 1 / (M - 1) sum_{j != i} KL(p_j || p_i) (Zhang et al. 2018)."""
    p = [softmax(z) for z in peers]
    total = math.fsum(kl(p[j], p[i]) for j in range(len(peers)) if j != i)
    return cross_entropy(one_hot(y), p[i]) + total / (len(peers) - 1)


def class_wise(y: int, z: Row, partner: Row) -> float:
    """CE(y, p) + T^2 KL(p_T(partner) || p_T), T = 4 (Yun et al. 2020, CS-KD)."""
    divergence = kl(softmax(partner, 4.0), softmax(z, 4.0))
    return cross_entropy(one_hot(y), softmax(z)) + 1.0 * 4**2 * divergence


def last_batch(y: int, z: Row, before: Row) -> float:
    """CE(y, p) + T^2 KL(p_T(before) || p_T), T = 3 (Shen et al. 2022, DLB)."""
    divergence = kl(softmax(before, 3.0), softmax(z, 3.0))
    return cross_entropy(one_hot(y), softmax(z)) + 1.0 * 3**2 * divergence


def online_smoothing(y: int, z: Row, row: Row) -> float:
    """0.5 CE(y, p) + 0.5 CE(row, p) (Zhang et al. 2021, OLS)."""
    p = softmax(z)
    return 0.5 * cross_entropy(one_hot(y), p) + 0.5 * cross_entropy(row, p)


def class_similarity(y: int, similarities: Row) -> Row:
    """0.9 y + 0.1 q, q = similarity_others of the class (after Liu and JaJa 2021)."""
    return mixture(0.9, one_hot(y), 0.1, similarity_others(y, similarities))


def progressive(y: int, past: Row) -> Row:
    """(1 - 0.4) y + 0.4 past, or y without a past (Kim et al. 2021, PS-KD)."""
    if all(value == 0 for value in past):
        return one_hot(y)
    return mixture(1 - 0.4, one_hot(y), 0.4, past)


def virtual_teacher(y: int) -> Row:
    """u: 0.99 at y, 0.01 / (K - 1) elsewhere (Yuan et al. 2020)."""
    return [0.99 if k == y else 0.01 / (CLASSES - 1) for k in range(CLASSES)]


def virtual_paper(y: int) -> Row:
    """u^(1 / 20), normalised, as in the paper (Yuan et al. 2020)."""
    powers = [value ** (1 / 20) for value in virtual_teacher(y)]
    total = math.fsum(powers)
    return [value / total for value in powers]


def virtual_released(y: int) -> Row:
    """softmax(u / 20), of probabilities, as in the code of Yuan et al. 2020."""
    return softmax(virtual_teacher(y), 20.0)


def tf_kd_reg_paper(y: int, z: Row) -> float:
    """0.9 CE(y, p) + 0.1 T^2 KL(v || p_T), v = virtual_paper, T = 20 (same paper)."""
    divergence = kl(virtual_paper(y), softmax(z, 20.0))
    return 0.9 * cross_entropy(one_hot(y), softmax(z)) + 0.1 * 20**2 * divergence


def tf_kd_reg_released(y: int, z: Row) -> float:
    """0.9 CE(y, p) + 0.1 (100 / K) KL(v || p), v = virtual_released (same code)."""
    p = softmax(z)
    divergence = kl(virtual_released(y), p)
    return 0.9 * cross_entropy(one_hot(y), p) + 0.1 * (100 / CLASSES) * divergence


def tf_kd_self(y: int, z: Row, teacher: Row, multiplier: float) -> float:
    """0.05 CE(y, p) + 0.95 T^2 m KL(p_T(teacher) || p_T), T = 6 (Yuan et al. 2020).

    The multiplier m is 1 in the paper and 50 / K in the code.
    """
    divergence = kl(softmax(teacher, 6.0), softmax(z, 6.0))
    hard = cross_entropy(one_hot(y), softmax(z))
    return 0.05 * hard + 0.95 * 6**2 * multiplier * divergence


def introspective_mixture(y: int, similarities: Row) -> Row:
    """(y + 0.5 q) / 1.5, q = similarity_others."""
    q = similarity_others(y, similarities)
    return mixture(1 / 1.5, one_hot(y), 0.5 / 1.5, q)


def born_again(z: Row, teacher: Row) -> float:
    """CE(p(teacher), p): labels have no part (Furlanello et al. 2018)."""
    return cross_entropy(softmax(teacher), softmax(z))


def double_backprop(y: int, z: Row) -> float:
    """CE(y, p) + 0.1 |dCE/dz|^2 with dCE/dz = p - y: of a network that returns its
    input (Drucker and LeCun 1992)."""
    p, q = softmax(z), one_hot(y)
    penalty = math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True))
    return cross_entropy(q, p) + 0.1 * penalty


def softmax_jacobian(z: Row) -> float:
    """|J|^2 = sum_jk J_jk^2 of the softmax, J_jk = p_j (1[j = k] - p_k)."""
    p = softmax(z)
    return math.fsum(
        (p[j] * ((j == k) - p[k])) ** 2 for j in range(CLASSES) for k in range(CLASSES)
    )


def saliency_guided(y: int, z: Row, masked: Row) -> float:
    """CE(y, p) + KL(p || p(masked)) (Ismail et al. 2021)."""
    p = softmax(z)
    return cross_entropy(one_hot(y), p) + kl(p, softmax(masked))


def smooth_to_entropy(y: int, similarities: Row) -> Row:
    """label_smoothing_others(y, e), e such that H is that of introspective_mixture.

    H grows from 0 to log K as e goes from 0 to (K - 1) / K, so bisection finds e.
    """
    wanted = entropy(introspective_mixture(y, similarities))
    low, high = 0.0, (CLASSES - 1) / CLASSES
    for _ in range(200):
        middle = (low + high) / 2
        if entropy(label_smoothing_others(y, middle)) < wanted:
            low = middle
        else:
            high = middle
    return label_smoothing_others(y, (low + high) / 2)


def bisected(entropy_at: Callable[[float], float], wanted: float) -> float:
    """T such that entropy_at(T), which grows with T, is the wanted entropy."""
    low, high = math.log(1e-4), math.log(1e4)
    for _ in range(200):
        middle = (low + high) / 2
        if entropy_at(math.exp(middle)) < wanted:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def others_at(y: int, similarities: Row, temperature: float) -> Row:
    """others(softmax(s / T))."""
    return others(softmax(similarities, temperature), y)


def matched_others(y: int, similarities: Row) -> float:
    """T such that H(others(softmax(s / T))) = 1.2."""
    return bisected(lambda t: entropy(others_at(y, similarities, t)), 1.2)


def matched_all(z: Row, similarities: Row) -> float:
    """T such that H(softmax(s / T)) = H(softmax(z))."""
    return bisected(lambda t: entropy(softmax(similarities, t)), entropy(softmax(z)))


def matched_batch(labels: list[int], similarities: list[Row]) -> float:
    """T such that the mean of H(others(softmax(s / T))) is 1.2."""

    def mean(temperature: float) -> float:
        pairs = zip(labels, similarities, strict=True)
        found = [entropy(others_at(y, row, temperature)) for y, row in pairs]
        return math.fsum(found) / EXAMPLES

    return bisected(mean, 1.2)


def values() -> dict[str, list]:
    """Every value by name, from `inputs()`."""
    given = inputs()
    result: dict[str, list] = {}

    def add(name: str, value: float | Row) -> None:
        result.setdefault(name, []).append(value)

    for n in range(EXAMPLES):
        y = given["labels"][n]
        z = given["logits"][n]
        teacher = given["teacher_logits"][n]
        other = given["other_logits"][n]
        similarities = given["similarities"][n]
        past = given["past"][n]
        p = softmax(z)
        t = softmax(teacher, 4.0)
        s = softmax(z, 4.0)

        add("cross_entropy", cross_entropy(one_hot(y), p))
        add("cross_entropy_soft", cross_entropy(given["soft_labels"][n], p))
        add("entropy", entropy(p))

        smoothed = label_smoothing_uniform(y, 0.1)
        add("label_smoothing_uniform", smoothed)
        add("label_smoothing_uniform_loss", cross_entropy(smoothed, p))
        smoothed = label_smoothing_others(y, 0.1)
        add("label_smoothing_others", smoothed)
        add("label_smoothing_others_loss", cross_entropy(smoothed, p))
        add("confidence_penalty_loss", confidence_penalty(y, z))
        add("complement_entropy", complement_entropy(y, z))
        add("complement_uniform", complement_uniform(y, z))

        add("similarity_others_target", similarity_others(y, similarities))
        add("similarity_all_target", similarity_all(similarities))
        add("introspective_others_loss", introspective_others(y, z, similarities))
        add("introspective_all_loss", introspective_all(y, z, similarities))

        add("kd_loss", distillation(y, z, teacher))
        ground_truth = component_ground_truth(y, t)
        class_average = given["class_means"][y]
        add("component_full", t)
        add("component_ground_truth", ground_truth)
        add("component_others", others(t, y))
        add("component_uniform", uniform_others(y))
        add("component_class_average", class_average)
        add("distillation_full", distillation_term(t, z))
        add("distillation_ground_truth", distillation_term(ground_truth, z))
        add("distillation_others", distillation_term_others(y, others(t, y), z))
        add("distillation_uniform", distillation_term_others(y, uniform_others(y), z))
        add("distillation_class_average", distillation_term(class_average, z))

        add("tckd", tckd(y, z, teacher))
        add("nckd", nckd(y, z, teacher))
        add("kd_kl", kl(t, s))

        add("dkd_loss", decoupled(y, z, teacher))

        add("cs_kd_loss", class_wise(y, z, other))
        add("dlb_loss", last_batch(y, z, other))
        add("ols_loss", online_smoothing(y, z, class_average))
        smoothed = class_similarity(y, class_average)
        add("class_similarity_target", smoothed)
        add("class_similarity_loss", cross_entropy(smoothed, p))
        target = progressive(y, past)
        add("ps_kd_target", target)
        add("ps_kd_loss", cross_entropy(target, p))

        add("virtual_paper_target", virtual_paper(y))
        add("virtual_released_target", virtual_released(y))
        add("tf_kd_reg_paper_loss", tf_kd_reg_paper(y, z))
        add("tf_kd_reg_released_loss", tf_kd_reg_released(y, z))
        add("tf_kd_self_paper_loss", tf_kd_self(y, z, teacher, 1.0))
        add("tf_kd_self_released_loss", tf_kd_self(y, z, teacher, 50 / CLASSES))

        add("smooth_to_entropy_target", smooth_to_entropy(y, similarities))
        add("matched_temperature_others", matched_others(y, similarities))
        add("matched_temperature_all", matched_all(z, similarities))

        add("ban_loss", born_again(z, teacher))
        add("double_backprop_loss", double_backprop(y, z))
        add("softmax_jacobian", softmax_jacobian(z))
        add("saliency_guided_loss", saliency_guided(y, z, other))

    result["matched_temperature_batch"] = [
        matched_batch(given["labels"], given["similarities"])
    ]
    result["cwtm_weights"] = cwtm_weights(given["teacher_logits"])
    networks = [given["logits"], given["teacher_logits"], given["other_logits"]]
    result["dml_losses"] = [
        [
            mutual_learning(given["labels"][n], [z[n] for z in networks], i)
            for n in range(EXAMPLES)
        ]
        for i in range(len(networks))
    ]
    return result


def check_identities(values: dict[str, list]) -> None:
    """Raises AssertionError unless the identities between the values hold."""

    def close(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)

    given = inputs()
    for name, rows in values.items():
        if name.endswith("_target") or (
            name.startswith(("component_", "label_smoothing_"))
            and not name.endswith("_loss")
        ):
            for row in rows:
                assert len(row) == CLASSES, name
                assert min(row) >= 0, name
                assert close(math.fsum(row), 1), name

    # The released Tf-KD regularisation is, but for a constant, label smoothing: with
    # w = 0.1 * 100 / K and v the virtual target, v_o off the label,
    #   0.9 CE(y, p) + w KL(v || p) = c CE((0.9 y + w v) / c, p) - w H(v),
    # c = 0.9 + w. The target on the right holds w v_o / c at each class but y, which
    # is e / K for e = K w v_o / c.
    w = 0.1 * 100 / CLASSES
    c = 0.9 + w
    label, off = math.exp(0.99 / 20), math.exp(0.01 / (CLASSES - 1) / 20)
    v_label = label / (label + (CLASSES - 1) * off)
    v_off = off / (label + (CLASSES - 1) * off)
    e = CLASSES * w * v_off / c
    v_entropy = -v_label * math.log(v_label) - (CLASSES - 1) * v_off * math.log(v_off)

    for n in range(EXAMPLES):
        y = given["labels"][n]
        p = softmax(given["logits"][n])
        assert kl(p, p) == 0
        assert close(kl(others(p, y), others(p, y)), 0)

        t_y = values["component_full"][n][y]
        decoupled = values["tckd"][n] + (1 - t_y) * values["nckd"][n]
        assert close(values["kd_kl"][n], decoupled)

        smoothed = cross_entropy(label_smoothing_uniform(y, e), p)
        released = values["tf_kd_reg_released_loss"][n]
        assert close(released, c * smoothed - w * v_entropy)

        matched = entropy(values["smooth_to_entropy_target"][n])
        wanted = entropy(introspective_mixture(y, given["similarities"][n]))
        assert close(matched, wanted)

        # BAN is KD at T = 1 and the teacher's entropy more.
        said = softmax(given["teacher_logits"][n])
        divergence = kl(said, softmax(given["logits"][n]))
        assert close(values["ban_loss"][n], divergence + entropy(said))

    assert close(math.fsum(values["cwtm_weights"]), EXAMPLES)


def main() -> None:
    """Checks the values and writes them beside this file."""
    computed = values()
    check_identities(computed)
    text = json.dumps(
        {"inputs": inputs(), "values": computed}, indent=1, allow_nan=False
    )
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
