"""Steps of a frame each: the numbers of one run over the whole sequence."""

import functools

import pytest
import torch
from torch import nn

from kineme.errors import SpecError
from kineme.pose_classification.graph import Layout
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.steps.stepped_model import SteppedModel, Steps
from kineme.pose_classification.streams import Stream, Streams, paired

LAYOUT = LAYOUTS["sbu-15"]
BODIES = ["ST-GCN", "ST-GCN++", "ST-GCN++ with a mask", "ST-GCN of bones and movement"]
DELAY, STRIDE = 76, 4  # 4 + 4 + 4 + 4 + 4 + 2 (4 + 4 + 4) + 4 (4 + 4) frames ahead, every 2 x 2


@functools.cache
def build(body: str) -> nn.Module:
    """A model none of whose parameters is at its initial value, in float64."""
    torch.manual_seed(0)
    name, _, rest = body.partition(" ")
    options = {"num_flags": 1} if rest == "with a mask" else {}
    model = MODELS[name](5, 6 if "movement" in rest else 3, layout=LAYOUT, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std(correction=0).clamp(0.1) * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    if "movement" in rest:
        model = Stream(model, ["bone", "joint_motion"], LAYOUT)
    return model.double().eval()


def skeletons(num_frames: int, num_samples: int = 1, num_persons: int = 1) -> torch.Tensor:
    """Joints that are missing here and there, and the third of all for good."""
    generator = torch.Generator().manual_seed(num_frames)
    shape = (num_samples, 3, num_frames, LAYOUT.num_joints, num_persons)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    hidden = torch.rand(num_samples, 1, *shape[2:], generator=generator) < 0.1
    hidden[:, :, :, 3] = True
    return x.masked_fill(hidden, 0)


def stepped(model: SteppedModel, x: torch.Tensor) -> Steps:
    steps = model.begin(x.shape[0], x.shape[4])
    for frame in x.unbind(2):
        model.step(steps, frame)
    return steps


def whole(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the plain model, and the features (N M, F, frames / 4) behind them."""
    inner = model.model if isinstance(model, Stream) else model
    blocks = inner.blocks if hasattr(inner, "blocks") else inner.st_gcn_networks
    found = []
    with blocks[-1].register_forward_hook(lambda *call: found.append(call[-1])):
        logits = model(skeleton=x)  # with gradients: the plain blocks
    joints = found[0].shape.index(LAYOUT.num_joints)  # they come first or last
    features = found[0].mean(joints)
    features = features.transpose(0, 1) if joints == 0 else features
    return logits.detach(), features.detach()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("num_frames", "people"), [(1, (1, 1)), (3, (2, 2)), (38, (2, 1))])
def test_finished_steps_give_the_logits_of_the_whole_sequence(body, num_frames, people):
    model, x = build(body), skeletons(num_frames, *people)
    if people == (2, 2):
        x[1, ..., 1] = 0  # nobody
    expected, _ = whole(model, x)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        ours = SteppedModel(model, window=1000, dtype=dtype)
        steps = stepped(ours, x)
        assert ours.answer(steps) is None  # nothing is complete before the delay
        ours.finish(steps)
        assert steps.num_features == -(-num_frames // STRIDE)
        received = ours.answer(steps).double()
        bound = tolerance * expected.abs().max().item()
        torch.testing.assert_close(received, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("body", BODIES)
def test_each_answer_is_the_mean_of_the_last_complete_features_of_the_whole_run(body):
    x = skeletons(107)
    models = {w: SteppedModel(build(body), window=w) for w in (4, 10, 24)}
    delay = DELAY + ("movement" in body)
    assert {(one.delay, one.stride) for one in models.values()} == {(delay, STRIDE)}
    longest = models[24]
    steps, told = longest.begin(), {}
    for number, frame in enumerate(x.unbind(2), start=1):
        if longest.step(steps, frame):
            told[number] = {window: one.answer(steps) for window, one in models.items()}
    assert list(told) == list(range(delay + 1, 108, STRIDE))
    head = nn.Sequential(build(body).model if "movement" in body else build(body))[0].fcn
    weight, bias = head.weight.detach().flatten(1), head.bias.detach()
    for number in list(told)[::3]:  # what comes later changes nothing
        _, features = whole(build(body), x[:, :, :number])
        complete = (number - delay - 1) // STRIDE + 1
        for window, received in told[number].items():
            mean = features[:, :, max(0, complete - -(-window // STRIDE)) : complete].mean(2)
            expected = mean @ weight.t() + bias
            bound = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(received.double(), expected, rtol=0, atol=bound)


def test_an_answer_can_be_asked_of_any_span_of_frames():
    model = build("ST-GCN")
    ours, x = SteppedModel(model, window=100, dtype=torch.float64), skeletons(30)
    steps = stepped(ours, x)
    ours.finish(steps)
    _, features = whole(model, x)
    weight, bias = model.fcn.weight.detach().flatten(1), model.fcn.bias.detach()
    for span, chosen in (((0, 4), [0]), ((1, 13), [1, 2, 3]), ((20, 99), [5, 6, 7])):
        expected = features[:, :, chosen].mean(2) @ weight.t() + bias
        torch.testing.assert_close(ours.answer(steps, span), expected, rtol=0, atol=1e-12)
    assert ours.answer(steps, (5, 8)) is None  # features are centred on 4 and 8


def test_a_copy_tells_how_it_would_end_and_leaves_the_rest_as_it_was():
    ours, x = SteppedModel(build("ST-GCN++"), window=1000), skeletons(90)
    steps = ours.begin()
    for number, frame in enumerate(x.unbind(2), start=1):
        ours.step(steps, frame)
        if number == 41:
            ended = steps.copy()
            ours.finish(ended)
            expected, _ = whole(build("ST-GCN++"), x[:, :, :41])
            bound = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(ours.answer(ended).double(), expected, rtol=0, atol=bound)
    assert torch.equal(ours.answer(steps), ours.answer(stepped(ours, x)))


def test_training_on_does_not_change_what_steps():
    model = MODELS["ST-GCN"](5, 3, layout=LAYOUT).eval()
    ours, x = SteppedModel(model, window=8), skeletons(5)
    before = stepped(ours, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    after = stepped(ours, x)
    ours.finish(before), ours.finish(after)
    assert torch.equal(ours.answer(before), ours.answer(after))


def test_models_that_need_the_whole_window_are_refused():
    with pytest.raises(
        SpecError, match=r"model\.model_type: expected ST-GCN or ST-GCN\+\+.*CTRGCN"
    ):
        SteppedModel(MODELS["CTR-GCN"](5, 3, layout=LAYOUT), window=64)
    pair: Layout = paired(LAYOUT)
    model = Stream(MODELS["ST-GCN"](5, 3, layout=pair), ["joint"], LAYOUT, persons="pair")
    with pytest.raises(SpecError, match=r"model\.persons: expected mean"):
        SteppedModel(model, window=64)
    several = Streams({"a": build(BODIES[-1]), "b": build(BODIES[-1])})
    with pytest.raises(SpecError, match=r"model\.streams: expected one model.*2 models"):
        SteppedModel(several, window=64)
