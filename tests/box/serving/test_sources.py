"""Sources on real media and a real RTSP server: pictures and sound on one connection, and every way to lose it."""

import http.server
import io
import logging
import re
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image as Pillow

from edgemm.box.serving.secrets import Redacting, secret
from edgemm.box.serving.source_threads import Feeder, Patience, whole
from edgemm.box.serving.sources.folder import Folder
from edgemm.box.serving.sources.microphone import Microphone
from edgemm.box.serving.sources.stream import Stream
from edgemm.contracts.card import Input
from edgemm.contracts.modality import of
from edgemm.errors import RunError
from tests.box.serving.conftest import BRIGHT, DARK, RATE_HZ, wait_for, write_clip

WANTS = {
    "image": of(Input("image", "image", {"height": 32, "width": 32})),
    "audio": of(Input("audio", "audio", {"rate_hz": RATE_HZ, "seconds": 0.5})),
}
QUICK = Patience(no_data_s=2.0, first_s=0.2, most_s=0.5)


def items(source, name):
    return [item for item in source.items(WANTS) if item.input == name]


def light(item):
    return float(item.value.fitted(WANTS["image"].stream()).mean())


def test_a_clip_gives_its_pictures_and_its_sound_on_one_time(clip):
    source = Stream(url=str(clip), inputs=["image", "audio"])
    found = list(source.items(WANTS))
    pictures = [item for item in found if item.input == "image"]
    sound = np.concatenate([item.value for item in found if item.input == "audio"])
    assert (len(pictures), len(sound) / RATE_HZ) == (120, pytest.approx(8.0, abs=0.1))
    bright = next(item.time_s for item in pictures if light(item) > 125)
    loud = np.flatnonzero(np.abs(sound) > 0.3)[0] / RATE_HZ
    assert (bright, loud) == (pytest.approx(2.0, abs=0.1), pytest.approx(4.0, abs=0.1))
    assert not any(item.discontinuity for item in found)


def test_sound_of_another_rate_arrives_at_the_cards(clip):
    wants = {"audio": of(Input("audio", "audio", {"rate_hz": 8000, "seconds": 0.5}))}
    samples = sum(len(item.value) for item in Stream(url=str(clip), inputs="audio").items(wants))
    assert samples / 8000 == pytest.approx(8.0, abs=0.1)


def test_a_card_that_forbids_resampling_is_obeyed(clip):
    wants = {"audio": of(Input("audio", "audio", {"rate_hz": 8000, "seconds": 0.5, "resample": False}))}
    with pytest.raises(Exception, match="has 16000 Hz, the card says 8000 Hz"):
        list(Stream(url=str(clip), inputs="audio").items(wants))


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_frame_is_fitted_as_training_fits_a_picture(fit, order):
    import av

    from edgemm.box.serving.sources._av.reading import AvFrame

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    picture = np.asarray(Pillow.fromarray(coarse).resize((320, 240), Pillow.Resampling.BICUBIC))
    spec = of(Input("image", "image", {"height": 48, "width": 40, "fit": fit, "order": order, "mean": [0.5, 0.4, 0.3]}))
    ours = AvFrame(av.VideoFrame.from_ndarray(picture, format="rgb24"), av.video.reformatter.VideoReformatter()).fitted(spec.stream())
    theirs = spec.prepare(picture)
    assert ours.shape == theirs.shape
    limit = 1.0 if fit != "crop" else 4.0  # a crop of a fraction of a pixel is moved to the next whole one
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < limit


