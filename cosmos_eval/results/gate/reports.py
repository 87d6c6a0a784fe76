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
    low, high = change.interval()[:2]
    p_value, detectable = finding.adjusted, finding.detectable
    cells = {
        "model": finding.key.model,
        "data set": finding.key.dataset,
        "protocol": finding.key.protocol,
        "metric": finding.metric,
        "test": change.method,
        "baseline": view.fixed(factor * change.b),
        "new": view.fixed(factor * change.a),
    }
    cells |= view.change("change", factor * change.difference, (factor * low, factor * high))
    cells["p (Holm)"] = "" if p_value is None else text.p_value_text(p_value)
    cells["detectable"] = "" if detectable is None else view.fixed(factor * detectable)
    cells |= component_cells(change, factor, view)
    cells["decision"] = finding.status
    return cells


def tolerance_text(report: Report) -> str:
    """Return the tolerance as text after the baseline's name; empty if it is unknown."""
    if report.tolerance is None:
        return ""
    if report.tolerance == 0:
        return ", tolerance 0"
    percent = f"{100 * report.tolerance:g}"
    units = f"{percent} points of a share, {percent}% of a rank or ratio"
    return f", tolerance {report.tolerance:g} ({units})"


def to_records(report: Report) -> dict[str, Any]:
    """Return a report as JSON holds it."""
    return {
        "status": report.status,
        "verdict": report.verdict,
        "tolerance": report.tolerance,
        "notes": report.notes,
        "baseline": str(report.baseline),
        "alpha": ALPHA,
        "findings": [_record(finding) for finding in report.findings],
        "problems": [problem._asdict() for problem in report.problems],
    }


def to_markdown(report: Report) -> str:
    """Write a section for a pull request: the verdict, the problems, and all metrics."""
    escaped = text.markdown_text
    baseline = f"{text.markdown_code(str(report.baseline))}{escaped(tolerance_text(report))}"
    lines = [f"### {NAME}: {escaped(report.verdict)}", "", f"Baseline: {baseline}", ""]
    lines += [f"- **cannot decide** {escaped(str(problem))}" for problem in report.problems]
    lines += [f"- note: {escaped(note)}" for note in report.notes]
    if report.findings:
        rows = [to_cells(finding) for finding in report.findings]
        titles = [title for title in rows[0] if any(row[title] for row in rows)]
        cells = [[escaped(row[title]) for title in titles] for row in rows]
        lines += ["", text.markdown_table(titles, cells, n_text_columns=len(titles)).rstrip("\n")]
    return "\n".join(lines) + "\n"


def to_junit(report: Report) -> str:
    """Write JUnit XML, with a test case per metric and per problem.

    The case of a metric fails if it has regressed. The case of a problem is an error.
    """
    counts = {
        "tests": str(len(report.findings) + len(report.problems)),
        "failures": str(len(report.regressions)),
        "errors": str(len(report.problems)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": NAME, **counts})
    if report.tolerance is not None:
        properties = ET.SubElement(suite, "properties")
        tolerance = {"name": "tolerance", "value": str(report.tolerance)}
        ET.SubElement(properties, "property", tolerance)
    for finding in report.findings:
        key = finding.key
        case = _case(suite, key.model, f"{key.dataset} ({key.protocol}) {finding.metric}")
        if finding.status == "regression":
            ET.SubElement(case, "failure", {"message": text.one_line(_sentence(finding))})
    for problem in report.problems:
        case = _case(suite, NAME, problem.where)
        ET.SubElement(case, "error", {"message": text.one_line(problem.message)})
    ET.indent(suites)
    return ET.tostring(suites, "unicode", xml_declaration=True) + "\n"


def to_annotations(report: Report) -> list[str]:
    """Return workflow commands of GitHub Actions, which show annotations.

    Each regression and each problem is an error. Without any of them there is one notice.
    """
    errors = []
    for finding in report.regressions:
        errors.append(text.annotation("error", f"{NAME}: regression", _sentence(finding)))
    for problem in report.problems:
        errors.append(text.annotation("error", f"{NAME}: cannot decide", str(problem)))
    return errors or [text.annotation("notice", f"{NAME}: no regression", report.verdict)]


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    """Add a test case to a suite of JUnit XML."""
    names = {"classname": text.one_line(group), "name": text.one_line(name)}
    return ET.SubElement(suite, "testcase", names)


def _record(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON holds it."""
    change = finding.change
    record = {
        "model": finding.key.model,
        "dataset": finding.key.dataset,
        "protocol": finding.key.protocol,
        "metric": finding.metric,
        "baseline": change.b,
        "new": change.a,
        "change": change.difference,
        "interval": change.interval()._asdict(),
        "gated": finding.adjusted is not None,
        "p_value_holm": finding.adjusted,
        "detectable": finding.detectable,
        "test": change.method,
    }
    record |= components(change)
    record["decision"] = finding.status
    return record


def _sentence(finding: Finding) -> str:
    """Return a sentence that says which metric became worse, and by how much."""
    cells = to_cells(finding)
    return (
        f"{finding.key}: {finding.metric} was {cells['baseline']}, is {cells['new']}: "
        f"{cells['change [95%]']}"
    )
