"""Packs edgemm's box half into one file. It wants Python 3.10, numpy and a runtime there; PyYAML's Python half travels along."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from edgemm.store.artifact import sha256_of, write_bytes

PACKAGE = Path(__file__).parents[2]
WORKSHOP = ("workshop", "_recipes")
"""Folders that only the workshop uses."""
CODE = (".py", ".yaml", ".css", ".js", ".svg")
START = '''"""Unpacks itself beside itself once, and starts edgemm's runner from there."""
import os
import sys
import zipfile

archive = os.path.abspath(sys.argv[0])
place = archive + ".unpacked"
if sys.version_info < (3, 10):
    sys.exit("edgemm needs Python 3.10 or later; this is " + sys.version.split()[0])
if not os.path.isdir(place):
    aside = "%s.%d" % (place, os.getpid())
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(aside)
    try:
        os.rename(aside, place)
    except OSError:  # another one was first
        pass
paths = [place] + [path for path in [os.environ.get("PYTHONPATH")] if path]
os.environ["PYTHONPATH"] = os.pathsep.join(paths)
os.execv(sys.executable, [sys.executable, "-m", "edgemm.box.remote"] + sys.argv[1:])
'''
FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal content makes an equal file


def pack(folder: Path) -> Path:
    """Write ``runner-<digest>.pyz`` into ``folder``; the same source gives the same name and bytes."""
    members = {name: path.read_bytes() for name, path in _members()} | {"__main__.py": START.encode()}
    runner = folder / f"runner-{sha256_of({name: content.hex() for name, content in members.items()})[:16]}.pyz"
    aside = folder / f"{runner.name}.new"
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, FIRST_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name])
    write_bytes(runner, aside.read_bytes())
    aside.unlink()
    return runner


def _members() -> Iterator[tuple[str, Path]]:
    """Name in the archive, and the file here."""
    for path in sorted(PACKAGE.rglob("*")):
        inside = path.relative_to(PACKAGE)
        if path.suffix in CODE and path.is_file() and inside.parts[0] not in WORKSHOP:
            yield f"edgemm/{inside.as_posix()}", path
    library = Path(yaml.__file__).parent
    for path in sorted(library.glob("*.py")):
        yield f"yaml/{path.name}", path