def test_a_clip_without_sound_says_so_and_gives_its_pictures(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", [(BRIGHT, 0)], sound=False)
    source = Stream(url=str(silent), inputs=["image", "audio"])
    assert len(items(source, "image")) == 30
    assert source.notes == [f"'{silent}' has no sound track: audio stays missing"]


def test_a_clip_with_nothing_the_model_takes_is_refused(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", [(BRIGHT, 0)], sound=False)
    with pytest.raises(RunError, match="has nothing to offer"):
        list(Stream(url=str(silent), inputs="audio").items({"audio": WANTS["audio"]}))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(RunError, match=r"'missing\.mp4' does not exist"):
        list(Stream(url="missing.mp4", inputs="image").items({"image": WANTS["image"]}))


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no film at all" * 100)
    with pytest.raises(RunError, match="cannot be read"):
        list(Stream(url=str(tmp_path / "x.mp4"), inputs="image").items({"image": WANTS["image"]}))


def test_a_camera_or_microphone_that_is_not_plugged_in_is_a_loss_with_a_reason():
    with pytest.raises(RunError, match=r"does not exist|cannot be read"):
        list(Stream(url="/dev/video77", inputs="image").items({"image": WANTS["image"]}))
    with pytest.raises(RunError, match=r"cannot be read|does not exist"):
        list(Microphone(inputs="audio", device="hw:77").items({"audio": WANTS["audio"]}))


def test_a_recording_with_less_sound_than_the_model_hears_says_so(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.float32), RATE_HZ)
    source = Stream(url=str(tmp_path / "a.wav"), inputs="audio")
    list(whole(source, {"audio": WANTS["audio"]}))
    assert source.notes == ["a.wav holds 0.1 s of sound, 'audio' needs 0.5 s"]


def test_a_folder_plays_pictures_and_sounds_of_one_name_together(tmp_path):
    import soundfile

    for number, (shade, loud) in enumerate([(DARK, 0.0), (BRIGHT, 0.5)]):
        Pillow.new("RGB", (40, 30), (shade,) * 3).save(tmp_path / f"{number}.png")
        soundfile.write(tmp_path / f"{number}.wav", np.full(RATE_HZ, loud, np.float32), RATE_HZ)
    found = list(Folder(path=str(tmp_path), inputs=["image", "audio"]).items(WANTS))
    pictures = [item for item in found if item.input == "image"]
    assert [round(item.time_s, 2) for item in pictures] == [0.0, 1.25], "a scene's end is decided on before the next begins"
    assert [light(item) for item in pictures] == [DARK, BRIGHT]
    assert [item.discontinuity for item in pictures] == [False, True], "no window reaches from one scene into the next"
    assert sum(item.discontinuity for item in found) == 1


def test_behind_a_sound_there_is_a_pause_and_one_that_is_too_short_is_told(tmp_path):
    import soundfile

    for number, seconds in enumerate((0.5, 0.2, 2.0, 0.5)):
        Pillow.new("RGB", (40, 30)).save(tmp_path / f"{number}.png")
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(int(seconds * RATE_HZ), np.float32), RATE_HZ)
    source = Folder(path=str(tmp_path), inputs=["image", "audio"], seconds=0.5)
    begun = [round(item.time_s, 2) for item in source.items(WANTS) if item.input == "image"]
    assert begun == [0.0, 0.75, 1.25, 3.5]
    assert source.length_s == pytest.approx(4.0)
    assert source.notes == ["1 holds 0.2 s of sound, 'audio' needs 0.5 s"]


def test_a_folder_holds_texts_and_measurements_beside_sounds(tmp_path):
    import soundfile

    for number, words in enumerate(["who is there", "let me sleep"]):
        (tmp_path / f"{number}.txt").write_text(f"{words}\n")
        np.save(tmp_path / f"{number}.npy", np.full(2, number, np.float32))
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(RATE_HZ, np.float32), RATE_HZ)
    wants = {
        "audio": WANTS["audio"],
        "text": of(Input("text", "text", {"length": 4, "vocab": 9})),
        "imu": of(Input("imu", "sensor", {"shape": [2]})),
    }
    found = list(Folder(path=str(tmp_path), inputs=list(wants)).items(wants))
    assert [(item.value, round(item.time_s, 2)) for item in found if item.input == "text"] == [
        ("who is there", 0.0),
        ("let me sleep", 1.25),
    ]
    assert [item.value.tolist() for item in found if item.input == "imu"] == [[0, 0], [1, 1]]
    assert sum(len(item.value) for item in found if item.input == "audio") == 2 * RATE_HZ
    (tmp_path / "2.npy").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"2\.npy' is no readable \.npy file"):
        list(Folder(path=str(tmp_path), inputs=list(wants)).items(wants))


