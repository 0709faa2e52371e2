"""ST-GCN: the same numbers as the slow, plain one.

Names, sizes and golden logits: test_weights_parity.py.
"""

import copy

import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from kineme.engine.weights import fit_weights
from kineme.pose_classification.blocks import stgcn_ops
from kineme.pose_classification.blocks.stgcn_ops import drop
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS, STGCN
from parity.stgcn_reference import ReferenceSTGCN

STRATEGIES = ["uniform", "distance", "spatial"]


@pytest.fixture(params=[0, 1 << 40], ids=["by links", "dense"])
def _either_way(request, monkeypatch):
    """Graph convolutions as large batches have them, and as small ones do."""
    monkeypatch.setattr(stgcn_ops, "_FEW_BYTES", request.param)


def build_pair(**settings) -> tuple[STGCN, ReferenceSTGCN]:
    """Ours and the reference with the same weights, none of them at its initial value."""
    torch.manual_seed(0)
    settings = {"layout": LAYOUTS["openpose"], "dropout": 0.0} | settings
    reference = ReferenceSTGCN(5, 3, **settings)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for name, buffer in reference.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    model = STGCN(5, 3, **settings)
    model.load_state_dict(reference.state_dict(), strict=True)
    return model, reference


def skeletons(num_samples=4, num_frames=13, num_joints=18, num_persons=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_samples, 3, num_frames, num_joints, num_persons, generator=generator)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize(
    ("strategy", "num_persons", "num_frames", "is_weighted"),
    [
        ("spatial", 1, 9, True),
        ("uniform", 2, 13, True),
        ("distance", 2, 13, True),
        ("spatial", 2, 2, False),
        ("spatial", 3, 1, True),
    ],
)
def test_training_gives_the_values_and_gradients_of_the_reference(
    strategy: str, num_persons: int, num_frames: int, is_weighted: bool
) -> None:
    model, reference = build_pair(strategy=strategy, edge_importance_weighting=is_weighted)
    model.double(), reference.double()
    x = skeletons(num_frames=num_frames, num_persons=num_persons).double()
    labels = torch.tensor([0, 4, 2, 2])
    for is_training in (True, False):  # in eval mode too: gradients then pass the plain blocks
        losses = []
        for module in (model, reference):
            module.train(is_training).zero_grad()
            losses.append(F.cross_entropy(module(skeleton=x), labels))
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
        for (name, ours), theirs in zip(
            model.named_parameters(), reference.parameters(), strict=True
        ):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12, msg=name)
    for (name, ours), theirs in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("num_samples", "num_frames", "dtype", "largest"),
    [
        (8, 16, torch.float64, 1e-12),
        (8, 16, torch.float32, 3e-4),  # rounding grows with each step; each kind of CPU has its own
        (1, 128, torch.float32, 1e-4),
    ],
)
def test_training_follows_the_reference_for_twenty_steps(
    num_samples, num_frames, dtype, largest
) -> None:
    x, losses = skeletons(num_samples, num_frames).to(dtype), []
    labels = torch.arange(len(x)) % 5
    for module in build_pair():
        module.to(dtype)
        optimizer = torch.optim.SGD(module.parameters(), 2e-4, momentum=0.9, nesterov=True)
        for _ in range(20):
            loss = F.cross_entropy(module.train()(skeleton=x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert max(abs(a - b) for a, b in zip(losses[:20], losses[20:], strict=True)) < largest
    assert losses[19] < 0.6 * losses[0]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("num_persons", "num_frames"), [(1, 64), (2, 13), (1, 1), (2, 2)])
def test_inference_gives_the_logits_of_the_reference(strategy, num_persons, num_frames) -> None:
    model, reference = build_pair(strategy=strategy)
    x = skeletons(9, num_frames, num_persons=num_persons)
    with torch.no_grad():
        ours, theirs = model.eval()(skeleton=x), reference.eval()(skeleton=x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_blocks_are_folded_in_float32_under_autocast_too():
    model, _ = build_pair()
    plain = model._folded.blocks(model.eval(), torch.bfloat16)
    model.train().eval()  # forgets them
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model._folded.blocks(model, torch.bfloat16)
    for one, other in zip(plain, under_autocast, strict=True):
        assert torch.equal(one.shift, other.shift)
        assert torch.equal(one.weight, other.weight)


def test_bfloat16_inference_names_the_same_classes() -> None:
    model, reference = build_pair(layout=LAYOUTS["nvidia"])
    x = skeletons(12, 30, num_joints=34)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = model.eval()(skeleton=x)
    with torch.no_grad():
        theirs = reference.eval()(skeleton=x)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()
    clear = theirs.topk(2).values.diff().abs().flatten() > 0.02 * theirs.abs().max()
    assert clear.sum() > 0
    assert (ours.argmax(1) == theirs.argmax(1))[clear].all()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 7, 12])
