"""The commands of this project: `python3 tasks.py TASK`, or `invoke TASK` inside the virtual environment.

Run as a script it first makes that environment from the hash-pinned lock file, with the standard library alone, and
then runs itself inside it. The tasks are thin: what they do is in `topology`.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"


def _enter_environment() -> None:
    """Make the virtual environment if it is not there or not up to date, and run this command inside it."""
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: run tasks.py with a newer one.")
    python, stamp = VENV / "bin" / "python", VENV / "installed-lock"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("making .venv from requirements.lock (once, about half a minute)", file=sys.stderr)
        clear = [] if python.exists() else ["--clear"]
        if subprocess.run([sys.executable, "-m", "venv", *clear, str(VENV)], check=False).returncode:
            sys.exit("Python's venv module is incomplete. On Debian or Ubuntu: sudo apt-get install python3-venv")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        if subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=False, stdout=sys.stderr).returncode:
            sys.exit("pip could not install the packages of requirements.lock; its reason is above.")
        stamp.write_text(wanted)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    arguments = sys.argv[1:] or ["--list"]
    os.execv(python, [str(python), "-m", "invoke", "--search-root", str(ROOT), *arguments])


if __name__ == "__main__":
    _enter_environment()

from invoke.context import Context
from invoke.tasks import task

from topology import commands

NAME = "name of the testbed; default: the one that runs, or the description's own name for `up`"
FILE = "description: a file, or the name of one in topology/testbeds (three-regions, two-nodes)"
JSON = "print one JSON document on stdout, all else on stderr"


@task(help={"file": FILE, "name": NAME, "json": JSON})
def up(_: Context, file: str = "", name: str = "", json: bool = False) -> None:
    """Bring a testbed up: build what is missing, start it, prove a key exchange. Run again, it heals."""
    commands.up(file or None, name or None, json)


@task(help={"name": NAME, "everything": "every testbed of this machine", "json": JSON})
def down(_: Context, name: str = "", everything: bool = False, json: bool = False) -> None:
    """Take a testbed down: no container, network, volume or key of it is left. Needs no description."""
    commands.down(name or None, everything, json)


@task(help={"name": NAME, "json": JSON})
def status(_: Context, name: str = "", json: bool = False) -> None:
    """Show nodes, devices, links as requested and as measured, and pools. Fails if anything is not well."""
    commands.status(name or None, json)


@task(
    help={
        "master": "SAE that asks for keys",
        "slave": "SAE that fetches them at its own node",
        "number": "keys in one request",
        "size": "bits of a key; default: the node's key_size",
        "all-pairs": "every ordered pair of SAEs that may exchange keys",
        "name": NAME,
        "json": JSON,
    }
)
def exchange(
    _: Context,
    master: str = "",
    slave: str = "",
    number: str = "1",
    size: str = "",
    all_pairs: bool = False,
    name: str = "",
    json: bool = False,
) -> None:
    """Exchange keys between SAEs and compare them, never showing them. Fails unless all are identical."""
    pair = (master or None, slave or None)
    commands.exchange(name or None, pair, all_pairs, number, size, json)


@task(help={"sae": "SAE ID", "out": "folder for its files; default: credentials/SAE", "name": NAME, "json": JSON})
def credentials(_: Context, sae: str, out: str = "", name: str = "", json: bool = False) -> None:
    """Write an SAE's certificate, key and CA, and show a curl command that uses them."""
    commands.credentials(name or None, sae, out or f"credentials/{sae}", json)


@task(help={"container": "a running container of yours", "site": "site in the description", "name": NAME, "json": JSON})
def attach(_: Context, container: str, site: str, name: str = "", json: bool = False) -> None:
    """Join a container of your own to the network of a site."""
    commands.attach(name or None, container, site, json)


@task(help={"who": "node, device or router", "follow": "go on until Ctrl-C", "tail": "lines to show", "name": NAME})
def logs(_: Context, who: str, follow: bool = False, tail: str = "50", name: str = "") -> None:
    """Show what a container of the testbed logged."""
    commands.logs(name or None, who, follow, tail)


@task(help={"who": "node, device or router", "name": NAME})
def shell(_: Context, who: str, name: str = "") -> None:
    """Open a shell in a container of the testbed."""
    commands.shell(name or None, who)


@task(help={"json": JSON})
def doctor(_: Context, json: bool = False) -> None:
    """Say all that is missing on this machine, and exactly how to get it."""
    commands.doctor(json)


@task(
    help={
        "users": "SAE pairs that exchange keys at the same time",
        "duration-s": "seconds",
        "pace-s": "seconds between two exchanges of one user",
        "number": "keys in one request",
        "name": NAME,
        "json": JSON,
    }
)
def load(
    _: Context,
    users: str = "20",
    duration_s: str = "60",
    pace_s: str = "2",
    number: str = "1",
    name: str = "",
    json: bool = False,
) -> None:
    """Load the testbed with Locust: SAE pairs exchange keys and compare them. Fails if any differ or are missing."""
    commands.load(name or None, users, duration_s, {"pace-s": pace_s, "number": number}, json)


@task(help={"requests": "enc_keys requests of each kind", "json": JSON})
def bench(_: Context, requests: str = "40", json: bool = False) -> None:
    """Measure how fast testbeds come up and keys are delivered; brings up and takes down testbeds of its own."""
    commands.bench(requests, json)


@task(help={"fast": "leave out what needs containers", "expression": "pytest's -k"})
def test(_: Context, fast: bool = False, expression: str = "") -> None:
    """Run all tests: unit, integration, in the node image, kernel, real containers."""
    commands.test(fast, expression or None)


@task
def check(_: Context) -> None:
    """Check format, lint, types, import contracts and that generated files are fresh."""
    commands.check()


@task(help={"json": JSON})
def images(_: Context, json: bool = False) -> None:
    """Build every image that is missing, and list them."""
    commands.images(json)


@task
def lock(_: Context) -> None:
    """Pin the newest allowed versions anew: requirements.lock and images/locks, hashes and no addresses."""
    commands.lock()


@task
def golden(_: Context) -> None:
    """Write the files anew that tests and checks hold against the code: schema and golden plans."""
    commands.golden()
