"""How long `ablate --help` takes beside a two-command typer program, in one run.

Prints a table of CPU seconds (user + system, medians), then one line of JSON.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 15
MINIMAL = """\
import typer
app = typer.Typer(add_completion=False)
@app.command()
def one(): "The first."
@app.command()
def two(): "The second."
app()
"""


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "minimal.py"
        program.write_text(MINIMAL)
        commands = {
            "ablate": [str(Path(sys.executable).with_name("ablate")), "--help"],
            "typer": [sys.executable, str(program), "--help"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():
            cpu_seconds(command)  # warm caches before the first counted round
        for _ in range(ROUNDS):
            for name, command in commands.items():
                seconds[name].append(cpu_seconds(command))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:.3f} s")
    ratio = medians["ablate"] / medians["typer"]
    print(json.dumps({"ablate_s": medians["ablate"], "typer_s": medians["typer"], "ratio": ratio}))


if __name__ == "__main__":
    main()
