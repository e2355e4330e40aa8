"""Pictures that wait undecoded: those that are looked at are the same ones, the others cost nothing, odd streams are decoded at once."""

import random

import av
import numpy as np
import pytest

from edgemm.box.serving.sources._av.reading import Reader
from edgemm.box.serving.sources._av.undecoded import LONGEST, MOST_WAITING, TRIED, PictureDecoder
from edgemm.contracts import card_file as cards
from edgemm.contracts.modality import modalities

PICTURES, GROUP = 80, 10
WIDTH, HEIGHT = 64, 48


def write(path, *, group=GROUP, pictures=PICTURES, tune="zerolatency"):
    """A bright bar that moves."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"g": str(group), "sc_threshold": "0", **({"tune": tune} if tune else {"bf": "2"})}
        for number in range(pictures):
            array = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            array[:, number % WIDTH : number % WIDTH + 8] = 200
            file.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        file.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip") / "bar.mp4")


class Counting(PictureDecoder):
    def __init__(self, context):
        super().__init__(context)
        self.count = 0

    def _decode_next(self):
        self.count += 1
        return super()._decode_next()


def opened(path):
    file = av.open(str(path))
    stream = file.streams.video[0]
    stream.thread_count = 1
    return file, [packet for packet in file.demux(stream) if packet.size], Counting(stream.codec_context)


def decoded_at_once(path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray() for frame in file.decode(file.streams.video[0])]


def test_whoever_looks_sees_the_same_pictures_also_those_of_a_group_that_is_over(clip):
    wanted, draw, looked = decoded_at_once(clip), random.Random(0), 0
    file, packets, decoder = opened(clip)
    with file:
        waiting = []
        for place, packet in enumerate(packets):
            if decoder.may_wait(packet) and draw.random() < 0.9:
                waiting = [*waiting, (place, decoder.put_off(packet))][-8:]
                for at, undecoded in waiting:
                    if draw.random() < 0.05:
                        looked += 1
                        np.testing.assert_array_equal(undecoded.decoded().to_ndarray(), wanted[at])
            else:
                (frame,) = decoder.decode(packet)
                np.testing.assert_array_equal(frame.to_ndarray(), wanted[place])
    assert looked > 15


def test_what_nobody_looks_at_is_not_decoded_and_one_look_takes_all_since_the_key_frame(clip):
    file, packets, decoder = opened(clip)
    with file:
        for packet in packets[:TRIED]:
            assert not decoder.may_wait(packet)
            decoder.decode(packet)
        waiting = [decoder.put_off(packet) for packet in packets[TRIED:] if decoder.may_wait(packet)]
        assert (decoder.count, len(waiting)) == (TRIED, PICTURES - TRIED)
        last = waiting[-4]
        assert last.cost() == GROUP - 3
        last.decoded()
        assert (decoder.count, last.cost(), waiting[-3].cost()) == (TRIED + GROUP - 3, 0, 1)
        decoder.decode(packets[-1])  # were it another one: the two before it come first
        assert decoder.count == TRIED + GROUP + 1


def test_with_few_key_frames_no_more_than_so_many_wait(tmp_path):
    path = write(tmp_path / "long.mp4", group=1000, pictures=LONGEST + 2 * MOST_WAITING)
    wanted = decoded_at_once(path)
    file, packets, decoder = opened(path)
    with file:
        at_once = []
        for place, packet in enumerate(packets):
            if decoder.may_wait(packet):
                last = place, decoder.put_off(packet)
                assert last[1].cost() <= MOST_WAITING
            else:
                at_once.append(place)
                np.testing.assert_array_equal(decoder.decode(packet)[-1].to_ndarray(), wanted[place])
        np.testing.assert_array_equal(last[1].decoded().to_ndarray(), wanted[last[0]])
    assert len(at_once) == TRIED + (len(packets) - TRIED) // (MOST_WAITING + 1)


def test_pictures_that_come_in_another_order_than_they_are_shown_never_wait(tmp_path):
    file, packets, decoder = opened(write(tmp_path / "both.mp4", tune=None))
    with file:
        for packet in packets:
            assert not decoder.may_wait(packet)
            decoder.decode(packet)


def test_of_a_broken_picture_the_last_whole_one_is_seen_and_then_none_waits(clip):
    file, packets, decoder = opened(clip)
    with file:
        for packet in packets[:TRIED]:
            (last,) = decoder.decode(packet)
        broken = av.Packet(b"\x00\x00\x00\x05\x65\xff\xff\xff\xff")
        broken.pts, broken.time_base = packets[TRIED].pts, packets[TRIED].time_base
        assert decoder.may_wait(broken)
        assert decoder.put_off(broken).decoded() is last
        assert not decoder.may_wait(packets[TRIED + 1])


def test_a_reader_leaves_undecoded_what_nobody_watches_and_their_times_are_the_same(clip):
    image = {"image": {"modality": "image", "height": HEIGHT, "width": WIDTH}}
    outputs = {"y": {"task": "classification", "labels": ["a", "b"]}}
    wants = modalities(cards.parse({"model": "m.onnx", "inputs": image, "outputs": outputs}))
    watched = list(Reader(str(clip), live=False).items(wants))
    unwatched = list(Reader(str(clip), live=False, unwatched=lambda: ["image"]).items(wants))
    assert [item.time_s for item in unwatched] == [item.time_s for item in watched]
    assert [item.value.cost for item in watched] == [0] * PICTURES
    costs = [item.value.cost for item in unwatched]
    assert costs == [0] * TRIED + [1 + place % GROUP for place in range(PICTURES - TRIED)]
    stream = wants["image"].stream()
    for place in (30, 79, 41):
        np.testing.assert_array_equal(unwatched[place].value.fitted(stream), watched[place].value.fitted(stream))
        assert unwatched[place].value.cost == 0
    assert unwatched[20].value.jpeg(64) == watched[20].value.jpeg(64)
