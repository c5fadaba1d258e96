"""The dashboards of the chart, from which its JSON files are written."""
