"""Django's admin: a login with its CSRF checks, and every link of its first page."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import django
import httpx
import pytest
from django.conf import settings
from django.core.management import call_command

from conftest import serving


@pytest.fixture(scope="module")
def app(exposed_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    database = tmp_path_factory.mktemp("django") / "db.sqlite3"
    configure(database)
    from django.contrib.auth.models import User
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("ada", password="lovelace")

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadedWSGIServer(("127.0.0.1", exposed_port), Quiet)
    server.set_app(get_wsgi_application())
    with serving(server):
        yield


def configure(database: Path) -> None:
    apps = ("admin", "auth", "contenttypes", "messages", "sessions", "staticfiles")
    settings.configure(
        SECRET_KEY="x" * 50,
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
        INSTALLED_APPS=[f"django.contrib.{app}" for app in apps],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        STATIC_URL="/static/",
        DEBUG=True,
        LOGGING_CONFIG=None,
    )
    django.setup()


def __getattr__(name: str) -> object:
    if name == "urlpatterns":  # once Django is set up
        from django.contrib import admin
        from django.contrib.staticfiles.views import serve
        from django.http import HttpResponse
        from django.urls import path

        # The static files' own handler compares STATIC_URL with a path that lacks the prefix.
        return [
            path("", lambda request: HttpResponse("the site")),
            path("admin/", admin.site.urls),
            path("static/<path:path>", serve),
        ]
    raise AttributeError(name)


@pytest.fixture
def url(url: str) -> Iterator[str]:
    """The app's URL, with the settings for path style where it has a path."""
    from django.test import override_settings

    prefix = urlsplit(url).path
    with override_settings(FORCE_SCRIPT_NAME=prefix or None, STATIC_URL=f"{prefix}/static/"):
        yield url


def test_login_and_links(url: str) -> None:
    origin = re.match(r"http://[^/]+", url)[0]
    with httpx.Client(follow_redirects=True, timeout=60) as browser:
        page = browser.get(f"{url}/admin/")
        assert page.status_code == 200
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
        form = {"username": "ada", "password": "lovelace", "csrfmiddlewaretoken": token}
        page = browser.post(
            page.url, data=form, headers={"Origin": origin, "Referer": str(page.url)}
        )
        assert "Site administration" in page.text
        links = {
            link
            for link in re.findall(r'(?:href|src)="([^"#]+)', page.text)
            if "logout" not in link
        }
        assert len(links) > 8
        assert {
            link: browser.get(page.url.join(link)).status_code for link in links
        } == dict.fromkeys(links, 200)
        forged = browser.post(page.url, data=form, headers={"Origin": "http://elsewhere.example"})
        assert forged.status_code == 403
