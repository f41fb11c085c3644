"""The answer of ``bertjax plan`` as lines for a terminal."""

from __future__ import annotations

from bertjax.analysis.chips import GIB
from bertjax.analysis.plan import Plan
from bertjax.analysis.plan_report import Cost, Report
from bertjax.analysis.plan_search import Option, describe, flags
from bertjax.analysis.roofline import HOP, LINKS, MEMORY, PRODUCTS


def text(report: Report) -> str:
    """All of a report."""
    if report.request.search:
        return "\n".join(_ranking(report))
    blocks = ["\n".join(_plan(plan)) for plan in report.plans]
    if failed := [plan for plan in report.plans if not plan.fits]:
        pairs = zip(failed, report.remedies, strict=True)
        blocks.append("\n".join(_remedy(report, plan, option) for plan, option in pairs))
    if report.costs:
        blocks.append("\n".join(["the whole run:", *(f"  {_cost(cost)}" for cost in report.costs)]))
    if any(plan.estimate for plan in report.plans):
        blocks.append(_assumptions(report.plans[0]))
    return "\n\n".join(blocks)


def _plan(plan: Plan) -> list[str]:
    topology, memory = plan.topology, plan.memory
    mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
    options = ", ".join(f"{name} {value}" for name, value in plan.options.items())
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines = [
        f"{topology}: {topology.chips} x {topology.chip.device_kind}; mesh: {mesh}",
        f"{plan.rows:,} rows of {plan.length} tokens a step, "
        f"{plan.rows / topology.chips:g} a chip, in {plan.accumulation} micro-batches; {options}",
        f"memory of a chip, GiB: {verdict}, {memory.total / GIB:.2f} of "
        f"{memory.capacity / GIB:.2f}",
        *(
            f"  {name:<12} {size / GIB:8.3f}"
            for name, size in (
                ("parameters", memory.parameters),
                ("optimizer", memory.optimizer),
                ("batch", memory.batch),
                ("temporaries", memory.temporaries),
                ("program", memory.program),
            )
        ),
    ]
    lines += _operations(plan) + _transfers(plan) + _estimate(plan)
    return lines + [f"note: {remark}" for remark in plan.remarks]


def _operations(plan: Plan) -> list[str]:
    if plan.compiled_flops is None:
        return [f"operations of a step: {plan.model_flops:.4g} of the model"]
    return [
        f"operations of a step: {plan.model_flops:.4g} of the model, {plan.compiled_flops:.4g} of "
        f"the program, {plan.compiled_flops / plan.model_flops:.3f} times as many",
    ]


def _transfers(plan: Plan) -> list[str]:
    if plan.transfers is None:
        return []
    if not plan.transfers:
        return ["nothing is sent between chips"]
    return ["sent by a chip in a step, MB (and of it, beside computation):"] + [
        f"  {moved.kind:<20} {moved.link}  {moved.bytes / 1e6:10,.1f}  in {moved.count} runs, "
        f"{1e3 * moved.seconds:.2f} ms ({1e3 * moved.hidden_seconds:.2f} ms)"
        for moved in plan.transfers
    ]


def _estimate(plan: Plan) -> list[str]:
    if (guess := plan.estimate) is None:
        return []
    return [
        f"estimate of a step: {1e3 * guess.step_seconds:.2f} ms: computation "
        f"{1e3 * guess.compute_seconds:.2f} (products alone {1e3 * guess.product_seconds:.2f}, "
        f"memory alone {1e3 * guess.memory_seconds:.2f}), collectives that are waited for "
        f"{1e3 * guess.exposed_seconds:.2f} of {1e3 * guess.collective_seconds:.2f}",
        f"  {plan.tokens_per_second:,.0f} tokens/s, {plan.tokens_per_second / plan.length:,.0f} "
        f"rows/s, {plan.utilisation:.1%} of the peak; compiled in {plan.compile_seconds:.0f} s",
    ]


def _assumptions(plan: Plan) -> str:
    chip = plan.topology.chip
    return (
        f"assumed: products at {PRODUCTS:.0%} of {chip.peak / 1e12:g} TFLOP/s, memory at "
        f"{MEMORY:.0%} of {chip.hbm_bandwidth / 1e9:g} GB/s, links at {LINKS:.0%} of "
        f"{chip.ici_link / 1e9:g} GB/s each (DCN {chip.dcn / 1e9:g} GB/s a chip), "
        f"{HOP * 1e6:g} us a hop, rings; left out: input, evaluation, checkpoints, stragglers"
    )


def _cost(cost: Cost) -> str:
    time = f"{cost.days:,.1f} days" if cost.days >= 2 else f"{24 * cost.days:,.1f} hours"
    return f"{cost.what}: {cost.steps:,} steps, {time}, {cost.chip_hours:,.0f} chip-hours"


def _remedy(report: Report, plan: Plan, option: Option | None) -> str:
    if option is None:
        return (
            f"rows of {plan.length} tokens: no number of micro-batches and no sharing of the "
            "parameters was found that fits; take more chips, or chips with more memory"
        )
    memory = option.plan.memory
    return (
        f"rows of {plan.length} tokens fit with {flags(report.experiment, option.experiment)} "
        f"({memory.total / GIB:.2f} of {memory.capacity / GIB:.2f} GiB)"
    )


def _ranking(report: Report) -> list[str]:
    if not report.found:
        return ["nothing that was tried fits; take more chips, or chips with more memory"]
    lines = ["the fastest first, by the estimate:"]
    for option in report.found:
        plan = option.plan
        assert plan.estimate is not None
        lines.append(
            f"  {1e3 * plan.estimate.step_seconds:9.2f} ms  {plan.utilisation:5.1%}  "
            f"{plan.memory.total / GIB:6.2f} GiB  {describe(option.experiment)}"
        )
    first = report.found[0]
    best = flags(report.experiment, first.experiment) or "as the experiment is"
    return [*lines, f"the first: {best}", _assumptions(first.plan)]
