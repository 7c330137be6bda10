"""The smallest, or most accurate, file within a budget: recipe `auto`. A layer above `converter.convert`."""

from converter.budget.ladder import convert_within
from converter.budget.limits import Budget

__all__ = ["Budget", "convert_within"]
