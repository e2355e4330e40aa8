"""The command line: what it prints where, and its exit codes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys

import pytest

import edgemm
from edgemm.cli import main
from edgemm.contracts.report import Report, Verdict
from edgemm.errors import CardError, DataError, Mistakes
from edgemm.progress import Live
from edgemm.report import terminal
from edgemm.report.terminal import Ending, conclude


@pytest.fixture
def run(capsys):
    """``run("list", "targets")``: (exit code, stdout, stderr) of a command in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name in edgemm.__all__:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("words", [("verify",), ("inspect",), ("compress", "-r", "onnxruntime-int8", "-o", "b")])
def test_a_name_that_no_file_can_have_is_told(words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(words[0], "a" * 300, *words[1:])
    assert code == 1
    assert err.startswith(f"edgemm: there cannot be a file '{'a' * 200}'.\n  why: File name too long.\n  fix: ")


@pytest.mark.parametrize("name", edgemm.__all__)
def test_every_command_has_a_help_page_with_a_short_line_in_the_list(name, run):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: edgemm {name} ")
    listed = next(line for line in run("--help")[1].splitlines() if line.startswith(f"  {name} "))
    assert not listed.endswith("...")


def test_help_imports_no_more_than_it_may(fresh_python):
    """0.15 s are allowed, which `benchmarks/startup.py` measures: nothing is read but the words."""
    shown = "try: main(['--help'])\nexcept SystemExit: pass\n"
    counted = "print('IMPORTED', *{name.split('.')[0] for name in sys.modules}, *(name for name in sys.modules if 'edgemm.' in name))"
    printed = fresh_python(f"import sys\nfrom edgemm.cli import main\n{shown}{counted}")
    imported = set(printed.rpartition("IMPORTED")[2].split())
    assert not imported & {"numpy", "yaml", "rich", "pydantic", "torch", "onnx", "openvino", "onnxruntime", "click"}
    contracts = {f"edgemm.contracts{part}" for part in ("", ".options", ".plugins", ".signatures")}
    assert {name for name in imported if "." in name} <= {"edgemm.cli", "edgemm.errors", "edgemm.redaction", *contracts}


def test_version_is_the_packages(run):
    assert run("--version") == (0, f"{edgemm.__version__}\n", "")


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "edgemm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == edgemm.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compres"], "No such command 'compres'. Did you mean 'compress'"),
        (["compress"], "Missing argument"),
        (["compress", "card", "-o", "out"], "Missing option '--recipe' / '-r'"),
        (["benchmark", "a", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["list", "--colour"], "No such option: --colour"),
    ],
)
def test_a_usage_mistake_exits_2_with_words_on_stderr(arguments, words, run):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_an_error_is_told_as_what_why_fix_on_stderr_and_exits_1(run):
    code, out, err = run("list", "target")
    assert (code, out) == (1, "")
    assert err.startswith("edgemm: nothing is listed under 'target'.\n  fix: did you mean 'targets'?")
    assert "Traceback" not in err


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    for arguments in (["--debug", "list", "target"], ["list", "target", "--debug"]):
        with pytest.raises(edgemm_error()):
            main(arguments)
    assert capsys.readouterr().out == ""


def edgemm_error() -> type[Exception]:
    from edgemm.errors import EdgemmError

    return EdgemmError


def test_results_go_to_stdout_as_json_when_asked(run):
    code, out, err = run("list", "targets", "--json")
    assert (code, err) == (0, "")
    assert "openvino" in json.loads(out)["targets"]


def test_several_mistakes_are_one_block_each():
    error = Mistakes([CardError("one.", fix="do a."), DataError("two.", why="b.")])
    assert terminal.words(error) == "edgemm: one.\n  fix: do a.\nedgemm: two.\n  why: b."


def test_a_missing_package_names_its_extra():
    words = terminal.words(ModuleNotFoundError("No module named 'nncf'", name="nncf.common"))
    assert words.splitlines()[0] == "edgemm: this command needs the package 'nncf'."
    assert words.splitlines()[2] == "  fix: pip install 'edgemm[compress]'"


def test_a_module_of_the_users_that_is_missing_is_no_extra():
    assert "ModuleNotFoundError: No module named 'mine'" in terminal.words(ModuleNotFoundError("No module named 'mine'", name="mine"))


@pytest.mark.parametrize(
    ("error", "what", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "cannot write /x/y.", "free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "cannot write /x/y.", "choose another place"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "cannot write /x/y.", "choose another place"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"), "FileNotFoundError: ", "--debug"),
        (MemoryError(), "out of memory.", "a machine with more"),
        (KeyError("x"), "KeyError: 'x'", "--debug"),
    ],
)
def test_whatever_goes_wrong_is_told_without_a_traceback(error, what, fix):
    words = terminal.words(error)
    assert words.startswith(f"edgemm: {what}")
    assert f"fix: {words.partition('fix: ')[2]}" in words
    assert fix in words


