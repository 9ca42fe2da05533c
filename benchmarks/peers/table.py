"""The results as a table: one for a terminal, one in Markdown that a README can quote."""

from __future__ import annotations

from typing import Any

HEAD = (
    "library",
    "decode, add",
    "decode, ablate",
    "prefill, add",
    "prefill, ablate",
    "extraction",
    "memory",
    "import",
    "first token",
)


def rows(peers: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Cells of the table and the notes under it."""
    table, notes = [], []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    for found in peers.values():
        if "failed" in found:
            table.append([f"{found['title']}", f"failed {note(found['failed'])}", *[""] * (len(HEAD) - 2)])
            continue
        by_place = {(one["variant"], one["case"], one["phase"]): one for one in found["records"]}
        version = next(iter(found["environment"]["versions"].values()))
        for variant in dict.fromkeys(one["variant"] for one in found["records"] if one["case"] != "same"):
            failed = by_place.get((variant, "load", "load"))
            if failed:
                table.append([_name(found, version, variant), f"failed {note(failed['reason'])}", *[""] * 7])
                continue
            cells = [
                _ratio(by_place.get((variant, case, phase)), note)
                for phase, case in (
                    ("decode", "add_all"),
                    ("decode", "ablate"),
                    ("prefill", "add_all"),
                    ("prefill", "ablate"),
                    ("extract", "extract"),
                )
            ]
            memory = found["memory_mb"].get(variant)
            table.append(
                [
                    _name(found, version, variant),
                    *cells,
                    _memory(memory, note),
                    _start(found["import"], note),
                    _start(found["cold"].get(variant), note),
                ]
            )
    return table, notes


def _name(found: dict[str, Any], version: str, variant: str) -> str:
    return f"{found['title']} {version}" + (f", {variant}" if variant else "")


def _ratio(record: dict[str, Any] | None, note: Any) -> str:
    if record is None:
        return ""
    if record["status"] != "ok":
        return f"{record['status']} {note(record['reason'])}"
    cpu = record["cpu"]
    text = f"{cpu['ratio']:.2f} ({cpu['ratio_low']:.2f}–{cpu['ratio_high']:.2f})"
    if record["phase"] == "decode":
        text += f" {cpu['extra_us_per_step']:+.0f} µs"
    if "places" in record:
        text += f" @{record['places']}"
        if not record["removes_everywhere"]:
            text += " " + note("The direction is still there at some places, which these do not cover.")
    if record.get("layers", 30) < 30:
        text += " " + note(f"{record['layers']} of 30 layers: the last one's stream can't be had this way.")
    return text


def _memory(value: Any, note: Any) -> str:
    if value is None:
        return ""
    return f"failed {note(value['failed'])}" if isinstance(value, dict) else f"{value:.0f} MB"


def _start(value: Any, note: Any) -> str:
    if value is None:
        return ""
    if "failed" in value:
        return f"failed {note(value['failed'])}"
    return f"{value['own']['cpu_s'] - value['plain']['cpu_s']:+.2f} s"


def spread(peers: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Least and largest A/A ratio of any library's process, by phase: a second copy of the plain model."""
    found: dict[str, list[float]] = {}
    for peer in peers.values():
        for one in peer.get("records", []):
            if one["case"] == "same" and one["status"] == "ok":
                found.setdefault(one["phase"], []).append(one["cpu"]["ratio"])
    return {phase: (min(values), max(values)) for phase, values in found.items()}


def markdown(peers: dict[str, Any]) -> str:
    """The table with its date, its machine and its notes."""
    table, notes = rows(peers)
    of = [peer for peer in peers.values() if "machine" in peer]
    machines = [one["machine"] for one in of]
    where = sorted({f"{one['cpu']}, {one['cores']} cores, Python {one['python']}" for one in machines})
    dates = sorted({one["date"] for one in of})
    # Rows that --only renewed may have been measured with other sizes.
    repeats, tokens = (
        " or ".join(map(str, sorted({one["sizes"][name] for one in of}))) for name in ("repeats", "tokens")
    )
    same = "; ".join(f"{phase} {low:.2f}–{high:.2f}" for phase, (low, high) in spread(peers).items())
    lines = [
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table),
        "",
        f"Median ratio of CPU time to plain transformers in the same process (95 % interval) over {repeats} "
        f"interleaved rounds, on a random Llama of 30 layers and 64 dimensions whose step is nearly all Python: one "
        f"thread, float32. Decoding: {tokens} tokens, batch 1, greedy, with microseconds on top per token. "
        "Prefill: 8×256 tokens. Extraction: mean difference at all layers of 128 + 128 prompts, against the best loop "
        "written by hand. @n: places at which the direction is ablated. Memory: what extraction takes on top. Import "
        "and first token (load, steer, generate one): CPU seconds on top of plain transformers. A second copy of the "
        f"plain model against the first (A/A), over all processes: {same}. {', '.join(dates)}; {'; '.join(where)}.",
        "",
        *(f"[{number}] {text}  " for number, text in enumerate(notes, 1)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def show(peers: dict[str, Any]) -> None:
    """Print it."""
    from rich.console import Console
    from rich.table import Table

    table, notes = rows(peers)
    drawn = Table(title="CPU time as a ratio to plain transformers in the same process")
    for number, name in enumerate(HEAD):
        drawn.add_column(name, justify="right" if number else "left")
    for row in table:
        drawn.add_row(*(cell.replace("[", "\\[") for cell in row))
    console = Console(width=220)
    console.print(drawn)
    for number, text in enumerate(notes, 1):
        console.print(f"[{number}] {text}", markup=False)
