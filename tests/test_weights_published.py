"""The goldens of weights against what others published: counts, and names put together here.

Facts: TAO's networks, yysijie/st-gcn, torchvision's ResNets, piergiaj/pytorch-i3d. Neither our
networks nor the plain ones in tests/parity take part.
"""

import itertools

import pytest

from parity.weight_lists import FOLDER, Kind, listed, load_golden

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip
OURS = {  # variants that TAO does not have; all others must be marked as TAO's
    "st-gcn++": ("",),  # models that TAO does not have
    "ctr-gcn": ("",),
    "st-gcn": ("mediapipe-33", "kinect-20", "body-25", "sbu-15", "halpe-26"),
    **{f"resnet_{depth}_2d": ("shift",) for depth in DEPTHS},
    "efficientnet_lite0_2d": ("stack", "shift"),
}


def shapes_of(name: str, variant: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, (shape, _) in listed(name, variant).items()}


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{kind}": () if kind == NORM[-1] else (channels,) for kind in NORM}


def same_in_order(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> bool:
    return list(found.items()) == list(expected.items())


def test_what_is_ours_and_not_of_tao_is_marked() -> None:
    for path in FOLDER.glob("*.json"):
        for variant, row in load_golden(path.stem).get("variants", {}).items():
            is_ours = variant.startswith(OURS.get(path.stem, ("-",)))
            assert row["from"] == ("ours" if is_ours else "TAO"), f"{path.stem} {variant}"


@pytest.mark.parametrize(
    ("name", "variant", "count"),
    [
        ("st-gcn", "nvidia spatial", 3_100_938),
        ("st-gcn", "openpose spatial", 3_075_882),
        ("st-gcn", "human3.6m spatial", 3_074_826),
        ("st-gcn", "coco spatial", 3_074_826),
        ("st-gcn", "ntu-rgb+d spatial", 3_084_954),
        ("st-gcn", "ntu_edge spatial", 3_083_478),
        ("resnet_18_2d", "stack rgb", 11_470_725),
        ("resnet_34_2d", "stack rgb", 21_578_885),
        ("resnet_50_2d", "stack rgb", 23_809_925),
        ("resnet_101_2d", "stack rgb", 42_802_053),
        ("resnet_152_2d", "stack rgb", 58_445_701),
        ("resnet_18_3d", "3d rgb", 33_187_653),
        ("resnet_34_3d", "3d rgb", 63_497_285),
        ("resnet_50_3d", "3d rgb", 46_190_405),
        ("resnet_101_3d", "3d rgb", 85_236_549),
        ("resnet_152_3d", "3d rgb", 117_395_269),
        ("i3d_3d", "3d rgb", 12_292_389),
        ("efficientnet_lite0_2d", "shift rgb", 4_652_008 - 995 * 1281),  # of 1000 classes
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, variant: str, count: int) -> None:
    assert load_golden(name)["variants"][variant]["parameters"] == count


@pytest.mark.parametrize(
    ("variant", "joints", "partitions"),
    [
        ("nvidia spatial", 34, 3), ("openpose distance", 18, 2), ("human3.6m uniform", 17, 1),
        ("ntu-rgb+d spatial", 25, 3), ("ntu_edge distance", 24, 2), ("coco uniform", 17, 1),
        ("nvidia spatial unweighted", 34, 3),
    ],
)  # fmt: skip
def test_st_gcn_has_the_names_of_public_weights(variant: str, joints: int, partitions: int) -> None:
    graph = (partitions, joints, joints)
    expected: dict[str, tuple[int, ...]] = {"A": graph} | norm("data_bn", 3 * joints)
    widths = (3, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        block = f"st_gcn_networks.{i}"
        expected[f"{block}.gcn.conv.weight"] = (partitions * after, before, 1, 1)
        expected[f"{block}.gcn.conv.bias"] = (partitions * after,)
        expected |= norm(f"{block}.tcn.0", after)
        expected[f"{block}.tcn.2.weight"] = (after, after, 9, 1)
        expected[f"{block}.tcn.2.bias"] = (after,)
        expected |= norm(f"{block}.tcn.3", after)
        if i in (4, 7):
            expected[f"{block}.residual.0.weight"] = (after, before, 1, 1)
            expected[f"{block}.residual.0.bias"] = (after,)
            expected |= norm(f"{block}.residual.1", after)
    if "unweighted" not in variant:
        expected |= {f"edge_importance.{i}": graph for i in range(10)}
    expected |= {"fcn.weight": (6, 256, 1, 1), "fcn.bias": (6,)}
    assert same_in_order(shapes_of("st-gcn", variant), expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("dims", "variant", "stem"),
    [
        (2, "stack rgb", (64, 96, 7, 7)),
        (2, "stack of", (64, 20, 7, 7)),
        (2, "shift of", (64, 2, 7, 7)),
        (3, "3d rgb", (64, 3, 5, 7, 7)),
        (3, "3d of", (64, 2, 5, 7, 7)),
    ],
)
def test_resnets_have_the_names_of_torchvision_but_for_the_head_of_tao(
    depth: int, dims: int, variant: str, stem: tuple[int, ...]
) -> None:
    def kernel(after: int, before: int, size: int) -> tuple[int, ...]:
        return (after, before, *(size,) * dims)

    expected: dict[str, tuple[int, ...]] = {"conv1.weight": stem} | norm("bn1", 64)
    is_deep, channels = depth >= 50, 64
    for layer, (width, blocks) in enumerate(zip((64, 128, 256, 512), DEPTHS[depth], strict=True)):
        after = 4 * width if is_deep else width
        convs = ((width, 1), (width, 3), (after, 1)) if is_deep else ((width, 3), (width, 3))
        for place in range(blocks):
            block, before = f"layer{layer + 1}.{place}", channels
            for i, (wide, size) in enumerate(convs, start=1):
                expected[f"{block}.conv{i}.weight"] = kernel(wide, before, size)
                expected |= norm(f"{block}.bn{i}", wide)
                before = wide
            if place == 0 and (layer > 0 or is_deep):
                expected[f"{block}.downsample.0.weight"] = kernel(after, channels, 1)
                expected |= norm(f"{block}.downsample.1", after)
            channels = after
    expected |= {"fc_cls.weight": (5, channels), "fc_cls.bias": (5,)}
    assert len(expected) == {18: 122, 34: 218, 50: 320, 101: 626, 152: 932}[depth]
    assert same_in_order(shapes_of(f"resnet_{depth}_{dims}d", variant), expected)


MIXED = {
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64), "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128), "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


@pytest.mark.parametrize(("variant", "channels"), [("3d rgb", 3), ("3d of", 2)])
def test_i3d_has_the_names_of_its_public_weights_and_begins_with_its_head(
    variant: str, channels: int
) -> None:
    expected: dict[str, tuple[int, ...]] = {
        "logits.conv3d.weight": (5, 1024, 1, 1, 1), "logits.conv3d.bias": (5,),
    }  # fmt: skip

    def unit(name: str, after: int, before: int, size: int) -> int:
        expected[f"{name}.conv3d.weight"] = (after, before, size, size, size)
        expected.update(norm(f"{name}.bn", after))
        return after

    unit("Conv3d_1a_7x7", 64, channels, 7)
    unit("Conv3d_2b_1x1", 64, 64, 1)
    before = unit("Conv3d_2c_3x3", 192, 64, 3)
    for name, (b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        mixed = f"Mixed_{name}"
        unit(f"{mixed}.b0", b0, before, 1)
        unit(f"{mixed}.b1b", b1b, unit(f"{mixed}.b1a", b1a, before, 1), 3)
        unit(f"{mixed}.b2b", b2b, unit(f"{mixed}.b2a", b2a, before, 1), 3)
        unit(f"{mixed}.b3b", b3b, before, 1)
        before = b0 + b1b + b2b + b3b
    assert len(expected) == 344
    assert same_in_order(shapes_of("i3d_3d", variant), expected)


LITE = (  # channels in, out, expansion, kernel
    (32, 16, 1, 3), (16, 24, 6, 3), (24, 24, 6, 3), (24, 40, 6, 5), (40, 40, 6, 5),
    (40, 80, 6, 3), (80, 80, 6, 3), (80, 80, 6, 3), (80, 112, 6, 5), (112, 112, 6, 5),
    (112, 112, 6, 5), (112, 192, 6, 5), (192, 192, 6, 5), (192, 192, 6, 5), (192, 192, 6, 5),
    (192, 320, 6, 3),
)  # fmt: skip


def test_efficientnet_lite_has_the_names_of_its_public_weights() -> None:
    expected: dict[str, tuple[int, ...]] = {"_conv_stem.weight": (32, 3, 3, 3)} | norm("_bn0", 32)
    for i, (before, after, expansion, kernel) in enumerate(LITE):
        block, inner = f"_blocks.{i}", before * expansion
        if expansion > 1:
            expected[f"{block}._expand_conv.weight"] = (inner, before, 1, 1)
            expected |= norm(f"{block}._bn0", inner)
        expected[f"{block}._depthwise_conv.weight"] = (inner, 1, kernel, kernel)
        expected |= norm(f"{block}._bn1", inner)
        expected[f"{block}._project_conv.weight"] = (after, inner, 1, 1)
        expected |= norm(f"{block}._bn2", after)
    expected |= {"_conv_head.weight": (1280, 320, 1, 1)} | norm("_bn1", 1280)
    expected |= {"_fc.weight": (5, 1280), "_fc.bias": (5,)}
    assert len(expected) == 296
    assert same_in_order(shapes_of("efficientnet_lite0_2d", "shift rgb"), expected)


def test_counters_are_the_only_numbers_that_are_not_float32() -> None:
    kinds: dict[str, Kind] = {}
    for path in FOLDER.glob("*.json"):
        for variant in load_golden(path.stem).get("variants", {}):
            kinds |= listed(path.stem, variant)
    assert {dtype for _, dtype in kinds.values()} == {"float32", "int64"}
    assert all(
        (dtype == "int64") == name.endswith(".num_batches_tracked")
        for name, (_, dtype) in kinds.items()
    )