def odd_pictures(folder):
    """Name -> file: large and fine, turned by its camera, half transparent, of few colours, grey, of 16 bits."""
    rng = np.random.default_rng(0)
    coarse = Pillow.fromarray(rng.integers(0, 255, (60, 80, 3)).astype(np.uint8))
    turned = Pillow.Exif()
    turned[0x0112] = 6
    kinds = {"fine.png": coarse, "turned.jpg": coarse, "few.png": coarse.quantize(16), "grey.tiff": coarse.convert("L")}
    kinds["clear.png"] = coarse.copy()
    kinds["clear.png"].putalpha(Pillow.linear_gradient("L").resize((80, 60)))
    kinds["deep.png"] = Pillow.fromarray(rng.integers(0, 65535, (60, 80)).astype(np.uint16))
    for name, picture in kinds.items():
        picture.save(folder / name, **({"exif": turned} if name == "turned.jpg" else {}))
    np.save(folder / "array.npy", np.asarray(coarse))
    return {name: folder / name for name in (*kinds, "array.npy")}


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_a_picture_file_is_read_as_in_training_to_the_last_bit(tmp_path, fit):
    image = of(Input("image", "image", {"height": 24, "width": 20, "fit": fit, "order": "bgr", "mean": [0.5, 0.4, 0.3]}))
    files = odd_pictures(tmp_path)
    inside = {item.value.path.name: item for item in Folder(path=str(tmp_path), inputs="image").items({"image": image})}
    assert inside.keys() == files.keys() - {"array.npy"}, "beside pictures an array is a measurement"
    for name, file in files.items():
        (alone,) = Stream(url=str(file), inputs="image").items({"image": image})
        for item in (alone, inside.get(name, alone)):
            np.testing.assert_array_equal(image.received(item.value), image.decode(str(file), tmp_path), err_msg=name)
            assert item.value.jpeg(640)[:2] == b"\xff\xd8"


def test_one_file_feeds_what_it_holds(tmp_path):
    wants = {
        "text": of(Input("text", "text", {"length": 4, "vocab": 9})),
        "imu": of(Input("imu", "sensor", {"shape": [2, 3]})),
    }
    np.save(tmp_path / "window.npy", np.arange(6).reshape(2, 3))
    np.save(tmp_path / "moment.npy", np.arange(3))
    for name, words in {"flat.txt": "0 1 2 3 4 5\n", "rows.csv": "0,1,2\n3,4,5\n", "list.TXT": "[[0, 1, 2], [3, 4, 5]]"}.items():
        (tmp_path / name).write_text(words)

    def told(name, *inputs):
        source = Stream(url=str(tmp_path / name), inputs=list(inputs))
        return {item.input: item.value for item in source.items({name: wants[name] for name in inputs})}

    for name in ("window.npy", "flat.txt", "rows.csv", "list.TXT"):
        assert told(name, "imu")["imu"].tolist() == [[0, 1, 2], [3, 4, 5]], name
    assert told("moment.npy", "imu")["imu"].tolist() == [0, 1, 2]
    assert told("flat.txt", "imu", "text") == {"text": "0 1 2 3 4 5"}, "what could be said is said"
    Pillow.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "few.txt").write_text("1 2 3 4")
    for name, why in {
        "a.png": r"a\.png' cannot be read for imu(.|\n)*it holds a picture",
        "few.txt": r"few\.txt' does not fit 'imu': the cell holds 4 numbers",
    }.items():
        with pytest.raises(RunError, match=why):
            told(name, "imu")


def test_a_file_without_a_length_is_there_for_a_second_each_time(tmp_path, fed):
    np.save(tmp_path / "a.npy", np.zeros(2))
    Pillow.new("L", (4, 4)).save(tmp_path / "a.png")
    for source in (Stream(url=str(tmp_path / "a.png"), inputs="image", loop=True), Folder(path=str(tmp_path), inputs="image", loop=True)):
        one = fed(source)
        wait_for(lambda one=one: one.count() > 1, 20)
        assert one.items[1][1] - one.items[0][1] > 0.9


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no pictures, sounds or clips"):
        list(Folder(path=str(tmp_path), inputs="image").items({"image": WANTS["image"]}))


