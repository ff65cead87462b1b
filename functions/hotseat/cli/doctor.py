"""`hotseat doctor`: check a cluster, and repair Knative's ConfigMaps."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

import click

from hotseat.cli.options import Command, cluster, cluster_options, output_option
from hotseat.kube.checks import Finding, Verdict
from hotseat.kube.client import KubeError
from hotseat.kube.doctor import Doctor

_MARKS = {Verdict.OK: "ok", Verdict.WRONG: "WRONG", Verdict.ADVICE: "advice", Verdict.UNKNOWN: "unknown"}
_WORDS = {Verdict.WRONG: "wrong", Verdict.ADVICE: "to consider", Verdict.UNKNOWN: "unknown", Verdict.OK: "ok"}


@click.command(
    cls=Command,
    examples=(
        "hotseat doctor",
        "hotseat doctor --context gpu-box -n models",
        "hotseat doctor --fix",
        "kubectl hotseat doctor",
    ),
)
@click.option("--fix", is_flag=True, help="Correct Knative's ConfigMaps. Asks before each key.")
@click.option("--yes", is_flag=True, help="Do not ask before each key (with --fix).")
@output_option("text", "json")
@cluster_options()
@click.pass_context
def doctor(ctx: click.Context, fix: bool, yes: bool, output: str) -> None:
    """Check that a cluster has everything that hotseat needs.

    Checks versions, documents, storage, GPUs, router, switcher and its rights, what the switcher says of Models and
    Workspaces, and what their runtimes need: Knative's settings, or KEDA with the external scaler, only where a Workspace
    uses or would choose that runtime. For each problem it prints why it matters and how to fix it. Checks that your
    permissions do not allow are `unknown`. The exit code is 1 if there is a problem. Without --fix nothing is changed. With
    --fix, only keys of Knative's ConfigMaps are changed.
    """
    if yes and not fix:
        raise click.UsageError("--yes needs --fix", ctx)
    try:
        where = cluster(ctx)
        kube = where.connect()
    except KubeError as error:
        raise click.ClickException(f"{error}; use --kubeconfig") from error
    checker = Doctor(kube, where.namespace or kube.namespace)
    findings = checker.examine()
    if fix:
        if output == "text":
            click.echo(_text(findings) + "\n")
        if _repair(checker, findings, ask=not yes):
            findings = checker.examine()
        elif output == "text":
            ctx.exit(_code(findings))
    click.echo(_json(findings) if output == "json" else _text(findings))
    ctx.exit(_code(findings))


def _repair(checker: Doctor, findings: Sequence[Finding], *, ask: bool) -> bool:
    """Apply the patches of findings. Return whether a patch was applied."""
    changed = False
    for finding in findings:
        if (patch := finding.patch) is None:
            continue
        where = f"{patch.namespace}/{patch.name} {patch.key}"
        click.echo(f"{where}: {finding.seen} -> {patch.value}   ({finding.why})", err=True)
        if ask and not click.confirm("  change it?", err=True):
            continue
        try:
            checker.repair(patch)
        except KubeError as error:
            click.echo(f"  not changed: {error}", err=True)
        else:
            changed = True
    return changed


def _code(findings: Sequence[Finding]) -> int:
    return int(any(finding.verdict is Verdict.WRONG for finding in findings))


def _text(findings: Sequence[Finding]) -> str:
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.verdict]:<8} {finding.subject:<{width}}   {finding.seen}")
        lines += [f"{'':8} for: {finding.why}"] if finding.why else []
        lines += [f"{'':8} do:  {finding.remedy}"] if finding.remedy else []
    count = Counter(finding.verdict for finding in findings)
    parts = (f"{count[verdict]} {word}" for verdict, word in _WORDS.items() if count[verdict])
    return "\n".join([*lines, "", ", ".join(parts)])


def _json(findings: Sequence[Finding]) -> str:
    rows = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"ok": not _code(findings), "findings": rows}, indent=2, ensure_ascii=False)
