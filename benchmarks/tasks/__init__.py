"""Networks of several tasks, each measured by the metric of its task."""
