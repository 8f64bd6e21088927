from django.db import models


class Push(models.Model):
    """A push to a repository."""

    delivery = models.CharField(max_length=64, unique=True)
    repository = models.CharField(max_length=200)
    commit = models.CharField(max_length=40)