class Fed:
    """A feeder on a real camera, with everything it delivered."""

    def __init__(self, source, patience=QUICK):
        self.items = []
        self.feeder = Feeder(
            source, {name: WANTS[name] for name in source.inputs}, lambda item, at: self.items.append((item, at)), patience=patience
        )
        self.feeder.start()

    def count(self, name="image"):
        return sum(item.input == name for item, _ in self.items)


@pytest.fixture
def fed():
    made = []

    def start(source, **more):
        made.append(Fed(source, **more))
        return made[-1]

    yield start
    for one in made:
        one.feeder.stop()
    for one in made:
        one.feeder.join(5)


def test_a_camera_is_read_with_sound_and_picture_side_by_side(camera, clip, fed):
    one = fed(Stream(url=camera(clip).url, inputs=["image", "audio"]))
    wait_for(lambda: one.count("image") > 20 and one.count("audio") > 20, 20)
    assert one.feeder.skew_s() < 0.5
    last, arrived = one.items[-1]
    assert 0 <= arrived - last.time_s < 1.0, "times are those of the box's clock, and nothing is from the future"


def test_a_camera_that_was_killed_is_found_again(camera, clip, fed):
    real = camera(clip)
    one = fed(Stream(url=real.url, inputs=["image", "audio"]))
    wait_for(lambda: one.count() > 5, 20)
    real.stop()
    wait_for(lambda: one.feeder.state == "down", 10)
    before = one.count()
    real.start()
    wait_for(lambda: one.count() > before + 5, 20)
    assert one.feeder.reconnects >= 1
    assert next(item for item, _ in one.items[before:]).input in ("image", "audio")
    first_again = [item for item, _ in one.items if item.discontinuity]
    assert len(first_again) >= 2, "no window reaches over the gap"


def test_a_camera_that_froze_is_noticed_and_found_again(camera, clip, fed):
    real = camera(clip)
    one = fed(Stream(url=real.url, inputs=["image", "audio"], read_timeout_s=1.0))
    wait_for(lambda: one.count() > 5, 20)
    real.signal(signal.SIGSTOP)
    frozen = time.monotonic()
    wait_for(lambda: one.feeder.watch() or one.feeder.state == "down", 10)
    print(f"frozen camera noticed after {time.monotonic() - frozen:.1f} s")
    before = one.count()
    real.signal(signal.SIGCONT)
    wait_for(lambda: one.count() > before + 5, 20)


def test_a_wrong_password_is_told_and_never_shown(camera, clip, fed, monkeypatch, caplog, capfd):
    monkeypatch.setenv("CAM_USER", "cam")
    monkeypatch.setenv("CAM_PASSWORD", "wr0ng-secret")
    real = camera(clip, user="cam", password="right-secret")
    one = fed(Stream(url=real.url, inputs=["image"], user_env="CAM_USER", password_env="CAM_PASSWORD"))
    wait_for(lambda: "refuses the user or password" in one.feeder.error, 10)
    said = " ".join([one.feeder.error, one.feeder.source.describe(), caplog.text, *capfd.readouterr()])
    assert "wr0ng-secret" not in said
    assert real.url in said


def test_the_right_password_from_a_file_opens_the_camera(camera, clip, fed, monkeypatch, tmp_path):
    (tmp_path / "password").write_text("right-secret\n")
    monkeypatch.setenv("CAM_USER", "cam")
    real = camera(clip, user="cam", password="right-secret")
    one = fed(Stream(url=real.url, inputs=["image"], user_env="CAM_USER", password_file=str(tmp_path / "password")))
    wait_for(lambda: one.count() > 3, 20)


