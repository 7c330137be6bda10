"""Whether a file is accurate enough.

The best evidence there is decides: the metric that was asked for, else top-1 accuracy on labels, else the agreement of
classes with the float model, else the SQNR of the worst output. The limits of the words are conventions:

what is lost                                       excellent  good    look at it  bad
points of a metric or of top-1, with labels        0.25       1       3           more
points of agreement with the float model           1          3       10          more
a metric without a unit, in relation to float      0.5 %      2 %     5 %         more
dB of PSNR or SQNR against labels                  0.1        0.5     1.5         more
SQNR of the worst output                           30 dB      20 dB   15 dB       less
"""

import math

from converter.display.numbers import decibels, lost, percent
from converter.display.words import samples
from converter.evaluation.evaluate import Evaluation
from converter.pipeline.search_record import Search
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.answer import BAD, EXCELLENT, GOOD, LOOK, UNKNOWN, Answer

__all__ = ["accuracy"]

_WORDS = (EXCELLENT, GOOD, LOOK)
_POINTS = (0.25, 1.0, 3.0)
_AGREEMENT = (1.0, 3.0, 10.0)
_LIMITS = {"top-1 accuracy": _POINTS, "agreement with float": _AGREEMENT}  # of a search's drop
_RELATIVE = (0.005, 0.02, 0.05)
_DECIBELS = (0.1, 0.5, 1.5)
_SQNR = (30.0, 20.0, 15.0)
_FAILS = "the float model itself fails on these data: check labels, preprocessing, and how outputs are decoded"
_LEAST, _MOST = 1.0, 80.0  # %: a score below, or an error rate above, is that of a model that fails


def accuracy(
    metrics: Evaluation | None,
    fidelity: Fidelity | None,
    search: Search | None = None,
    floats: str = "the float model",
) -> Answer:
    """Judge the accuracy of a file.

    Args:
        metrics: Measurements of the float model and of the file, if evaluation data were given.
        fidelity: Distance from float on a few samples. If they are noise, only a bad file is known to be bad.
        search: Record of the search that chose the file. It has measured the drop, if that was limited.
        floats: What accuracy is compared with.
    """
    if metrics is not None:
        return _measured(metrics, floats)
    drop = None if search is None or search.kept is None else search.attempts[search.kept].drop
    if search is not None and drop is not None and search.drop_of:
        on = f"on {search.held_out:,} samples that did not calibrate"
        if search.drop_of in _LIMITS:
            return Answer(_word(drop, _LIMITS[search.drop_of]), f"{search.drop_of} falls by {lost(drop)} {on}")
        return Answer(GOOD, f"{search.drop_of} falls by {lost(drop, '')} {on}, which is within the budget")
    if fidelity is None or fidelity.sqnr_db is None:
        return Answer(UNKNOWN, "nothing was measured, because there are no samples or no output that can be compared")
    answer = _by_sqnr(fidelity.sqnr_db, floats, f"on {fidelity.judged_on}; accuracy was not measured")
    if fidelity.judges == "noise" and answer.word != BAD:
        return Answer(UNKNOWN, answer.why)
    return answer


def _measured(metrics: Evaluation, floats: str) -> Answer:
    first, last = metrics.models[0], metrics.models[-1]
    on = f"on {samples(metrics.data['images'], metrics.data.get('preprocess'))}"
    if metrics.metric is not None and last.metric is not None:
        answer = _by_metric(metrics, floats, on)
        if answer is not None:
            return answer
    if first.top1 is not None and last.top1 is not None:
        lost = 100 * (first.top1 - last.top1)
        error = 100 * (last.top1_error or 0)
        why = f"top-1 {percent(last.top1)}, float {percent(first.top1)} (± {error:.2f} each), {on}"
        if 100 * first.top1 < _LEAST:
            return Answer(UNKNOWN, f"{why}; {_FAILS}")
        return Answer(_word(lost, _POINTS), why)
    if last.agreement is not None:
        why = f"{percent(last.agreement)} of the classes are those of {floats}, {on}"
        return Answer(_word(100 * (1 - last.agreement), _AGREEMENT), why)
    return _by_sqnr(last.sqnr_db, floats, on)


def _by_metric(metrics: Evaluation, floats: str, on: str) -> Answer | None:
    """Judge by the metric. None if its scale is not known."""
    facts, first, last = metrics.metric, metrics.models[0].metric, metrics.models[-1].metric
    assert facts is not None
    assert last is not None
    sign = 1 if facts.higher_is_better else -1
    if first is not None:
        why = f"{facts.name} {facts.shown(last)}, float {facts.shown(first)}, {on}"
        lost = sign * (first - last)
        if facts.unit == "%" and (first < _LEAST if facts.higher_is_better else first > _MOST):
            return Answer(UNKNOWN, f"{why}; {_FAILS}")
        if facts.unit in {"%", "dB"}:
            return Answer(_word(lost, _POINTS if facts.unit == "%" else _DECIBELS), why)
        return Answer(_word(lost / max(abs(first), 1e-12), _RELATIVE), why)
    why = f"{facts.name} {facts.shown(last)} against the outputs of {floats}, {on}"
    if facts.unit == "%":
        return Answer(_word(100 - last if facts.higher_is_better else last, _AGREEMENT), why)
    return None


def _by_sqnr(sqnr_db: float | None, floats: str, on: str) -> Answer:
    if sqnr_db is None or math.isnan(sqnr_db):
        return Answer(UNKNOWN, f"no output can be compared {on}")
    if sqnr_db == math.inf:
        return Answer(EXCELLENT, f"the outputs are equal to those of {floats} {on}")
    if sqnr_db == -math.inf:
        return Answer(BAD, f"an output has another shape than with {floats}, or NaN, {on}")
    word = next((word for word, least in zip(_WORDS, _SQNR, strict=True) if sqnr_db >= least), BAD)
    return Answer(word, f"the worst output has {decibels(sqnr_db)} against {floats} {on}")


def _word(lost: float, limits: tuple[float, float, float]) -> str:
    """Return the word for a loss. NaN is bad."""
    return next((word for word, most in zip(_WORDS, limits, strict=True) if lost <= most), BAD)
