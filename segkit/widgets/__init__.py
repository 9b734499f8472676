"""Widgets for notebooks: look, tune, correct and paint, in JupyterLab, Voila and VS Code.

    from segkit import widgets

    widgets.Viewer(image, run)       pan, zoom, channels, contrast, objects and their measurements
    widgets.Gallery(project, run)    scroll through the images of a project; `Browser` shows the chosen one below
    widgets.Queue(kit, run)          jobs as they are worked off
    widgets.Tuner(project, "nuclei") a control per parameter, the objects follow; "apply to project" queues a run
    widgets.Editor(run, image)       merge, split, draw, erase, delete, undo; saved as a new version
    widgets.Painter(image, "cells")  strokes for the classifier

Each draws only what the page shows, whatever the size of the image or the list. The page needs no network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "viewer": ["Viewer"],
        "gallery": ["Browser", "Gallery"],
        "queue": ["Queue"],
        "tuner": ["Tuner"],
        "editor": ["Editor"],
        "painter": ["Painter"],
    },
)
