"""Targets and verifications as tables."""

import dataclasses
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from converter.display.numbers import decibels
from converter.report.table import plain_table, row
from converter.targets.target import Target
from converter.verification.rules import Violation
from converter.verification.verify import Verification
from passes.numerics.kernel_times import KernelTimes

__all__ = ["facts_table", "targets_table", "verification_tables"]

_LISTED = 10  # nodes that the table names
_UNKNOWN = "not reported by the runtime"
_NOT_FACTS = {"name", "description", "rules", "sources"}
_UNSET = {
    "opset": "the newest of its onnxruntime",
    "provider": "none: only its rules are checked",
    "times": "not measured",
    "pair_sum": "not limited",
}


def targets_table(targets: Mapping[str, Target]) -> Table:
    """Build the table of all deployment targets, one row for each."""
    table = plain_table("", ["target", "what", "integer layers", "checked by", "runtime"])
    for target in targets.values():
        how = "run" if target.provider else "rules"
        layers = ", ".join(sorted(target.rules.linear)) or "none"
        row(table, target.name, target.description, layers, how, target.runtime)
    table.caption = "convert-onnx targets NAME prints all facts about a target with their sources"
    return table


def facts_table(target: Target) -> Table:
    """Build the table of all facts about one target, with the source of each fact."""
    table = plain_table(target.name, ["fact", "value", "source"])
    facts = {
        each.name: getattr(target, each.name) for each in dataclasses.fields(target) if each.name not in _NOT_FACTS
    }
    facts |= {each.name: getattr(target.rules, each.name) for each in dataclasses.fields(target.rules)}
    for name, value in facts.items():
        shown = _UNSET[name] if value is None else _shown(value)  # a value may have several lines
        row(table, name, Text(shown), Text(target.sources[name]))
    return table


def verification_tables(verification: Verification, more: str = "") -> list[Table]:
    """Build the table of the verdict, then tables of nodes left to others and of broken rules with their sources.

    ``more`` says where to find what a table has no room for.
    """
    verdict = plain_table("", ["what", "found"])
    where = f"{verification.how}: {verification.runtime}" if verification.runtime else verification.how
    row(verdict, "target", verification.target)
    row(verdict, "checked by", where)
    if verification.how == "run":
        known = verification.nodes is not None
        row(verdict, "nodes run by the provider", str(verification.nodes) if known else _UNKNOWN)
        row(verdict, "nodes run by other providers", str(len(verification.left)) if known else _UNKNOWN)
        row(verdict, "samples run", str(verification.images))
    for label, value, unit in (
        ("agreement with the CPU", verification.agreement, "%"),
        ("SQNR against the CPU", verification.sqnr_db, "dB"),
        ("SQNR against float", verification.float_db, "dB"),
        ("SQNR of the CPU against float", verification.cpu_float_db, "dB"),
    ):
        if value is not None:
            row(verdict, label, f"{100 * value:.1f} %" if unit == "%" else decibels(value))
    for name, db in verification.outputs.items():
        if len(verification.outputs) > 1:
            row(verdict, f"SQNR of {name}", decibels(db))
    tables = [verdict]
    if verification.left:
        left = plain_table("Run by another provider", ["node"])
        for name in verification.left[:_LISTED]:
            row(left, name)
        if len(verification.left) > _LISTED:
            left.caption = "; ".join(filter(None, (f"and {len(verification.left) - _LISTED} more", more)))
        tables.append(left)
    if verification.violations:
        tables.append(_broken_rules(verification.violations, more))
    return tables


def _broken_rules(violations: Sequence[Violation], more: str) -> Table:
    """Build a table with one row for each rule: how often it is broken, where first, and its source."""
    broken: dict[tuple[str, str], list[str]] = {}
    for each in violations:
        broken.setdefault((each.fact, each.source), []).append(each.what)
    table = plain_table("Against the target's rules", ["rule", "times", "first case", "source"], numbers={1})
    for (fact, source), places in broken.items():
        row(table, fact, str(len(places)), places[0], Text(source))
    table.caption = more if more and len(violations) > len(broken) else None
    return table


def _shown(value: object) -> str:
    if isinstance(value, KernelTimes):
        return "in nanoseconds, see passes.numerics.kernel_times"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, Mapping):
        long = any(isinstance(entry, str) for entry in value.values())
        return ("\n" if long else ", ").join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return str(value)
