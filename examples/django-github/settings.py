"""Settings of a Django project with one app."""

from pathlib import Path

SECRET_KEY = "only for tests"
GITHUB_SECRET = "It's a Secret to Everybody"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "pushes.urls"
INSTALLED_APPS = ["pushes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parent / "db.sqlite3",
        # In a file: a database in memory is another one for each thread.
        "TEST": {"NAME": Path(__file__).parent / "test.sqlite3"},
    }
}
