"""A saved view of a sweep for MLflow's web page: its trials, best first, with the most useful columns.

MLflow stores saved views as experiment tags and lists them under "Views"; its default table shows no metrics.
"""

import json
import re
from collections.abc import Sequence

TAG = "mlflow.sharedViewState."
# Columns of every sweep; the objective and the swept parameters come first.
METRICS = ("forgetting", "loss", "peak_memory_gib", "its_per_s", "trainable_percent")


def view_key(name: str) -> str:
    """Return the name with all characters replaced that a URL cannot contain."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def saved_view(
    name: str, parent: str, objective: str, *, maximize: bool, params: Sequence[str], created_ms: int
) -> tuple[str, str]:
    """Return the experiment tag (name, value) of a view of one sweep's trials.

    Args:
        name: the name of the view.
        parent: run id of the sweep.
        objective: the metric that orders the trials.
        maximize: whether its largest value is best.
        params: the swept parameters, as they are logged.
        created_ms: time of creation, in milliseconds since 1970.
    """
    metrics = dict.fromkeys((objective, *METRICS))
    columns = [*(f"params.`{p}`" for p in params), "tags.`state`", *(f"metrics.`{m}`" for m in metrics)]
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": not maximize,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
    }
    value = {"name": name, "createdAt": created_ms, "updatedAt": created_ms, "state": json.dumps(state)}
    return TAG + view_key(name), json.dumps(value)
