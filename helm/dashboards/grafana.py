"""Grafana's JSON of dashboards and panels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SELECTOR = 'namespace=~"$namespace", release=~"$release"'
"""Stands in every query for SELECTOR: the releases that the reader chooses."""

_GRID_COLUMNS = 24
_PANEL_ROWS = 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """A graph over time."""

    title: str
    queries: Mapping[str, str]
    """Queries by legend; SELECTOR stands for the chosen releases."""
    unit: str = "short"
    description: str = ""
    stacked: bool = False

    def model(self, number: int, x: int, y: int, width: int) -> dict[str, Any]:
        """Return the panel at a place of the grid."""
        custom: dict[str, Any] = {"fillOpacity": 30 if self.stacked else 10, "showPoints": "never"}
        if self.stacked:
            custom["stacking"] = {"mode": "normal"}
        targets = [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.replace("SELECTOR", _SELECTOR),
                "legendFormat": legend,
            }
            for index, (legend, query) in enumerate(self.queries.items())
        ]
        return {
            "id": number,
            "type": "timeseries",
            "title": self.title,
            "description": self.description,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": _PANEL_ROWS},
            "fieldConfig": {
                "defaults": {"unit": self.unit, "min": 0, "custom": custom},
                "overrides": [],
            },
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "targets": targets,
        }


@dataclass(frozen=True)
class Dashboard:
    """A page with rows of panels side by side."""

    name: str
    title: str
    rows: Sequence[Sequence[Panel]]

    def text(self) -> str:
        """Return the file of the dashboard."""
        return json.dumps(self._model(), indent=1) + "\n"

    def _model(self) -> dict[str, Any]:
        return {
            "uid": f"dti-{self.name}",
            "title": self.title,
            "tags": ["dti"],
            "schemaVersion": 39,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": list(_variables())},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[dict[str, Any]]:
        number = 0
        for y, row in enumerate(self.rows):
            width = _GRID_COLUMNS // len(row)
            for x, panel in enumerate(row):
                number += 1
                yield panel.model(number, x * width, y * _PANEL_ROWS, width)


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    for name, selector in (("namespace", ""), ("release", 'namespace=~"$namespace", ')):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": f'label_values(up{{{selector}release!=""}}, {name})',
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        }


def rates(metric: str, by: str, *, where: str = "", legend: str = "") -> dict[str, str]:
    """Return the query of a counter's rate for each value of a label.

    where: more of the selector. legend: what stands before the value.
    """
    selector = f"SELECTOR, {where}" if where else "SELECTOR"
    query = f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"
    return {f"{legend}{{{{{by}}}}}": query}


def hourly(metric: str, legend: str, *, by: str = "", where: str = "") -> dict[str, str]:
    """Return the query of a counter's increase in an hour.

    A counter on Ray begins at its first event, for which `increase` gives 0. Of a series that was
    not there an hour ago, the whole value counts.
    """
    series = f"{metric}{{SELECTOR, {where}}}" if where else f"{metric}{{SELECTOR}}"
    each = f"({series} unless {series} offset 1h) or increase({series}[1h])"
    return {legend: f"sum by ({by}) ({each})" if by else f"sum({each})"}


def quantiles(
    metric: str,
    *,
    by: str = "",
    where: str = "",
    legend: str = "",
    levels: Sequence[int] = (50, 99),
) -> dict[str, str]:
    """Return the queries of a histogram's percentiles, for each value of `by` if it is given."""
    selector = f"SELECTOR, {where}" if where else "SELECTOR"
    labels = f"le, {by}" if by else "le"
    value = f" {{{{{by}}}}}" if by else ""
    buckets = f"sum by ({labels}) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    return {
        f"{legend}{level}%{value}": f"histogram_quantile({level / 100:g}, {buckets})"
        for level in levels
    }
