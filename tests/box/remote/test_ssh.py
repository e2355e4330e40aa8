"""Another machine over ssh: a real server on this one. Unknown keys are refused, dropped connections go on, full disks are told."""

import os
import signal
import subprocess

import pytest

from edgemm.box.remote.ssh import Remote, SshAddress, parse, refused
from edgemm.errors import RemoteError


@pytest.fixture
def server(sshd):
    return sshd()


@pytest.fixture
def there(server):
    with Remote(parse(server.url), config=server.config, patience_s=20) as connected:
        yield connected


def test_an_address_is_read():
    assert parse("ssh://nvidia@orin:2222") == SshAddress("orin", "nvidia", 2222)
    assert parse("ssh://orin") == SshAddress("orin")


@pytest.mark.parametrize(
    "url", ["orin", "http://orin", "ssh://", "ssh://orin:many", "ssh://-oProxyCommand=x", "ssh://-l@orin", "ssh://orin/home"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(RemoteError, match=r"is no address\.\n  why: it is not of the form ssh://user@host:port"):
        parse(url)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(RemoteError, match="the address holds a password") as caught:
        parse("ssh://nvidia:geheim@orin")
    assert "geheim" not in str(caught.value)


def test_commands_run_there_with_their_words_quoted(there):
    assert there.run(["printf", "%s|", "a b", "$HOME", "'"]).out == "a b|$HOME|'|"
    assert there.run("exit 3").code == 3
    with pytest.raises(RemoteError, match=r"it did not work\.\n  why: .*no-such-place"):
        there.check(["ls", "/no-such-place"], "it did not work.")


def test_a_host_whose_key_is_not_known_is_refused_with_the_command_to_know_it(server):
    config = server.write_config("stranger", known=False)
    with Remote(parse(server.url), config=config) as stranger, pytest.raises(RemoteError) as caught:
        stranger.run(["true"])
    assert "the host key of 127.0.0.1 is not known here" in str(caught.value)
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> ~/.ssh/known_hosts" in str(caught.value)


def test_a_key_that_it_does_not_know_is_told(server):
    config = server.write_config("locked-out", known=True, key="host")
    with (
        Remote(parse(server.url), config=config) as locked_out,
        pytest.raises(RemoteError, match=r"does not let us in.*\n.*\n  fix: .*ssh-copy-id"),
    ):
        locked_out.run(["true"])


def test_a_changed_host_key_is_an_alarm():
    words = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed."
    assert "is not the one known here" in str(refused(words, SshAddress("orin", "", 2222)))
    assert "ssh-keygen -R '[orin]:2222'" in str(refused(words, SshAddress("orin", "", 2222)))


def test_a_machine_that_is_not_there_is_told_at_once(server):
    server.stop()
    with (
        Remote(parse(server.url), config=server.config) as nobody,
        pytest.raises(RemoteError, match=r"cannot be reached\.\n  why: .*refused"),
    ):
        nobody.run(["true"])


def test_a_file_goes_there_and_back_and_is_not_sent_twice(there, tmp_path):
    sent, back = tmp_path / "a b.bin", tmp_path / "back.bin"
    sent.write_bytes(os.urandom(300_000))
    there.put(sent, f"{tmp_path}/there 1.bin")
    first = (tmp_path / "there 1.bin").stat().st_mtime_ns
    there.put(sent, f"{tmp_path}/there 1.bin")
    assert (tmp_path / "there 1.bin").stat().st_mtime_ns == first
    there.get(f"{tmp_path}/there 1.bin", back)
    assert back.read_bytes() == sent.read_bytes()
    with pytest.raises(RemoteError, match="could not be fetched"):
        there.get(f"{tmp_path}/none.bin", back)


def test_what_arrived_before_a_connection_dropped_is_not_sent_again(there, tmp_path):
    sent = tmp_path / "sent.bin"
    sent.write_bytes(os.urandom(100_000))
    (tmp_path / "there.bin.part").write_bytes(sent.read_bytes()[:60_000])
    inode = (tmp_path / "there.bin.part").stat().st_ino
    there.put(sent, f"{tmp_path}/there.bin")
    assert (tmp_path / "there.bin").read_bytes() == sent.read_bytes()
    assert (tmp_path / "there.bin").stat().st_ino == inode


def test_a_part_of_another_file_is_found_out_and_thrown_away(there, tmp_path):
    sent = tmp_path / "sent.bin"
    sent.write_bytes(os.urandom(1000))
    (tmp_path / "there.bin.part").write_bytes(b"something else")
    with pytest.raises(RemoteError, match=r"'sent\.bin' arrived damaged"):
        there.put(sent, f"{tmp_path}/there.bin")
    there.put(sent, f"{tmp_path}/there.bin")
    assert (tmp_path / "there.bin").read_bytes() == sent.read_bytes()


def test_a_connection_that_was_killed_between_two_commands_is_made_again(server):
    with Remote(parse(server.url), config=server.config, patience_s=20) as there:
        there.run(["true"])
        checked = subprocess.run([*there._ssh, "-O", "check", str(there.address)], capture_output=True, text=True, check=True)
        master = int(checked.stderr.split("pid=")[1].split(")")[0])
        os.kill(master, signal.SIGKILL)
        assert there.run(["echo", "here"]).out == "here\n"
        server.drop()
        assert there.run(["echo", "still"]).out == "still\n"


def test_a_connection_cut_in_the_middle_of_a_command_runs_it_again(server):
    import threading

    said = []
    with Remote(parse(server.url), config=server.config, patience_s=20, note=said.append) as there:
        there.run(["true"])
        cutting = threading.Timer(0.5, server.drop)
        cutting.start()
        assert there.run("sleep 1.5; echo done").out == "done\n"
        cutting.join()
        assert there.losses == 1
    assert said == ["the connection to 127.0.0.1 was lost; trying again.", "the connection to 127.0.0.1 is back."]


def test_a_full_disk_is_told_with_what_to_do(there, tmp_path):
    sent = tmp_path / "sent.bin"
    sent.write_bytes(b"x" * 1000)
    os.symlink("/dev/full", tmp_path / "there.bin.part")
    with pytest.raises(RemoteError, match=r"No space left on device\n  fix: its disk is full: make room there, or set EDGEMM_REMOTE"):
        there.put(sent, f"{tmp_path}/there.bin")


def test_the_room_of_a_folder_is_known(there, tmp_path):
    assert there.free_bytes(str(tmp_path)) > 0
    assert there.free_bytes("/no-such-place") is None


def test_a_command_that_does_not_end_is_given_up(there):
    with pytest.raises(RemoteError, match=r"did not answer within 1 s\.\n  why: it was asked: sleep 5"):
        there.run("sleep 5", limit_s=1)
