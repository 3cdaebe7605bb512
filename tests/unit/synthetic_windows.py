"""A small shop whose views lead its sales by a day, as messages of `trend.windows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from model.heads import frozen_head
from model.network import NetworkConfig, make_network
from model.registry import Bundle
from streams.calendars import DAY, HOUR
from streams.codecs import encode
from streams.records import (
    AHEAD,
    CHANNELS,
    DAYS,
    DELAYS,
    HORIZONS,
    HOURS,
    KNOWN,
    VECTOR,
    Modality,
    SalesClass,
    WindowKind,
)
from streams.records.inside import CLOSES, OUTCOMES, WINDOWS
from streams.records.outside import Head
from streams.stage import Message

START = 20_000 * DAY  # end of the first window
ALL = sum(1 << m for m in Modality)
WIDTHS = (1, 6, 21)


def window_columns(
    ends: Sequence[int],
    products: Sequence[str],
    units: npt.NDArray[np.int64],
    views: npt.NDArray[np.int64],
    rate: npt.NDArray[np.float64],
    seed: int = 0,
    mask: int | npt.NDArray[np.int64] = ALL,
) -> dict[str, Any]:
    """Columns of WINDOWS for n rows; units and views [n, DAYS]."""
    n, rng = len(products), np.random.default_rng(seed)
    day = np.zeros((n, len(CHANNELS), DAYS), np.int64)
    hour = np.zeros((n, len(CHANNELS), HOURS), np.int64)
    day[:, CHANNELS.index("units")] = day[:, CHANNELS.index("orders")] = units
    day[:, CHANNELS.index("revenue")] = units * 500
    day[:, CHANNELS.index("views")] = views
    hour[:, CHANNELS.index("units"), 12] = units[:, -2]  # everything is sold at noon
    hour[:, CHANNELS.index("units"), 36] = units[:, -1]
    masks = np.broadcast_to(np.asarray(mask, np.int64), (n,))
    baseline = rate[:, None] * np.array(WIDTHS)
    vectors = rng.normal(size=(3, n, VECTOR)).astype(np.float32)
    return {
        "product": list(products),
        "end": np.asarray(ends, np.int64),
        "kind": np.full(n, WindowKind.CLOSE),
        "revision": np.zeros(n),
        "as_of": np.asarray(ends, np.int64),
        "offset": np.arange(n),
        "epoch": np.zeros(n),
        "day": day.reshape(n, -1),
        "hour": hour.reshape(n, -1),
        "open": np.zeros((n, len(CHANNELS)), np.int64),
        "open_share": np.zeros(n),
        "weekday": (np.asarray(ends) // DAY + 3) % 7,
        "known": rng.integers(0, 101, (n, len(KNOWN) * (DAYS + AHEAD))),
        "text": vectors[0],
        "image": vectors[1],
        "title": vectors[2],
        "mask": masks,
        "age": np.where(masks[:, None] >> np.arange(len(Modality)) & 1, 3.0, np.nan),
        "text_encoder": ["text-1"] * n,
        "image_encoder": ["image-1"] * n,
        "category": [f"food > {'fruit' if i % 3 else 'bread'}" for i in range(n)],
        "price": np.full(n, 500),
        "unit_cost": np.full(n, -1),
        "on_hand": np.full(n, 40.0),
        "on_order": np.full(n, np.nan),
        "lead_time_days": np.full(n, 3.0),
        "rate": rate,
        "baseline": baseline,
        "thresholds": np.tile([20, 15, 2], (n, DELAYS)),
        "sales_class": np.full(n, SalesClass.FAST),
        "age_days": np.full(n, 200),
        "late": np.zeros(n),
        "late_source": [""] * n,
        "late_partition": np.full(n, -1),
        "late_offset": np.full(n, -1),
    }


def made_live(columns: Mapping[str, Any], hours: int, open_units: int, revision: int = 3) -> dict[str, Any]:
    """The same windows, `hours` into the day that is open, with units sold in it."""
    n = len(columns["product"])
    opened = np.zeros((n, len(CHANNELS)), np.int64)
    opened[:, CHANNELS.index("units")] = open_units
    return {
        **columns,
        "kind": np.full(n, WindowKind.LIVE),
        "revision": np.full(n, revision),
        "as_of": columns["end"] + hours * HOUR,
        "open": opened,
        "open_share": np.full(n, hours / 24),
    }


def small_windows(n: int, seed: int = 0, mask: int | npt.NDArray[np.int64] = ALL) -> dict[str, Any]:
    """n close windows of one boundary."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2.0, 3.0, n)
    units, views = rng.poisson(rate[:, None], (n, DAYS)), rng.poisson(20.0, (n, DAYS))
    return window_columns([START] * n, [f"shop:p{i}" for i in range(n)], units, views, rate, seed, mask)


