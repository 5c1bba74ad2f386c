"""How the report looks."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .findings import Findings


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A table whose columns of numbers are flush right."""
    made = Table()
    for name in columns:
        justify = 'right' if name in numbers else 'left'
        made.add_column(name, justify=justify, overflow='fold')  # type: ignore[arg-type]
    return made


def section(title: str, content: Table | None, remark: str = '') -> Group:
    """A part of the report.

    Args:
        title: Its heading.
        content: Its table.
        remark: What stands below it.
    """
    parts: list = [Text(f'\n{title}', style='bold')]
    if content is not None:
        parts.append(content)
    if remark:
        parts.append(Text(remark))
    return Group(*parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use.

    Example:
        >>> duration(0.0781), duration(600), duration(90000)
        ('0.0781 s', '10 min', '25 h')
    """
    for size, unit in ((7200, 3600), (120, 60)):
        if seconds >= size:
            return f'{seconds / unit:.3g} {"h" if unit == 3600 else "min"}'
    return f'{seconds:.3g} s'


def print_verdict(findings: Findings, report: Console) -> None:
    """Every finding on a line of its own, the worst last, and the verdict."""
    report.print(Text('\nVerdict', style='bold'))
    for label, style, texts in (
        ('note', 'cyan', findings.notes),
        ('warning', 'yellow', findings.warnings),
        ('error', 'bold red', findings.errors),
    ):
        for text in texts:
            report.print(Text.assemble((f'{label}: ', style), text), soft_wrap=True)
    counts = ', '.join(
        f'{len(texts)} {name}{"" if len(texts) == 1 else "s"}'
        for name, texts in (('error', findings.errors), ('warning', findings.warnings))
    )
    if findings.errors:
        report.print(Text(f'not ready to train: {counts}', style='bold red'))
    else:
        report.print(Text(f'ready to train: {counts}', style='bold green'))