def test_bfloat16_gradients_are_right_however_short_the_window(num_frames: int) -> None:
    model, _ = build_pair()
    x = skeletons(16, num_frames)
    labels = torch.arange(16) % 5
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        poison = [torch.full((size,), torch.nan) for size in (10**3, 10**4, 10**5, 10**6)]
        del poison  # freed memory full of NaN, for a kernel that reads what it did not write
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            F.cross_entropy(model.train()(skeleton=x), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.85  # the reference's: 0.92 and more


def test_inference_notices_every_way_of_changing_weights() -> None:
    model, reference = build_pair()
    x = skeletons()

    def differs() -> bool:
        with torch.no_grad():
            ours, theirs = model(skeleton=x), reference(skeleton=x)
        return not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)

    model.eval(), reference.eval()
    assert not differs()
    with torch.no_grad():
        reference.st_gcn_networks[3].tcn[3].running_mean += 1
    assert differs()
    model.load_state_dict(reference.state_dict())
    assert not differs()
    with torch.no_grad():
        for module in (model, reference):
            module.edge_importance[2].mul_(1.5)
    assert not differs()
    for module in (model, reference):
        module.st_gcn_networks[0].gcn.conv.weight.data.mul_(2)  # tells nobody
        module.train().eval()
    assert not differs()
    model = copy.deepcopy(model)
    assert not differs()


def test_a_model_made_in_inference_mode_answers() -> None:
    with torch.inference_mode():
        model = STGCN(4, 3, layout=LAYOUTS["coco"]).eval()
        assert model(skeleton=skeletons(2, 8, 17)).shape == (2, 4)


def test_persons_are_averaged() -> None:
    model = build_pair()[0].eval()
    one = skeletons(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            model(skeleton=one), model(skeleton=one.repeat(1, 1, 1, 1, 3)), rtol=1e-4, atol=1e-5
        )


def test_nan_in_the_input_reaches_the_logits() -> None:
    model = build_pair()[0]
    x = skeletons()
    x[0, 0, 3, 5, 0] = torch.nan
    with torch.no_grad():
        assert model.eval()(skeleton=x).isnan().any(dim=1).tolist() == [True, False, False, False]
    assert model.train()(skeleton=x).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_zeroes_that_share_and_the_same_ones_in_backward(dtype, p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(16, 8, 50, 40, dtype=dtype, requires_grad=True)
    y = drop(x, p)
    assert abs((y == 0).double().mean().item() - p) < 0.005  # 5 sigma of 256,000 draws
    assert ((y == 0) | (y == 1)).all()
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    again = drop(x, p)
    assert abs((again == y).double().mean().item() - (p * p + (1 - p) ** 2)) < 0.005
    torch.manual_seed(0)
    assert torch.equal(drop(x, p), y)


def test_dropout_keeps_the_mean_of_what_it_thins_and_does_nothing_in_eval_mode() -> None:
    model, reference = build_pair(dropout=0.5)
    x = skeletons(16, 24)
    outputs = []
    for module in (model, reference):
        torch.manual_seed(1)
        features = [module.train()(skeleton=x).detach() for _ in range(8)]
        outputs.append(torch.stack(features).mean(dim=(0, 1)))
    spread = torch.stack(features).std()
    assert (outputs[0] - outputs[1]).abs().max() < 0.25 * spread
    with torch.no_grad():
        assert torch.equal(model.eval()(skeleton=x), model.eval()(skeleton=x))


def test_the_same_seed_gives_the_same_training_step() -> None:
    model = build_pair(dropout=0.5)[0].train()
    x = skeletons()
    losses = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        losses.append(copy.deepcopy(model)(skeleton=x).sum().item())
    assert losses[0] == losses[1] != losses[2]


def test_onnx_keeps_batch_frames_and_persons_free(tmp_path) -> None:
    model, reference = build_pair()
    names = {0: "batch", 2: "frames", 4: "persons"}
    program = torch.onnx.export(
        model.eval(),
        kwargs={"skeleton": skeletons(2, 16, num_persons=2)},
        dynamic_shapes={"skeleton": {dim: torch.export.Dim(name) for dim, name in names.items()}},
        dynamo=True,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for num_samples, num_frames, num_persons in ((1, 300, 1), (3, 5, 3), (2, 1, 2)):
        x = skeletons(num_samples, num_frames, num_persons=num_persons)
        with torch.no_grad():
            expected = reference.eval()(skeleton=x)
        received = torch.from_numpy(session.run(None, {"skeleton": x.numpy()})[0])
        torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_skeletons_by_name_and_has_finite_gradients(name: str) -> None:
    model = MODELS[name](5, 3, layout=LAYOUTS["coco"])
    logits = model(skeleton=skeletons(2, 8, 17))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_files_of_old_pytorch_lack_the_counts_of_batches_and_load_all_the_same():
    model = STGCN(4, 3, layout=LAYOUTS["coco"])
    state = model.state_dict()
    old = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(state) - 23  # two in each of ten blocks, two residual, one of the data
    report = fit_weights(model, old, where="old.pt")
    assert (set(report.matched), report.missing) == (set(state), ())
