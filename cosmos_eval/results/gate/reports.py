"""Reports of a check against a baseline: Markdown, JUnit XML, GitHub's annotations, JSON."""

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from cosmos_eval.results import text
from cosmos_eval.results.compare import (
    detectable_text,
    error_component_cells,
    error_components,
)
from cosmos_eval.results.gate.check import ALPHA, Finding, Report
from cosmos_eval.results.table import USUAL, TableOptions

NAME = "cosmos-eval check"


def to_cells(finding: Finding, options: TableOptions = USUAL) -> dict[str, str]:
    """Return the finding on a metric as a row of a table, by column title.

    Fractions are in percent. Ranks and ratios stay as they are.

    Args:
        finding: How the metric has changed from the baseline, and what that means.
        options: How many decimals numbers have, and whether intervals are shown.
    """
    change = finding.change
    factor = finding.metric_record.factor  # 100 for fractions, else 1
    interval = change.interval()
    cells = {
        "model": finding.key.model,
        "data set": finding.key.dataset,
        "protocol": finding.key.protocol,
        "metric": finding.metric,
        "test": change.method,
        "baseline": options.format_number(change.b, factor),
        "new": options.format_number(change.a, factor),
    }
    difference = text.exact_difference(change.a, change.b)
    interval_ends = (interval.low, interval.high)
    cells.update(options.format_change("change", difference, interval_ends, factor))
    cells["p (Holm)"] = ""
    if finding.adjusted is not None:
        cells["p (Holm)"] = text.p_value_text(finding.adjusted)
    cells["detectable"] = detectable_text(finding.detectable, finding.metric_record, options) or ""
    cells.update(error_component_cells(change, factor, options))
    cells["decision"] = finding.status
    return cells


def tolerance_text(report: Report) -> str:
    """Return the tolerance of a check as a text that follows the name of the baseline.

    Example: ", tolerance 0.005 (0.5 points of a share, 0.5% of a rank or ratio)". The text is empty
    if the baseline could not be read.
    """
    if report.tolerance is None:
        return ""
    if report.tolerance == 0:
        return ", tolerance 0"
    percent = f"{100 * report.tolerance:g}"
    units = f"{percent} points of a share, {percent}% of a rank or ratio"
    return f", tolerance {report.tolerance:g} ({units})"


def to_records(report: Report) -> dict[str, Any]:
    """Return a report as a record for JSON."""
    return {
        "status": report.status,
        "verdict": report.verdict,
        "tolerance": report.tolerance,
        "notes": report.notes,
        "baseline": str(report.baseline),
        "alpha": ALPHA,
        "findings": [_finding_record(finding) for finding in report.findings],
        "problems": [problem._asdict() for problem in report.problems],
    }


def to_markdown(report: Report) -> str:
    """Return a report as a section of Markdown for a pull request.

    It has the verdict as a heading, then the problems and notes, and a table of the gated metrics.
    A table of the metrics for information is folded below it.
    """
    escape = text.markdown_text
    baseline = f"{text.markdown_code(str(report.baseline))}{escape(tolerance_text(report))}"
    lines = [f"### {NAME}: {escape(report.verdict)}", "", f"Baseline: {baseline}", ""]
    lines += [f"- **cannot decide** {escape(str(problem))}" for problem in report.problems]
    lines += [f"- note: {escape(note)}" for note in report.notes]
    if report.gated_findings:
        lines += ["", _markdown_table(report.gated_findings)]
    other_findings = [finding for finding in report.findings if finding.adjusted is None]
    if other_findings:
        title = f"Metrics for information: {len(other_findings)}"
        table = _markdown_table(other_findings)
        lines += ["", f"<details><summary>{title}</summary>", "", table, "", "</details>"]
    return "\n".join(lines) + "\n"


def _markdown_table(findings: Sequence[Finding]) -> str:
    """Return the findings on metrics as a table in Markdown, without its empty columns.

    Args:
        findings: The findings. There is at least one.
    """
    rows = [to_cells(finding) for finding in findings]
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    escaped_rows = []
    for row in rows:
        escaped_rows.append([text.markdown_text(row[title]) for title in titles])
    table = text.markdown_table(titles, escaped_rows, n_text_columns=len(titles))
    return table.rstrip("\n")


def to_junit(report: Report) -> str:
    """Return a report as JUnit XML, which CI systems show as results of tests.

    Each metric is a test case, which fails if the metric has regressed. Each problem is a test case
    with an error.
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

    # Add the metrics, and then the problems.
    for finding in report.findings:
        key = finding.key
        metric_name = f"{key.dataset} ({key.protocol}) {finding.metric}"
        case = _add_case(suite, key.model, metric_name)
        if finding.status == "regression":
            message = text.one_line(_regression_sentence(finding))
            ET.SubElement(case, "failure", {"message": message})
    for problem in report.problems:
        case = _add_case(suite, NAME, problem.where)
        ET.SubElement(case, "error", {"message": text.one_line(problem.message)})
    ET.indent(suites)
    return ET.tostring(suites, "unicode", xml_declaration=True) + "\n"


def to_annotations(report: Report) -> list[str]:
    """Return workflow commands by which GitHub Actions shows annotations, one line each.

    Each regression and each problem is an error. If there are none, there is a single notice.
    """
    errors = []
    for finding in report.regressions:
        sentence = _regression_sentence(finding)
        errors.append(text.annotation("error", f"{NAME}: regression", sentence))
    for problem in report.problems:
        errors.append(text.annotation("error", f"{NAME}: cannot decide", str(problem)))
    return errors or [text.annotation("notice", f"{NAME}: no regression", report.verdict)]


def _add_case(suite: ET.Element, class_name: str, name: str) -> ET.Element:
    """Add a test case to a test suite of JUnit XML, and return it.

    Args:
        suite: The element of the test suite.
        class_name: The class of the test case, by which CI systems group test cases.
        name: The name of the test case.
    """
    attributes = {"classname": text.one_line(class_name), "name": text.one_line(name)}
    return ET.SubElement(suite, "testcase", attributes)


def _finding_record(finding: Finding) -> dict[str, Any]:
    """Return the finding on a metric as a record for JSON."""
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
    record.update(error_components(change))
    record["decision"] = finding.status
    return record


def _regression_sentence(finding: Finding) -> str:
    """Return a sentence that says which metric became worse, and by how much.

    Example: "clip on coco (karpathy): recall@1 was 40.10, is 38.00: -2.10 [-3.00, -1.20]".
    """
    cells = to_cells(finding)
    return (
        f"{finding.key}: {finding.metric} was {cells['baseline']}, is {cells['new']}: "
        f"{cells['change [95%]']}"
    )
