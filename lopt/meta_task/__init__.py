"""`learned_optimizer`: the training of an optimizer as a task (task set specification 11.2, row lopt).

The parameters of the task are theta of an inner optimizer, its loss is the mean normalised loss of inner trainings with
that theta, its gradient an antithetic evolution-strategies estimate.  So any optimizer of the library can meta-train
another one through the ordinary rollout.  The room lies above `tasks`, `arch` and `rollout`, which it combines.
"""

from lopt.meta_task.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