def test_a_camera_on_the_web_gets_the_header_it_wants(clip, fed, monkeypatch):
    class Guarded(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Authorization"] == "Bearer cam-header-1" else 401)
            self.end_headers()
            self.wfile.write(clip.read_bytes())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for header in ("Bearer cam-header-1", "Bearer cam-header-2"):
            monkeypatch.setenv("CAM_HEADER", header)
            url = f"http://127.0.0.1:{server.server_port}/live"
            one = fed(Stream(url=url, inputs="image", headers_env={"Authorization": "CAM_HEADER"}))
            if header.endswith("1"):
                wait_for(lambda one=one: one.count() > 3, 20)
            else:
                wait_for(lambda one=one: one.feeder.error, 20)
                assert one.feeder.error.startswith("refuses the user or password")
            assert "cam-header" not in one.feeder.error
    finally:
        server.shutdown()
        server.server_close()


def test_a_camera_without_sound_serves_its_pictures(camera, clip, fed):
    one = fed(Stream(url=camera(clip, sound=False).url, inputs=["image", "audio"]))
    wait_for(lambda: one.count() > 5, 20)
    assert "has no sound track" in one.feeder.source.notes[0]


def test_a_resolution_that_changes_in_mid_stream_changes_nothing_for_the_model(tmp_path):
    small, large = (write_clip(tmp_path / f"{size[0]}.mp4", [(BRIGHT, 0)], size=size, sound=False) for size in ((160, 120), (320, 240)))
    raw = b""
    for path in (small, large):  # two H.264 streams one after the other, as a camera does that is switched over
        import av

        with av.open(str(path)) as file, av.open(str(tmp_path / "raw.h264"), "w", format="h264") as out:
            copied = out.add_stream_from_template(file.streams.video[0])
            for packet in file.demux(file.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copied
                    out.mux(packet)
        raw += (tmp_path / "raw.h264").read_bytes()
    (tmp_path / "both.h264").write_bytes(raw)
    found = items(Stream(url=str(tmp_path / "both.h264"), inputs="image"), "image")
    assert {item.value.frame.width for item in found} == {160, 320}
    assert all(item.value.fitted(WANTS["image"].stream()).shape == (32, 32, 3) for item in found)


def test_pictures_and_sound_that_come_apart_are_connected_anew():
    """A camera whose sound falls behind, slowly, as one with a broken clock: on a clock of the test's own."""
    from edgemm.contracts.source import Item

    clock = [100.0]

    class Apart(Flapping):
        inputs, closed = ("image", "audio"), 0

        def close(self):
            self.closed += 1

    source = Apart()
    feeder = Feeder(source, WANTS, lambda item, at: None, patience=Patience(no_data_s=10.0, skew_s=2.0), now=lambda: clock[0])
    said = []
    for second in range(40):
        clock[0] += 1.0
        for name, behind in (("image", 0.0), ("audio", min(5.0, second / 4))):
            feeder._deliver(Item(name, np.zeros(160, np.float32), clock[0] - behind), 0.0, second == 0)
        said += [word for word in [feeder.watch()] if word]
    assert feeder.skew_s() == pytest.approx(5.0, abs=0.5)
    assert 1 <= len(said) <= 3
    assert re.search(r"picture and sound are [2-5]\.\d s apart; connecting again", said[0])
    assert source.closed == len(said)


def test_only_pictures_that_are_inferred_are_scaled(bundle, clip, monkeypatch):
    from edgemm.box.bundle.opened import open_bundle
    from edgemm.box.serving.run_yaml import parse
    from edgemm.box.serving.runner import Runner
    from edgemm.box.serving.sources._av.reading import AvFrame

    scaled, scale = [], AvFrame._scaled
    monkeypatch.setattr(AvFrame, "_scaled", lambda self, *size: scaled.append(size) or scale(self, *size))
    opened = open_bundle(bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(clip)}}
    runner = Runner(opened, parse({"decide_hz": 2, "sources": [source]}, opened.card), fast=True)
    runner.run(threading.Event())
    assert len(scaled) == runner.engine.ran["image"]
    assert len(scaled) < 120 / 6, "two of fifteen pictures a second"


class Flapping:
    """A source that is lost again at once, a thousand times."""

    live, notes, steady = True, [], True
    inputs = ("audio",)

    def __init__(self):
        self.opened = 0

    def items(self, wants):
        from edgemm.contracts.source import Item

        self.opened += 1
        yield Item("audio", np.zeros(160, np.float32), 0.01)
        raise RunError("the camera hung up.")

    def close(self):
        pass

    def describe(self):
        return "flapping"


def test_a_thousand_reconnects_leave_nothing_behind(fed):

    threads = threading.active_count()
    one = Fed.__new__(Fed)
    seen = []
    source = Flapping()
    one.feeder = Feeder(source, WANTS, lambda item, at: seen.append(item.discontinuity), patience=Patience(first_s=1e-4, most_s=2e-4))
    one.feeder.start()
    wait_for(lambda: source.opened >= 1000, 20)
    one.feeder.stop()
    one.feeder.join(5)
    assert threading.active_count() == threads
    assert all(seen)


def test_waiting_before_the_next_try_grows_and_is_drawn_at_random(monkeypatch):
    source, waits = Flapping(), []
    feeder = Feeder(source, WANTS, lambda item, at: None, patience=Patience(first_s=1.0, most_s=8.0))
    monkeypatch.setattr(feeder._stop, "wait", lambda seconds: waits.append(seconds) or (len(waits) >= 6 and feeder._stop.set()))
    feeder.start()
    feeder.join(5)
    for wait_s, most in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= wait_s <= most
    assert len(set(waits)) == 6


def test_a_step_of_the_wall_clock_changes_nothing(clip, monkeypatch):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86400 * (time.monotonic() % 2 > 1))
    one = Fed(Stream(url=str(clip), inputs=["image", "audio"]))
    wait_for(lambda: one.count() > 30, 20)
    one.feeder.stop()
    one.feeder.join(5)
    times = [item.time_s for item, _ in one.items if item.input == "image"]
    assert np.diff(times).max() < 0.5
    assert not any(item.discontinuity for item, _ in one.items[2:] if item.input == "image")


