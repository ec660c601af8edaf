"""All resolved settings of the run, closed until the reader opens them, and what the run took."""

import json

from hilbert_ray.reporting.html import Html, details, number, paragraph, section, text
from hilbert_ray.run import RunResults


def settings_section(run: RunResults) -> Html:
    """Return the resolved settings."""
    # Not as ASCII: class names in other scripts stay readable. Escaped here, since <pre> is added as markup.
    values = text(json.dumps(run.settings["config"], indent=2, ensure_ascii=False))
    parts = []
    cost = run.evaluation.cost
    if cost is not None:
        parts.append(
            paragraph(
                Html(
                    # The first number is summed over folds, which run at once, so that it exceeds the time
                    # that passed.
                    f"{number(cost.fits)} fits took {number(cost.fold_seconds, 0)} s of compute time in "
                    f"{number(cost.seconds, 0)} s."
                )
            )
        )
    pre = Html(f"<pre>{values}</pre>")
    return section("settings", "Settings", *parts, details("All settings of the run", pre))