def test_a_missed_budget_exits_3_after_the_table(capsys):
    report = Report({}, budgets=[Verdict("latency_p95_ms", 20.0, 25.0, "missed", target="openvino")])
    assert conclude(Ending(report, next="edgemm verify x", report=report)) == 3
    out = capsys.readouterr().out
    assert "budget latency_p95_ms on openvino: missed: 25, limit 20" in out
    assert out.endswith("next: edgemm verify x\n")


@pytest.mark.parametrize("verdict", ["met", "unknown"])
def test_a_budget_that_is_met_or_unknown_exits_0(verdict, capsys):
    report = Report({}, budgets=[Verdict("latency_p95_ms", 20.0, None, verdict)])
    assert conclude(Ending(report, report=report), json=True) == 0
    assert json.loads(capsys.readouterr().out)["budgets"][0]["verdict"] == verdict


def test_what_was_written_is_told_with_its_size(tmp_path, capsys):
    (tmp_path / "a").write_bytes(b"x" * 2048)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_bytes(b"x" * 1024)
    assert conclude(Ending(written=(tmp_path, tmp_path / "a"), next="edgemm verify x")) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path} (3.0 KiB)\nwrote {tmp_path / 'a'} (2.0 KiB)\nnext: edgemm verify x\n"


def test_as_json_what_was_written_is_all_that_a_command_without_a_result_says(tmp_path, capsys):
    conclude(Ending(written=(tmp_path,), next="edgemm verify x"), json=True)
    assert json.loads(capsys.readouterr().out) == {"written": [str(tmp_path)]}


def test_an_interrupted_command_ends_with_130_and_no_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "edgemm", "demo", "-o", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background inherit that it is ignored
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("scenes")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "scenes").exists(), "nothing half-written"


def test_a_place_that_cannot_be_written_is_told_before_the_work_starts(tmp_path, run):
    (tmp_path / "file").write_text("")
    code, out, err = run("demo", "-o", tmp_path / "file" / "demo")
    assert (code, out) == (1, "")
    assert "cannot write" in err
    assert "choose another place with -o" in err


def test_doctor_tells_python_processor_memory_and_what_runs_here(run):
    code, out, _ = run("doctor")
    assert code == 0
    for word in ("python", "processor", "memory", "openvino: runs here", "onnxruntime: runs here", "[compress]"):
        assert word in out


def test_doctor_as_json_names_every_package_with_its_version(run):
    found = json.loads(run("doctor", "--json")[1])
    versions = {package["name"]: package["version"] for packages in found["extras"].values() for package in packages}
    assert versions["numpy"] == __import__("numpy").__version__
    assert found["cores"] == len(os.sched_getaffinity(0))


def test_doctor_advises_what_is_missing():
    from edgemm.verbs.doctor import Package, _advice

    advice = _advice({"data": (Package("pillow", ">=11", None),)}, {"openvino": "pip install 'edgemm[openvino]'"}, ("avx2",), 2048)
    assert advice == [
        "pip install 'edgemm[data]': pillow missing.",
        "no target runs here: pip install 'edgemm[openvino]' for an Intel CPU.",
        "this processor has no int8 instructions (VNNI, AMX): INT8 is smaller here, hardly faster, and has to be made here.",
        "2048 MiB of memory is enough to run models; compressing large ones wants 8192 MiB.",
    ]


@pytest.mark.parametrize("kind", ["recipes", "cards", "steps", "targets", "modalities", "encoders", "fusions", "heads", "sources", "sinks"])
def test_everything_listed_says_what_it_is(kind):
    entries = edgemm.list(kind).to_dict()[kind]
    assert entries
    for name, about in entries.items():
        assert about, f"{kind}: {name} has no first line"


def test_listing_imports_no_variant(fresh_python):
    printed = fresh_python("import edgemm, sys; str(edgemm.list()); print({'torch', 'onnx', 'openvino', 'onnxruntime'} & set(sys.modules))")
    assert printed.strip() == "set()"


def test_a_note_that_stands_on_the_terminal_already_is_not_printed_again(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    progress = Live(io.StringIO())
    progress.note("note: told while working")
    text = "a table\n\nnote: told while working\n\nbudgets"
    conclude(Ending(text), on_screen=progress.on_screen)
    assert capsys.readouterr().out == "a table\n\nbudgets\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    progress = Live(io.StringIO())
    progress.note("note: told while working")
    conclude(Ending(text), on_screen=progress.on_screen)
    assert capsys.readouterr().out == f"{text}\n"


def test_of_several_launched_processes_one_runs_a_command_and_speaks(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            main(["list", "targets"])
        assert not ended.value.code
        assert bool(capsys.readouterr().out) == said
