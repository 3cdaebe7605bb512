"""The network's promises: a row's bits do not depend on its company, and what is missing is normal."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.features import Features, concatenate, extract
from model.network import NETWORKS, SEQUENCES, Batch, Network, NetworkConfig, make_network
from streams.codecs import Rows, decode, encode
from streams.records import AHEAD, DAYS, DELAYS, KNOWN, VECTOR, Modality
from streams.records.inside import WINDOWS
from tests.unit.synthetic_windows import ALL, lively_bundle, made_live, small_windows

CPU = torch.device("cpu")
ROWS = 32


def windows(n: int, seed: int = 0, mask: int | npt.NDArray[np.int64] = ALL) -> Rows:
    return decode(encode(WINDOWS, small_windows(n, seed, mask)))


def run(network: Network, features: Features, device: torch.device = CPU) -> npt.NDArray[np.float32]:
    """[n, DELAYS + HORIZONS + components] of one batch, as it is."""
    with torch.inference_mode():
        answer = network(Batch.of(features, device))
        return torch.cat([answer.f, answer.spread, network.components(answer.phi)], dim=1).cpu().numpy()


def shuffled_company(features: Features, others: Features, seed: int) -> tuple[Features, npt.NDArray[np.int64]]:
    """Some rows of `features` at random places among `others`, and where they are."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(ROWS)[: len(features)]
    index = np.arange(ROWS) + len(features)
    index[places] = np.arange(len(features))
    return concatenate([features, others]).take(index), places


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_a_row_would_change_with_its_neighbours_or_its_place(kind: str, seed: int) -> None:
    network = lively_bundle(seed, NetworkConfig(kind)).network
    mine = extract(windows(5, seed, np.random.default_rng(seed).integers(0, ALL + 1, 5)))
    companies = [
        extract(windows(ROWS, seed + 100)),
        extract(windows(ROWS, seed + 200, 0)),
        mine.take(np.zeros(ROWS, np.int64)),
    ]
    results = []
    for i, others in enumerate(companies):
        batch, places = shuffled_company(mine, others, seed + i)
        results.append(run(network, batch)[places])
    assert len(np.unique(results[0][:, 0])) == 5, "five rows, five results"
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("kind", NETWORKS)
def test_rows_would_change_with_the_number_of_threads(kind: str) -> None:
    network, features = lively_bundle(config=NetworkConfig(kind)).network, extract(windows(ROWS))
    expected = run(network, features)
    torch.set_num_threads(2)
    try:
        assert np.array_equal(run(network, features), expected)
    finally:
        torch.set_num_threads(1)  # as tests/conftest.py has it


def test_features_of_a_row_would_depend_on_the_other_rows_of_its_message() -> None:
    rows = windows(7, 3)
    together = extract(rows)
    for i in range(7):
        alone = extract(Rows(WINDOWS, rows.batch.slice(i, 1)))
        for column in fields(Features):
            assert np.array_equal(getattr(alone, column.name)[0], getattr(together, column.name)[i]), column.name


@pytest.mark.parametrize("mask", [0, *(ALL & ~(1 << m) for m in Modality), *(1 << m for m in Modality)])
def test_a_window_without_a_modality_would_break_the_network(mask: int) -> None:
    columns = small_windows(ROWS, 1, mask)
    # What is missing holds what the windows stage puts there: nothing known.
    columns |= {"on_hand": np.full(ROWS, np.nan), "lead_time_days": np.full(ROWS, np.nan), "price": np.full(ROWS, -1)}
    columns["text"] = np.full((ROWS, VECTOR), np.nan, np.float32)
    features = extract(decode(encode(WINDOWS, columns)))
    assert all(np.isfinite(getattr(features, column.name)).all() for column in fields(Features))
    assert np.isfinite(run(lively_bundle().network, features)).all()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("modality", list(Modality))
