"""Every construct that a branch or a fusion may be made of: what goes, what stays, and that the proof holds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemm.workshop.pruning.analysis import analyse
from edgemm.workshop.pruning.targets import Goal, untouched
from tests.workshop.pruning.conftest import PICTURE, SERIES, VECTOR, WORDS


class Ended(nn.Module):
    """Ends in three logits."""

    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 3)


class Residual(Ended):
    def __init__(self):
        super().__init__(16)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.two(self.one(x).relu())).relu().mean((2, 3)))


class Depthwise(Ended):
    def __init__(self):
        super().__init__(24)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.Hardswish(), nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24),
        )  # fmt: skip

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(F.pad(self.layers(x), (1, 1, 0, 0)), 1).flatten(1))


class Grouped(Ended):
    def __init__(self):
        super().__init__(24)
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, groups=4)
        self.three, self.norm = nn.Conv2d(24, 24, 1), nn.GroupNorm(4, 24)

    def forward(self, x):
        return self.head(self.norm(self.three(self.two(self.one(x).relu()).relu())).mean((2, 3)))


class NormedPicture(Ended):
    """Two convolutions with a norm between them; the first may have groups."""

    def __init__(self, norm, groups=1, kind=nn.Conv2d):
        super().__init__(8)
        self.into, self.one = nn.Conv2d(3, 16, 1), kind(16, 16, 3, groups=groups)
        self.norm, self.two = norm, nn.Conv2d(16, 8, 3)

    def forward(self, x):
        return self.head(self.two(self.norm(self.one(self.into(x))).relu()).mean((2, 3)))


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight at every call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, groups=self.groups)


class CountedGroups(nn.Module):
    """A group norm of a user's own, with the number of groups written down."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16))

    def forward(self, x):
        return F.group_norm(x, 4, self.weight, self.bias)


class Flattened(Ended):
    def __init__(self):
        super().__init__(20)
        self.conv, self.pool, self.layer = nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(2), nn.Linear(8 * 4, 20)

    def forward(self, x):
        return self.head(self.layer(self.pool(self.conv(x)).flatten(1)).relu())


class Transposed(Ended):
    def __init__(self):
        super().__init__(6)
        self.down, self.up, self.slope = nn.Conv2d(3, 16, 3, stride=2), nn.ConvTranspose2d(16, 8, 3, stride=2), nn.PReLU(8)
        self.norm, self.out = nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 6, 1)

    def forward(self, x):
        return self.head(self.out(F.interpolate(self.norm(self.slope(self.up(self.down(x).relu()))), scale_factor=2.0)).mean((2, 3)))


class Recurrent(Ended):
    def __init__(self, kind=nn.GRU, layers=1, both=False, read="last"):
        super().__init__(16 * (2 if both and read != "state" else 1))
        self.conv = nn.Conv1d(6, 12, 3)
        self.rnn = kind(12, 16, num_layers=layers, bidirectional=both, batch_first=True)
        self.read = read

    def forward(self, x):
        out, state = self.rnn(self.conv(x.transpose(1, 2)).relu().transpose(1, 2))
        state = state[0] if isinstance(state, tuple) else state
        return self.head({"last": out[:, -1], "mean": out.mean(1), "state": state[-1]}[self.read])


class WithState(Ended):
    """Its first state is computed from the input, and its size is written down."""

    def __init__(self):
        super().__init__(16)
        self.start, self.gru = nn.Linear(6, 16), nn.GRU(6, 16, batch_first=True)

    def forward(self, x):
        return self.head(self.gru(x, self.start(x[:, 0]).tanh().unsqueeze(0))[0][:, -1])


class Words(Ended):
    def __init__(self):
        super().__init__(32)
        self.embedding, self.lstm = nn.Embedding(30, 12), nn.LSTM(12, 16, batch_first=True, bidirectional=True)

    def forward(self, ids):
        return self.head(self.lstm(self.embedding(ids))[0].mean(1))


class Mlp(Ended):
    def __init__(self):
        super().__init__(16)
        self.layers = nn.Sequential(nn.Linear(10, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 16), nn.BatchNorm1d(16), nn.SiLU())

    def forward(self, x):
        return self.head(self.layers(x))


