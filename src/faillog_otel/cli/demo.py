"""`faillog-otel demo`: everything on this machine, nothing to configure."""

import click


@click.command(short_help="Try it: sample failure logs, forwarded and shown as trees.")
@click.option("--all", "show_all", is_flag=True, help="Show every trace, not only some.")
@click.pass_context
def demo(ctx: click.Context, /, show_all: bool) -> None:  # noqa: FBT001  # click hands over its flags by name
    """Forward sample failure logs to an OTLP receiver in this process, and show what arrived.

    The forwarder is the real one, over a real connection; the samples are shipped with this package. One
    of their lines is broken on purpose: it ends in the quarantine, and the rest goes on.
    """
    import tempfile
    from importlib.resources import as_file, files
    from pathlib import Path

    from faillog_otel.cli.forwarding import run_paths
    from faillog_otel.cli.report import Exit, summary_text
    from faillog_otel.events.printable import printable
    from faillog_otel.otlp.receiver import Receiver
    from faillog_otel.otlp.tree import trace_trees
    from faillog_otel.resolve import resolve
    from faillog_otel.segment.generator import DESTINATIONS
    from faillog_otel.settings import Layer, MappingSettings, OtlpSettings, RunSettings
    from faillog_otel.telemetry.logs import start_logging

    names = {destination.id: destination.name for destination in DESTINATIONS}
    samples = files("faillog_otel").joinpath("samples")
    with tempfile.TemporaryDirectory() as folder, as_file(samples) as path, Receiver() as receiver:
        quarantine = Path(folder, "faillog-quarantine.jsonl")
        settings = Layer(
            otlp=OtlpSettings(endpoint=receiver.http_endpoint),
            mapping=MappingSettings(destination_names=names),
            run=RunSettings(quarantine=str(quarantine), pending=str(Path(folder, "pending.jsonl"))),
        )
        start_logging(verbosity=-1, log_format="text")
        ended = run_paths([str(path)], resolve([settings]))
        trees = trace_trees(receiver.spans(), receiver.logs())
        longest = {tree.destination: tree for tree in sorted(trees, key=lambda tree: len(tree.lines))}
        shown = trees if show_all else list(longest.values())
        for tree in shown:
            click.echo("\n".join(map(printable, tree.lines)) + "\n")
        if len(shown) < len(trees):
            click.echo(f"... and {len(trees) - len(shown)} more traces (--all shows them)\n")
        click.echo(summary_text(ended))
        if quarantine.exists():
            click.echo(f"\nin quarantine: {printable(quarantine.read_text('utf-8')[:300])} ...")
    ctx.exit(0 if ended["exit"] == Exit.QUARANTINED else ended["exit"])  # the broken line is meant to be
