"""Targets and verifications as tables."""

import dataclasses
from collections.abc import Mapping

from rich.table import Table

from converter.report.table import decibels, plain_table
from converter.targets import Target
from converter.verify import Verification

__all__ = ["facts_table", "targets_table", "verification_tables"]

_NOT_FACTS = {"name", "description", "rules", "sources"}


def targets_table(targets: Mapping[str, Target]) -> Table:
    """Every deployment target, one line each."""
    table = plain_table("", ["target", "what", "integer layers", "checked by", "runtime"])
    for target in targets.values():
        how = "run" if target.provider else "rules"
        layers = ", ".join(sorted(target.rules.linear)) or "none"
        table.add_row(target.name, target.description, layers, how, target.runtime)
    return table


def facts_table(target: Target) -> Table:
    """Everything known of one target, and where each fact comes from."""
    table = plain_table(target.name, ["fact", "value", "source"])
    facts = {
        each.name: getattr(target, each.name) for each in dataclasses.fields(target) if each.name not in _NOT_FACTS
    }
    facts |= {each.name: getattr(target.rules, each.name) for each in dataclasses.fields(target.rules)}
    for name, value in facts.items():
        table.add_row(name, _shown(value), target.sources[name])
    return table


def verification_tables(verification: Verification) -> list[Table]:
    """The verdict, and below it nodes that were left and rules that are broken, with their sources."""
    verdict = plain_table("", ["what", "found"])
    where = f"{verification.how}: {verification.runtime}" if verification.runtime else verification.how
    verdict.add_row("target", verification.target)
    verdict.add_row("checked by", where)
    if verification.how == "run":
        taken = "not told by the runtime" if verification.nodes is None else str(verification.nodes)
        verdict.add_row("nodes taken", taken)
        verdict.add_row("nodes left to others", str(len(verification.left)))
        verdict.add_row("rows run", str(verification.images))
    for label, value, unit in (
        ("agreement with the CPU", verification.agreement, "%"),
        ("SQNR against the CPU", verification.sqnr_db, "dB"),
        ("SQNR against float", verification.float_db, "dB"),
        ("the CPU's against float", verification.cpu_float_db, "dB"),
    ):
        if value is not None:
            verdict.add_row(label, f"{100 * value:.1f} %" if unit == "%" else decibels(value))
    tables = [verdict]
    if verification.left:
        left = plain_table("Left to another provider", ["node"])
        for name in verification.left:
            left.add_row(name)
        tables.append(left)
    if verification.violations:
        rules = plain_table("Not as the target's data say", ["fact", "what", "source"])
        for each in verification.violations:
            rules.add_row(each.fact, each.what, each.source)
        tables.append(rules)
    return tables


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return "any" if value is None else str(value)
