"""What docs/estimators.md says about an estimator or a strategy."""

from typing import NamedTuple


class Facts(NamedTuple):
    """Each a short text, none may be empty.

    In the formulas f+-_i = f(theta +- sigma z_i), z_i ~ N(0, I) of D coordinates, P pairs, g the
    gradient and H the Hessian of f, f_sigma = E f(theta + sigma z) the smoothed loss, v a variance
    summed over coordinates.

    formula       the estimate, or the update where there is none
    unbiased_for  what its mean is, with shaping "raw"
    variance      v for a linear f unless another f is named
    needs         evaluations, memory and settings beyond the loss itself
    use_when      when to prefer it, and when not
    """

    formula: str
    unbiased_for: str
    variance: str
    needs: str
    use_when: str
