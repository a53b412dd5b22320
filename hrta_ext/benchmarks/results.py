"""The JSON files of the benchmarks, read into one form: cases, their times, and those of their peers.

Files of every age are read. Those of before the repeats were kept hold medians alone.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hrta_ext.benchmarks.ceilings import Floor, two_layer_floor
from hrta_ext.benchmarks.timing import slug
from hrta_ext.files import DamagedFile, read_json

_GRAM_CALLS = {"one": ", one s", "sixteen": ", 16 s"}


@dataclass(frozen=True)
class Times:
    """Seconds of a call: the median of the rounds, and their quartiles, which old files lack."""

    median: float
    quartiles: tuple[float, float] | None


@dataclass(frozen=True)
class Peer:
    """What ours was timed beside: its times, the ratio of its time to ours, and the least ratio that is wanted."""

    name: str
    times: Times
    ratio: float
    goal: float | None


@dataclass(frozen=True)
class Case:
    """One timed call of ours. ``family``: what cases that differ in size and dtype alone have in common."""

    benchmark: str
    name: str
    family: str
    times: Times
    peers: tuple[Peer, ...]
    work: Floor | None


@dataclass(frozen=True)
class Result:
    """One file."""

    path: Path
    benchmark: str
    environment: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    cases: tuple[Case, ...]

    @property
    def device(self) -> str:
        """The card, or the processor and the instructions in use: such as ``AMD EPYC, AVX2``."""
        if self.environment.get("gpu"):
            return str(self.environment["gpu"])
        cpu = re.sub(r"\((R|TM)\)|Processor|CPU|@.*", "", str(self.environment["cpu"]))
        return f"{' '.join(cpu.split())}, {self.simd.upper().replace('AVX512', 'AVX-512')}"

    @property
    def threads(self) -> int | None:
        """Of the CPU; None on a GPU."""
        return None if self.environment.get("gpu") else int(self.environment["threads"])

    @property
    def simd(self) -> str:
        """The instructions that the kernels used."""
        return str(self.environment["build_info"].get("simd") or "torch backend")


def read(path: Path) -> Result:
    """One file of ``hrta bench``.

    Raises:
        ValueError: It is damaged, or something else.
        OSError: It cannot be read.
    """
    try:
        content = read_json(path)
    except DamagedFile as error:
        raise ValueError(f"{path}: {error}") from error
    if not is_result(content):
        raise ValueError(f"{path}: is no result of hrta bench, which has a benchmark, an environment and cases")
    benchmark, environment = content["benchmark"], content["environment"]
    found: list[Case] = []
    seen: Counter[str] = Counter()
    records = [*content["cases"], *(content.get("infinite") or [])]
    for i, record in enumerate(records):
        try:
            for case in _cases(benchmark, record):
                seen[case.name] += 1  # a benchmark may measure one case beside two lists of peers
                count = f" ({seen[case.name]})" if seen[case.name] > 1 else ""
                found.append(replace(case, name=case.name + count))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: case {i + 1} of {len(records)} is damaged: {what}") from error
    result = Result(path, benchmark, environment, content.get("ceilings") or {}, tuple(found))
    try:
        _ = result.device, result.threads
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its environment names no device, threads or SIMD level") from error
    return result


def is_result(content: Mapping[str, Any]) -> bool:
    """Whether a file's content is that of a benchmark."""
    kinds = {"benchmark": str, "environment": dict, "cases": list}
    return all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def by_device(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by the name of the device as a part of a file's name; of cases that were measured again, the newest."""
    devices: dict[str, list[Result]] = {}
    seen: set[tuple[str, str, str]] = set()
    for result in sorted(results, key=lambda result: str(result.environment.get("date", "")), reverse=True):
        device = slug(result.device)
        new = tuple(case for case in result.cases if (device, case.benchmark, case.name) not in seen)
        seen |= {(device, case.benchmark, case.name) for case in new}
        if new:
            devices.setdefault(device, []).append(replace(result, cases=new))
    return {device: sorted(found, key=lambda one: one.path.name) for device, found in sorted(devices.items())}


def usual_threads(results: Iterable[Result]) -> int | None:
    """The number of threads of most cases; None on a GPU."""
    counts = Counter(result.threads for result in results for _ in result.cases)
    return max(counts, key=lambda threads: (counts[threads], threads or 0))


def in_words(threads: int | None) -> list[str]:
    """As a part of a list: ``2 threads``, or nothing."""
    return [] if threads is None else [f"{threads} thread{'s' * (threads != 1)}"]


def heading(results: list[Result]) -> str:
    """What results of one device were measured on."""
    versions = sorted({str(result.environment.get("torch", "")).split("+")[0] for result in results})
    return ", ".join([results[0].device, *in_words(usual_threads(results)), f"torch {' and '.join(versions)}"])


def _cases(benchmark: str, record: dict[str, Any]) -> Iterator[Case]:
    """The calls of one record; the benchmarks write them in four forms."""
    if benchmark == "physics":
        sizes = record["case"]
        name = f"n = {sizes['n']}, m = {sizes['width']}, {sizes['dtype']}"
        peer = Peer("DeepXDE", _times(record["deepxde"]), _positive(record["ratio"]), _goal(sizes))
        yield Case(benchmark, name, _short(name), _times(record["ours"]), (peer,), None)
    elif benchmark == "compile":
        how = "compiled" if record["compiled"] else "eager"
        name = f"{record['network']}, {record['activation']}, {how}"
        family = f"{record['network'].split(',')[0]}, {record['activation'].split(',')[0]}, {how}"
        yield Case(benchmark, name, family, _times(record["ours"]), (_peer("torch's own", record["torch"]),), None)
    elif "one" in record:  # Gram matrices at one s, and at 16
        subject = "infinite" if record["name"].startswith("infinite") else benchmark
        for key, suffix in _GRAM_CALLS.items():
            if key not in record:
                continue
            peers = tuple(
                _peer(name.removesuffix(suffix), peer)
                for name, peer in record["peers"].items()
                if name.endswith(suffix) or (subject == "infinite" and key == "one")
            )
            name = record["name"] + ("" if subject == "infinite" else suffix)
            work = _work(record) if key == "one" else None
            yield Case(subject, name, _gram_family(subject, record, suffix), _times(record[key]), peers, work)
    else:
        name = record["name"]
        family = f"{record['mode']}, {record['base']}" if benchmark == "activation" else _short(name)
        peers = tuple(_peer(label, peer) for label, peer in record["peers"].items())
        yield Case(benchmark, name, family, _times(record["ours"]), peers, _work(record))


def _gram_family(subject: str, record: dict[str, Any], suffix: str) -> str:
    if subject == "gram_grid":
        return f"{record['base']}, n {record['n']}"
    if subject == "infinite":
        return f"{record['base']}, n {record['n']}, D {record['D']}"
    drawn = "random, " if record["name"].startswith("random") else ""
    dtype = "" if record["dtype"] == "float32" else f", {record['dtype']}"
    return f"{drawn}{record['base']}, n {record['n']}, m {_size(record['m'])}, D {record['D']}{dtype}{suffix}"


def _work(record: dict[str, Any]) -> Floor | None:
    """Bytes and operations, where they say something; files of before they were kept have the wide network's sizes."""
    if record.get("floor"):
        return Floor(_positive(record["floor"]["bytes"]), float(record["floor"]["flops"]))
    if "floor" not in record and record.get("with_gradient") is False:
        return two_layer_floor(record["n"], record["features"], record["width"], record["base"], update=False)
    return None


def _peer(name: str, record: dict[str, Any]) -> Peer:
    return Peer(name, _times(record), _positive(record["ratio"]), _goal(record))


def _goal(record: dict[str, Any]) -> float | None:
    return None if record.get("goal") is None else _positive(record["goal"])


def _times(record: Any) -> Times:
    """Of a summary, or of all rounds."""
    if isinstance(record, list):
        seconds = [_positive(one) for one in record]
        first, median, third = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
        return Times(median, (first, third))
    median = _positive(record["median"] if "median" in record else record["seconds per step"])
    if "lower_quartile" not in record:
        return Times(median, None)
    quartiles = float(record["lower_quartile"]), _positive(record["upper_quartile"])
    if not quartiles[0] <= median <= quartiles[1]:
        raise ValueError("its median is not between its quartiles")
    return Times(median, quartiles)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} in place of a positive number")
    return float(value)


def _short(name: str) -> str:
    """As the benchmarks name sizes, without what their peers' times were scaled from."""
    text = name.split(" (")[0].replace(" = ", " ").replace(", one Adam step", "")
    return re.sub(r"\bm (\d+)\b", lambda match: f"m {_size(int(match[1]))}", text)


def _size(count: float) -> str:
    """As in 1000, 6.6e4 or 1e6."""
    if count < 10_000:
        return f"{count:.0f}"
    power = math.floor(math.log10(count))
    return f"{count / 10**power:.2g}e{power}"
