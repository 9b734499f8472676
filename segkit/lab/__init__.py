"""JupyterLab with everything wired: notebooks, dashboards in the launcher, notebook jobs through the queue, schedules, Dask."""

from segkit.lab.starting import command, environment, place_notebooks, run

__all__ = ["command", "environment", "place_notebooks", "run"]
