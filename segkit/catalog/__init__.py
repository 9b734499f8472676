"""Projects and images: what is registered, in pages, and how more is registered.

The functions take a connection and commit nothing themselves. `Catalog` adds the cache, and `register` the reading of files;
they open their own transactions.
"""

from segkit.catalog.adding import add
from segkit.catalog.cached import Catalog
from segkit.catalog.images import image, images
from segkit.catalog.projects import create_project, delete_project, ensure_project, project, project_numbered, projects, recount
from segkit.catalog.records import Added, Image, Project, Unreadable
from segkit.catalog.registering import register
from segkit.catalog.written import Written, images_json, images_written, projects_json, projects_written

__all__ = [
    "Added",
    "Catalog",
    "Image",
    "Project",
    "Unreadable",
    "Written",
    "add",
    "create_project",
    "delete_project",
    "ensure_project",
    "image",
    "images",
    "images_json",
    "images_written",
    "project",
    "project_numbered",
    "projects",
    "projects_json",
    "projects_written",
    "recount",
    "register",
]