def message(value: bytes, offset: int = 0, partition: int = 1) -> Message:
    return Message("trend.windows", partition, offset, 1_000 + offset, None, value)


def history(products: int = 12, days: int = 110, seed: int = 0) -> list[Message]:
    """Closes of `days` days: each day's matured outcomes, its windows, its CLOSES row."""
    rng = np.random.default_rng(seed)
    names = [f"shop:p{i}" for i in range(products)]
    rate = rng.uniform(4.0, 12.0, products)
    total = DAYS + days
    interest = np.exp(rng.normal(0.0, 0.7, (products, total)))  # of a day, and what it sells on the next one
    views = rng.poisson(20 * interest)
    units = rng.poisson(rate[:, None] * np.roll(interest, 1, axis=1) / np.exp(0.245))
    values = []
    for d in range(days + 1):
        end, outcomes = START + d * DAY, 0
        for b, (horizon, width) in enumerate(zip(HORIZONS, WIDTHS, strict=True)):
            if d >= horizon:
                sold = units[:, DAYS + d - width : DAYS + d].sum(axis=1)
                columns = {
                    "product": names,
                    "end": np.full(products, end - horizon * DAY),
                    "delay": np.full(products, b),
                    "at": np.full(products, end),
                    "units": sold,
                    "exposure": np.ones(products),
                    "censored": (np.arange(products) == 1) & (d % 10 == 0),
                }
                values.append(encode(OUTCOMES, columns))
                outcomes += products
        if d < days:
            seen = slice(d, DAYS + d)
            windows = window_columns([end] * products, names, units[:, seen], views[:, seen], rate, d)
            values.append(encode(WINDOWS, windows))
        closes = {"partition": [1], "platform": ["shop"], "end": [end], "windows": [products], "outcomes": [outcomes]}
        values.append(encode(CLOSES, closes))
    return [message(value, offset) for offset, value in enumerate(values)]


def lively_bundle(seed: int = 5, config: NetworkConfig | None = None, device: str = "cpu") -> Bundle:
    """A bundle whose f and components are far from zero, without a training."""
    network = make_network(config or NetworkConfig(), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith((".f.weight", ".category.weight")):
                scale = 0.2 if name.endswith(".f.weight") else 1.0
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    network.fit_components(torch.randn(200, network.phi_width, generator=generator))
    dispersion = np.linspace(1.0, 4.0, len(HORIZONS) * len(SalesClass)).reshape(len(HORIZONS), len(SalesClass))
    profile = np.arange(1.0, 25.0)
    return Bundle(network.to(device), dispersion, profile / profile.sum(), ("food > bread", "food > fruit"))


def learnt_head(bundle: Bundle, epoch: int) -> Head:
    """A head whose level rises with its epoch."""
    frozen = frozen_head(bundle.version, bundle.dispersion, bundle.categories)
    theta = np.array(frozen.theta)
    theta[:, 0] = epoch / 10_000
    covariance = np.array(frozen.covariance)
    covariance[:] = np.eye(theta.shape[1]) * 1e-3
    version = f"{bundle.version}-e{epoch}"
    arrays = {"theta": theta.tolist(), "covariance": covariance.tolist()}
    return msgspec.structs.replace(frozen, version=version, epoch=epoch, **arrays)