class Written(nn.Module):
    """Attention whose head count is written into ``view``."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).view(x.shape[0], 12, 4, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o((q @ k.transpose(2, 3) / 2).softmax(-1).matmul(v).transpose(1, 2).reshape(x.shape[0], 12, 16))


class Packed(nn.Module):
    """Queries, keys and values from one layer; the number of heads follows from its width."""

    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Attending(Ended):
    def __init__(self, inner):
        super().__init__(16)
        self.into, self.inner, self.norm = nn.Linear(6, 16), inner, nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x):
        x = self.into(x)
        x = self.norm(x + self.inner(x))
        return self.head((x + self.narrow(self.wide(x).relu())).mean(1))


class Stock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Tokens(Ended):
    """A class token and positions as bare parameters, a learned scale for each channel, and no norm."""

    def __init__(self):
        super().__init__(16)
        self.into = nn.Linear(6, 16)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(13, 16))
        self.scale = nn.Parameter(torch.randn(16))
        self.last = nn.Linear(16, 16)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.into(x)], 1) + self.positions
        return self.head(self.last((x * self.scale).relu()[:, 0]))


class Squeezed(Ended):
    """Squeeze-and-excitation, a spatial gate, and length 1."""

    def __init__(self):
        super().__init__(16)
        self.conv, self.squeeze, self.excite, self.where = nn.Conv2d(3, 16, 3), nn.Linear(16, 8), nn.Linear(8, 16), nn.Conv2d(16, 1, 1)

    def forward(self, x):
        x = self.conv(x).relu()
        x = x * self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None] * self.where(x).sigmoid()
        return self.head(F.normalize(x.mean((2, 3)), dim=1))


class Halves(Ended):
    def __init__(self):
        super().__init__(12)
        self.one, self.two = nn.Conv1d(6, 24, 3), nn.Linear(12, 24)

    def forward(self, x):
        return self.head(F.glu(self.two(F.glu(self.one(x.transpose(1, 2)), 1).mean(2)), -1))


class Chunked(Ended):
    """Mean and spread in one layer, taken apart in the middle: cutting it unevenly would move the middle."""

    def __init__(self):
        super().__init__(12)
        self.both, self.one, self.two = nn.Linear(10, 24), nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        mean, spread = self.both(x).chunk(2, 1)
        return self.head(self.one(mean) * 2 + self.two(spread.exp()))


class Scattered(Ended):
    """Message passing over a list of edges."""

    def __init__(self):
        super().__init__(16)
        self.into, self.message = nn.Linear(6, 16), nn.Linear(16, 16)
        self.register_buffer("source", torch.arange(12))
        self.register_buffer("sink", torch.arange(12).roll(1))

    def forward(self, x):
        x = self.into(x).relu()
        messages = self.message(x[:, self.source])
        return self.head((x + torch.zeros_like(x).index_add(1, self.sink, messages)).relu().mean(1))


class Cells(Ended):
    """A loop over an LSTM cell, an outer product and a bilinear layer: no rule follows these."""

    def __init__(self):
        super().__init__(16)
        self.into, self.cell = nn.Linear(6, 8), nn.LSTMCell(8, 16)
        self.side, self.other, self.joint = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(16, 16)
        self.bilinear = nn.Bilinear(16, 16, 16)

    def forward(self, x):
        state = (torch.zeros(x.shape[0], 16), torch.zeros(x.shape[0], 16))
        for step in self.into(x).unbind(1):
            state = self.cell(step, state)
        outer = (self.side(x[:, 0]).unsqueeze(2) * self.other(x[:, 1]).unsqueeze(1)).flatten(1)
        return self.head(self.bilinear(state[0], self.joint(outer)))


class Einsum(Ended):
    def __init__(self):
        super().__init__(16)
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 16)

    def forward(self, x):
        scores = torch.einsum("btc,bsc->bts", self.q(x), self.k(x)) * 0.3
        return self.head(torch.einsum("bts,bsd->btd", scores.softmax(-1), self.v(x)).mean(1))


class Normed(Ended):
    """A convolution whose weight is computed from direction and length."""

    def __init__(self):
        super().__init__(8)
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 16, 3))
        self.after = nn.Conv1d(16, 8, 3)

    def forward(self, x):
        return self.head(self.after(self.conv(x.transpose(1, 2)).relu()).mean(2))


class Siamese(Ended):
    """One tower for two inputs."""

    def __init__(self):
        super().__init__(32)
        self.tower = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16))

    def forward(self, left, right):
        return self.head(torch.cat([self.tower(left), self.tower(right)], 1))


class Gate(Ended):
    """Two towers of one width, joined by a gate."""

    def __init__(self, kind):
        super().__init__(16)
        self.left, self.right = nn.Linear(10, 16), nn.GRU(6, 16, batch_first=True)
        self.gate = nn.Linear(32, {"scalar": 2, "vector": 16, "weighted": 1}[kind])
        self.kind, self.alpha = kind, nn.Parameter(torch.zeros(()))

    def forward(self, left, right):
        one, other = self.left(left).relu(), self.right(right)[0].mean(1)
        gate = self.gate(torch.cat([one, other], 1))
        if self.kind == "scalar":
            shares = gate.softmax(1)
            return self.head(one * shares[:, :1] + other * shares[:, 1:])
        if self.kind == "vector":
            return self.head(one * gate.sigmoid() + other * (1 - gate.sigmoid()))
        return self.head(one * self.alpha.sigmoid() + other * (1 - self.alpha.sigmoid()) * gate.tanh())


class Crossed(Ended):
    def __init__(self):
        super().__init__(16)
        self.left, self.right = nn.Linear(6, 16), nn.Linear(6, 24)
        self.attention = nn.MultiheadAttention(16, 4, kdim=24, vdim=24, batch_first=True)

    def forward(self, left, right):
        left, right = self.left(left), self.right(right)
        hidden = torch.zeros(right.shape[:2], dtype=torch.bool)
        return self.head((left + self.attention(left, right, right, key_padding_mask=hidden)[0]).mean(1))


PRUNED = {
    "residual convolutions": (Residual, {"x": PICTURE}, {"stem": 16, "one": 24}),
    "depthwise convolutions": (Depthwise, {"x": PICTURE}, {"layers.0": 16, "layers.6": 24}),
    "grouped convolutions": (Grouped, {"x": PICTURE}, {"one": 4, "two": 6, "three": 4}),
    "a group norm": (lambda: NormedPicture(nn.GroupNorm(8, 16)), {"x": PICTURE}, {"into": 16, "one": 8, "two": 8}),
    "a group norm over a depthwise convolution": (
        lambda: NormedPicture(nn.GroupNorm(8, 16), 16),
        {"x": PICTURE},
        {"into": 8, "two": 8},
    ),
    "an instance norm": (lambda: NormedPicture(nn.InstanceNorm2d(16, affine=True)), {"x": PICTURE}, {"into": 16, "one": 16, "two": 8}),
    "an instance norm without weights": (lambda: NormedPicture(nn.InstanceNorm2d(16)), {"x": PICTURE}, {"into": 16, "one": 16, "two": 8}),
    "a flattened map": (Flattened, {"x": PICTURE}, {"conv": 8, "layer": 20}),
    "transposed convolutions": (Transposed, {"x": PICTURE}, {"down": 16, "up": 8, "out": 6}),
    "a GRU's last step": (Recurrent, {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "a GRU's state": (lambda: Recurrent(read="state"), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "a GRU both ways": (lambda: Recurrent(both=True, read="mean"), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "an LSTM": (lambda: Recurrent(nn.LSTM), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "two LSTM layers": (lambda: Recurrent(nn.LSTM, layers=2), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "two LSTM layers both ways": (lambda: Recurrent(nn.LSTM, 2, True, "mean"), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "three GRU layers both ways, by state": (lambda: Recurrent(nn.GRU, 3, True, "state"), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "a plain recurrent layer": (lambda: Recurrent(nn.RNN, read="mean"), {"x": SERIES}, {"conv": 12, "rnn": 16}),
    "words through an LSTM": (Words, {"ids": WORDS}, {"embedding": 12, "lstm": 16}),
    "linear layers with batch norm": (Mlp, {"x": VECTOR}, {"layers.0": 24, "layers.3": 16}),
    "stock attention": (lambda: Attending(Stock()), {"x": SERIES}, {"inner.attention.query": 4, "wide": 40}),
    "packed attention": (lambda: Attending(Packed()), {"x": SERIES}, {"inner.qkv": 4, "wide": 40}),
    "attention with its heads written down": (lambda: Attending(Written()), {"x": SERIES}, {"wide": 40}),
    "stock transformer layers": (
        lambda: Attending(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False)),
        {"x": SERIES},
        {f"inner.layers.{n}.{part}": size for n in (0, 1) for part, size in (("self_attn.query", 4), ("linear1", 32))} | {"wide": 40},
    ),
    "a class token and positions": (Tokens, {"x": SERIES}, {"into": 16, "last": 16}),
    "squeeze and excitation": (Squeezed, {"x": PICTURE}, {"conv": 16, "squeeze": 8}),
    "gated halves": (Halves, {"x": SERIES}, {"one": 12, "two": 12}),
    "messages over edges": (Scattered, {"x": SERIES}, {"into": 16}),
    "einsum": (Einsum, {"x": SERIES}, {"q": 8, "v": 16}),
    "one tower for two inputs": (Siamese, {"left": VECTOR, "right": VECTOR}, {"tower.0": 24, "tower.2": 16}),
    "a scalar gate": (lambda: Gate("scalar"), {"left": VECTOR, "right": SERIES}, {"left": 16}),
    "a vector gate": (lambda: Gate("vector"), {"left": VECTOR, "right": SERIES}, {"left": 16}),
    "a learned weight": (lambda: Gate("weighted"), {"left": VECTOR, "right": SERIES}, {"left": 16}),
    "cross attention": (Crossed, {"left": SERIES, "right": SERIES}, {"left": 16, "right": 24, "attention.query": 4}),
}


@pytest.mark.parametrize("name", PRUNED)
def test_it_is_pruned_and_proved(name, fused, halved):
    make, inputs, widths = PRUNED[name]
    torch.manual_seed(1)
    found, proof = halved(fused(make(), **inputs))
    assert {layer.name: layer.width for layer in found.layers} == widths
    assert proof.error < 1e-5


WHOLE = {
    "a computed first state": (WithState, {"x": SERIES}, "gru", "its first state is computed"),
    "a first state": (WithState, {"x": SERIES}, "start", "first state of a recurrent layer"),
    "a group norm over all": (
        lambda: NormedPicture(nn.GroupNorm(1, 16)),
        {"x": PICTURE},
        "one",
        "a group norm takes its mean over all channels",
    ),
    "a group norm without weights": (
        lambda: NormedPicture(nn.GroupNorm(4, 16, affine=False)),
        {"x": PICTURE},
        "one",
        "a group norm takes its mean over groups whose number nothing in its weights tells",
    ),
    "groups that are written down": (
        lambda: NormedPicture(CountedGroups()),
        {"x": PICTURE},
        "one",
        "with some of it gone the outputs change",
    ),
    "groups across groups": (
        lambda: NormedPicture(nn.GroupNorm(4, 16), 4),
        {"x": PICTURE},
        "one",
        "the groups of a convolution and of a group norm join all its channels",
    ),
    "a standardised weight": (
        lambda: NormedPicture(nn.Identity(), kind=Standardised),
        {"x": PICTURE},
        "into",
        "its weight is computed at every call",
    ),
    "a layer norm": (lambda: Attending(Stock()), {"x": SERIES}, "into", "a layer norm takes its mean over these channels"),
    "heads written down": (lambda: Attending(Written()), {"x": SERIES}, "inner.q", "its width is written down somewhere"),
    "halves of other channels": (Chunked, {"x": VECTOR}, "both", "with some of it gone"),
    "a cell in a loop": (Cells, {"x": SERIES}, "into", "the analysis has no rule for 'lstm_cell'"),
    "an outer product": (Cells, {"x": SERIES}, "side", "it is spread over the channels of another value"),
    "a bilinear layer": (Cells, {"x": SERIES}, "joint", "the analysis has no rule for 'bilinear'"),
    "a computed weight": (Normed, {"x": SERIES}, "head", "it is an output of the model"),
    "a gate's rows": (lambda: Gate("scalar"), {"left": VECTOR, "right": SERIES}, "gate", "'softmax' mixes these channels"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_it_is_left_whole_with_its_reason(name, fused, halved):
    make, inputs, layer, reason = WHOLE[name]
    torch.manual_seed(1)
    model = fused(make(), **inputs)
    found, _ = halved(model)
    reasons = {whole.name: whole.reason for whole in found.whole}
    assert reason in reasons[layer]
    assert layer not in {free.name for free in found.layers}


class Uneven(Ended):
    """One side's channels hang together, the other's do not."""

    def __init__(self):
        super().__init__(32)
        self.left, self.norm, self.right = nn.Linear(10, 16), nn.GroupNorm(1, 16), nn.Linear(10, 16)

    def forward(self, left, right):
        return self.head(torch.cat([self.norm(self.left(left)).relu(), self.right(right).relu()], 1))


@pytest.mark.parametrize("goal", [Goal(ratio=0.5), Goal(macs=0.2)], ids=["channels", "multiply-accumulates"])
def test_a_branch_of_which_nothing_can_go_is_named_with_its_reason(goal, fused):
    found = analyse(fused(Uneven(), left=VECTOR, right=VECTOR))
    (sentence,) = untouched(goal, found, {layer.name: layer.width // 2 for layer in found.layers})
    assert sentence.startswith("nothing of 'left' was removed: 'left': a group norm takes its mean over all channels")