def test_secrets_are_blotted_out_of_logs_and_tracebacks(caplog, monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "hidden-value-77")
    secret("SOME_SECRET", None, "camera")
    log = logging.getLogger("edgemm.test")
    caplog.handler.addFilter(Redacting())
    try:
        raise ValueError("rtsp://me:hidden-value-77@camera/live is gone")
    except ValueError:
        log.exception("lost %s", "rtsp://me:hidden-value-77@camera/live")
    assert "hidden-value-77" not in caplog.text
    assert "rtsp://***@camera/live" in caplog.text


def test_whatever_a_library_raises_is_a_loss_like_any_other(capfd):
    class Odd(Flapping):
        def items(self, wants):
            self.opened += 1
            raise ZeroDivisionError("in rtsp://me:hidden-value-78@camera/live")
            yield

    source = Odd()
    feeder = Feeder(source, WANTS, lambda item, at: None, patience=Patience(first_s=0.01, most_s=0.01))
    feeder.start()
    wait_for(lambda: source.opened > 2)
    feeder.stop()
    feeder.join(5)
    assert feeder.error == "ZeroDivisionError: in rtsp://***@camera/live"
    assert "hidden-value-78" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(("turn", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (1, 0)), (8, (0, 1))])
def test_a_picture_that_its_exif_turns_is_shown_upright_with_what_is_drawn_on_it(turn, corner, tmp_path):
    """``corner``: where the stored picture's upper left corner is to be seen, right and down."""
    from edgemm.box.serving.sources._av.recorded import items_of

    pixels, exif = np.full((64, 96, 3), 90, np.uint8), Pillow.Exif()
    pixels[:32, :48] = [250, 30, 30]
    exif[0x0112] = turn
    Pillow.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    (item,) = items_of(tmp_path / "a.jpg", {"image": WANTS["image"]})
    height, width = item.value.extent
    assert (width, height) == ((96, 64) if turn in (1, 3) else (64, 96))
    seen = np.asarray(Pillow.open(io.BytesIO(item.value.jpeg(width, paint=lambda array: array[:8, -8:].fill(0)))).convert("RGB"))
    assert seen.shape[:2] == (height, width)
    middle = seen[height * (1 + 2 * corner[1]) // 4, width * (1 + 2 * corner[0]) // 4]
    assert middle[0] > 200 > 100 > middle[1]
    assert seen[2, -3].max() < 60, "what is drawn is not turned"