def test_a_missing_modality_would_leak_through_its_numbers(modality: Modality, kind: str) -> None:
    network = lively_bundle(config=NetworkConfig(kind)).network
    full, other = extract(windows(ROWS, 1)), extract(windows(ROWS, 1))
    present = full.present.copy()
    present[:, modality] = False
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(ROWS, 1)).astype(np.float32)
    days, context = other.days.copy(), other.context.copy()
    days[:, :, 4:7] += noise[:, :, None]
    context[:, :3] += noise
    changed = {
        Modality.TEXT: {"vectors": other.vectors + np.array([1, 0, 0], np.float32)[:, None] * noise[:, None]},
        Modality.IMAGE: {"vectors": other.vectors + np.array([0, 1, 0], np.float32)[:, None] * noise[:, None] ** 2},
        Modality.TITLE: {"vectors": other.vectors * np.array([1, 1, 0], np.float32)[:, None]},
        Modality.CATALOGUE: {"catalogue": other.catalogue + noise, "category": (other.category + 9) % 256},
        Modality.LEVEL: {"level": other.level + noise},
        Modality.BEHAVIOR: {"days": days, "context": context},
    }[modality]
    age = other.age.copy()
    age[:, modality] += 1
    masked = run(network, replace(full, present=present))
    assert np.array_equal(masked, run(network, replace(other, present=present, age=age, **changed)))
    assert not np.array_equal(masked, run(network, full)), "the modality counts when it is there"


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_untrained_network_would_not_forecast_the_baseline(kind: str) -> None:
    network = make_network(NetworkConfig(kind), 3).eval()
    assert not run(network, extract(windows(ROWS)))[:, :DELAYS].any()


def test_a_network_that_is_none_would_be_taken_for_another() -> None:
    with pytest.raises(ModelError, match="take one of transformer, lstm, cnn, ensemble"):
        NetworkConfig("perceptron")


@pytest.mark.parametrize("kind", SEQUENCES)
def test_an_encoder_would_not_see_the_oldest_day_or_the_oldest_hour(kind: str) -> None:
    network, features = lively_bundle(config=NetworkConfig(kind)).network, extract(windows(4))
    series = read_series(network, features)
    for name in ("days", "hours"):
        values = getattr(features, name).copy()
        values[:, 0, 0] += 1
        assert not np.array_equal(series, read_series(network, replace(features, **{name: values}))), name


def read_series(network: Network, features: Features) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        batch = Batch.of(features, CPU)
        return network.members[0].series(batch.days, batch.hours).numpy()  # type: ignore[operator, no-any-return]


def test_what_is_known_ahead_would_not_reach_the_forecast_or_reach_another_bucket() -> None:
    columns = small_windows(4)
    columns["known"] = np.zeros((4, len(KNOWN), DAYS + AHEAD), np.int64)
    quiet = extract(decode(encode(WINDOWS, columns)))
    columns["known"][:, 2, DAYS + 3 : DAYS + 5] = 60
    busy = extract(decode(encode(WINDOWS, columns)))
    assert busy.ahead[0, :, 2].tolist() == pytest.approx([0.0, 0.2, 0.0]), "two days of six at 60 percent"
    network = lively_bundle().network
    assert not np.array_equal(run(network, quiet), run(network, busy))


def test_the_sales_of_the_open_day_would_count_in_the_network_and_again_in_the_posterior() -> None:
    close = small_windows(4)
    quiet, busy = made_live(close, 13, 0), made_live(close, 13, 0)
    hour = quiet["hour"].reshape(4, -1, 48)
    sold = hour.copy()
    sold[:, 0, -10:] += 50
    before = hour.copy()
    before[:, 0, -20:-14] += 50
    extracted = [
        extract(decode(encode(WINDOWS, {**busy, "hour": h.reshape(4, -1)}))).hours for h in (hour, sold, before)
    ]
    assert np.array_equal(extracted[0], extracted[1])
    assert not np.array_equal(extracted[0], extracted[2])


def test_the_random_state_of_others_would_be_moved_or_would_matter() -> None:
    torch.manual_seed(1)
    one, drawn = make_network(NetworkConfig(), 7), torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    other = make_network(NetworkConfig(), 7)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_components_would_not_be_standardised_or_would_lose_their_sign() -> None:
    network = make_network(NetworkConfig("cnn", width=16), 0)
    spread = torch.diag(2.0 ** torch.arange(16))  # the last direction is the widest
    phi = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) @ spread
    network.fit_components(phi)
    first = network.components(phi)
    assert torch.allclose(first.std(dim=0), torch.ones(8), atol=0.05)
    assert float(torch.corrcoef(torch.stack([first[:, 0], phi[:, 15]]))[0, 1]) > 0.9
    network.fit_components(torch.full((100, 16), 0.5))
    assert not network.components(torch.full((3, 16), 0.5)).any(), "a phi that never moves has no components"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: the network on a GPU was not tried")
def test_the_same_code_would_not_run_on_a_gpu_or_say_something_else_there() -> None:
    network, features = lively_bundle().network, extract(windows(ROWS))
    expected = run(network, features)
    device = torch.device("cuda")
    on_gpu = run(network.to(device), features, device)
    assert np.allclose(on_gpu, expected, atol=1e-4)
    company, places = shuffled_company(features.take(np.arange(5)), extract(windows(ROWS, 9)), 4)
    assert np.array_equal(run(network, company, device)[places], on_gpu[:5])
