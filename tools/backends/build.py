"""Build or install the real programs that tests/backends runs, once, into build/backends.

Needs Go, Node.js with npm, and on a Debian system apt-get for what its packages hold; a
`prometheus`, `promtool` or `dnsmasq` on PATH is taken as it is. What is there already and
was made from the same inputs is left alone: the second run takes a second.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Of 1.x, which is set by flags; 2.x is one program, too, but set by a file. This has the API that they all have.
JAEGER = "v1.62.0"
#: Of 2.x. It takes ten minutes of a processor, so it is built for whom names it: `make backends2`.
JAEGER2 = "v1.76.0"
BUILDER = "v0.150.0"
KUSTOMIZE = "v5.7.1"
#: What a Debian package holds, by the name of the program.
PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus", "dnsmasq": "dnsmasq-base"}

_SMALL = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w")


def run(*command: str | Path, cwd: Path, **environ: str) -> None:
    """Run *command*; what it printed is shown if it fails, and the whole ends."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit status {done.returncode}")


def needs(*programs: str) -> None:
    """End with a word about the first of *programs* that is not there."""
    for program in programs:
        if shutil.which(program) is None:
            sys.exit(f"make backends needs {program}, which is not on PATH")


def jaeger(to: Path, work: Path) -> None:
    """Jaeger's all-in-one, from its Go module."""
    needs("go")
    (work / "go.mod").write_text("module backends\n\ngo 1.23\n")
    run("go", "get", f"github.com/jaegertracing/jaeger/cmd/all-in-one@{JAEGER}", cwd=work)
    run("go", "build", *_SMALL, "-o", to / "bin/jaeger", "github.com/jaegertracing/jaeger/cmd/all-in-one", cwd=work)


def jaeger2(to: Path, work: Path) -> None:
    """Jaeger 2, from its Go module, whose versions are numbered on from those of 1."""
    needs("go")
    (work / "go.mod").write_text("module backends\n\ngo 1.24\n")
    run("go", "get", f"github.com/jaegertracing/jaeger/cmd/jaeger@{JAEGER2}", cwd=work)
    run("go", "build", *_SMALL, "-o", to / "bin/jaeger2", "github.com/jaegertracing/jaeger/cmd/jaeger", cwd=work)


def otelcol(to: Path, work: Path) -> None:
    """The collector of otelcol.yaml, from sources that its builder writes."""
    needs("go")
    builder = f"go.opentelemetry.io/collector/cmd/builder@{BUILDER}"
    written = ("--skip-get-modules", "--skip-compilation", "--config", HERE / "otelcol.yaml")
    run("go", "run", builder, *written, cwd=work)
    run("go", "build", "-mod=mod", *_SMALL, "-o", to / "bin/otelcol", ".", cwd=work / "otelcol")


def kustomize(to: Path, work: Path) -> None:
    """Kustomize, from its Go module."""
    needs("go")
    command = f"sigs.k8s.io/kustomize/kustomize/v5@{KUSTOMIZE}"
    run("go", "install", *_SMALL, command, cwd=work, GOBIN=str(to / "bin"))


def compose(to: Path, work: Path) -> None:
    """What reads a compose file as Docker Compose does, from compose/ here."""
    needs("go")
    run("go", "build", *_SMALL, "-o", to / "bin/compose", ".", cwd=HERE / "compose")


def debian(program: str) -> Callable[[Path, Path], None]:
    """How to get *program*, if need be out of a Debian package: unpacked, so that no service is set up."""

    def get(to: Path, work: Path) -> None:
        # A system's own daemons are where a user's PATH need not look.
        found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found is None:
            needs("apt-get", "dpkg-deb")
            if os.geteuid() == 0:
                run("apt-get", "update", "-qq", cwd=work)
            run("apt-get", "download", "-qq", PACKAGES[program], cwd=work)
            (package,) = work.glob("*.deb")
            run("dpkg-deb", "-x", package, work / "tree", cwd=work)
            (found,) = map(str, (work / "tree").glob(f"usr/*bin/{program}"))
            shutil.copy(found, to / "bin" / program)
        else:
            (to / "bin" / program).symlink_to(found)
        missing = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        if "not found" in missing:
            # It was unpacked without what it depends on.
            if os.geteuid() != 0:
                sys.exit(f"{program} needs libraries that are not there: apt-get install {PACKAGES[program]}")
            # Another apt may be at work, such as a machine's own updates: its lock is waited for.
            options = ("-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
            run("apt-get", "install", *options, PACKAGES[program], cwd=work, DEBIAN_FRONTEND="noninteractive")

    return get


def traceql(to: Path, work: Path) -> None:
    """Grafana's grammar of TraceQL, from npm."""
    needs("node", "npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, work)
    run("npm", "ci", "--no-audit", "--no-fund", "--silent", cwd=work)
    shutil.rmtree(to / "node_modules", ignore_errors=True)
    shutil.move(work / "node_modules", to)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "traceql": traceql,
    **{program: debian(program) for program in PACKAGES},
    "otelcol": otelcol,
    "jaeger": jaeger,
    "kustomize": kustomize,
    "compose": compose,
    "jaeger2": jaeger2,
}
#: Made only if they are named.
OPTIONAL = {"jaeger2"}


def _made_from(part: str) -> str:
    """What *part* is made from; from something else, it is made again."""
    files = {
        "otelcol": ("otelcol.yaml",),
        "traceql": ("package-lock.json",),
        "compose": ("compose/main.go", "compose/go.mod", "compose/go.sum"),
    }
    versions = {"otelcol": BUILDER, "jaeger": JAEGER, "jaeger2": JAEGER2, "kustomize": KUSTOMIZE}
    text = "".join((HERE / file).read_text() for file in files.get(part, ()))
    return hashlib.sha256(f"{versions.get(part, PACKAGES.get(part))} {text}".encode()).hexdigest()


def main(arguments: Sequence[str]) -> None:
    """Make what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; if none is named, all but {', '.join(OPTIONAL)}"
    )
    parser.add_argument("--to", type=Path, default=ROOT / "build/backends", help="where (%(default)s)")
    asked = parser.parse_args(arguments)
    for part in asked.parts:
        if part not in PARTS:
            parser.error(f"{part}: there is {', '.join(PARTS)}")
    to = asked.to.resolve()
    (to / "bin").mkdir(parents=True, exist_ok=True)
    for part in asked.parts or [part for part in PARTS if part not in OPTIONAL]:
        made, stamp = to / f".{part}", _made_from(part)
        if made.exists() and made.read_text() == stamp:
            continue
        began = time.monotonic()
        print(f"{part} ...", file=sys.stderr, flush=True)
        work = to / "work" / part
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (to / "bin" / part).unlink(missing_ok=True)
        PARTS[part](to, work)
        shutil.rmtree(work, ignore_errors=True)
        made.write_text(stamp)
        print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(to)


if __name__ == "__main__":
    main(sys.argv[1:])
