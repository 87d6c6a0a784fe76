"""Reports of the gate: Markdown, JUnit XML, GitHub's annotations, JSON."""

from typing import Any
from xml.etree import ElementTree as ET

from cosmos_eval.results import text
from cosmos_eval.results.compare import component_cells, components
from cosmos_eval.results.gate.check import ALPHA, Finding, Report
from cosmos_eval.results.table import USUAL, View

NAME = "cosmos-eval check"


def to_cells(finding: Finding, view: View = USUAL) -> dict[str, str]:
    """Return a finding as a row of a table: fractions in percent, ranks and ratios as they are."""
    change, factor = finding.change, finding.record.factor
    least = finding.detectable
    return {
        **dict(zip(("model", "data set", "protocol"), finding.key, strict=True)),
        "metric": finding.metric,
        "test": change.method,
        "baseline": view.fixed(factor * change.b),
        "new": view.fixed(factor * change.a),
        **view.change(
            "change", factor * change.difference, (factor * end for end in change.interval()[:2])
        ),
        "p (Holm)": "" if finding.adjusted is None else text.p_value_text(finding.adjusted),
        "detectable": "" if least is None else view.fixed(factor * least),
        **component_cells(change, factor, view),
        "decision": finding.status,
    }


def tolerance_text(report: Report) -> str:
    """Return the tolerance as text after the baseline's name; empty where it is unknown."""
    if report.tolerance is None:
        return ""
    percent = f"{100 * report.tolerance:g}"
    units = f" ({percent} points of a share, {percent}% of a rank or ratio)"
    return f", tolerance {report.tolerance:g}{units if report.tolerance else ''}"


def to_records(report: Report) -> dict[str, Any]:
    """Return a report as JSON holds it."""
    return {
        **{name: getattr(report, name) for name in ("status", "verdict", "tolerance", "notes")},
        "baseline": str(report.baseline),
        "alpha": ALPHA,
        "findings": [_record(finding) for finding in report.findings],
        "problems": [problem._asdict() for problem in report.problems],
    }


def to_markdown(report: Report) -> str:
    """Write a section for a pull request: the verdict, problems, and all metrics."""
    escaped = text.markdown_text
    baseline = f"{text.markdown_code(str(report.baseline))}{escaped(tolerance_text(report))}"
    lines = [f"### {NAME}: {escaped(report.verdict)}", "", f"Baseline: {baseline}", ""]
    lines += [f"- **cannot decide** {escaped(str(problem))}" for problem in report.problems]
    lines += [f"- note: {escaped(note)}" for note in report.notes]
    if report.findings:
        rows = [to_cells(finding) for finding in report.findings]
        shown = [name for name in rows[0] if any(row[name] for row in rows)]
        cells = ([escaped(row[name]) for name in shown] for row in rows)
        lines += ["", text.markdown_table(shown, cells, texts=len(shown)).rstrip("\n")]
    return "\n".join(lines) + "\n"


def to_junit(report: Report) -> str:
    """Write JUnit XML: a case per metric, failed where it regressed, and an error per problem."""
    failures, errors = len(report.regressions), len(report.problems)
    sizes = {"tests": len(report.findings) + errors, "failures": failures, "errors": errors}
    counts = {name: str(size) for name, size in sizes.items()}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": NAME, **counts})
    if report.tolerance is not None:
        tolerance = {"name": "tolerance", "value": str(report.tolerance)}
        ET.SubElement(ET.SubElement(suite, "properties"), "property", tolerance)
    for finding in report.findings:
        key, where = finding.key, f"{finding.key.dataset} ({finding.key.protocol})"
        case = _case(suite, key.model, f"{where} {finding.metric}")
        if finding.status == "regression":
            ET.SubElement(case, "failure", {"message": text.one_line(_sentence(finding))})
    for problem in report.problems:
        case = _case(suite, NAME, problem.where)
        ET.SubElement(case, "error", {"message": text.one_line(problem.message)})
    ET.indent(suites)
    return ET.tostring(suites, "unicode", xml_declaration=True) + "\n"


def to_annotations(report: Report) -> list[str]:
    """Return workflow commands of GitHub Actions: errors, or else a notice."""
    errors = [("regression", _sentence(finding)) for finding in report.regressions]
    errors += [("cannot decide", str(problem)) for problem in report.problems]
    if not errors:
        return [text.annotation("notice", f"{NAME}: no regression", report.verdict)]
    return [text.annotation("error", f"{NAME}: {title}", message) for title, message in errors]


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    names = {"classname": text.one_line(group), "name": text.one_line(name)}
    return ET.SubElement(suite, "testcase", names)


def _record(finding: Finding) -> dict[str, Any]:
    change = finding.change
    return {
        **finding.key._asdict(),
        "metric": finding.metric,
        "baseline": change.b,
        "new": change.a,
        "change": change.difference,
        "interval": change.interval()._asdict(),
        "gated": finding.adjusted is not None,
        "p_value_holm": finding.adjusted,
        "detectable": finding.detectable,
        "test": change.method,
        **components(change),
        "decision": finding.status,
    }


def _sentence(finding: Finding) -> str:
    cells = to_cells(finding)
    return (
        f"{finding.key}: {finding.metric} was {cells['baseline']}, is {cells['new']}: "
        f"{cells['change [95%]']}"
    )
