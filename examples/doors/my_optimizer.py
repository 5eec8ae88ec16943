"""An optimizer of one's own; those of optax need no file (`optax:lion`).

From this folder:

    python ../../launch/main.py --config=../../configs/digits.py \
        --config.optimizer.name=my_optimizer:sign_descent \
        --config.optimizer.learning_rate=0.003 --config.optimizer.options.decay=0.9
"""

import optax


def sign_descent(schedule, decay=0.9):
    """Steps of the learning rate along the signs of an average gradient."""
    return optax.chain(
        optax.ema(decay), optax.scale_by_sign(), optax.scale_by_learning_rate(schedule)
    )
