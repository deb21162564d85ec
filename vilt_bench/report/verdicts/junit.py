"""JUnit XML, as GitLab, Jenkins and others read it: a suite a comparison, a test case the whole and each stage.

A test case's `time` is the candidate's latency in seconds: what these programs draw over builds.
Source: the schema of Jenkins' xUnit plugin, `junit-10.xsd`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from vilt_bench.judge.comparison import Comparison, StageVerdict
from vilt_bench.report import clean
from vilt_bench.report.verdicts import words
from vilt_bench.report.verdicts.decision import PASSED, Undecided, decisive, stage_code


def render(comparisons: Sequence[Comparison], inconclusive: Undecided = "fail") -> str:
    """Returns the document: what the gate fails is a failure, what could not be decided otherwise is skipped."""
    root = ET.Element("testsuites", name="vilt-bench")
    for comparison in comparisons:
        root.append(_suite(comparison, inconclusive))
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, 0)) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(comparison: Comparison, inconclusive: Undecided) -> ET.Element:
    name = clean.xml(words.name(comparison))
    suite = ET.Element("testsuite", name=name)
    facts = {
        "case": words.case_line(comparison),
        "machine": words.machine(comparison),
        "baseline": words.side(comparison.baseline),
        "candidate": words.side(comparison.candidate),
        "method": words.method(comparison),
        "rule": words.rule(comparison),
        "detectable": words.detectable(comparison),
    }
    properties = ET.SubElement(suite, "properties")
    for key, value in facts.items():
        ET.SubElement(properties, "property", name=key, value=clean.xml(value))
    deciding = {stage.name for stage in decisive(comparison)}
    for stage in (comparison.total, *comparison.stages):
        suite.append(_case(stage, name, decides=stage.name in deciding, inconclusive=inconclusive))
    remarks = [words.different(comparison), *comparison.notes]
    remarks += [f"{words.stage_title(change.stage)}: {words.count(change)}" for change in comparison.counts]
    if said := [clean.xml(remark) for remark in remarks if remark]:
        ET.SubElement(suite, "system-out").text = "\n".join(said)
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    if comparison.spent_s is not None:
        suite.set("time", f"{comparison.spent_s:.3f}")
    return suite


def _case(stage: StageVerdict, suite: str, *, decides: bool, inconclusive: Undecided) -> ET.Element:
    case = ET.Element("testcase", classname=suite, name=clean.xml(stage.name))
    if stage.candidate_s is not None:
        case.set("time", f"{stage.candidate_s:.9f}")
    baseline, candidate = words.milliseconds(stage)
    text = (
        f"{stage.verdict}: {words.size(stage)}\n{stage.reason}\n"
        f"baseline {baseline} ms, candidate {candidate} ms, ratio of {stage.channel} {words.ratio(stage.ratio)}"
    )
    if decides and stage_code(stage, inconclusive) != PASSED:
        said = ET.SubElement(case, "failure", type=stage.verdict, message=clean.xml(stage.reason))
    elif stage.verdict in ("inconclusive", "missing"):
        said = ET.SubElement(case, "skipped", type=stage.verdict, message=clean.xml(stage.reason))
    else:
        said = ET.SubElement(case, "system-out")
    said.text = clean.xml(text if decides else f"{text}\nnot gated")
    return case
